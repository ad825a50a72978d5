//! The two JSON-RPC dialects against scripted peers on a real socket: what zinit says, what it never would,
//! and how a client finds out which one it speaks to.

mod nonsense;
mod oddities;
mod peer;

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixListener;
use zinit_client::{Dialect, Error, Hazard, Malformed, Refusal, SignalName, State, Target, UnitName};

use peer::{Peer, Rule, jsonrpc, redis, refuse, reply, service};

#[tokio::test]
async fn a_client_finds_out_what_it_speaks_to_with_one_request_and_remembers_it() {
    for (rule, dialect) in [(jsonrpc as Rule, Dialect::Jsonrpc), (service, Dialect::Service)] {
        let mut peer = Peer::new(rule);
        let client = peer.finding_out();
        client.list().await.unwrap();
        client.clone().list().await.unwrap();
        assert_eq!(client.dialect().await.unwrap(), dialect);
        let pings = peer.methods().iter().filter(|method| *method == "system.ping").count();
        assert_eq!(pings, 1, "{dialect}");
    }
    let mut peer = Peer::new(|_| br#"{"state":"error","body":"unknown command 'x'"}"#.to_vec());
    let client = peer.finding_out();
    // This peer does not hang up, as zinit does; a deadline ends it.
    let found = client.with_deadline(Duration::from_millis(200)).dialect().await;
    assert!(matches!(found, Err(Error::Deadline { .. })), "{found:?}");
    assert_eq!(peer.methods(), ["system.ping"]);
}

#[tokio::test]
async fn what_is_no_zinit_is_not_taken_for_one() {
    for rule in [
        (|_| b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()) as Rule,
        |request| reply(request, json!("pong")),
        |request| refuse(request, -32603, "x"),
        |_| b"{}\n".to_vec(),
        |_| vec![b'x'; 100_000],
    ] {
        let error = Peer::new(rule).finding_out().dialect().await.unwrap_err();
        assert!(matches!(error, Error::Garbage { source: Malformed::NoDialect, .. }), "{error:?}");
        assert!(!error.is_retryable());
    }
    let error = Peer::new(|_| Vec::new()).finding_out().list().await.unwrap_err();
    assert!(matches!(error, Error::BrokenOff { received: 0, .. }), "{error:?}");
}

#[tokio::test]
async fn another_zinit_on_the_same_socket_is_noticed() {
    let peer = Peer::new(jsonrpc);
    let client = peer.finding_out();
    assert_eq!(client.dialect().await.unwrap(), Dialect::Jsonrpc);
    let socket = peer.directory.path().join("sock");
    std::fs::remove_file(&socket).unwrap();
    let listener = UnixListener::bind(&socket).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            stream.read_line(&mut line).await.unwrap();
            let answer = if line == "list\n" {
                r#"{"state":"ok","body":{"redis":"Running"}}"#
            } else {
                r#"{"state":"error","body":"unknown command"}"#
            };
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    // The call that fails is lost; the next one asks again.
    assert!(client.list().await.is_err());
    assert_eq!(client.list().await.unwrap()["redis"], State::Running);
    assert_eq!(client.dialect().await.unwrap(), Dialect::Line);
}

#[tokio::test]
async fn jsonrpc_says_what_line_says() {
    let mut peer = Peer::new(jsonrpc);
    let client = peer.client(Dialect::Jsonrpc);
    assert_eq!(client.list().await.unwrap(), [("redis".to_owned(), State::Running)].into());
    let status = client.status(&redis()).await.unwrap();
    assert_eq!((status.pid, status.target, status.state), (Some(7), Target::Up, State::Running));
    assert_eq!(status.after, [("net".to_owned(), State::Success)].into());
    client.start(&redis()).await.unwrap();
    client.kill(&redis(), SignalName::KILL).await.unwrap();
    let refused = client.forget(&redis()).await.unwrap_err();
    assert_eq!(refused.refusal(), Some(&Refusal::IsUp { name: "redis".into() }));
    assert_eq!(client.log_snapshot().await.unwrap(), "[+] redis: one\n[-] redis: two\n");
    let methods = ["service_list", "service_status", "service_start", "service_kill", "service_forget"];
    assert_eq!(peer.methods()[..5], methods);
}

#[tokio::test]
async fn service_says_what_line_says() {
    let peer = Peer::new(service);
    let client = peer.client(Dialect::Service);
    let names: Vec<_> = client.table().await.unwrap().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["redis", "web"]);
    let status = client.status(&"web".parse().unwrap()).await.unwrap();
    assert_eq!((status.pid, status.target, &status.state), (Some(7), Target::Up, &State::Running));
    assert_eq!(status.after, [("redis".to_owned(), State::Running)].into());
    let stopped = client.status(&redis()).await.unwrap();
    assert!(stopped.is_stopped() && stopped.after.is_empty(), "{stopped:?}");
    let unknown = client.status(&"nosuch".parse().unwrap()).await.unwrap_err();
    assert_eq!(unknown.refusal(), Some(&Refusal::UnknownService { name: "nosuch".into() }));
    let down = client.kill(&redis(), SignalName::TERM).await.unwrap_err();
    assert_eq!(down.refusal(), Some(&Refusal::IsDown { name: "redis".into() }));
    let log = client.log_snapshot().await.unwrap();
    assert_eq!(log, "[+] redis: redis a\n[+] web: web a\n[-] redis: redis b\n[-] web: web b\n");
}

