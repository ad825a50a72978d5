//! `flist serve`

use std::net::SocketAddr;
use std::path::PathBuf;

use flist::exit::Exit;
use flist::server::{Server, ServerConfig};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::output::Output;

/// Open files besides those of connections.
const SPARE_FILES: u64 = 64;

/// Threads that wait for the disk. More do not make it faster, but take memory each.
const DISK_THREADS: usize = 128;

/// Run a hub: flists and pages under /, blocks under /store.
///
/// Reading is open to all. Changes are accepted from this machine only; with --token-file, from anywhere
/// with a token. It stops on SIGTERM or SIGINT, after the answers that are under way.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// The directory with everything the hub has; it is created if it is not there
    #[arg(long, value_name = "DIR")]
    root: PathBuf,
    /// The address to listen on
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Accept changes with the tokens in this file (mode 0600): one a line, then the repos that it is for, if
    /// not for all; # starts a comment. A changed file counts at once
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The address that nodes know this hub by, if publishers use another one
    #[arg(long, value_name = "URL")]
    public_url: Option<reqwest::Url>,
    /// Refuse every flist that has a block which is not here, also where its routes lead elsewhere
    #[arg(long)]
    strict: bool,
    /// Most bytes of all blocks
    #[arg(long, value_name = "BYTES")]
    quota_bytes: Option<u64>,
    /// Most flists, links, tags and taglinks in one repo
    #[arg(long, value_name = "COUNT", default_value_t = 10_000)]
    max_names: usize,
    /// Most connections at one time
    #[arg(long, value_name = "COUNT", default_value_t = 512)]
    max_connections: usize,
}

const EXAMPLES: &str = "Examples:
  flist serve --root /srv/hub
  flist serve --root /srv/hub --listen '[::]:8080' --token-file /etc/hub/tokens --quota-bytes 50000000000

Behind a reverse proxy: let it pass the path on without its own prefix, and keep the Host header. A proxy
acts for others, so publishing through it needs a token.";

pub(super) fn run(arguments: Arguments, output: &Output) -> super::Outcome {
    let listen = arguments.listen;
    let root = arguments.root.clone();
    let config = ServerConfig {
        token_file: arguments.token_file,
        public_url: arguments.public_url,
        strict: arguments.strict,
        quota_bytes: arguments.quota_bytes,
        max_names: arguments.max_names,
        max_connections: affordable(arguments.max_connections),
        ..ServerConfig::new(arguments.root)
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(DISK_THREADS)
        .build()?;
    runtime.block_on(async {
        let server = Server::open(&config)?;
        let listener = TcpListener::bind(listen).await.map_err(|source| ListenError { listen, source })?;
        let (mut interrupt, mut terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let shutdown = async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        };
        let url = format!("http://{}", listener.local_addr()?);
        output.done(&json!({"root": root, "url": url}), || format!("serving {} on {url}", root.display()))?;
        server.serve(listener, shutdown).await?;
        Ok(Exit::Done)
    })
}

/// The address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {listen}; use another address with --listen")]
struct ListenError {
    listen: SocketAddr,
    source: std::io::Error,
}

/// As many connections as there may be open files for: each has a socket and, while it is answered, a file.
fn affordable(connections: usize) -> usize {
    let wanted = u64::try_from(connections).unwrap_or(u64::MAX).saturating_mul(2).saturating_add(SPARE_FILES);
    let files = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) if soft < wanted && soft < hard => {
            let raised = wanted.min(hard);
            if setrlimit(Resource::RLIMIT_NOFILE, raised, hard).is_ok() { raised } else { soft }
        }
        Ok((soft, _)) => soft,
        Err(_) => return connections,
    };
    if files >= wanted {
        return connections;
    }
    let possible = usize::try_from(files.saturating_sub(SPARE_FILES) / 2).unwrap_or(connections).max(1);
    tracing::warn!(
        wanted = connections,
        possible,
        "fewer connections than wanted: too few open files allowed"
    );
    possible
}
