//! What zinit 0.3.9 does in moments that one has to wait for.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::{Value, json};
use zinit_client::{Dialect, Error, Hazard, SignalName, Target};

use crate::peer::{Peer, Rule, redis, refuse, reply, service};

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