#[tokio::test]
async fn a_name_that_zinit_0_3_has_is_never_set_again() {
    let mut peer = Peer::new(service);
    let client = peer.client(Dialect::Service);
    std::fs::write(peer.directory.path().join("redis.yaml"), "exec: redis").unwrap();
    let known = client.monitor(&redis()).await.unwrap_err();
    assert_eq!(known.refusal(), Some(&Refusal::AlreadyMonitored { name: "redis".into() }));
    assert_eq!(peer.methods(), ["service.status"]);

    let new: UnitName = "new".parse().unwrap();
    let missing = client.monitor(&new).await.unwrap_err();
    assert_eq!(missing.refusal(), Some(&Refusal::ConfigLoad));
    for (text, wanted) in [("exec: [", "not valid"), ("exec: \"-x\"", "shell")] {
        std::fs::write(peer.directory.path().join("new.yaml"), text).unwrap();
        let error = client.monitor(&new).await.unwrap_err();
        let Error::UnitFile { source, .. } = &error else { panic!("{error:?}") };
        assert!(source.to_string().contains(wanted), "{source}");
    }
    assert!(peer.methods().iter().all(|method| method == "service.status"));
    std::fs::write(peer.directory.path().join("new.yaml"), "exec: sleep '1 2'\nafter: [redis]").unwrap();
    client.monitor(&new).await.unwrap();
    let mut set = Value::Null;
    while let Ok(request) = peer.asked.try_recv() {
        set = request;
    }
    assert_eq!(set["method"], "service.set");
    assert_eq!(set["params"]["service"]["exec"], "true && exec sleep '1 2'");
    assert_eq!(set["params"]["dependencies"]["requires"], json!(["redis"]));
}

#[tokio::test]
async fn nothing_is_deleted_that_takes_others_along() {
    let mut peer = Peer::new(service);
    let client = peer.client(Dialect::Service);
    let error = client.forget(&redis()).await.unwrap_err();
    let Error::Unsafe { hazard, .. } = &error else { panic!("{error:?}") };
    assert_eq!(*hazard, Hazard::Deletes { dependant: "web".into() });
    let up = client.forget(&"web".parse().unwrap()).await.unwrap_err();
    assert_eq!(up.refusal(), Some(&Refusal::IsUp { name: "web".into() }));
    // Its unit file is gone, so it shall be forgotten, and cannot be.
    let error = client.discard_changed(&[redis()]).await.unwrap_err();
    assert!(matches!(error, Error::Unsafe { .. }), "{error:?}");
    assert!(!peer.methods().iter().any(|method| method == "service.delete"));
}
