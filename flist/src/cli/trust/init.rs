//! `flist trust init`

use std::path::PathBuf;

use flist::trust::repository::{Lifetimes, Plan, RolePlan, Settings, TrustDirectory};
use jiff::Timestamp;

use super::access::{outcome_json, outcome_text};
use crate::cli::output::Output;
use crate::cli::passphrase::PassphraseAccess;

/// Make a trust repository with new keys.
///
/// The root has three keys, of which two sign; all other roles have one. Afterwards take the keys of root, targets
/// and the run modes to other media: only those of snapshot and timestamp are needed every day.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct Arguments {
    /// Where to make it
    #[arg(long, value_name = "DIR", env = "FLIST_TRUST_DIR", default_value = "trust")]
    dir: PathBuf,
    #[command(flatten)]
    passphrase: PassphraseAccess,
    /// Other numbers for a role: <role>=<threshold>/<keys>; may be given several times
    #[arg(long = "role", value_name = "ROLE=N/M")]
    roles: Vec<RolePlan>,
    /// Days until the timestamp expires: nodes notice as late as this that news are kept from them
    #[arg(long, value_name = "DAYS", default_value_t = Lifetimes::default().timestamp, value_parser = clap::value_parser!(i64).range(1..=3650))]
    timestamp_days: i64,
}

const EXAMPLES: &str = "Examples:
  flist trust init --dir trust
  flist trust init --dir trust --passphrase-file secret --role root=3/5 --role prod=2/3 --timestamp-days 2";

pub(super) fn run(arguments: Arguments, output: &Output) -> crate::cli::Outcome {
    init(arguments, Plan::releases(), "root.json", output)
}

/// `flist director init`
pub(in crate::cli) fn director(arguments: Arguments, output: &Output) -> crate::cli::Outcome {
    init(arguments, Plan::director(), "director.json", output)
}

const OFFLINE: &str = "take the keys of all roles but snapshot and timestamp to other media, and use them with --keys; a director's targets key stays";

fn init(arguments: Arguments, plan: Plan, name: &str, output: &Output) -> crate::cli::Outcome {
    let plan = arguments.roles.into_iter().fold(plan, Plan::with);
    let lifetimes = Lifetimes { timestamp: arguments.timestamp_days, ..Lifetimes::default() };
    let settings = Settings { lifetimes };
    let passphrase = arguments.passphrase.new_one()?;
    let (directory, outcome) =
        TrustDirectory::init(&arguments.dir, settings, &plan, &passphrase, Timestamp::now())?;
    output.done(&outcome_json(&outcome), || {
        format!(
            "{}\nput {} into the base image of the nodes, as /etc/molt/{name}\n{OFFLINE}",
            outcome_text(&directory, &outcome, None),
            directory.root().display()
        )
    })
}
