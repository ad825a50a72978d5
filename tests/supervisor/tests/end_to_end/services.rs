//! What happens to services.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use zinit_client::{ExitCause, Refusal, ServiceStatus, SignalName, State, Target};

use crate::node::{Node, is_alive, is_stand_in, process, unit};

/// A service that does not end when it is asked to, and says when it no longer listens.
const STUBBORN: &str = r#"
exec: sh -c 'trap "" TERM; touch @/deaf; while :; do sleep 0.1; done'
test: test -e @/deaf
shutdown_timeout: 1
"#;

fn is_signaled(status: &ServiceStatus, by: &str) -> bool {
    matches!(&status.state, State::Error(ExitCause::Signaled { signal, .. }) if signal == by)
}

#[tokio::test]
async fn the_whole_life_of_a_service() {
    let node = Node::start(&[("long", "exec: sleep 1000")]).await;
    let first = node.wait_until_running("long").await;
    assert_eq!(first.target, Target::Up);
    let pid = first.pid.unwrap().cast_signed();
    assert_eq!(process(pid).unwrap().group, pid, "it leads its own process group");
    assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).unwrap().to_str(), Some("/"));

    let client = node.client();
    let name = unit("long");
    let up = Refusal::IsUp { name: "long".into() };
    assert_eq!(client.forget(&name).await.unwrap_err().refusal(), Some(&up));
    let monitored = Refusal::AlreadyMonitored { name: "long".into() };
    assert_eq!(client.monitor(&name).await.unwrap_err().refusal(), Some(&monitored));
    client.start(&name).await.unwrap();
    assert_eq!(node.status("long").await, first, "starting what runs changes nothing");

    let stopped = node.stop("long").await;
    assert!(is_signaled(&stopped, "SIGTERM"), "{stopped:?}");
    assert!(!is_alive(pid));
    client.stop(&name).await.unwrap();

    client.start(&name).await.unwrap();
    let second = node.wait_until_running("long").await;
    assert_ne!(second.pid, first.pid);

    node.stop("long").await;
    client.forget(&name).await.unwrap();
    assert!(client.list().await.unwrap().is_empty());
    let unknown = Refusal::UnknownService { name: "long".into() };
    assert_eq!(client.status(&name).await.unwrap_err().refusal(), Some(&unknown));

    client.monitor(&name).await.unwrap();
    let third = node.wait_until_running("long").await;
    assert_ne!(third.pid, second.pid);
}

#[tokio::test]
async fn a_service_that_crashes_is_started_again() {
    let node = Node::start(&[("crash", "exec: sh -c 'echo $$ >> @/starts; exit 3'")]).await;
    let status = node.wait_for("crash", |status| status.state.has_failed()).await;
    let State::Error(ExitCause::Exited { pid, code: 3 }) = status.state else { panic!("{status:?}") };
    assert_eq!((status.pid, status.target), (None, Target::Up));
    assert_eq!(node.read("starts").lines().next(), Some(pid.to_string().as_str()));
    node.until("it was started three times", async || node.read("starts").lines().count() >= 3).await;
}

#[tokio::test]
async fn it_is_started_again_as_soon_as_the_command_line_says() {
    if !is_stand_in() {
        return;
    }
    let crash = [("crash", "exec: sh -c 'echo $$ >> @/starts; exit 3'")];
    let node = Node::start_with(&[], &["--respawn-delay", "100"], &crash).await;
    let begun = Instant::now();
    node.until("it was started six times", async || node.read("starts").lines().count() >= 6).await;
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(8), "{took:?}, and with the delay of zinit it is ten seconds");
}

