//! The supervisor as process 1 of a PID namespace.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::node::{Node, Process, is_alive, processes};

/// A new PID namespace, in a new user namespace so that it needs no rights; it dies with `unshare`.
const NAMESPACE: [&str; 6] = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"];

fn children(parent: i32) -> Vec<Process> {
    processes().into_iter().filter(|process| process.parent == parent).collect()
}

/// A service that leaves a child behind which ends a little later.
const FORGETFUL: &str = "exec: sh -c '(sleep 0.3; touch @/orphan-ended) & exit 0'\noneshot: true";

#[tokio::test]
async fn process_1_reaps_orphans_and_takes_the_namespace_with_it() {
    let units = [("forgetful", FORGETFUL), ("long", "exec: sleep 1000")];
    let mut node = Node::start_under(&NAMESPACE, &units).await;
    let init = children(node.pid()).first().expect("the supervisor").pid;
    // It counts pids in its own namespace, where it is 1 and they are small.
    let inside = node.wait_until_running("long").await.pid.unwrap();
    assert!((2..100).contains(&inside), "{inside}");
    node.until("the orphan is gone", async || node.path("orphan-ended").exists()).await;
    node.until("no zombie is left", async || {
        children(init)
            .iter()
            .map(|child| child.state)
            .collect::<String>()
            .replace(['S', 'R', 'D'], "")
            .is_empty()
            && children(init).len() == 1
    })
    .await;

    let service = children(init).first().expect("the service").pid;
    assert!(is_alive(service));
    // As init of a namespace it gets only signals that it handles.
    kill(Pid::from_raw(init), Signal::SIGTERM).unwrap();
    assert_eq!(node.wait_for_end().await.code(), Some(0));
    assert!(!is_alive(service) && !is_alive(init));
}

#[tokio::test]
async fn what_outlives_a_shutdown_ends_with_the_namespace() {
    let deaf = "exec: sh -c 'trap \"\" TERM; touch @/deaf; while :; do sleep 0.1; done'\n\
                test: test -e @/deaf\nshutdown_timeout: 1";
    let mut node = Node::start_under(&NAMESPACE, &[("deaf", deaf)]).await;
    node.wait_until_running("deaf").await;
    let init = children(node.pid()).first().expect("the supervisor").pid;
    let service = children(init).first().expect("the service").pid;
    node.raw(b"shutdown\n", false);
    assert_eq!(node.wait_for_end().await.code(), Some(0));
    node.until("the service is gone", async || !is_alive(service)).await;
}
