//! A peer that answers by a rule, and the rules of well-behaved ones.

use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use zinit_client::{Client, Dialect, UnitName};

/// A deadline that no answering peer comes near.
pub(crate) const AMPLE: Duration = Duration::from_secs(60);

pub(crate) const BOTH: [Dialect; 2] = [Dialect::Jsonrpc, Dialect::Service];

/// A peer that answers every line of every connection by a rule, and notes what it was asked.
pub(crate) struct Peer {
    pub(crate) directory: TempDir,
    pub(crate) asked: mpsc::UnboundedReceiver<Value>,
}

/// What to answer to a request: bytes as they are, or nothing and the end.
pub(crate) type Rule = fn(&Value) -> Vec<u8>;

impl Peer {
    pub(crate) fn new(rule: Rule) -> Self {
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

    pub(crate) fn client(&self, dialect: Dialect) -> Client {
        self.finding_out().speaking(dialect)
    }

    pub(crate) fn finding_out(&self) -> Client {
        Client::new(self.directory.path().join("sock")).with_deadline(AMPLE).with_units(self.directory.path())
    }

    /// The methods that were called so far.
    pub(crate) fn methods(&mut self) -> Vec<String> {
        let mut methods = Vec::new();
        while let Ok(request) = self.asked.try_recv() {
            methods.push(request["method"].as_str().expect("a method").to_owned());
        }
        methods
    }
}

pub(crate) fn redis() -> UnitName {
    "redis".parse().expect("a name")
}

pub(crate) fn reply(request: &Value, result: Value) -> Vec<u8> {
    format!("{}\n", json!({"jsonrpc": "2.0", "id": request["id"], "result": result})).into_bytes()
}

pub(crate) fn refuse(request: &Value, code: i64, message: &str) -> Vec<u8> {
    let error = json!({"code": code, "message": message});
    format!("{}\n", json!({"jsonrpc": "2.0", "id": request["id"], "error": error})).into_bytes()
}

/// zinit 0.2.28 with one service.
pub(crate) fn jsonrpc(request: &Value) -> Vec<u8> {
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
pub(crate) fn service(request: &Value) -> Vec<u8> {
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
