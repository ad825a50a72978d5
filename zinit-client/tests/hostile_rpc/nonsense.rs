//! Answers that no zinit gives.

use std::time::Duration;

use serde_json::{Value, json};
use zinit_client::{Dialect, Error, Malformed};

use crate::peer::{BOTH, Peer, Rule, jsonrpc, redis, reply, service};

#[tokio::test]
async fn a_unit_file_that_would_hold_up_everybody_is_refused() {
    let peer = Peer::new(service);
    let fifo = peer.directory.path().join("new.yaml");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let error = peer.client(Dialect::Service).monitor(&"new".parse().unwrap()).await.unwrap_err();
    let Error::UnitFile { source: zinit_client::Untranslatable::Read(source), .. } = &error else {
        panic!("{error:?}")
    };
    assert!(source.to_string().contains("regular file"), "{source}");
}

#[tokio::test]
async fn an_answer_without_a_result_is_none() {
    let empty: Rule = |request| format!("{}\n", json!({"jsonrpc": "2.0", "id": request["id"]})).into_bytes();
    for dialect in BOTH {
        let error = Peer::new(empty).client(dialect).start(&redis()).await.unwrap_err();
        assert!(matches!(error, Error::Garbage { source: Malformed::NoResult, .. }), "{dialect} {error:?}");
    }
}

#[tokio::test]
async fn answers_are_matched_by_their_id() {
    // Answers to others and notifications come first.
    fn mixed(request: &Value) -> Vec<u8> {
        let mut answer = b"{\"jsonrpc\":\"2.0\",\"id\":4711,\"result\":{\"wrong\":\"Running\"}}\n".to_vec();
        answer.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"method\":\"log\",\"params\":[1]}\n");
        answer.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":\"x\",\"result\":1}\n");
        answer.extend(if request["method"] == "service_list" { jsonrpc(request) } else { service(request) });
        answer
    }
    for dialect in BOTH {
        let list = Peer::new(mixed).client(dialect).list().await.unwrap();
        assert!(list.contains_key("redis") && !list.contains_key("wrong"), "{list:?}");
    }
    let endless: Rule = |_| b"{\"jsonrpc\":\"2.0\",\"id\":4711,\"result\":{}}\n".repeat(100);
    for dialect in BOTH {
        let error = Peer::new(endless).client(dialect).list().await.unwrap_err();
        assert!(matches!(error, Error::Garbage { source: Malformed::NoAnswer { .. }, .. }), "{error:?}");
    }
}

#[tokio::test]
async fn nonsense() {
    let rules: [Rule; 9] = [
        |_| b"hello\n".to_vec(),
        |_| b"[1,2]\n".to_vec(),
        |request| reply(request, json!("yes")),
        |request| reply(request, json!({"redis": 3})),
        |request| format!("{}\n", json!({"jsonrpc": "2.0", "id": request["id"]})).into_bytes(),
        |_| {
            b"{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":-32700,\"message\":\"Parse error\"}}\n"
                .to_vec()
        },
        |_| {
            b"{\"jsonrpc\":\"2.0\",\"id\":0,\"error\":{\"code\":-32700,\"message\":\"Parse error\"}}\n"
                .to_vec()
        },
        |_| b"{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":\"\xff\"}\n".to_vec(),
        // Deeper than any reader should follow.
        |_| [b"{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":".as_slice(), &b"[".repeat(100_000), b"\n"].concat(),
    ];
    for rule in rules {
        for dialect in BOTH {
            let peer = Peer::new(rule);
            let error = peer.client(dialect).list().await.unwrap_err();
            assert!(matches!(error, Error::Garbage { .. }), "{dialect} {error:?}");
            assert!(!error.is_retryable());
        }
    }
    let other: Rule = |request| {
        let mut body = json!({"name": "nginx", "pid": 1, "state": "Running", "target": "Up", "after": {}});
        if request["method"] == "service.status" {
            body["state"] = "running".into();
        }
        reply(request, body)
    };
    for dialect in BOTH {
        let error = Peer::new(other).client(dialect).status(&redis()).await.unwrap_err();
        assert!(matches!(&error, Error::Garbage { source: Malformed::OtherService { .. }, .. }), "{error:?}");
    }
}

#[tokio::test]
async fn half_an_answer_and_silence() {
    let half: Rule = |_| b"{\"jsonrpc\":\"2.0\",\"id\":1,\"resu".to_vec();
    let none: Rule = |_| Vec::new();
    for dialect in BOTH {
        let error = Peer::new(none).client(dialect).list().await.unwrap_err();
        assert!(matches!(error, Error::BrokenOff { received: 0, .. }), "{error:?}");
        assert!(error.is_retryable());
        let deadline = Duration::from_millis(100);
        let error = Peer::new(half).client(dialect).with_deadline(deadline).list().await.unwrap_err();
        assert!(matches!(error, Error::Deadline { after, .. } if after == deadline), "{error:?}");
    }
}

#[tokio::test]
async fn an_oversized_answer_and_too_many_services() {
    let large: Rule = |_| vec![b'x'; 5 << 20];
    let many: Rule = |request| match request["method"].as_str() {
        Some("service_list") => reply(
            request,
            (0..10_001)
                .map(|n| (format!("s{n}"), json!("Running")))
                .collect::<serde_json::Map<_, _>>()
                .into(),
        ),
        _ => reply(
            request,
            (0..10_001).map(|n| json!({"name": format!("s{n}"), "state": {"state": "inactive"}})).collect(),
        ),
    };
    for dialect in BOTH {
        let error = Peer::new(large).client(dialect).list().await.unwrap_err();
        assert!(matches!(error, Error::TooLarge { limit, .. } if limit == 4 << 20), "{error:?}");
        let error = Peer::new(many).client(dialect).list().await.unwrap_err();
        assert!(matches!(error, Error::TooMany { limit: 10_000, .. }), "{error:?}");
    }
}
