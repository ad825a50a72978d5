//! `flist trust show`

use std::path::{Path, PathBuf};

use flist::trust::repository::{RoleName, RoleState, TrustDirectory, Waiting};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::access::HeldRoot;
use super::difference;
use super::outcome::standing;
use super::sign::shown;
use crate::cli::output::Output;

/// Show who signs for what: the roles, how many of which keys have to sign, and until when it holds.
///
/// Needs no key and no passphrase.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// The trust repository, or a director's
    #[arg(long, value_name = "DIR", env = "FLIST_TRUST_DIR", default_value = "trust")]
    dir: PathBuf,
    /// Show what the change that waits for signatures does to what is in force, as `flist trust sign` does before it asks
    #[arg(long)]
    staged: bool,
    #[command(flatten)]
    held: HeldRoot,
}

const EXAMPLES: &str = "Examples:
  flist trust show --dir trust
  flist trust show --dir director --json
  flist trust show --dir copy --staged --root /media/usb/root.json";

pub(super) fn run(Arguments { dir, staged, held }: &Arguments, output: &Output) -> crate::cli::Outcome {
    let directory = TrustDirectory::open(dir)?;
    if *staged {
        let root = held.of(&[]);
        let differences = directory.differences(root.as_deref())?;
        let waiting: Vec<RoleState> =
            directory.states()?.into_iter().filter(|state| state.waiting.is_some()).collect();
        let signatures: Vec<Value> = waiting.iter().flat_map(signatures_json).collect();
        let json = json!({
            "directory": dir,
            "difference": difference::as_json(&differences),
            "signatures": signatures,
        });
        return output.data(&json, || {
            let lines: Vec<String> =
                waiting.iter().flat_map(|state| signature_lines(state, "signatures of ")).collect();
            format!("{}{}", shown(&differences, root.is_some()), lines.concat())
        });
    }
    let (states, now) = (directory.states()?, Timestamp::now());
    let kind = if directory.is_directors()? { "director" } else { "releases" };
    let roles: Vec<Value> = states.iter().map(|state| as_json(state, now)).collect();
    output.data(&json!({"directory": dir, "kind": kind, "roles": roles}), || {
        let lines: String = states.iter().map(|state| line(state, now, dir)).collect();
        format!("{:<10} {:>7}  {:<20}  {:<10}  keys\n{lines}", "role", "version", "holds until", "signatures")
    })
}

fn as_json(state: &RoleState, now: Timestamp) -> Value {
    json!({
        "role": state.role.to_string(),
        "version": state.version,
        "expires": state.expires.map(|at| at.to_string()),
        "expired": is_over(state, now),
        "threshold": state.threshold,
        "keys": state.keys,
        "waiting": state.waiting,
        "signatures": signatures_json(state),
    })
}

/// How what waits of a role stands with those who have to sign.
fn signatures_json(state: &RoleState) -> Vec<Value> {
    let group = |group: &Waiting| {
        let Waiting { role, signed, needed, missing } = group;
        json!({"role": role.to_string(), "signed_by": signed, "needed": needed, "missing": missing})
    };
    state.signatures.iter().map(group).collect()
}

fn signature_lines(state: &RoleState, before: &str) -> Vec<String> {
    let whose = match state.signatures.len() {
        0 | 1 => ["", ""],
        // A new root is signed by those of the one in force as well.
        _ => [" (as it is)", " (as it will be)"],
    };
    let line =
        |(group, whose): (&Waiting, &str)| format!("{before}{}{whose}: {}\n", state.role, standing(group));
    state.signatures.iter().zip(whose).map(line).collect()
}

/// What says no end does not hold.
fn is_over(state: &RoleState, now: Timestamp) -> bool {
    state.expires.is_none_or(|at| at <= now)
}

fn line(state: &RoleState, now: Timestamp, dir: &Path) -> String {
    let until = state.expires.map_or("unknown".to_owned(), |at| at.to_string());
    let needed = format!("{} of {}", state.threshold, state.keys.len());
    let keys: Vec<&str> = state.keys.iter().map(|id| &id[..id.len().min(12)]).collect();
    let mut line =
        format!("{:<10} {:>7}  {until:<20}  {needed:<10}  {}", state.role, state.version, keys.join(", "));
    if is_over(state, now) {
        line.push_str(&format!("; HAS EXPIRED, sign it again: {}", refreshing(state.role, dir)));
    }
    if let Some(version) = state.waiting {
        let what = format!("flist trust show --staged --dir {}", dir.display());
        line.push_str(&format!("; version {version} waits for signatures, see what it is: {what}"));
    }
    line.push('\n');
    line.push_str(&signature_lines(state, "    ").concat());
    line
}

/// The command that signs a role again; the timestamp and, in time, the snapshot are signed without being named.
fn refreshing(role: RoleName, dir: &Path) -> String {
    match role {
        RoleName::Timestamp | RoleName::Snapshot => format!("flist trust refresh --dir {}", dir.display()),
        _ => format!("flist trust refresh --dir {} {role}", dir.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_expired_or_waits_says_what_to_do() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let state = RoleState {
            role: RoleName::Root,
            version: 3,
            expires: Some(at(100)),
            keys: vec!["0123456789abcdef".to_owned(), "fedcba9876543210".to_owned()],
            threshold: 2,
            waiting: Some(4),
            signatures: vec![Waiting {
                role: RoleName::Root,
                signed: vec!["fedcba9876543210".to_owned()],
                needed: 2,
                missing: vec!["0123456789abcdef".to_owned()],
            }],
        };
        let line = |state: &RoleState, now| line(state, now, Path::new("here"));
        let said = line(&state, at(99));
        assert!(said.contains("2 of 2") && said.contains("0123456789ab, fedcba987654"), "{said}");
        assert!(said.contains("version 4 waits") && !said.contains("EXPIRED"), "{said}");
        assert!(said.contains("flist trust show --staged --dir here"), "{said}");
        assert!(
            said.contains("root: 1 of 2 have signed: fedcba987654; able to sign: 0123456789ab"),
            "{said}"
        );
        assert!(
            line(&state, at(100)).contains("HAS EXPIRED, sign it again: flist trust refresh --dir here root")
        );
        assert!(line(&RoleState { expires: None, ..state.clone() }, at(0)).contains("HAS EXPIRED"));
        // What is in one column stands under each other.
        let other = RoleState { role: RoleName::Timestamp, version: 12, expires: None, ..state };
        assert_eq!(said.find("2 of 2"), line(&other, at(0)).find("2 of 2"));
    }
}
