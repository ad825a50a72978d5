//! What somebody is asked to sign, for people and for programs. Pure.
//!
//! All of it may come from somebody else, so nothing of it reaches a terminal but plain ASCII.

use flist::trust::claims::Claims;
use flist::trust::repository::{Edit, RoleDifference, Subject};
use jiff::Timestamp;
use serde_json::{Value, json};

/// For programs.
pub(super) fn as_json(differences: &[RoleDifference]) -> Value {
    let one = |RoleDifference { role, versions, expires, edits }: &RoleDifference| {
        json!({
            "role": role.to_string(),
            "versions": versions,
            "expires": expires.map(|at| at.map(|at| at.to_string())),
            "changes": edits,
        })
    };
    differences.iter().map(one).collect()
}

/// For people: what is added (+), taken away (-), and another one now (~).
pub(super) fn as_text(differences: &[RoleDifference]) -> String {
    let mut text = String::new();
    for RoleDifference { role, versions: [before, after], expires: [was, until], edits } in differences {
        text.push_str(&format!("{role} version {after}, after {before}\n"));
        text.push_str(&format!("  holds until {}, so far until {}\n", moment(*until), moment(*was)));
        if edits.is_empty() {
            text.push_str("  says the same as before\n");
        }
        text.extend(edits.iter().map(edit_text));
    }
    text
}

fn moment(at: Option<Timestamp>) -> String {
    at.map_or("a time that nobody understands".to_owned(), |at| at.to_string())
}

fn edit_text(Edit { subject, before, after }: &Edit) -> String {
    let named = |sign: &str, value: &Value| match subject {
        Subject::Target(path) => format!("  {sign} {}\n{}", plain(path), target(value)),
        Subject::Key { role, id } => format!("  {sign} {} {}: {}\n", whose(role), plain(id), key(value)),
        Subject::Threshold { role } => {
            format!("  {sign} role {} needs {} of its keys\n", plain(role), raw(value))
        }
        Subject::Field(name) => format!("  {sign} {}: {}\n", plain(name), raw(value)),
    };
    match (before, after) {
        (Some(before), Some(after)) => format!("{}{}", named("~ before:", before), named("~ now:   ", after)),
        (Some(gone), None) => named("-", gone),
        (None, Some(new)) => named("+", new),
        (None, None) => String::new(),
    }
}

fn whose(role: &str) -> String {
    match role {
        "" => "key of no role".to_owned(),
        role => format!("key of {}", plain(role)),
    }
}

/// A key by its public half, where it is of the form that this program makes.
fn key(value: &Value) -> String {
    let public = value["keyval"]["public"].as_str().unwrap_or_default();
    let is = |keytype: &str, scheme: &str| {
        *value == json!({"keytype": keytype, "scheme": scheme, "keyval": {"public": public}})
    };
    if is("ed25519", "ed25519") {
        return format!("ed25519 {}", plain(public));
    }
    match is("ecdsa", "ecdsa-sha2-nistp256") {
        true => format!("ECDSA P-256 {}", plain(&public.replace('\n', " "))),
        false => raw(value),
    }
}

/// What is signed for a target, in words where there are words for all of it.
fn target(value: &Value) -> String {
    let claims = Claims::parse(value.get("custom")).ok();
    let (length, sha256) = (value["length"].as_u64(), value["hashes"]["sha256"].as_str());
    let (Some(claims), Some(length), Some(sha256)) = (claims, length, sha256) else { return more(value) };
    let whole = json!({"length": length, "hashes": {"sha256": sha256}, "custom": value["custom"]});
    if whole != *value {
        return more(value);
    }
    let Claims { name, version, run_mode, release, channel, flist, index, .. } = &claims;
    format!(
        "      SHA-256 {}, {length} bytes\n      version {version} of {} for {run_mode}; release {release}, number {index} in it: package {} from {}\n      {}\n",
        plain(sha256),
        plain(channel),
        plain(name),
        plain(&flist.to_string()),
        conditions(&claims),
    )
}

fn conditions(claims: &Claims) -> String {
    let Claims { minimum_version, architecture, hardware, schema_floor, .. } = claims;
    let all = [
        minimum_version.as_ref().map(|version| format!("after version {version} or newer")),
        architecture.as_ref().map(|name| format!("on architecture {}", plain(name))),
        hardware.as_ref().map(|name| format!("on hardware {}", plain(name))),
        schema_floor.map(|schema| format!("with data of schema {schema} or newer")),
    ];
    let all: Vec<String> = all.into_iter().flatten().collect();
    match all.is_empty() {
        true => "on any node".to_owned(),
        false => format!("only {}", all.join(", ")),
    }
}

fn more(value: &Value) -> String {
    format!("      {}\n", raw(value))
}

fn raw(value: &Value) -> String {
    plain(&value.to_string())
}

/// Without anything that a terminal does not just show.
fn plain(text: &str) -> String {
    let shown = |c: char| match c.is_ascii_graphic() || c == ' ' {
        true => c.to_string(),
        false => c.escape_unicode().to_string(),
    };
    text.chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edit(subject: Subject, before: Option<Value>, after: Option<Value>) -> Edit {
        Edit { subject, before, after }
    }

    fn release() -> Value {
        let id = "ab".repeat(32);
        json!({"length": 21, "hashes": {"sha256": id}, "custom": {
            "name": "zos", "version": "1.2.0", "run_mode": "prod", "release": id,
            "channel": "tf-zos/zos:production:latest.flist", "flist": "tf-zos/zos:v1.2.0.flist",
            "minimum_version": "1.0.0", "hardware": "gateway",
        }})
    }

    #[test]
    fn a_target_is_said_in_words_and_whatever_has_none_is_shown_as_it_is() {
        let said = target(&release());
        for part in
            ["SHA-256 abab", "21 bytes", "version 1.2.0 of tf-zos/zos:production:latest.flist for prod"]
        {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert!(said.contains("only after version 1.0.0 or newer, on hardware gateway"), "{said}");
        for (pointer, name) in [("", "more"), ("/hashes", "sha512"), ("/custom", "only_on_sundays")] {
            let mut other = release();
            other.pointer_mut(pointer).unwrap()[name] = "unheard-of".into();
            assert!(target(&other).contains("unheard-of"), "{other}");
        }
    }

    #[test]
    fn nothing_reaches_a_terminal_but_plain_text() {
        let evil = "\u{1b}[2K\u{9b}1A\u{202e}x\nprod";
        let path = || Subject::Target(evil.to_owned());
        let role = || evil.to_owned();
        let edits = [
            edit(path(), None, Some(release())),
            edit(path(), Some(json!({ evil: evil })), None),
            edit(Subject::Key { role: role(), id: role() }, None, Some(json!(evil))),
            edit(Subject::Threshold { role: role() }, Some(json!(1)), Some(json!(evil))),
            edit(Subject::Field(role()), None, Some(json!([evil]))),
        ];
        let lines = edits.iter().map(edit_text).collect::<String>();
        assert!(lines.chars().all(|c| c == '\n' || c == ' ' || c.is_ascii_graphic()), "{lines:?}");
        assert!(!lines.contains("\nprod"), "{lines}");
    }
}
