//! The end of the supervisor.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use zinit_client::{Refusal, ServiceStatus};

use crate::node::{Node, is_alive, unit};

/// Writes its name when it is asked to end, takes its time, and says when it listens.
fn polite(name: &str, after: &str) -> String {
    format!(
        "exec: sh -c 'trap \"sleep 0.2; echo {name} >> @/stopped; exit 0\" TERM; touch @/{name}; \
         while :; do sleep 0.1; done'\ntest: test -e @/{name}\nafter: [{after}]"
    )
}

fn deaf(seconds: u32) -> String {
    format!(
        "exec: sh -c 'trap \"\" TERM; touch @/deaf; while :; do sleep 0.1; done'\n\
         test: test -e @/deaf\nshutdown_timeout: {seconds}"
    )
}

fn pid(status: &ServiceStatus) -> i32 {
    status.pid.expect("a process").cast_signed()
}

#[tokio::test]
async fn everything_stops_in_reverse_order() {
    let mut node =
        Node::start(&[("a", &polite("a", "")), ("b", &polite("b", "a")), ("c", &polite("c", "b"))]).await;
    let last = node.wait_until_running("c").await;
    assert_eq!(node.raw(b"shutdown\n", false), r#"{"state":"ok","body":null}"#);
    let status = node.wait_for_end().await;
    assert_eq!(status.code(), Some(0));
    assert_eq!(node.read("stopped"), "c\nb\na\n");
    assert!(!is_alive(pid(&last)));
}

#[tokio::test]
async fn signals_end_it_as_well() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let mut node = Node::start(&[("a", &polite("a", ""))]).await;
        node.wait_until_running("a").await;
        kill(Pid::from_raw(node.pid()), signal).unwrap();
        assert_eq!(node.wait_for_end().await.code(), Some(0), "{signal}");
        assert_eq!(node.read("stopped"), "a\n");
    }
}

#[tokio::test]
async fn a_deaf_service_is_waited_for_in_vain_and_left_alive() {
    let mut node = Node::start(&[("deaf", &deaf(1)), ("a", &polite("a", "deaf"))]).await;
    node.wait_until_running("a").await;
    let deaf = pid(&node.status("deaf").await);
    node.raw(b"shutdown\n", false);
    assert_eq!(node.wait_for_end().await.code(), Some(0));
    assert_eq!(node.read("stopped"), "a\n");
    let left_alive = is_alive(deaf);
    // It leads its group, and is no child of ours any more.
    nix::sys::signal::killpg(Pid::from_raw(deaf), Signal::SIGKILL).unwrap();
    assert!(left_alive);
}

#[tokio::test]
async fn while_it_shuts_down_it_answers_but_starts_nothing() {
    let node = Node::start(&[("deaf", &deaf(100)), ("idle", "exec: sleep 1000")]).await;
    node.wait_until_running("deaf").await;
    node.stop("idle").await;
    node.raw(b"shutdown\n", false);
    let client = node.client();
    for error in [
        client.start(&unit("idle")).await.unwrap_err(),
        client.start(&unit("nosuch")).await.unwrap_err(),
        client.monitor(&unit("idle")).await.unwrap_err(),
    ] {
        assert_eq!(error.refusal(), Some(&Refusal::ShuttingDown), "{error}");
    }
    assert_eq!(client.list().await.unwrap().len(), 2);
    assert!(node.status("deaf").await.pid.is_some());
    client.stop(&unit("idle")).await.unwrap();
}

#[tokio::test]
async fn a_crashing_service_does_not_come_back_during_a_shutdown() {
    let mut node =
        Node::start(&[("crash", "exec: sh -c 'echo x >> @/starts; exit 1'"), ("deaf", &deaf(5))]).await;
    node.wait_until_running("deaf").await;
    node.wait_for("crash", |status| status.state.has_failed()).await;
    node.raw(b"shutdown\n", false);
    let starts = node.read("starts");
    node.wait_for_end().await;
    assert_eq!(node.read("starts"), starts);
}
