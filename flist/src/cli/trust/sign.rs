//! `flist trust sign` and `flist trust refresh`

use flist::trust::repository::RoleName;
use jiff::Timestamp;

use super::access::{Destination, TrustAccess, outcome_json, outcome_text};
use crate::cli::output::Output;

/// Sign what waits for signatures, with the keys at hand.
///
/// When enough keys have signed, the change is published; otherwise it goes on waiting.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    #[command(flatten)]
    access: TrustAccess,
    #[command(flatten)]
    destination: Destination,
}

const EXAMPLES: &str = "Examples:
  flist trust sign --dir trust --keys /media/usb/keys
  flist trust sign --dir trust --passphrase-file secret --hub http://127.0.0.1:8080";

pub(super) fn run(arguments: &Arguments, output: &Output) -> crate::cli::Outcome {
    let Arguments { access, destination } = arguments;
    let directory = access.open()?;
    let outcome = directory.sign(&mut access.signers(&directory)?, Timestamp::now())?;
    let sent = if outcome.waiting.is_empty() { destination.send(&directory)? } else { None };
    output.done(&outcome_json(&outcome), || outcome_text(&directory, &outcome, sent))
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
