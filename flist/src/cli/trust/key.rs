//! `flist trust key`

use std::path::PathBuf;

use flist::trust::repository::{PublicKey, RoleName, TrustDirectory, keep_command};
use jiff::Timestamp;

use super::access::{Destination, TrustAccess};
use super::outcome::{outcome_json, outcome_text};
use crate::cli::failure::Failure;
use crate::cli::output::Output;

/// Change who may sign
#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Give a role another key: a new one, or one that somebody else holds
    #[command(after_help = EXAMPLES)]
    Add(Addition),
    /// Take a key from a role
    #[command(after_help = EXAMPLES)]
    Remove(Removal),
    /// Give a role a new key for an old one
    #[command(after_help = EXAMPLES)]
    Rotate(Rotation),
}

const EXAMPLES: &str = "Examples:
  flist trust key add --dir trust prod --threshold 2
  flist trust key add --dir trust root --public d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a --command /usr/local/bin/sign-with-token
  flist trust key remove --dir trust prod 74c181c7ad8a
  flist trust key rotate --dir trust timestamp";

#[derive(clap::Args)]
pub(super) struct Common {
    #[command(flatten)]
    access: TrustAccess,
    #[command(flatten)]
    destination: Destination,
    /// The role: root, targets, snapshot, timestamp, dev, test, prod or qa
    role: RoleName,
    /// How many of its keys have to sign from now on
    #[arg(long)]
    threshold: Option<usize>,
}

#[derive(clap::Args)]
pub(super) struct New {
    /// The public half of a key that somebody else or a token holds: of ed25519 in hexadecimal; or a PEM file, with an
    /// ed25519 key or an ECDSA key of P-256; without it a key file is made
    #[arg(long, value_name = "HEX|FILE")]
    public: Option<String>,
    /// A command that signs with that key: the bytes come on its standard input, and it prints the signature in
    /// hexadecimal. May be given several times, for the command's own arguments. Kept in signers.json beside the keys
    #[arg(long, requires = "public", value_name = "WORD")]
    command: Vec<String>,
}

#[derive(clap::Args)]
pub(super) struct Addition {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    new: New,
}

#[derive(clap::Args)]
pub(super) struct Removal {
    #[command(flatten)]
    common: Common,
    /// How the id of the key begins
    id: String,
}

#[derive(clap::Args)]
pub(super) struct Rotation {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    new: New,
    /// How the id of the old key begins; not needed where the role has one only
    id: Option<String>,
}

pub(super) fn run(command: Command, output: &Output) -> crate::cli::Outcome {
    match command {
        Command::Add(Addition { common, new }) => change(&common, Some(&new), None, output),
        Command::Remove(Removal { common, id }) => change(&common, None, Some(id), output),
        Command::Rotate(Rotation { common, new, id }) => {
            let directory = common.access.open()?;
            let id = match id {
                Some(id) => id,
                None => only_key(&directory, common.role)?,
            };
            change(&common, Some(&new), Some(id), output)
        }
    }
}

fn only_key(directory: &TrustDirectory, role: RoleName) -> Result<String, Failure> {
    match directory.key_ids(role)?.as_slice() {
        [one] => Ok(one.clone()),
        all => Err(Failure::usage(format!(
            "{role} has {} keys; say which is the old one: {}",
            all.len(),
            all.join(", ")
        ))),
    }
}

fn change(
    common: &Common,
    new: Option<&New>,
    remove: Option<String>,
    output: &Output,
) -> crate::cli::Outcome {
    let Common { access, destination, role, threshold } = common;
    let directory = access.open()?;
    let new_keys = access.with.new_keys(&directory, *role)?;
    let (mut add, mut made): (Vec<PublicKey>, Option<PathBuf>) = (Vec::new(), None);
    match new {
        Some(New { public: Some(public), .. }) => add.push(PublicKey::named(public)?),
        Some(New { public: None, .. }) => {
            let (key, path) = directory.new_key(*role, &new_keys, &access.with.passphrase.new_one()?)?;
            add.push(key);
            made = Some(path);
        }
        None => {}
    }
    let mut signers = access.signers(&directory)?;
    let command = new.map(|new| new.command.as_slice()).filter(|command| !command.is_empty());
    let command = add.first().map(|key| key.id().to_owned()).zip(command);
    if let Some((id, command)) = &command {
        signers.add_command(id, command);
    }
    let remove: Vec<String> = remove.into_iter().collect();
    let changed = directory.change_keys(*role, &add, &remove, *threshold, &mut signers, Timestamp::now());
    let mut outcome = changed.map_err(|error| {
        // A key that no role has would only lie about.
        if let Some(path) = &made {
            let _gone = std::fs::remove_file(path);
        }
        Failure::from(error)
    })?;
    // Not before: a command for a key that no role has would only lie about.
    if let Some((id, command)) = &command {
        keep_command(&new_keys, id, command).map_err(|error| Failure {
            remedy: Some(format!(
                "the key was added; sign with --signer {}=COMMAND until that is written",
                &id[..12]
            )),
            ..Failure::from(error)
        })?;
    }
    outcome.new_keys.extend(made);
    let sent = if outcome.waiting.is_empty() { destination.send(&directory)? } else { None };
    output.done(&outcome_json(&outcome), || outcome_text(&directory, &outcome, sent))
}
