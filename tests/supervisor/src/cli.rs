//! The client side of the command line, for people and scripts inside a node.

use std::io::{self, Write};
use std::path::Path;

use clap::Subcommand;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use zinit_client::{Client, SignalName, UnitName};

/// Longest reply to a bare request that is read, in bytes.
const MAX_REPLY_BYTES: u64 = 64 << 10;

/// A verb of zinit.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show every service and its state.
    List,
    /// Show one service in detail.
    Status { service: UnitName },
    /// Want a service up.
    Start { service: UnitName },
    /// Want a service down, and send its stop signal.
    Stop { service: UnitName },
    /// Remove a stopped service from the table.
    Forget { service: UnitName },
    /// Load the unit of a service and start it.
    Monitor { service: UnitName },
    /// Signal the process group of a service.
    Kill {
        service: UnitName,
        #[arg(default_value = "SIGTERM")]
        signal: SignalName,
    },
    /// Show what services wrote, and what they go on to write.
    Log {
        /// Only what is there.
        #[arg(short, long)]
        snapshot: bool,
        /// Only the lines of this service.
        filter: Option<UnitName>,
    },
    /// Stop all services and end.
    Shutdown,
    /// As `shutdown`; where the machine ends with it, it starts again.
    Reboot,
}

/// Does `command` at the supervisor behind `socket` and prints the answer.
pub(crate) async fn run(socket: &Path, command: Command) -> Result<(), Box<dyn std::error::Error>> {
    let client = Client::new(socket);
    match command {
        Command::List => {
            let services = client.list().await?;
            print_map("", &services)?;
        }
        Command::Status { service } => {
            let status = client.status(&service).await?;
            let pid = status.pid.unwrap_or(0);
            let mut out = io::stdout().lock();
            writeln!(out, "name: {service}\npid: {pid}")?;
            writeln!(out, "state: {}\ntarget: {}", status.state, status.target)?;
            drop(out);
            print_after(&status)?;
        }
        Command::Start { service } => client.start(&service).await?,
        Command::Stop { service } => client.stop(&service).await?,
        Command::Forget { service } => client.forget(&service).await?,
        Command::Monitor { service } => client.monitor(&service).await?,
        Command::Kill { service, signal } => client.kill(&service, signal).await?,
        Command::Log { snapshot, filter } => print_log(socket, snapshot, filter.as_ref()).await?,
        Command::Shutdown => end(socket, "shutdown\n").await?,
        Command::Reboot => end(socket, "reboot\n").await?,
    }
    Ok(())
}

/// The supervisor cannot be asked to shut down, or refuses.
#[derive(Debug, thiserror::Error)]
#[error("the supervisor did not accept to shut down: {reply:?}")]
struct NotEnding {
    reply: String,
}

fn print_after(status: &zinit_client::ServiceStatus) -> io::Result<()> {
    if status.after.is_empty() {
        return writeln!(io::stdout(), "after: {{}}");
    }
    writeln!(io::stdout(), "after:")?;
    print_map("  ", &status.after)
}

fn print_map(
    indent: &str,
    states: &std::collections::BTreeMap<String, zinit_client::State>,
) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for (name, state) in states {
        writeln!(out, "{indent}{name}: {state}")?;
    }
    Ok(())
}

/// Prints the log as it comes. The library's snapshot has a size limit and cannot follow.
async fn print_log(socket: &Path, snapshot: bool, filter: Option<&UnitName>) -> io::Result<()> {
    let mut stream = UnixStream::connect(socket).await?;
    let request: &[u8] = if snapshot { b"log snapshot\n" } else { b"log\n" };
    stream.write_all(request).await?;
    let marks = filter.map(|name| [format!("[+] {name}: "), format!("[-] {name}: ")]);
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).await? > 0 {
        let wanted =
            marks.as_ref().is_none_or(|marks| marks.iter().any(|mark| line.starts_with(mark.as_bytes())));
        if wanted {
            let mut out = io::stdout().lock();
            out.write_all(&line)?;
            out.flush()?;
        }
        line.clear();
    }
    Ok(())
}

/// Asks for the end. Not a verb of the library: nobody who upgrades a node needs it.
async fn end(socket: &Path, request: &str) -> Result<(), Box<dyn std::error::Error>> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut reply = String::new();
    stream.take(MAX_REPLY_BYTES).read_to_string(&mut reply).await?;
    if reply.starts_with(r#"{"state":"ok""#) { Ok(()) } else { Err(NotEnding { reply }.into()) }
}
