//! A release that cannot be had completely is not begun.

use molt_tests::{Site, UPGRADE_LIMIT};

#[test]
fn a_missing_block_names_the_file_and_stops_nothing() {
    let site = Site::new().unwrap();
    let payload = site.payload("1.0.0").unwrap();
    site.publish("1.0.0", &payload).unwrap();
    let node = site.boot("1.0.0").unwrap();
    node.wait_for_services(&["identityd", "web", "idle"], UPGRADE_LIMIT).unwrap();
    let processes = node.processes().unwrap();
    let staged = node.census().unwrap().files;

    // One block of one file; the service would restart if the upgrade began.
    payload.marked("/usr/bin/demo-web", "changed").unwrap();
    assert_eq!(site.hub.publish_without_its_blocks("2.0.0", payload.directory()).unwrap(), 1);
    let message = node
        .wait_for("identityd says what is missing", UPGRADE_LIMIT, || {
            let status = node.status().map_err(|error| format!("{error:?}"))?;
            match status["last_error"]["message"].as_str() {
                Some(message) if message.contains("usr/bin/demo-web") => Ok(message.to_owned()),
                _ => Err(status.to_string()),
            }
        })
        .unwrap();
    assert!(message.contains("block"), "{message}");
    assert_eq!(node.processes().unwrap(), processes, "nothing was stopped");
    assert_eq!(site.web_version().unwrap(), "1.0.0");
    node.wait_for("nothing stays of what was staged", UPGRADE_LIMIT, || {
        let now = node.census().unwrap().files;
        let new: Vec<_> = now.difference(&staged).filter(|path| path.starts_with(".molt")).collect();
        if new.is_empty() { Ok(()) } else { Err(format!("{new:?}")) }
    })
    .unwrap();

    let whole = site.payload("2.0.1").unwrap();
    site.publish("2.0.1", &whole).unwrap();
    site.await_version(&node, "2.0.1").unwrap();
}
