//! The two JSON-RPC dialects against scripted peers on a real socket: what zinit says, what it never would,
//! and how a client finds out which one it speaks to.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use zinit_client::{Client, Dialect, Error, Hazard, Malformed, Refusal, SignalName, State, Target, UnitName};

/// A deadline that no answering peer comes near.
const AMPLE: Duration = Duration::from_secs(60);

const BOTH: [Dialect; 2] = [Dialect::Jsonrpc, Dialect::Service];

/// A peer that answers every line of every connection by a rule, and notes what it was asked.
struct Peer {
    directory: TempDir,
    asked: mpsc::UnboundedReceiver<Value>,
}

/// What to answer to a request: bytes as they are, or nothing and the end.
type Rule = fn(&Value) -> Vec<u8>;

impl Peer {
    fn new(rule: Rule) -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let listener = UnixListener::bind(directory.path().join("sock")).expect("bind");
        let (note, asked) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let note = note.clone();
                tokio::spawn(async move {
                    let mut stream = BufReader::new(stream);
                    let mut line = String::new();
                    while stream.read_line(&mut line).await.is_ok_and(|read| read > 0) {
                        let request: Value = serde_json::from_str(&line).expect("a request in JSON");
                        assert!(line.ends_with("}\n"), "{line:?}");
                        line.clear();
                        let answer = rule(&request);
                        let _ = note.send(request);
                        if answer.is_empty() || stream.write_all(&answer).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { directory, asked }
    }

    fn client(&self, dialect: Dialect) -> Client {
        self.finding_out().speaking(dialect)
    }

    fn finding_out(&self) -> Client {
        Client::new(self.directory.path().join("sock")).with_deadline(AMPLE).with_units(self.directory.path())
    }

    /// The methods that were called so far.
    fn methods(&mut self) -> Vec<String> {
        let mut methods = Vec::new();
        while let Ok(request) = self.asked.try_recv() {
            methods.push(request["method"].as_str().expect("a method").to_owned());
        }
        methods
    }
}

fn redis() -> UnitName {
    "redis".parse().expect("a name")
}

fn reply(request: &Value, result: Value) -> Vec<u8> {
    format!("{}\n", json!({"jsonrpc": "2.0", "id": request["id"], "result": result})).into_bytes()
}

fn refuse(request: &Value, code: i64, message: &str) -> Vec<u8> {
    let error = json!({"code": code, "message": message});
    format!("{}\n", json!({"jsonrpc": "2.0", "id": request["id"], "error": error})).into_bytes()
}

/// zinit 0.2.28 with one service.
fn jsonrpc(request: &Value) -> Vec<u8> {
    match request["method"].as_str().unwrap_or_default() {
        "service_list" => reply(request, json!({"redis": "Running"})),
        "service_status" => reply(
            request,
            json!({"name": "redis", "pid": 7, "state": "Running", "target": "Up", "after": {"net": "Success"}}),
        ),
        "service_forget" => refuse(request, -32002, "forgetting service: service 'redis' is up"),
        "stream_currentLogs" => reply(request, json!(["[+] redis: one", "[-] redis: two\n"])),
        "system.ping" => refuse(request, -32601, "Method not found"),
        _ => reply(request, Value::Null),
    }
}

/// zinit 0.3.9 with two services, of which `web` depends on `redis`.
fn service(request: &Value) -> Vec<u8> {
    let running =
        |name: &str| json!({"name": name, "is_target": false, "state": {"state": "running", "pid": 7}});
    match (request["method"].as_str().unwrap_or_default(), request["params"]["name"].as_str()) {
        ("system.ping", _) => reply(request, json!({"version": "0.3.9"})),
        ("service.list_full", _) => reply(request, json!([running("redis"), running("web")])),
        ("service.list", _) => reply(request, json!(["redis", "web"])),
        ("service.status", Some("redis")) => {
            reply(request, json!({"name": "redis", "pid": 0, "state": "exited"}))
        }
        ("service.status", Some("web")) => {
            reply(request, json!({"name": "web", "pid": 7, "state": "running"}))
        }
        ("service.status", _) => refuse(request, -32000, "service not found"),
        ("service.get", Some("web")) => reply(
            request,
            json!({"service": {"name": "web", "exec": "web"}, "dependencies": {"requires": ["redis"]}}),
        ),
        ("service.get", _) => reply(request, json!({"service": {"name": "redis", "exec": "redis"}})),
        ("service.kill", _) => refuse(request, -32603, "service not running: redis"),
        ("logs.get", Some(name)) => {
            reply(request, json!([format!("2 [stderr] {name} b"), format!("1 [stdout] {name} a")]))
        }
        ("service.set", _) => reply(request, json!({"name": "new", "path": "x", "warnings": []})),
        _ => reply(request, json!({"ok": true})),
    }
}

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

/// zinit 0.3.9 with a process that does not lead a group yet.
fn young(request: &Value) -> Vec<u8> {
    static SIGNALS: AtomicUsize = AtomicUsize::new(0);
    static STOPPED: AtomicBool = AtomicBool::new(false);
    match (request["method"].as_str().unwrap_or_default(), request["params"]["name"].as_str()) {
        (method @ ("service.kill" | "service.stop"), Some("redis")) => {
            // Each is heard at its third time.
            if SIGNALS.fetch_add(1, Ordering::Relaxed) % 3 < 2 {
                let why = "signal error for service '' (signal SIGKILL): ESRCH: No such process";
                return refuse(request, -32603, why);
            }
            STOPPED.fetch_or(method == "service.stop", Ordering::Relaxed);
            reply(request, json!({"ok": true}))
        }
        ("service.status", Some("redis")) => {
            let state = if STOPPED.load(Ordering::Relaxed) { "stopping" } else { "running" };
            reply(request, json!({"name": "redis", "pid": 7, "state": state}))
        }
        _ => service(request),
    }
}

#[tokio::test]
async fn a_process_that_has_only_begun_is_signalled_all_the_same() {
    let mut peer = Peer::new(young);
    let client = peer.client(Dialect::Service);
    client.kill(&redis(), SignalName::KILL).await.unwrap();
    let kill = ["service.kill", "service.status"];
    assert_eq!(peer.methods(), [&kill[..], &kill, &kill[..1]].concat());
    client.stop(&redis()).await.unwrap();
    let stop = ["service.stop", "service.status"];
    assert_eq!(peer.methods(), [stop, stop, stop].concat());
}

/// zinit 0.3.9 with `web`, and a target that is reached when it runs.
fn with_target(request: &Value) -> Vec<u8> {
    match (request["method"].as_str().unwrap_or_default(), request["params"]["name"].as_str()) {
        ("service.list_full", _) => reply(
            request,
            json!([
                {"name": "redis", "is_target": false, "state": {"state": "exited", "exit_code": null}},
                {"name": "online", "is_target": true, "state": {"state": "running", "pid": 0}},
            ]),
        ),
        ("service.get", Some("online")) => reply(request, json!({"name": "online", "is_target": true})),
        ("service.status", Some("online")) => {
            reply(request, json!({"name": "online", "pid": 0, "state": "running"}))
        }
        ("service.status_full", Some("online")) => reply(
            request,
            json!({"name": "online", "dependencies": [{"name": "redis", "dep_type": "requires"}]}),
        ),
        _ => service(request),
    }
}

#[tokio::test]
async fn a_target_is_not_deleted_unseen() {
    let mut peer = Peer::new(with_target);
    let client = peer.client(Dialect::Service);
    let target = client.status(&"online".parse().unwrap()).await.unwrap();
    assert_eq!(target.after.keys().collect::<Vec<_>>(), ["redis"]);
    let error = client.forget(&redis()).await.unwrap_err();
    let Error::Unsafe { hazard, .. } = &error else { panic!("{error:?}") };
    assert_eq!(*hazard, Hazard::Deletes { dependant: "online".into() });
    assert!(!peer.methods().iter().any(|method| method == "service.delete"));
}

/// zinit 0.3.9 with one service that is started again whenever it ends, and has ended with 0.
fn ended_well(request: &Value, then: fn(looks: usize) -> Value, starts: fn(looks: usize) -> u32) -> Vec<u8> {
    static LOOKS: std::sync::Mutex<BTreeMap<String, usize>> = std::sync::Mutex::new(BTreeMap::new());
    let name = request["params"]["name"].as_str().unwrap_or("none").to_owned();
    let mut looks = LOOKS.lock().expect("not poisoned");
    let method = request["method"].as_str().unwrap_or_default();
    let key = if method == "debug.state" { "starts".to_owned() } else { name.clone() };
    let count = looks.entry(format!("{key} {:p}", then as *const ())).or_insert(0);
    match method {
        "service.status" => {
            *count += 1;
            let mut status = then(*count);
            status["name"] = name.into();
            reply(request, status)
        }
        "service.get" => reply(
            request,
            json!({"service": {"name": name, "exec": "x"}, "lifecycle": {"restart": "always",
                "stop_timeout_ms": 1, "stop_signal": "SIGTERM"}}),
        ),
        "debug.state" => {
            *count += 1;
            let text =
                format!("[.] redis - Exited (code=Some(0))\n    restart_count: {}, next\n", starts(*count));
            reply(request, json!({"output": text}))
        }
        _ => reply(request, json!({"ok": true})),
    }
}

fn exited() -> Value {
    json!({"pid": 0, "state": "exited", "exit_code": 0})
}

#[tokio::test]
async fn what_ended_with_0_is_watched_until_it_is_known_whether_it_comes_back() {
    let comes_back: Rule = |request| {
        ended_well(
            request,
            |looks| if looks < 4 { exited() } else { json!({"pid": 8, "state": "running"}) },
            |_| 1,
        )
    };
    let too_short_to_be_seen: Rule = |request| {
        fn always(_: usize) -> Value {
            exited()
        }
        ended_well(request, always, |looks| looks as u32)
    };
    let stays_down: Rule = |request| {
        fn always(looks: usize) -> Value {
            let mut status = exited();
            status["error"] = looks.to_string().into();
            status
        }
        ended_well(request, always, |_| 4)
    };
    let ask = async |rule| {
        let peer = Peer::new(rule);
        let client = peer.client(Dialect::Service);
        let first = client.status(&redis()).await.unwrap();
        (first.target, first.pid, client, peer)
    };
    let (up, seen, down) = tokio::join!(ask(comes_back), ask(too_short_to_be_seen), ask(stays_down));
    assert_eq!((up.0, up.1), (Target::Up, Some(8)));
    assert_eq!((seen.0, seen.1), (Target::Up, None));
    assert_eq!((down.0, down.1), (Target::Down, None));
    // Who is known to stay down is not watched again.
    let (client, mut peer) = (down.2, down.3);
    peer.methods();
    assert!(client.status(&redis()).await.unwrap().is_stopped());
    assert_eq!(peer.methods(), ["service.status", "service.get"]);
    // Unless somebody starts it.
    client.start(&redis()).await.unwrap();
    assert!(client.status(&redis()).await.unwrap().is_stopped());
    assert!(peer.methods().len() > 10);
}

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
