//! `flist trust init`

use std::path::{Path, PathBuf};

use flist::trust::repository::{Lifetimes, Outcome, Plan, RolePlan, Settings, TrustDirectory};
use jiff::Timestamp;

use super::outcome::{outcome_json, outcome_text};
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::passphrase::PassphraseAccess;

/// Make a trust repository with new keys.
///
/// The root has three keys, of which two sign; all other roles have one. Afterwards take the keys of root, targets
/// and the run modes to other media: only those of snapshot and timestamp are needed every day.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Where to make it
    #[arg(long, value_name = "DIR", env = "FLIST_TRUST_DIR", default_value = "trust")]
    dir: PathBuf,
    #[command(flatten)]
    beginning: Beginning,
}

/// Make a director's repository with new keys.
///
/// The root has three keys, of which two sign; all other roles have one. Afterwards take the keys of the root to other
/// media: those of targets, with which the director chooses, snapshot and timestamp are needed every day.
#[derive(clap::Args)]
pub(in crate::cli) struct DirectorArguments {
    /// Where to make it
    #[arg(long, value_name = "DIR", env = "FLIST_DIRECTOR_DIR", default_value = "director")]
    dir: PathBuf,
    #[command(flatten)]
    beginning: Beginning,
}

/// With what a repository begins.
#[derive(clap::Args)]
struct Beginning {
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

pub(super) fn run(Arguments { dir, beginning }: Arguments, output: &Output) -> crate::cli::Outcome {
    let (directory, outcome) = beginning.make(&dir, Plan::releases())?;
    output.done(&outcome_json(&outcome), || {
        let made = outcome_text(&directory, &outcome, None);
        let root = directory.root();
        let root = root.display();
        format!("{made}\nput {root} into the base image of the nodes, as /etc/molt/root.json\n{OFFLINE}")
    })
}

/// `flist director init`
pub(in crate::cli) fn director(
    DirectorArguments { dir, beginning }: DirectorArguments,
    output: &Output,
) -> crate::cli::Outcome {
    let (directory, outcome) = beginning.make(&dir, Plan::director())?;
    output.done(&outcome_json(&outcome), || {
        let (made, root) = (outcome_text(&directory, &outcome, None), directory.root());
        format!(
            "{made}\nput {} into the base image of the nodes, as /etc/molt/director.json: with it they install only what is chosen\n{OFFLINE_OF_DIRECTOR}\nthen choose: flist director assign --dir {}",
            root.display(),
            directory.path().display()
        )
    })
}

const OFFLINE: &str =
    "take the keys of all roles but snapshot and timestamp to other media, and use them with --keys";

const OFFLINE_OF_DIRECTOR: &str = "take the keys of the root to other media, and use them with --keys; those of targets, snapshot and timestamp stay";

impl Beginning {
    fn make(self, dir: &Path, plan: Plan) -> Result<(TrustDirectory, Outcome), Failure> {
        let plan = self.roles.into_iter().fold(plan, Plan::with);
        let lifetimes = Lifetimes { timestamp: self.timestamp_days, ..Lifetimes::default() };
        let settings = Settings { lifetimes };
        let passphrase = self.passphrase.new_one()?;
        Ok(TrustDirectory::init(dir, settings, &plan, &passphrase, Timestamp::now())?)
    }
}
