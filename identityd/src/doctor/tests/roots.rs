//! Roots of trust and of directors.

use super::*;

#[tokio::test]
async fn a_root_of_trust_that_is_none_is_named() {
    let mut node = Node::new();
    let (root, director) = (node.path("root.json"), node.path("director.json"));
    (node.settings.trust.root, node.settings.trust.director) = (root.clone(), director.clone());
    assert_eq!(node.codes().await, [""; 0]);
    std::fs::write(&root, include_bytes!("../../../../bootstrap/tests/fixtures/root.json")).unwrap();
    assert_eq!(node.codes().await, [""; 0]);
    std::fs::write(&director, "{}").unwrap();
    assert_eq!(node.codes().await, ["trust-damaged"]);
    let findings = examine(&node.settings, None).await;
    let said = &findings.iter().find(|finding| finding.code == "trust-damaged").unwrap().what;
    assert!(said.contains(&director.display().to_string()), "{said}");
    std::fs::remove_file(&director).unwrap();
    std::fs::remove_file(&root).unwrap();
    node.settings.trust.is_required = true;
    assert_eq!(node.codes().await, ["trust-damaged"]);
    let findings = examine(&node.settings, None).await;
    let found = findings.iter().find(|finding| finding.code == "trust-damaged").unwrap();
    assert!(found.what.contains("cannot be read") && found.what.contains("leave its name out"), "{found:?}");
    // One that only is not there any more, where one was trusted before.
    node.settings.trust.is_required = false;
    assert_eq!(node.codes().await, [""; 0]);
    let known = node.settings.state_dir.join("trust/root.json");
    std::fs::create_dir_all(known.parent().unwrap()).unwrap();
    std::fs::set_permissions(known.parent().unwrap(), Permissions::from_mode(0o700)).unwrap();
    std::fs::write(&known, "{}").unwrap();
    let findings = examine(&node.settings, None).await;
    let found = findings.iter().find(|finding| finding.code == "trust-damaged").unwrap();
    for part in [
        "root.json is gone",
        "has trusted one before",
        "nothing is installed",
        "identityd provision DIR",
        "next poll",
    ] {
        assert!(found.what.contains(part), "{part}: {found:?}");
    }
    node.settings.trust.is_insecure = true;
    assert_eq!(node.codes().await, [""; 0]);
}

#[tokio::test]
async fn a_directors_root_that_is_gone_is_missed() {
    let mut node = Node::new();
    let (root, director) = (node.path("root.json"), node.path("director.json"));
    (node.settings.trust.root, node.settings.trust.director) = (root.clone(), director.clone());
    std::fs::write(&root, include_bytes!("../../../../bootstrap/tests/fixtures/root.json")).unwrap();
    assert_eq!(node.codes().await, [""; 0]);
    let known = node.settings.state_dir.join("director/root.json");
    std::fs::create_dir_all(known.parent().unwrap()).unwrap();
    std::fs::set_permissions(known.parent().unwrap(), Permissions::from_mode(0o700)).unwrap();
    std::fs::write(&known, "{}").unwrap();
    let findings = examine(&node.settings, None).await;
    let found = findings.iter().find(|finding| finding.code == "trust-damaged").unwrap();
    let said = &found.what;
    assert!(said.contains(&director.display().to_string()) && said.contains("director: none"), "{said}");
    node.settings.trust.is_undirected = true;
    assert_eq!(node.codes().await, [""; 0]);
}
