//! What is signed stays on the hub unless that is said, what does not is seen by `trust check`, and the keys that are
//! needed every day are where every day looks for them.

use std::fs;

use super::{Rig, strs, unsigned::command};

const FLIST: &str = "tf-zos/zos:v1.0.0.flist";
const CHANNEL: &str = "tf-zos/zos:production:latest.flist";

/// A hub with one signed release of prod, to which no link leads.
fn signed() -> Rig {
    let rig = Rig::start();
    rig.says(&["trust", "init"]);
    rig.says(&strs(&rig.publish("1.0.0")));
    rig.says(&["rm", "--token-file", "token", CHANNEL]);
    rig
}

#[test]
fn what_is_signed_is_not_removed_unless_that_is_said() {
    let rig = signed();
    let remove = ["rm", "--token-file", "token", FLIST];
    let output = rig.run(&remove);
    let refused = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(5), "{refused}");
    assert!(
        refused.contains("prod") && refused.contains("1.0.0") && refused.contains("--force"),
        "{refused}"
    );
    assert!(rig.path("hub/public/users").join(FLIST).exists());
    // What it says is what helps.
    rig.follows(&command(&refused, "take it back first: ").replace("DIR", "trust"));
    rig.says(&remove);
    assert!(!rig.path("hub/public/users").join(FLIST).exists());

    let rig = signed();
    rig.says(&[&remove[..], &["--force"]].concat());
    assert!(!rig.path("hub/public/users").join(FLIST).exists());
}

#[test]
fn a_new_online_key_lies_where_the_repository_has_its_own() {
    let rig = Rig::start();
    rig.says(&["trust", "init"]);
    fs::create_dir(rig.path("usb")).unwrap();
    for entry in fs::read_dir(rig.path("trust/keys")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if !name.starts_with("timestamp-") && !name.starts_with("snapshot-") {
            fs::rename(&path, rig.path("usb").join(name)).unwrap();
        }
    }
    let said = rig.says(&["trust", "key", "rotate", "timestamp", "--keys", "usb", "--token-file", "token"]);
    assert!(said.contains(&format!("new key {}", rig.path("trust/keys/timestamp-").display())), "{said}");
    // With the medium back in its safe.
    rig.says(&["trust", "refresh", "--token-file", "token"]);
    rig.says(&["trust", "check"]);
    // The repository may have no keys of its own yet.
    fs::rename(rig.path("trust/keys"), rig.path("online")).unwrap();
    let lost = ["trust", "key", "rotate", "timestamp", "--keys", "usb", "--keys", "online"];
    rig.says(&[&lost[..], &["--token-file", "token"]].concat());
    rig.says(&["trust", "refresh", "--keys", "online", "--token-file", "token"]);
    let mut online = fs::read_dir(rig.path("online")).unwrap().map(|entry| entry.unwrap().path());
    let snapshot = online.find(|path| path.display().to_string().contains("/snapshot-")).unwrap();
    fs::rename(&snapshot, rig.path("trust/keys").join(snapshot.file_name().unwrap())).unwrap();
    // Those that sign on other media stay there.
    let said = rig.says(&["trust", "key", "rotate", "prod", "--keys", "usb", "--token-file", "token"]);
    assert!(said.contains("new key usb/prod-"), "{said}");
}
