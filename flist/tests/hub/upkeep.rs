//! What a hub does about its own directories.

use std::fs;

use crate::rig::TestHub;

#[tokio::test]
async fn a_hub_that_starts_removes_what_a_crash_left() {
    let hub = TestHub::start_with(|config| {
        for directory in ["public/users/a", "store/00"] {
            fs::create_dir_all(config.root.join(directory)).unwrap();
            fs::write(config.root.join(directory).join(".upload-Ab12Cd"), "half").unwrap();
        }
        fs::write(config.root.join("public/users/.upload-Ab12Cd"), "half").unwrap();
        fs::write(config.root.join("store/00/.block-Ab12Cd"), "another program's").unwrap();
        fs::write(config.root.join("public/users/a/x.flist"), "a flist").unwrap();
        config.quota_bytes = Some(1_000_000);
    })
    .await;
    let left = |directory: &str| {
        let entries = fs::read_dir(hub.root().join(directory)).unwrap();
        let names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.join(" ")
    };
    assert_eq!(left("public/users"), "a");
    assert_eq!(left("public/users/a"), "x.flist");
    assert_eq!(left("store/00"), ".block-Ab12Cd");
}

#[tokio::test]
async fn metadata_can_be_read_by_whatever_serves_it() {
    let hub = TestHub::start().await;
    let bytes = br#"{"signed": {"version": 1}, "signatures": []}"#.to_vec();
    hub.client.put_metadata("trust", "timestamp.json", bytes).await.unwrap();
    let metadata = std::fs::metadata(hub.root().join("trust/timestamp.json")).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o777, 0o644);
}
