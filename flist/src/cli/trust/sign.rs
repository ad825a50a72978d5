//! `flist trust sign` and `flist trust refresh`

use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use flist::exit::Exit;
use flist::hub::{Channel, shown_address};
use flist::trust::claims::Claims;
use flist::trust::repository::{RepositoryError, RoleDifference, RoleName, Subject};
use jiff::Timestamp;
use semver::Version;

use super::access::{Destination, HeldRoot, TrustAccess};
use super::difference;
use super::outcome::{outcome_json, outcome_text, short_ids};
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::terminal;

/// Sign what waits for signatures, with the keys at hand.
///
/// Shows first what the change does to what is in force, and asks. When enough keys have signed, it is published;
/// otherwise it goes on waiting. What several holders have signed, each in a copy of his own, comes together with
/// --from: signatures are added to those that are there. The repository may be a copy that somebody else has brought: nothing that it says is
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
    /// A copy of the repository that somebody has signed, or its directory `staged`: its signatures for this change are
    /// added; may be given several times
    #[arg(long, value_name = "COPY")]
    from: Vec<PathBuf>,
    /// Sign without being asked; what is signed is shown all the same
    #[arg(long)]
    yes: bool,
}

const EXAMPLES: &str = "Examples:
  flist trust sign --dir copy --keys /media/usb/keys --root /media/usb/root.json
  flist trust sign --dir copy --signer 74c181c7ad8a=/usr/local/bin/sign-with-token
  flist trust sign --dir trust --from copy1 --from copy2 --hub http://127.0.0.1:8080
  flist trust sign --dir trust --passphrase-file secret --hub http://127.0.0.1:8080 --yes";

pub(super) fn run(arguments: &Arguments, output: &Output) -> crate::cli::Outcome {
    let Arguments { access, destination, held, from, yes } = arguments;
    let directory = access.open()?;
    let root = held.of(&access.with.keys);
    let mut waiting = directory.waiting(root.as_deref())?;
    let differences = difference::as_json(waiting.differences());
    // Whatever else is quiet: what is signed is seen.
    eprint!("{}", shown(waiting.differences(), root.is_some()));
    for copy in from {
        let added = waiting.add_from(copy)?;
        output.note(&match added.is_empty() {
            true => format!("no signature in {} that is not here already", copy.display()),
            false => format!("from {}: signed by {}", copy.display(), short_ids(&added)),
        });
    }
    if !yes {
        ask(access, root.as_deref())?;
    }
    let links = links(waiting.differences(), destination.hub.as_deref());
    let outcome = waiting.sign(&mut access.with.own_signers(&directory)?, Timestamp::now())?;
    let sent = if outcome.waiting.is_empty() { destination.send(&directory)? } else { None };
    let mut json = outcome_json(&outcome);
    json["difference"] = differences;
    output.done(&json, || {
        let links = if outcome.waiting.is_empty() { links } else { String::new() };
        format!("{}{links}", outcome_text(&directory, &outcome, sent))
    })
}

/// The commands that move links to what was signed now.
fn links(differences: &[RoleDifference], hub: Option<&str>) -> String {
    let signed = differences.iter().flat_map(|difference| &difference.edits).filter_map(|edit| {
        match (&edit.subject, &edit.after) {
            (Subject::Target(_), Some(target)) => Claims::parse(target.get("custom")).ok(),
            _ => None,
        }
    });
    let mut last: BTreeMap<(String, Version), Claims> = BTreeMap::new();
    for claims in signed {
        let release = (claims.channel.clone(), claims.version.clone());
        if last.get(&release).is_none_or(|known| known.index < claims.index) {
            last.insert(release, claims);
        }
    }
    let hub = hub.map_or("URL".to_owned(), shown_address);
    let link = |claims: &Claims| {
        let target = match claims.channel.parse() {
            Ok(Channel::Flist(_)) => claims.flist.to_string(),
            Ok(Channel::Taglink(link)) => format!("{}/tags/{}", link.repo(), claims.version),
            Ok(Channel::Tag(_)) | Err(_) => return None,
        };
        Some(format!(
            "\nfor nodes without a root of trust: flist link --hub {hub} {} {target}",
            claims.channel
        ))
    };
    last.values().filter_map(link).collect()
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

fn ask(access: &TrustAccess, root: Option<&Path>) -> Result<(), Failure> {
    let answer = match io::stdin().is_terminal() {
        true => terminal::agrees("Sign this?").ok(),
        false => None,
    };
    match answer {
        Some(true) => Ok(()),
        Some(false) => Err(Failure::new(Exit::Refused, "nothing was signed, as you said")),
        None => Err(Failure {
            remedy: Some(format!(
                "look at it with `flist trust show --staged --dir {}{}`, then sign with --yes",
                access.dir.display(),
                root.map(|root| format!(" --root {}", root.display())).unwrap_or_default()
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
    // What nobody has decided waits nowhere: without these keys the timestamp runs out.
    if outcome.versions.is_empty() && !outcome.waiting.is_empty() {
        let missing = outcome.waiting.into_iter().flat_map(|waiting| waiting.missing).collect();
        return Err(RepositoryError::NoKeyAtHand { missing }.into());
    }
    let sent = if outcome.waiting.is_empty() { destination.send(&directory)? } else { None };
    output.done(&outcome_json(&outcome), || outcome_text(&directory, &outcome, sent))
}
