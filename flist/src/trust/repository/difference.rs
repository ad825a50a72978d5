//! What a new version of a role changes. Pure.
//!
//! Whoever signs answers for everything that is signed, so nothing of it is left out: what is said is taken apart into
//! facts, whatever is not known by name is a fact of its own, and the facts of both versions are compared.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::envelope::Envelope;
use super::roles::RoleName;

/// What a fact is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// How many of a role's keys have to sign.
    Threshold {
        /// The role.
        role: String,
    },
    /// A key of a role.
    Key {
        /// The role; empty for a key that no role has.
        role: String,
        /// The id of the key.
        id: String,
    },
    /// The target of this path.
    Target(String),
    /// Anything else, by its name.
    Field(String),
}

/// A fact that is another one, or is there in one version only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Edit {
    /// What it is about.
    pub subject: Subject,
    /// What is in force; `None` where nothing is.
    pub before: Option<Value>,
    /// What shall be; `None` where nothing shall.
    pub after: Option<Value>,
}

/// What a new version of a role changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleDifference {
    /// The role.
    pub role: RoleName,
    /// The version that is in force, and the new one.
    pub versions: [u64; 2],
    /// Until when each of them holds; `None` where one does not say so in a form that is known.
    pub expires: [Option<Timestamp>; 2],
    /// Everything else.
    pub edits: Vec<Edit>,
}

impl RoleDifference {
    pub(super) fn between(role: RoleName, before: &Envelope, after: &Envelope) -> Self {
        let [mut old, new] = [before, after].map(|envelope| facts(&envelope.signed));
        let mut edits: Vec<Edit> = Vec::new();
        for (subject, after) in new {
            let before = old.remove(&subject);
            if before.as_ref() != Some(&after) {
                edits.push(Edit { subject, before, after: Some(after) });
            }
        }
        let gone =
            old.into_iter().map(|(subject, before)| Edit { subject, before: Some(before), after: None });
        edits.extend(gone);
        edits.sort_by(|a, b| a.subject.cmp(&b.subject));
        Self {
            role,
            versions: [before, after].map(Envelope::version),
            expires: [before, after].map(Envelope::expires),
            edits,
        }
    }
}

type Facts = BTreeMap<Subject, Value>;

/// Everything that is said, but for version and expiry.
fn facts(signed: &Value) -> Facts {
    let mut facts = Facts::new();
    let Some(fields) = signed.as_object() else {
        facts.insert(Subject::Field("signed".to_owned()), signed.clone());
        return facts;
    };
    for (name, value) in fields {
        match (name.as_str(), value) {
            ("version", _) => {}
            ("expires", Value::String(text)) if text.parse::<Timestamp>().is_ok() => {}
            // With the roles that have them.
            ("keys", Value::Object(_)) if fields.get("roles").is_some_and(Value::is_object) => {}
            ("targets", Value::Object(targets)) => facts
                .extend(targets.iter().map(|(path, target)| (Subject::Target(path.clone()), target.clone()))),
            ("roles", Value::Object(roles)) => {
                let roles = roles.iter().map(|(name, role)| (name.clone(), role)).collect();
                of_roles(roles, fields.get("keys"), &mut facts);
            }
            ("delegations", Value::Object(delegations)) => of_delegations(delegations, &mut facts),
            _ => drop(facts.insert(Subject::Field(name.clone()), value.clone())),
        }
    }
    facts
}

/// What targets say of those that they delegate to.
fn of_delegations(delegations: &Map<String, Value>, facts: &mut Facts) {
    for (name, value) in delegations {
        match (name.as_str(), value) {
            ("keys", Value::Object(_)) => {}
            ("roles", Value::Array(roles)) => {
                let name = |role: &Value| role["name"].as_str().unwrap_or_default().to_owned();
                let mut times: BTreeMap<String, usize> = BTreeMap::new();
                roles.iter().for_each(|role| *times.entry(name(role)).or_default() += 1);
                // Two of one name are two, and no name looks like that of another one.
                let told = |(at, role): (usize, &Value)| match name(role) {
                    name if times[&name] == 1 && !name.contains('#') => name,
                    name => format!("{name}#{at}"),
                };
                let named: Vec<(String, &Value)> =
                    roles.iter().enumerate().map(|(at, role)| (told((at, role)), role)).collect();
                // The first one that is responsible for a path counts.
                let order: Vec<&String> = named.iter().map(|(name, _)| name).collect();
                facts.insert(Subject::Field("order of delegations".to_owned()), json!(order));
                of_roles(named, delegations.get("keys"), facts);
            }
            _ => drop(facts.insert(Subject::Field(format!("delegations: {name}")), value.clone())),
        }
    }
    if !delegations.get("roles").is_some_and(Value::is_array) {
        of_roles(Vec::new(), delegations.get("keys"), facts);
    }
}

