//! What is said to do next, done.

use std::process::Command;

use super::unsigned::command;
use super::{Rig, strs};

const CHANNEL: &str = "tf-zos/zos:production:latest.flist";

#[test]
fn what_a_hub_lacks_is_said_with_what_helps() {
    let rig = Rig::start();
    rig.says(&["trust", "init"]);
    let said = rig.says(&["director", "init"]);
    assert!(
        said.contains("director/root.json") && said.contains("flist director assign --dir director"),
        "{said}"
    );
    let send = command(&said, "or send it to a hub: ");
    assert!(!said.contains("as /etc/molt/root.json"), "{said}");
    rig.follows(&send.replace("URL", &rig.hub.url));
    // The releases are not there yet.
    let check = rig.refused(&["trust", "check"]);
    let assign = ["director", "assign", "--run-mode", "prod", "--channel", CHANNEL, "--version", "1.0.0"];
    let assign = [&assign[..], &["--group", "canary", "--token-file", "token"]].concat();
    let refused = rig.refused(&assign);
    let send = command(&refused, "from where it is signed: ");
    assert_eq!(send, format!("flist trust refresh --dir trust --hub {}", rig.hub.url));
    assert_eq!(send, command(&check, "from where it is signed: "));
    rig.follows(&send);
    // Nor is this one.
    let refused = rig.refused(&assign);
    assert!(refused.contains("sign it first: flist trust release --hub"), "{refused}");
    rig.says(&strs(&rig.publish("1.0.0")));
    rig.says(&assign);
    assert!(rig.says(&["director", "status"]).contains("group canary"));
    assert!(rig.refused(&["director", "status", "--dir", "none"]).contains("flist director init"));
}

#[test]
fn a_hub_with_other_signatures_is_not_sent_the_same_once_more() {
    let rig = Rig::start();
    rig.says(&["trust", "init"]);
    rig.says(&["trust", "refresh", "--token-file", "token"]);
    rig.says(&["trust", "init", "--dir", "other"]);
    let refused = rig.refused(&["trust", "refresh", "--dir", "other", "--token-file", "token"]);
    assert!(
        refused.contains("another repository") && !refused.contains("sends what is missing"),
        "{refused}"
    );
    let copied =
        Command::new("cp").arg("-r").args(["trust", "old"]).current_dir(rig.directory.path()).status();
    assert!(copied.unwrap().success());
    // Twice: what is signed in the same second is the same.
    rig.says(&["trust", "refresh", "--token-file", "token"]);
    rig.says(&["trust", "refresh", "--token-file", "token"]);
    let refused = rig.refused(&["trust", "refresh", "--dir", "old", "--token-file", "token"]);
    assert!(refused.contains("another copy") && !refused.contains("sends what is missing"), "{refused}");
}

#[test]
fn a_timestamp_that_cannot_be_signed_here_is_an_error() {
    let rig = Rig::start();
    rig.says(&["trust", "init"]);
    std::fs::rename(rig.path("trust/keys"), rig.path("elsewhere")).unwrap();
    let output = rig.run(&["trust", "refresh", "--token-file", "token"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("none of the keys at hand"), "{said}");
    rig.says(&["trust", "refresh", "--token-file", "token", "--keys", "elsewhere"]);
}
