//! What a change of a repository came to, for people and for programs, and what to do next.

use flist::trust::repository::{Outcome, RoleName, TrustDirectory, Waiting};
use serde_json::{Value, json};

/// What a change came to, for programs.
pub(in crate::cli) fn outcome_json(outcome: &Outcome) -> Value {
    let versions = |(role, version): &(RoleName, u64)| (role.to_string(), Value::from(*version));
    json!({
        "versions": outcome.versions.iter().map(versions).collect::<serde_json::Map<_, _>>(),
        "waiting": outcome.waiting.iter().map(|waiting| json!({
            "role": waiting.role.to_string(),
            "signed": waiting.signed.len(),
            "signed_by": waiting.signed,
            "needed": waiting.needed,
            "missing": waiting.missing,
        })).collect::<Vec<_>>(),
        "new_keys": outcome.new_keys,
    })
}

/// The beginnings of the ids of keys, for people.
pub(super) fn short_ids(ids: &[String]) -> String {
    let ids: Vec<&str> = ids.iter().map(|id| id.get(..12).unwrap_or(id)).collect();
    ids.join(", ")
}

/// Who has signed a role, and who could.
pub(super) fn standing(Waiting { signed, needed, missing, .. }: &Waiting) -> String {
    let by = if signed.is_empty() { String::new() } else { format!(": {}", short_ids(signed)) };
    let able = match signed.len() < *needed {
        true => format!("; able to sign: {}", short_ids(missing)),
        false => String::new(),
    };
    format!("{} of {needed} have signed{by}{able}", signed.len())
}

fn standing_text(waiting: &Waiting) -> String {
    format!("  {}: {}\n", waiting.role, standing(waiting))
}

/// What a change came to, and what to do next.
pub(in crate::cli) fn outcome_text(
    directory: &TrustDirectory,
    outcome: &Outcome,
    sent: Option<usize>,
) -> String {
    if outcome.versions.is_empty() && outcome.waiting.is_empty() {
        return match sent {
            Some(sent @ 1..) => format!("nothing has changed\nsent to the hub: {sent} files that it lacked"),
            _ => "nothing has changed".to_owned(),
        };
    }
    let versions: Vec<String> =
        outcome.versions.iter().map(|(role, version)| format!("{role} version {version}")).collect();
    let mut text = String::new();
    for key in &outcome.new_keys {
        text.push_str(&format!("new key {}\n", key.display()));
    }
    let copy = directory.path().display();
    let only_online = |waiting: &Waiting| matches!(waiting.role, RoleName::Snapshot | RoleName::Timestamp);
    if !outcome.waiting.is_empty() && !outcome.versions.is_empty() && outcome.waiting.iter().all(only_online)
    {
        text.push_str(&format!("all who have to have signed {}\n", versions.join(", ")));
        outcome.waiting.iter().for_each(|waiting| text.push_str(&standing_text(waiting)));
        text.push_str(&format!(
            "next: where the keys of snapshot and timestamp are, which publish it: flist trust sign --dir TRUST --from {copy} --hub URL"
        ));
        return text;
    }
    if !outcome.waiting.is_empty() {
        text.push_str(&format!(
            "not published yet, because signatures are missing: {}\n",
            versions.join(", ")
        ));
        let mut lines: Vec<String> = outcome.waiting.iter().map(standing_text).collect();
        // A new root needs the signatures of the old one too, which mostly are the same.
        lines.dedup();
        text.push_str(&lines.concat());
        text.push_str(&format!(
            "next: whoever holds one of these signs a copy of {copy} without its keys: flist trust sign --dir COPY --keys DIR --root ROOT; and when it is back, where the repository is kept: flist trust sign --dir TRUST --from COPY"
        ));
        return text;
    }
    text.push_str(&format!("signed {}\n", versions.join(", ")));
    text.push_str(&match sent {
        Some(sent) if directory.is_directors().unwrap_or(false) => format!("sent to the hub: {sent} files"),
        Some(sent) => format!(
            "sent to the hub: {sent} files; see what nodes make of it: flist trust check --hub URL --root {}",
            directory.root().display()
        ),
        None => format!(
            "next: copy {} to where nodes read it, or send it to a hub: flist trust refresh --dir {} --hub URL",
            directory.metadata().display(),
            directory.path().display()
        ),
    });
    text
}
