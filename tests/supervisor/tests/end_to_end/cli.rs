//! The command line inside a node.

use std::process::{Command, Output};

use crate::node::{Node, is_stand_in, program};

fn call(node: &Node, arguments: &[&str]) -> Output {
    Command::new(program())
        .arg("-s")
        .arg(node.path("sock"))
        .args(arguments)
        .output()
        .expect("run the program")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

#[tokio::test]
async fn verbs_of_the_command_line() {
    let mut node = Node::start(&[("long", "exec: sh -c 'echo hello; exec sleep 1000'")]).await;
    let pid = node.wait_until_running("long").await.pid.unwrap();
    let listed = call(&node, &["list"]);
    assert!(listed.status.success() && text(&listed.stdout).contains("long: Running\n"), "{listed:?}");
    let status = call(&node, &["status", "long"]);
    let expected = format!("name: long\npid: {pid}\nstate: Running\ntarget: Up\nafter: {{}}\n");
    assert!(text(&status.stdout).ends_with(&expected), "{status:?}");
    node.until("it said hello", async || {
        text(&call(&node, &["log", "--snapshot", "long"]).stdout) == "[+] long: hello\n"
    })
    .await;

    assert!(call(&node, &["stop", "long"]).status.success());
    node.wait_for("long", |status| status.is_stopped()).await;
    for verb in ["start", "stop"] {
        assert!(call(&node, &[verb, "long"]).status.success(), "{verb}");
    }
    node.wait_for("long", |status| status.is_stopped()).await;
    assert!(call(&node, &["forget", "long"]).status.success());
    assert!(!call(&node, &["status", "long"]).status.success());
    assert!(call(&node, &["monitor", "long"]).status.success());
    node.wait_until_running("long").await;
    assert!(call(&node, &["kill", "long"]).status.success());
    node.wait_for("long", |status| status.state.has_failed()).await;
    assert!(call(&node, &["shutdown"]).status.success());
    assert_eq!(node.wait_for_end().await.code(), Some(0));
    assert!(!call(&node, &["list"]).status.success());
}

#[tokio::test]
async fn what_goes_wrong_is_said() {
    if !is_stand_in() {
        return;
    }
    let mut node = Node::start(&[]).await;
    for (arguments, words) in [
        (["status", "nosuch"].as_slice(), "does not know the service \"nosuch\""),
        (&["start", "../x"], "only A-Z a-z 0-9"),
        (&["kill", "x", "TERM"], "write it in full"),
        (&["init", "-c", "/no/such/directory"], "could not use the unit directory /no/such/directory: "),
        (&["init", "-c", "/"], "another supervisor listens on"),
    ] {
        let output = call(&node, arguments);
        assert!(!output.status.success());
        assert!(text(&output.stderr).contains(words), "{output:?}");
    }
    node.raw(b"shutdown\n", false);
    node.wait_for_end().await;
    let output = call(&node, &["list"]);
    assert!(text(&output.stderr).contains("no supervisor socket at"), "{output:?}");
}
