//! `flist trust`

mod access;
mod blocks;
mod check;
mod difference;
mod init;
mod key;
mod on_hub;
mod outcome;
mod release;
mod show;
mod sign;

use super::Outcome;
use super::output::Output;
pub(super) use access::{
    Destination, DirectorAccess, Followers, NamedRelease, TrustAccess, new_node, not_moved, send,
};
pub(super) use check::or_send;
pub(super) use init::{DirectorArguments, director as init_director};
pub(super) use on_hub::{Signatures, Target, Unsigned, check_link, entries_of, in_order, sign_command};
pub(super) use outcome::{outcome_json, outcome_text};
pub(super) use release::ConditionOptions;

/// Sign releases: make the keys that nodes trust, change them, sign with them, and see whether nodes would accept
/// what a hub serves.
///
/// The repository is a directory. Its subdirectory `metadata` is what nodes read: from a hub (--hub sends it there),
/// or from any web server that has a copy of it. Its `root.json` goes into the base image of the nodes.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  flist trust init --dir trust --passphrase-file secret --role prod=2/3
  flist trust release --dir trust --hub http://127.0.0.1:8080 --run-mode prod --channel tf-zos/zos:production:latest.flist --version 1.0.0 tf-zos/zos:v1.0.0.flist
  flist trust refresh --dir trust --hub http://127.0.0.1:8080
  flist trust show --dir trust
  flist trust check --hub http://127.0.0.1:8080 --root trust/root.json";

#[derive(clap::Subcommand)]
enum Command {
    Init(init::Arguments),
    #[command(subcommand)]
    Key(key::Command),
    Release(release::Arguments),
    Withdraw(release::Withdrawal),
    Sign(sign::Arguments),
    Refresh(sign::Refreshment),
    Show(show::Arguments),
    Check(check::Arguments),
}

pub(super) fn run(arguments: Arguments, output: &Output) -> Outcome {
    match arguments.command {
        Command::Init(arguments) => init::run(arguments, output),
        Command::Key(command) => key::run(command, output),
        Command::Release(arguments) => release::run(arguments, output),
        Command::Withdraw(arguments) => release::withdraw(arguments, output),
        Command::Sign(arguments) => sign::run(&arguments, output),
        Command::Refresh(arguments) => sign::refresh(&arguments, output),
        Command::Show(arguments) => show::run(&arguments, output),
        Command::Check(arguments) => check::run(&arguments, output),
    }
}
