//! `flist trust sign` and `flist trust refresh`

use std::io::{self, IsTerminal};

use flist::exit::Exit;
use flist::trust::repository::{RoleDifference, RoleName};
use jiff::Timestamp;

use super::access::{Destination, HeldRoot, TrustAccess, outcome_json, outcome_text};
use super::difference;
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::terminal;

/// Sign what waits for signatures, with the keys at hand.
///
/// Shows first what the change does to what is in force, and asks. When enough keys have signed, it is published;
/// otherwise it goes on waiting. The repository may be a copy that somebody else has brought: nothing that it says is
/// run, so a key in a token takes --signer, or signers.json in a directory that --keys names.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    #[command(flatten)]
    access: TrustAccess,
    #[command(flatten)]
    destination: Destination,
    #[command(flatten)]
    held: HeldRoot,
    /// Sign without being asked
    #[arg(long)]
    yes: bool,
}

const EXAMPLES: &str = "Examples:
  flist trust sign --dir copy --keys /media/usb/keys --root /media/usb/root.json
  flist trust sign --dir copy --signer 74c181c7ad8a=/usr/local/bin/sign-with-token
  flist trust sign --dir trust --passphrase-file secret --hub http://127.0.0.1:8080 --yes";

pub(super) fn run(arguments: &Arguments, output: &Output) -> crate::cli::Outcome {
    let Arguments { access, destination, held, yes } = arguments;
    let directory = access.open()?;
    let root = held.of(&access.keys);
    let waiting = directory.waiting(root.as_deref())?;
    let differences = difference::as_json(waiting.differences());
    if !yes || !(output.json || output.quiet) {
        eprint!("{}", shown(waiting.differences(), root.is_some()));
    }
    if !yes {
        ask(access)?;
    }
    let outcome = waiting.sign(&mut access.own_signers(&directory)?, Timestamp::now())?;
    let sent = if outcome.waiting.is_empty() { destination.send(&directory)? } else { None };
    let mut json = outcome_json(&outcome);
    json["difference"] = differences;
    output.done(&json, || outcome_text(&directory, &outcome, sent))
}

/// What is asked for, and what it is compared with.
pub(super) fn shown(differences: &[RoleDifference], is_rooted: bool) -> String {
    let remark = match is_rooted {
        true => "",
        false => {
            "this is compared with what the same directory says is in force; name a root file of your own with --root to know that it is\n"
        }
    };
    format!("{}{remark}", difference::as_text(differences))
}

fn ask(access: &TrustAccess) -> Result<(), Failure> {
    let answer = match io::stdin().is_terminal() {
        true => terminal::agrees("Sign this?").ok(),
        false => None,
    };
    match answer {
        Some(true) => Ok(()),
        Some(false) => Err(Failure::new(Exit::Refused, "nothing was signed, as you said")),
        None => Err(Failure {
            remedy: Some(format!(
                "look at it with `flist trust show --staged --dir {}`, then sign with --yes",
                access.dir.display()
            )),
            ..Failure::usage("nothing was signed: there is no terminal to ask on whether this shall be")
        }),
    }
}

/// Sign the timestamp again before it expires, and whatever else is named.
///
/// To be run regularly where the keys of timestamp and snapshot are, for example once a day.
#[derive(clap::Args)]
#[command(after_help = REFRESH_EXAMPLES)]
pub(super) struct Refreshment {
    #[command(flatten)]
    access: TrustAccess,
    #[command(flatten)]
    destination: Destination,
    /// Roles to sign again as well: root, targets, snapshot, dev, test, prod, qa
    roles: Vec<RoleName>,
}

const REFRESH_EXAMPLES: &str = "Examples:
  flist trust refresh --dir trust --passphrase-file secret --hub http://127.0.0.1:8080
  flist trust refresh --dir trust prod targets";

pub(super) fn refresh(arguments: &Refreshment, output: &Output) -> crate::cli::Outcome {
    let Refreshment { access, destination, roles } = arguments;
    let directory = access.open()?;
    let outcome = directory.refresh(roles, &mut access.signers(&directory)?, Timestamp::now())?;
    let sent = if outcome.waiting.is_empty() { destination.send(&directory)? } else { None };
    output.done(&outcome_json(&outcome), || outcome_text(&directory, &outcome, sent))
}
