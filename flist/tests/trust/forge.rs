//! Metadata as somebody makes it who has some of the keys.

use flist::trust::repository::SecretKey;
use serde_json::{Value, json};
use sigstore_tuf::canonical_json::to_canonical_bytes;

use crate::rig::Repo;
use crate::web::{Answer, Web};

/// A file that is served.
pub(crate) fn file(web: &Web, name: &str) -> Value {
    serde_json::from_slice(&web.bytes(name).unwrap_or_else(|| panic!("{name} is not served"))).unwrap()
}

/// What these keys sign of it.
pub(crate) fn signed(signed: &Value, keys: &[SecretKey]) -> Value {
    let bytes = to_canonical_bytes(signed).unwrap();
    let signature =
        |key: &SecretKey| json!({"keyid": key.public().id(), "sig": hex::encode(key.sign(&bytes))});
    json!({"signed": signed, "signatures": keys.iter().map(signature).collect::<Vec<_>>()})
}

pub(crate) fn put(web: &Web, name: &str, value: &Value) {
    web.put(name, Answer::Bytes(serde_json::to_vec(value).unwrap()));
}

/// The name of the newest file of a role.
pub(crate) fn newest(web: &Web, role: &str) -> String {
    let suffix = format!(".{role}.json");
    let version = |name: &String| name.strip_suffix(&suffix).and_then(|number| number.parse::<u64>().ok());
    let newest = web.names().iter().filter_map(version).max();
    newest.map_or(format!("{role}.json"), |version| format!("{version}{suffix}"))
}

/// The next version of a role, changed and signed with these keys.
pub(crate) fn next(web: &Web, role: &str, keys: &[SecretKey], change: impl FnOnce(&mut Value)) -> u64 {
    let mut envelope = file(web, &newest(web, role));
    let version = envelope["signed"]["version"].as_u64().unwrap() + 1;
    envelope["signed"]["version"] = version.into();
    change(&mut envelope["signed"]);
    let name =
        if role == "timestamp" { "timestamp.json".to_owned() } else { format!("{version}.{role}.json") };
    put(web, &name, &signed(&envelope["signed"], keys));
    version
}

/// Makes snapshot and timestamp list these versions of roles, signed with the keys of both.
pub(crate) fn relist(repo: &Repo, roles: &[(&str, u64)]) {
    let version = next(&repo.web, "snapshot", &repo.stolen("snapshot"), |snapshot| {
        for (role, version) in roles {
            snapshot["meta"][format!("{role}.json")] = json!({"version": version});
        }
    });
    next(&repo.web, "timestamp", &repo.stolen("timestamp"), |timestamp| {
        timestamp["meta"]["snapshot.json"] = json!({"version": version});
    });
}

/// A target that claims to be a release of version 6.6.6 with this content.
pub(crate) fn evil_target(content: &[u8]) -> (String, Value) {
    use flist::hub::{ReleaseId, Sha256};
    let sha256 = Sha256::of(content);
    let custom = json!({
        "name": "zos", "version": "6.6.6", "run_mode": "prod", "channel": crate::rig::CHANNEL,
        "release": ReleaseId::of([("zos", sha256)]), "flist": "tf-zos/zos:v6.6.6.flist",
    });
    let target = json!({"length": content.len(), "hashes": {"sha256": sha256}, "custom": custom});
    ("prod/tf-zos/zos:v6.6.6.flist".to_owned(), target)
}
