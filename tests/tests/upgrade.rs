//! A running node takes over a new release, and only what changed restarts.

use molt_tests::{Site, UPGRADE_LIMIT, digest_of, require_installed};

#[test]
fn only_what_changed_restarts_and_what_was_dropped_goes() {
    let site = Site::new().unwrap();
    let old = site.payload("1.0.0").unwrap();
    old.unit("dropped", "exec: sleep 2000000\n").unwrap();
    old.file("/usr/share/site/dropped", 0o644, "only in 1.0.0\n").unwrap();
    site.publish("1.0.0", &old).unwrap();
    let node = site.boot("1.0.0").unwrap();
    node.wait_for_services(&["identityd", "web", "idle", "dropped"], UPGRADE_LIMIT).unwrap();
    let (init, mounts) = (node.init().unwrap(), node.census().unwrap().mounts);
    let pids = ["identityd", "web", "idle"].map(|name| node.pid_of(name).unwrap());
    let old_identityd = digest_of(format!("/proc/{}/exe", pids[0])).unwrap();

    let new = site.payload("2.0.0").unwrap();
    new.marked("/sbin/identityd", "2.0.0").unwrap();
    new.unit("added", "exec: sleep 3000000\n").unwrap();
    site.publish("2.0.0", &new).unwrap();
    site.await_version(&node, "2.0.0").unwrap();
    node.wait_for_services(&["identityd", "web", "idle", "added"], UPGRADE_LIMIT).unwrap();

    require_installed(&node, &new).unwrap();
    let [identityd, web, idle] = ["identityd", "web", "idle"].map(|name| node.pid_of(name).unwrap());
    assert_eq!((identityd, idle), (pids[0], pids[2]), "identityd and idle are the same processes");
    assert_ne!(web, pids[1], "web is another process");
    let new_identityd = digest_of(format!("/proc/{identityd}/exe")).unwrap();
    assert_ne!(new_identityd, old_identityd);
    assert_eq!(new_identityd, digest_of(new.directory().join("sbin/identityd")).unwrap());
    assert_eq!(node.init().unwrap(), init);
    assert_eq!(node.census().unwrap().mounts, mounts);

    assert!(!node.path("/usr/share/site/dropped").exists());
    assert!(!node.path("/etc/zinit/dropped.yaml").exists());
    assert!(!node.services().unwrap().contains_key("dropped"));
    let sleeps = node.running("sleep").unwrap().len();
    assert_eq!(sleeps, 2, "idle and added sleep, dropped does not");
}

#[test]
fn a_release_that_changes_no_service_restarts_none() {
    let site = Site::new().unwrap();
    let payload = site.payload("1.0.0").unwrap();
    site.publish("1.0.0", &payload).unwrap();
    let node = site.boot("1.0.0").unwrap();
    node.wait_for_services(&["identityd", "web", "idle"], UPGRADE_LIMIT).unwrap();
    let processes = node.processes().unwrap();

    payload.file("/usr/share/site/private", 0o640, "new\n").unwrap();
    site.publish("1.0.1", &payload).unwrap();
    node.wait_for("the file is new", UPGRADE_LIMIT, || {
        require_installed(&node, &payload).map_err(|error| format!("{error:?}"))
    })
    .unwrap();
    assert_eq!(node.processes().unwrap(), processes);
}
