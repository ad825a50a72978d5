//! The bytes on the wire, as measured on zinit 0.2.11.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

use crate::node::{Node, is_stand_in};

fn error(text: &str) -> String {
    format!(r#"{{"state":"error","body":"{text}"}}"#)
}

#[tokio::test]
async fn replies_byte_for_byte() {
    let node = Node::start(&[
        ("long", "exec: sleep 1000"),
        ("once", "exec: 'true'\noneshot: true"),
        ("dep", "exec: sleep 1000\nafter: [once, long]"),
    ])
    .await;
    let pid = node.wait_until_running("dep").await.pid.unwrap();
    assert_eq!(
        node.raw(b"list\n", false),
        r#"{"state":"ok","body":{"dep":"Running","long":"Running","once":"Success"}}"#
    );
    assert_eq!(
        node.raw(b"status dep\n", false),
        format!(
            r#"{{"state":"ok","body":{{"after":{{"long":"Running","once":"Success"}},"name":"dep","pid":{pid},"state":"Running","target":"Up"}}}}"#
        )
    );
    let ok = r#"{"state":"ok","body":null}"#;
    for request in ["start long\n", "'start' \"long\"\n", "kill long SIGCONT\n", "kill long sigcont\n"] {
        assert_eq!(node.raw(request.as_bytes(), false), ok, "{request}");
    }
    assert_eq!(node.raw(b"list\nlist\n", false).matches("state").count(), 1, "one request is answered");
}

#[tokio::test]
async fn refusals_word_for_word() {
    let node = Node::start(&[("long", "exec: sleep 1000"), ("once", "exec: 'true'\noneshot: true")]).await;
    node.wait_until_running("long").await;
    node.wait_for("once", |status| status.state.is_up() && status.pid.is_none()).await;
    for (request, text) in [
        ("status nosuch\n", r#"service name \"nosuch\" unknown"#),
        ("start nosuch\n", r#"service name \"nosuch\" unknown"#),
        ("stop nosuch\n", r#"service name \"nosuch\" unknown"#),
        ("forget nosuch\n", r#"service name \"nosuch\" unknown"#),
        ("kill nosuch SIGTERM\n", r#"service name \"nosuch\" unknown"#),
        ("monitor long\n", r#"service \"long\" already monitored"#),
        ("monitor nosuch\n", "failed to load service config"),
        ("forget long\n", r#"service \"long\" is up"#),
        ("kill once SIGTERM\n", r#"service \"once\" is down"#),
        ("kill long TERM\n", "EINVAL: Invalid argument"),
        ("kill long 15\n", "EINVAL: Invalid argument"),
        ("restart long\n", "unknown command 'restart' or wrong arguments count"),
        ("start\n", "unknown command 'start' or wrong arguments count"),
        ("\n", "unknown command"),
        ("start 'long\n", "invalid command syntax"),
        ("log bogus\n", "invalid log command arguments"),
        ("list\r\n", r"unknown command 'list\r' or wrong arguments count"),
    ] {
        assert_eq!(node.raw(request.as_bytes(), false), error(text), "{request:?}");
    }
    if is_stand_in() {
        let outside = node.raw(b"monitor ../units/long\n", false);
        assert_eq!(outside, error("failed to load service config"), "only names are loaded");
    }
    assert_eq!(node.raw(b"list \xff\n", false), format!("bad request{}", error("unknown command")));
}

#[tokio::test]
async fn a_request_without_a_line_end_waits_for_the_half_close() {
    let node = Node::start(&[]).await;
    assert_eq!(node.raw(b"list", true), r#"{"state":"ok","body":{}}"#);
    assert_eq!(node.raw(b"", true), error("unknown command"));
}

#[tokio::test]
async fn the_log_goes_on_and_a_snapshot_ends() {
    let node =
        Node::start(&[("talk", "exec: sh -c 'echo one; while :; do sleep 0.1; echo more; done'")]).await;
    let mut stream = UnixStream::connect(node.path("sock")).unwrap();
    stream.write_all(b"log\n").unwrap();
    let mut lines = BufReader::new(stream).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "[+] talk: one");
    for _ in 0..3 {
        assert_eq!(lines.next().unwrap().unwrap(), "[+] talk: more");
    }
    let snapshot = node.raw(b"log snapshot\n", false);
    assert!(snapshot.starts_with("[+] talk: one\n[+] talk: more\n"), "{snapshot}");
}
