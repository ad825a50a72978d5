//! The command `zinit-client`, against scripted peers of all three dialects: one output for all of them.

#![cfg(feature = "cli")]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Mutex;
use std::thread;

use serde_json::{Value, json};
use tempfile::TempDir;

/// A peer that answers each line of each connection; without another line it hangs up after `once`.
fn peer(answer: fn(&str) -> String, once: bool) -> TempDir {
    let directory = tempfile::tempdir().expect("temporary directory");
    let listener = UnixListener::bind(directory.path().join("sock")).expect("bind");
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let mut writer = stream.try_clone().expect("clone");
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    if writer.write_all(answer(&line).as_bytes()).is_err() || once {
                        return;
                    }
                }
            });
        }
    });
    directory
}

fn line(request: &str) -> String {
    match request {
        "list" => r#"{"state":"ok","body":{"redis":"Running"}}"#,
        "status redis" => {
            r#"{"state":"ok","body":{"after":{},"name":"redis","pid":7,"state":"Running","target":"Up"}}"#
        }
        "start redis" => r#"{"state":"ok","body":null}"#,
        "start nosuch" => r#"{"state":"error","body":"service name \"nosuch\" unknown"}"#,
        "forget redis" => r#"{"state":"error","body":"service \"redis\" is up"}"#,
        "log snapshot" => "[+] redis: one\n[+] web: two\n",
        _ => r#"{"state":"error","body":"unknown command"}"#,
    }
    .to_owned()
}

