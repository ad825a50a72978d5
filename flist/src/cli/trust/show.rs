//! `flist trust show`

use std::path::PathBuf;

use flist::trust::repository::RoleState;
use jiff::Timestamp;
use serde_json::{Value, json};

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
}

const EXAMPLES: &str = "Examples:
  flist trust show --dir trust
  flist trust show --dir director --json";

pub(super) fn run(Arguments { dir }: &Arguments, output: &Output) -> crate::cli::Outcome {
    let directory = flist::trust::repository::TrustDirectory::open(dir)?;
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
        line.push_str(&format!("; version {version} waits for signatures: flist trust sign"));
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
        assert!(line(&RoleState { expires: None, ..state }, at(0)).contains("HAS EXPIRED"));
    }
}