#[tokio::test]
async fn a_killed_service_is_started_again_but_not_when_it_was_stopped() {
    let node = Node::start(&[("long", "exec: sleep 1000")]).await;
    let first = node.wait_until_running("long").await;
    node.client().kill(&unit("long"), SignalName::KILL).await.unwrap();
    let dead = node.wait_for("long", |status| status.pid.is_none()).await;
    assert!(is_signaled(&dead, "SIGKILL"), "{dead:?}");
    let second = node.wait_until_running("long").await;
    assert_ne!(second.pid, first.pid);
    let error = async || node.client().kill(&unit("long"), SignalName::KILL).await;
    node.stop("long").await;
    assert_eq!(error().await.unwrap_err().refusal(), Some(&Refusal::IsDown { name: "long".into() }));
}

#[tokio::test]
async fn a_service_that_ends_well_is_started_again_too() {
    let node = Node::start(&[
        ("short", "exec: sh -c 'echo x >> @/starts'"),
        ("after", "exec: sleep 1000\nafter: [short]"),
    ])
    .await;
    node.wait_for("short", |status| status.state == State::Success).await;
    node.until("it was started twice", async || node.read("starts").lines().count() >= 2).await;
    node.wait_until_running("after").await;
}

#[tokio::test]
async fn oneshots_run_once_and_in_the_order_of_dependencies() {
    // Their names are in the other direction than their order.
    let node = Node::start(&[
        ("c", "exec: sh -c 'sleep 0.3; echo c >> @/order'\noneshot: true"),
        ("b", "exec: sh -c 'echo b >> @/order'\noneshot: true\nafter: [c]"),
        ("a", "exec: sh -c 'echo a >> @/order; exec sleep 1000'\nafter: [b, c]"),
    ])
    .await;
    let last = node.wait_until_running("a").await;
    assert_eq!(
        last.after,
        [("b".into(), State::Success), ("c".into(), State::Success)].into(),
        "it waited for both"
    );
    node.until("all three have run", async || node.read("order") == "c\nb\na\n").await;
    let once = node.status("c").await;
    assert_eq!((once.pid, once.target, once.state), (None, Target::Up, State::Success));

    node.client().start(&unit("c")).await.unwrap();
    node.until("it ran again", async || node.read("order") == "c\nb\na\nc\n").await;
}

#[tokio::test]
async fn a_oneshot_that_fails_holds_up_what_comes_after() {
    let node = Node::start(&[
        ("once", "exec: sh -c 'echo x >> @/runs; test -e @/good'\noneshot: true"),
        ("after", "exec: sleep 1000\nafter: [once]"),
    ])
    .await;
    let failed = node.wait_for("once", |status| status.state.has_failed()).await;
    assert!(matches!(failed.state, State::Error(ExitCause::Exited { code: 1, .. })), "{failed:?}");
    assert_eq!(node.wait_for("after", |s| s.state == State::Blocked).await.pid, None);

    fs::write(node.path("good"), "").unwrap();
    node.client().start(&unit("once")).await.unwrap();
    node.wait_until_running("after").await;
    assert_eq!(node.read("runs").lines().count(), 2, "it is not started again by itself");
}

#[tokio::test]
async fn a_missing_dependency_blocks_until_it_is_monitored() {
    let node = Node::start(&[("app", "exec: sleep 1000\nafter: [redis]")]).await;
    let blocked = node.wait_for("app", |status| status.state == State::Blocked).await;
    assert_eq!((blocked.pid, blocked.target), (None, Target::Up));
    assert_eq!(blocked.after, [("redis".into(), State::Unknown)].into());

    node.write_unit("redis", "exec: sleep 1000");
    node.client().monitor(&unit("redis")).await.unwrap();
    assert_eq!(node.wait_until_running("app").await.after, [("redis".into(), State::Running)].into());
}

#[tokio::test]
async fn a_blocked_service_can_be_stopped_and_forgotten() {
    let node = Node::start(&[("app", "exec: sleep 1000\nafter: [redis]")]).await;
    node.wait_for("app", |status| status.state == State::Blocked).await;
    let stopped = node.stop("app").await;
    assert_eq!((stopped.state, stopped.target), (State::Blocked, Target::Down));

    node.write_unit("redis", "exec: sleep 1000");
    node.client().monitor(&unit("redis")).await.unwrap();
    node.wait_until_running("redis").await;
    assert_eq!(node.status("app").await.pid, None, "nobody wants it up");
    node.client().forget(&unit("app")).await.unwrap();
}