fn rpc(
    request: &str,
    mut answer: impl FnMut(&str, Option<&str>) -> Result<Value, (i64, &'static str)>,
) -> String {
    let request: Value = serde_json::from_str(request).expect("JSON");
    let name = request["params"]["name"].as_str().or_else(|| request["params"][0].as_str());
    let mut reply = json!({"jsonrpc": "2.0", "id": request["id"]});
    match answer(request["method"].as_str().unwrap_or_default(), name) {
        Ok(result) => reply["result"] = result,
        Err((code, message)) => reply["error"] = json!({"code": code, "message": message}),
    }
    format!("{reply}\n")
}

fn jsonrpc(request: &str) -> String {
    rpc(request, |method, name| match (method, name) {
        ("service_list", _) => Ok(json!({"redis": "Running"})),
        ("service_status", _) => {
            Ok(json!({"name": "redis", "pid": 7, "state": "Running", "target": "Up", "after": {}}))
        }
        ("service_start", Some("nosuch")) => Err((-32000, "starting service: service 'nosuch' not found")),
        ("service_start", _) => Ok(Value::Null),
        ("service_forget", _) => Err((-32002, "forgetting service: service 'redis' is up")),
        ("stream_currentLogs", _) => Ok(json!(["[+] redis: one", "[+] web: two"])),
        _ => Err((-32601, "Method not found")),
    })
}

fn service(request: &str) -> String {
    rpc(request, |method, name| match (method, name) {
        ("system.ping", _) => Ok(json!({"version": "0.3.9"})),
        ("service.list_full", _) => Ok(json!([{"name": "redis", "state": {"state": "running", "pid": 7}}])),
        ("service.list", _) => Ok(json!(["redis", "web"])),
        ("service.status", _) => Ok(json!({"name": "redis", "pid": 7, "state": "running"})),
        ("service.get", _) => Ok(json!({"service": {"name": "redis", "exec": "redis"}})),
        ("service.start", Some("nosuch")) => Err((-32603, "service not found: nosuch")),
        ("service.start", _) => Ok(json!({"ok": true})),
        ("logs.get", Some("redis")) => Ok(json!(["1 [stdout] one"])),
        ("logs.get", _) => Ok(json!(["2 [stdout] two"])),
        _ => Err((-32601, "unknown method")),
    })
}

fn run(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_zinit-client"))
        .arg("--socket")
        .arg(directory.join("sock"))
        .args(arguments)
        .output()
        .expect("run zinit-client")
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

#[test]
fn every_dialect_has_the_same_output() {
    let peers =
        [("line", peer(line, true)), ("jsonrpc", peer(jsonrpc, false)), ("service", peer(service, false))];
    for (dialect, peer) in &peers {
        let run = |arguments: &[&str]| run(peer.path(), arguments);
        assert_eq!(text(&run(&["dialect"])), format!("{dialect}\n"));
        assert_eq!(text(&run(&["list"])), "redis  Running\n", "{dialect}");
        let status = text(&run(&["status", "redis"]));
        assert_eq!(status, "name    redis\nstate   Running\ntarget  Up\npid     7\n", "{dialect}");
        let status: Value = serde_json::from_str(&text(&run(&["status", "redis", "--json"]))).unwrap();
        let wanted = json!({"name": "redis", "pid": 7, "state": "Running", "target": "Up", "after": {}});
        assert_eq!(status, wanted, "{dialect}");
        assert_eq!(text(&run(&["log"])), "[+] redis: one\n[+] web: two\n", "{dialect}");
        assert_eq!(text(&run(&["log", "redis"])), "[+] redis: one\n", "{dialect}");
        let started = run(&["start", "redis"]);
        assert!(started.status.success() && text(&started).is_empty(), "{started:?}");
        let json: Value = serde_json::from_str(&text(&run(&["--json", "start", "redis"]))).unwrap();
        assert_eq!(json, json!({"done": "start", "services": ["redis"]}));

        let unknown = run(&["start", "nosuch", "--json"]);
        assert_eq!(unknown.status.code(), Some(4), "{dialect} {unknown:?}");
        let json: Value = serde_json::from_str(&text(&unknown)).unwrap();
        assert_eq!(json["exit_code"], 4);
        assert!(json["error"].as_str().unwrap().contains("does not know the service \"nosuch\""), "{json}");
        let refused = run(&["forget", "redis"]);
        assert_eq!(refused.status.code(), Some(5), "{dialect} {refused:?}");
        assert!(text(&refused).is_empty() && String::from_utf8_lossy(&refused.stderr).contains("is up"));
    }
}

/// zinit 0.2.28 with a service that needs a moment to end, and notes what it is asked.
fn ending(request: &str) -> String {
    static ASKED: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let mut asked = ASKED.lock().expect("not poisoned");
    let has = |asked: &[String], what: &str| asked.iter().filter(|method| *method == what).count();
    rpc(request, |method, name| {
        let signal = request.contains("SIGUSR1");
        asked.push(method.to_owned());
        match (method, name) {
            ("service_kill", Some("slow")) if signal => Ok(Value::Null),
            ("service_status", _) => {
                // It ends at the third look after the signal.
                let signalled = asked.iter().skip_while(|method| *method != "service_kill");
                let ended = signalled.filter(|method| *method == "service_status").count() > 2;
                let (pid, state) = if ended { (0, "Success") } else { (7, "Running") };
                Ok(json!({"name": "slow", "pid": pid, "state": state, "target": "Up", "after": {}}))
            }
            ("service_stop", _) if has(&asked, "service_status") > 3 => Ok(Value::Null),
            ("service_start", _) if has(&asked, "service_stop") == 1 => Ok(Value::Null),
            _ => Err((-32601, "Method not found")),
        }
    })
}

#[test]
fn a_service_is_not_killed_by_a_restart_where_zinit_would() {
    let peer = peer(ending, false);
    std::fs::write(peer.path().join("slow.yaml"), "exec: slow\nsignal: {stop: sigusr1}\n").unwrap();
    let units = peer.path().display().to_string();
    let restarted = run(peer.path(), &["--units", &units, "restart", "slow"]);
    assert!(restarted.status.success(), "{restarted:?}");
}

#[test]
fn who_is_not_there_is_told_from_wrong_usage() {
    let nowhere = tempfile::tempdir().unwrap();
    let away = run(nowhere.path(), &["list"]);
    assert_eq!(away.status.code(), Some(3), "{away:?}");
    for wrong in
        [&["status"][..], &["start", "../x"], &["kill", "redis", "15"], &["--timeout", "0", "list"], &["nap"]]
    {
        let output = run(nowhere.path(), wrong);
        assert_eq!(output.status.code(), Some(2), "{wrong:?} {output:?}");
    }
    let json = run(nowhere.path(), &["start", "--json"]);
    let json: Value = serde_json::from_str(&text(&json)).unwrap();
    assert_eq!(json["exit_code"], 2);
    assert!(run(nowhere.path(), &["--help"]).status.success());
    let no_zinit = peer(|_| "HTTP/1.1 400 Bad Request\r\n".to_owned(), false);
    assert_eq!(run(no_zinit.path(), &["list"]).status.code(), Some(1));
}
