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

#[test]
fn a_release_that_would_not_run_is_refused_once_and_for_all_until_somebody_asks_again() {
    let site = Site::new().unwrap();
    site.publish("1.0.0", &site.payload("1.0.0").unwrap()).unwrap();
    let node = site.boot("1.0.0").unwrap();
    node.wait_for_services(&["identityd", "web", "idle"], UPGRADE_LIMIT).unwrap();
    let processes = node.processes().unwrap();
    let new = site.payload("2.0.0").unwrap();
    new.unit("extra", "exec: /usr/bin/by-hand --version\noneshot: true\n").unwrap();
    site.hub.publish_with("2.0.0", new.directory(), Some("dev"), &["--no-lint"]).unwrap();
    let said = |command: &str| -> serde_json::Value {
        serde_json::from_str(&node.run(&["identityd", command, "--json"]).unwrap()).unwrap()
    };
    let refused = || {
        node.wait_for("the release is refused", UPGRADE_LIMIT, || {
            let status = node.status().map_err(|error| format!("{error:?}"))?;
            let message = status["last_error"]["message"].as_str().unwrap_or_default();
            // As the polls after the attempt say it: they do not begin another one.
            let known = message.starts_with("release 2.0.0") && message.contains("/usr/bin/by-hand");
            if known && status["gate"] == "Refused" { Ok(status.clone()) } else { Err(status.to_string()) }
        })
        .unwrap()
    };
    let status = refused();
    let message = status["last_error"]["message"].as_str().unwrap();
    assert!(message.contains("would not run") && !message.contains("rolled back"), "{message}");
    let gates = status["gates"].as_array().unwrap();
    let bad = gates.iter().find(|gate| gate["gate"] == "BadRelease").unwrap();
    let why = bad["why"].as_str().unwrap();
    assert!(why.contains("/usr/bin/by-hand") && why.contains("retry") && !why.contains("0 times"), "{why}");
    let history = said("history");
    let of_it: Vec<_> =
        history.as_array().unwrap().iter().filter(|of| of["to"]["version"] == "2.0.0").collect();
    let rehearsed = of_it.iter().filter(|of| !of["stages"].as_array().unwrap().is_empty()).count();
    assert!(rehearsed == 1 && of_it.iter().all(|of| of["outcome"] == "refused"), "{history}");
    assert_eq!(node.processes().unwrap(), processes, "nothing was stopped");

    let asked_again = node.run(&["identityd", "retry"]).unwrap_err().to_string();
    assert!(asked_again.contains("by-hand") && !asked_again.contains("rolled back"), "{asked_again}");
    refused();
    std::fs::copy(node.path("/usr/bin/demo-web"), node.path("/usr/bin/by-hand")).unwrap();
    node.run(&["identityd", "retry"]).unwrap();
    site.await_version(&node, "2.0.0").unwrap();
}
