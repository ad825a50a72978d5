//! `flist trust show`

use std::path::PathBuf;

use flist::trust::repository::{RoleState, TrustDirectory};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::access::HeldRoot;
use super::difference;
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
        let json = json!({"directory": dir, "difference": difference::as_json(&differences)});
        return output.data(&json, || shown(&differences, root.is_some()));
    }
    let (states, now) = (directory.states()?, Timestamp::now());
    let kind = if directory.is_directors()? { "director" } else { "releases" };
    let roles: Vec<Value> = states.iter().map(|state| as_json(state, now)).collect();
    output.data(&json!({"directory": dir, "kind": kind, "roles": roles}), || {
        let lines: String = states.iter().map(|state| line(state, now)).collect();
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
    })
}

/// What says no end does not hold.
fn is_over(state: &RoleState, now: Timestamp) -> bool {
    state.expires.is_none_or(|at| at <= now)
}

fn line(state: &RoleState, now: Timestamp) -> String {
    let until = state.expires.map_or("unknown".to_owned(), |at| at.to_string());
    let needed = format!("{} of {}", state.threshold, state.keys.len());
    let keys: Vec<&str> = state.keys.iter().map(|id| &id[..id.len().min(12)]).collect();
    let mut line =
        format!("{:<10} {:>7}  {until:<20}  {needed:<10}  {}", state.role, state.version, keys.join(", "));
    if is_over(state, now) {
        line.push_str("; HAS EXPIRED, sign it again: flist trust refresh");
    }
    if let Some(version) = state.waiting {
        line.push_str(&format!("; version {version} waits for signatures: flist trust show --staged"));
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use flist::trust::repository::RoleName;

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
        };
        let said = line(&state, at(99));
        assert!(said.contains("2 of 2") && said.contains("0123456789ab, fedcba987654"), "{said}");
        assert!(said.contains("version 4 waits") && !said.contains("EXPIRED"), "{said}");
        assert!(line(&state, at(100)).contains("HAS EXPIRED"));
        assert!(line(&RoleState { expires: None, ..state.clone() }, at(0)).contains("HAS EXPIRED"));
        // What is in one column stands under each other.
        let other = RoleState { role: RoleName::Timestamp, version: 12, expires: None, ..state };
        assert_eq!(said.find("2 of 2"), line(&other, at(0)).find("2 of 2"));
    }
}