/// What is said of roles: who has to sign, and the rest.
fn of_roles(roles: Vec<(String, &Value)>, keys: Option<&Value>, facts: &mut Facts) {
    let keys = keys.unwrap_or(&Value::Null);
    let mut used = BTreeSet::new();
    for (role, says) in roles {
        let Some(says) = says.as_object() else {
            facts.insert(Subject::Field(format!("role {role}")), says.clone());
            continue;
        };
        for (name, value) in says {
            let ids: Option<Vec<&str>> =
                value.as_array().and_then(|ids| ids.iter().map(Value::as_str).collect());
            match (name.as_str(), ids) {
                ("keyids", Some(ids)) => {
                    for id in ids {
                        used.insert(id);
                        let key = Subject::Key { role: role.clone(), id: id.to_owned() };
                        facts.insert(key, keys.get(id).cloned().unwrap_or_default());
                    }
                }
                ("threshold", _) => {
                    drop(facts.insert(Subject::Threshold { role: role.clone() }, value.clone()));
                }
                _ => drop(facts.insert(Subject::Field(format!("role {role}: {name}")), value.clone())),
            }
        }
    }
    for (id, key) in keys.as_object().into_iter().flatten().filter(|(id, _)| !used.contains(id.as_str())) {
        facts.insert(Subject::Key { role: String::new(), id: id.clone() }, key.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> Value {
        json!({
            "_type": "root", "spec_version": "1.0.31", "version": 1, "expires": "2028-01-01T00:00:00Z",
            "consistent_snapshot": true,
            "keys": {"a": {"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": "00"}},
                "b": {"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": "01"}}},
            "roles": {"root": {"keyids": ["a", "b"], "threshold": 2}, "timestamp": {"keyids": ["b"], "threshold": 1}},
        })
    }

    fn targets() -> Value {
        json!({
            "_type": "targets", "spec_version": "1.0.31", "version": 4, "expires": "2028-01-01T00:00:00Z",
            "targets": {"prod/a": {"length": 3, "hashes": {"sha256": "00"}, "custom": {"version": "1.0.0"}}},
            "delegations": {
                "keys": {"a": {"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": "00"}},
                    "c": {"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": "02"}}},
                "roles": [
                    {"name": "prod", "keyids": ["a"], "threshold": 1, "terminating": true, "paths": ["prod/*/*"]},
                    {"name": "dev", "keyids": ["a"], "threshold": 1, "terminating": true, "paths": ["dev/*/*"]},
                    {"name": "dev", "keyids": ["a"], "threshold": 1, "terminating": true, "paths": ["qa/*/*"]}],
            },
        })
    }

    fn of(signed: Value) -> Envelope {
        Envelope { signatures: Vec::new(), signed }
    }

    fn between(before: &Value, after: &Value) -> RoleDifference {
        RoleDifference::between(RoleName::Targets, &of(before.clone()), &of(after.clone()))
    }

    /// All values that differ from this one in one place: changed, taken out, or with something beside it.
    fn mutants(value: &Value) -> Vec<Value> {
        let mut all = vec![json!("another")];
        match value {
            Value::Object(fields) => {
                let with = |name: &str, value: Value| {
                    let mut fields = fields.clone();
                    fields.insert(name.to_owned(), value);
                    Value::Object(fields)
                };
                all.push(with("more", json!(1)));
                for (name, value) in fields {
                    let mut without = fields.clone();
                    without.remove(name);
                    all.push(Value::Object(without));
                    all.extend(mutants(value).into_iter().map(|value| with(name, value)));
                }
            }
            Value::Array(items) => {
                for (at, item) in items.iter().enumerate() {
                    let mut without = items.clone();
                    without.remove(at);
                    all.push(Value::Array(without));
                    for item in mutants(item) {
                        let mut with = items.clone();
                        with[at] = item;
                        all.push(Value::Array(with));
                    }
                }
                all.push(Value::Array([&items[..], &[json!("more")]].concat()));
            }
            _ => {}
        }
        all
    }

    #[test]
    fn nothing_that_is_signed_differs_unseen() {
        let mut seen = 0;
        for signed in [root(), targets()] {
            assert_eq!(between(&signed, &signed).edits, []);
            for mutant in mutants(&signed) {
                let RoleDifference { versions, expires, edits, .. } = between(&signed, &mutant);
                let is_shown = !edits.is_empty() || versions[0] != versions[1] || expires[0] != expires[1];
                assert!(is_shown, "{mutant:#}");
                seen += 1;
            }
        }
        assert!(seen > 100, "{seen}");
        // The order of delegations decides who is responsible.
        let mut one = targets();
        one["delegations"]["roles"].as_array_mut().unwrap().pop();
        let mut other = one.clone();
        other["delegations"]["roles"].as_array_mut().unwrap().swap(0, 1);
        let subjects: Vec<Subject> =
            between(&one, &other).edits.into_iter().map(|edit| edit.subject).collect();
        assert_eq!(subjects, [Subject::Field("order of delegations".to_owned())]);
    }

    #[test]
    fn what_is_known_by_name_is_said_by_it() {
        let mut after = root();
        after["roles"]["timestamp"] = json!({"keyids": ["c"], "threshold": 2});
        after["keys"]["c"] = after["keys"]["b"].clone();
        // The same id, with another key.
        after["keys"]["a"]["keyval"]["public"] = "ff".into();
        let subjects: Vec<Subject> =
            between(&root(), &after).edits.into_iter().map(|edit| edit.subject).collect();
        let key = |role: &str, id: &str| Subject::Key { role: role.to_owned(), id: id.to_owned() };
        let threshold = Subject::Threshold { role: "timestamp".to_owned() };
        assert_eq!(subjects, [threshold, key("root", "a"), key("timestamp", "b"), key("timestamp", "c")]);

        let mut after = targets();
        after["targets"] = json!({"prod/b": {"length": 4}});
        let RoleDifference { versions, edits, .. } = between(&targets(), &after);
        assert_eq!(versions, [4, 4]);
        assert_eq!(edits[0].subject, Subject::Target("prod/a".to_owned()));
        assert_eq!((&edits[0].after, &edits[1].before), (&None, &None));
        assert_eq!(edits[1].after, Some(json!({"length": 4})));
    }
}