#[tokio::test]
async fn stop_never_escalates() {
    let node = Node::start(&[("deaf", STUBBORN)]).await;
    let running = node.wait_until_running("deaf").await;
    node.client().stop(&unit("deaf")).await.unwrap();
    // Longer than its shutdown_timeout, which is about the supervisor's own end and not about this.
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        let status = node.status("deaf").await;
        assert_eq!(
            (status.state, status.target, status.pid),
            (State::Running, Target::Down, running.pid),
            "nothing happens"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    node.client().kill(&unit("deaf"), SignalName::KILL).await.unwrap();
    let dead = node.wait_for("deaf", ServiceStatus::is_stopped).await;
    assert!(is_signaled(&dead, "SIGKILL"), "{dead:?}");
}

#[tokio::test]
async fn a_changed_unit_takes_effect_by_forget_and_monitor_only() {
    let of = |text: &str| format!("exec: sh -c 'echo {text} >> @/seen; exec sleep 1000'");
    let node = Node::start(&[("app", &of("old"))]).await;
    node.until("it ran", async || node.read("seen") == "old\n").await;

    node.write_unit("app", &of("new"));
    node.stop("app").await;
    node.client().start(&unit("app")).await.unwrap();
    node.until("it ran again", async || node.read("seen").lines().count() == 2).await;
    assert_eq!(node.read("seen"), "old\nold\n");

    node.stop("app").await;
    node.client().forget(&unit("app")).await.unwrap();
    node.client().monitor(&unit("app")).await.unwrap();
    node.until("it ran anew", async || node.read("seen") == "old\nold\nnew\n").await;
}

#[tokio::test]
async fn a_service_is_up_when_its_test_passes() {
    let node = Node::start(&[
        ("slow", "exec: sleep 1000\ntest: sh -c 'echo probing; test -e @/ready'"),
        ("app", "exec: sleep 1000\nafter: [slow]"),
    ])
    .await;
    let spawned = node.wait_for("slow", |status| status.state == State::Spawned).await;
    assert!(spawned.pid.is_some());
    let tested = async |times| {
        let log = node.client().log_snapshot().await.unwrap();
        log.lines().filter(|line| *line == "[+] slow/test: probing").count() >= times
    };
    node.until("it was tested twice", async || tested(2).await).await;
    assert_eq!(node.status("slow").await, spawned, "it waits, with the same process");
    assert_eq!(node.status("app").await.state, State::Blocked);

    fs::write(node.path("ready"), "").unwrap();
    assert_eq!(node.wait_until_running("slow").await.pid, spawned.pid);
    node.wait_until_running("app").await;
}

#[tokio::test]
async fn a_test_that_cannot_be_run_is_tried_again() {
    let node = Node::start(&[("app", "exec: sleep 1000\ntest: @/probe")]).await;
    let untested = node.wait_for("app", |status| status.state == State::TestFailure).await;
    assert!(untested.pid.is_some());
    // Renamed into place: a file that is still being written cannot be run.
    fs::write(node.path("draft"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(node.path("draft"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::rename(node.path("draft"), node.path("probe")).unwrap();
    assert_eq!(node.wait_until_running("app").await.pid, untested.pid);
}

#[tokio::test]
async fn a_command_that_cannot_be_run_is_a_failure() {
    let node = Node::start(&[
        ("absent", "exec: /no/such/program"),
        ("quote", "exec: \"sh -c 'exit\""),
        ("nowhere", "exec: sleep 1000\ndir: /no/such/directory"),
    ])
    .await;
    for name in ["absent", "quote", "nowhere"] {
        let failed = node.wait_for(name, |status| status.state == State::Failure).await;
        assert_eq!((failed.pid, failed.target), (None, Target::Up));
        assert!(failed.is_settled(false));
    }
}

#[tokio::test]
async fn directory_environment_and_output() {
    let node = Node::start(&[
        (
            "ring",
            "exec: sh -c 'echo \"$A in $(pwd), home of ${HOME:+us}\"; echo oops >&2; exec sleep 1000'\n\
             env: {A: '1'}\ndir: /usr",
        ),
        ("quiet", "exec: sh -c 'echo never seen; exec sleep 1000'\nlog: none"),
        ("loud", "exec: sh -c 'echo straight out; exec sleep 1000'\nlog: stdout"),
    ])
    .await;
    let log = async || node.client().log_snapshot().await.unwrap();
    node.until("both lines are in the ring", async || log().await.lines().count() >= 2).await;
    let lines = log().await;
    let home = if std::env::var_os("HOME").is_some() { "us" } else { "" };
    assert!(lines.contains(&format!("[+] ring: 1 in /usr, home of {home}\n")), "{lines}");
    assert!(lines.contains("[-] ring: oops\n"), "{lines}");
    node.until("the loud one was heard", async || node.console().contains("straight out")).await;
    assert_eq!(log().await.lines().count(), 2);
    assert!(!node.console().contains("never seen"));
}

#[tokio::test]
async fn the_ring_can_be_copied_to_the_console() {
    if !is_stand_in() {
        return;
    }
    let say = [("say", "exec: sh -c 'echo \"aloud${MOLT_SUPERVISOR_CONSOLE}\"; exec sleep 1000'")];
    let node = Node::start_under(&["env", "MOLT_SUPERVISOR_CONSOLE=1"], &say).await;
    node.until("it was heard", async || node.console().contains("[+] say: aloud\n")).await;
}

#[tokio::test]
async fn the_stop_signal_is_the_unit_s_and_goes_to_the_whole_group() {
    let node = Node::start(&[(
        "app",
        "exec: sh -c 'trap \"exit 0\" USR1; sleep 1000 & echo $! > @/child; touch @/ready; wait'\n\
         test: test -e @/ready\nsignal: {stop: sigusr1}",
    )])
    .await;
    node.wait_until_running("app").await;
    let child = node.read("child").trim().parse().unwrap();
    assert!(is_alive(child));
    let stopped = node.stop("app").await;
    assert_eq!(stopped.state, State::Success);
    node.until("its child is gone", async || !is_alive(child)).await;
}

#[tokio::test]
async fn a_death_by_a_signal_without_a_name_is_noticed() {
    // zinit loses track of such a process.
    if !is_stand_in() {
        return;
    }
    let node = Node::start(&[("odd", "exec: sh -c 'kill -40 $$; sleep 1000'\noneshot: true")]).await;
    let dead = node.wait_for("odd", |status| status.state.has_failed()).await;
    assert!(is_signaled(&dead, "SIG40"), "{dead:?}");
}

#[tokio::test]
async fn malformed_units_are_left_out_with_a_reason() {
    let node = Node::start(&[
        ("good", "exec: sleep 1000"),
        ("broken", "exec: [a\n"),
        ("nosignal", "exec: sleep 1000\nsignal: {stop: TERM}"),
        ("empty", "oneshot: true"),
    ])
    .await;
    node.wait_until_running("good").await;
    let names: Vec<_> = node.client().list().await.unwrap().into_keys().collect();
    assert_eq!(names, ["good"]);
    let console = node.console();
    for (name, word) in [("broken", "line"), ("nosignal", ""), ("empty", "exec")] {
        let line = console.lines().find(|line| line.contains(&format!("{name}.yaml"))).unwrap();
        let (_, reason) = line.split_once("yaml\": ").expect(line);
        assert!(line.contains("failed to load config file") && !reason.is_empty(), "{line}");
        assert!(reason.contains(word), "{line}");
    }

    let error = node.client().monitor(&unit("broken")).await.unwrap_err();
    assert_eq!(error.refusal(), Some(&Refusal::ConfigLoad));
}
