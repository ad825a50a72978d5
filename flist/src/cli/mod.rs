//! Subcommands of `flist`: arguments in, output out.

mod diff;
mod inspect;
mod mount;
mod pack;
mod publish;
mod reading;
mod serve;
mod unpack;
mod verify;

use std::error::Error;
use std::io::IsTerminal;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

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
  flist unpack -m app.fl /tmp/app                        make the directory again
  flist mount -m app.fl /mnt/app                         look at it without unpacking
  flist serve --root /srv/hub --listen 127.0.0.1:8080    run a hub
  flist publish --hub http://127.0.0.1:8080 --repo tf-zos --name zos --version 1.0.0 --run-mode dev ./app

Set RUST_LOG=debug to see more.";

#[derive(Subcommand)]
enum Command {
    Pack(pack::Arguments),
    Unpack(unpack::Arguments),
    Mount(mount::Arguments),
    Inspect(inspect::Arguments),
    Verify(verify::Arguments),
    Diff(diff::Arguments),
    Serve(serve::Arguments),
    Publish(publish::Arguments),
}

/// Parses the command line and runs one subcommand.
pub(crate) fn run() -> Outcome {
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
        Command::Diff(arguments) => diff::run(&arguments),
        Command::Serve(arguments) => serve::run(arguments),
        Command::Publish(arguments) => publish::run(arguments),
    }
}
