//! The `flist` command: arguments in, output out.

mod diff;
mod hub_access;
mod inspect;
mod link;
mod lint;
mod list;
mod mount;
mod pack;
mod promote;
mod publish;
mod reading;
mod rm;
mod serve;
mod tag;
mod unpack;
mod verify;

use std::error::Error;
use std::io::IsTerminal;

use clap::{CommandFactory, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

pub use lint::LintFailed;

type Outcome = Result<(), Box<dyn Error>>;

/// Read, write, mount, publish and serve flists.
///
/// A flist describes a file tree; the content of the files lies in a store as compressed, encrypted
/// blocks that many flists share.
#[derive(Parser)]
#[command(name = "flist", version, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  flist pack -m app.fl -s dir:///srv/blocks ./app        make a flist of a directory
  flist inspect app.fl                                   show what is in it
  flist lint --base / ./app                              would it run on a node like this machine?
  flist unpack -m app.fl /tmp/app                        make the directory again
  flist mount -m app.fl /mnt/app                         look at it without unpacking
  flist serve --root /srv/hub --listen 127.0.0.1:8080    run a hub
  flist publish --hub http://127.0.0.1:8080 --repo tf-zos --name zos --version 1.0.0 --run-mode dev ./app
  flist promote --hub http://127.0.0.1:8080 --repo tf-zos --name zos dev test
  flist list --hub http://127.0.0.1:8080 tf-zos

Set RUST_LOG=debug to see more.";

#[derive(Subcommand)]
enum Command {
    Pack(pack::Arguments),
    Unpack(unpack::Arguments),
    Mount(mount::Arguments),
    Inspect(inspect::Arguments),
    Verify(verify::Arguments),
    Lint(lint::Arguments),
    Diff(diff::Arguments),
    Serve(serve::Arguments),
    Publish(publish::Arguments),
    Tag(tag::Arguments),
    Link(link::Arguments),
    Promote(promote::Arguments),
    List(list::Arguments),
    Rm(rm::Arguments),
}

/// The command line as data, for manual pages and completions.
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Parses the command line and runs one subcommand. Wrong usage, `--help` and `--version` end the process.
///
/// # Errors
/// Those of the subcommand.
pub fn run() -> Outcome {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    match Arguments::parse().command {
        Command::Pack(arguments) => pack::run(&arguments),
        Command::Unpack(arguments) => unpack::run(&arguments),
        Command::Mount(arguments) => mount::run(&arguments),
        Command::Inspect(arguments) => inspect::run(&arguments),
        Command::Verify(arguments) => verify::run(&arguments),
        Command::Lint(arguments) => lint::run(&arguments),
        Command::Diff(arguments) => diff::run(&arguments),
        Command::Serve(arguments) => serve::run(arguments),
        Command::Publish(arguments) => publish::run(arguments),
        Command::Tag(arguments) => tag::run(arguments),
        Command::Link(arguments) => link::run(arguments),
        Command::Promote(arguments) => promote::run(arguments),
        Command::List(arguments) => list::run(arguments),
        Command::Rm(arguments) => rm::run(arguments),
    }
}

/// Prints data that may be piped into a program that has seen enough before its end.
fn print(text: &str) -> Outcome {
    let mut out = std::io::stdout().lock();
    match std::io::Write::write_all(&mut out, text.as_bytes()).and_then(|()| std::io::Write::flush(&mut out))
    {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}
