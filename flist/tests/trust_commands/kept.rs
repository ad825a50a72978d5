//! The keys that are needed every day are where every day looks for them.

use std::fs;

use super::Rig;

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
