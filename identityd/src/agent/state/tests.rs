//! The table of all transitions, checked in both directions: what is listed happens, and nothing
//! else changes anything. `docs/agent-states.dot` is drawn from it.

use super::*;

mod drawing;

/// States that decide differently, by the name of their node in the diagram and a condition.
fn samples() -> Vec<(&'static str, &'static str, State)> {
    let at = |stage, gate| State {
        stage,
        gate,
        recovered: true,
        installed: Some(installed("1")),
        candidate: None,
        problem: None,
        attempts: 0,
    };
    let waiting = |gate| at(Stage::Waiting, Some(gate));
    let failed = |state| State { problem: Some(problem(ProblemKind::Network)), attempts: 1, ..state };
    let upgrading = |stage| State { candidate: Some(candidate("2")), ..at(stage, None) };
    vec![
        ("Starting", "recovers", State::default()),
        ("Starting", "looks", State { installed: None, ..waiting(Gate::Starting) }),
        ("FlistName", "", State { installed: None, ..waiting(Gate::FlistName) }),
        ("BackOff", "", failed(waiting(Gate::BackOff))),
        ("BackOff", "nothing known", State { installed: None, ..failed(waiting(Gate::BackOff)) }),
        (
            "BackOff",
            "not recovered",
            State { recovered: false, installed: None, ..failed(waiting(Gate::BackOff)) },
        ),
        ("Refused", "", failed(waiting(Gate::Refused))),
        ("Orders", "", waiting(Gate::Orders)),
        ("Pause", "", waiting(Gate::Pause)),
        ("Hold", "", waiting(Gate::Hold)),
        ("Maintenance", "", waiting(Gate::Maintenance)),
        ("Idle", "", at(Stage::Idle, None)),
        ("Committed", "", at(Stage::Committed, None)),
        ("RolledBack", "", failed(upgrading(Stage::RolledBack))),
        ("Degraded", "", State { recovered: false, ..failed(upgrading(Stage::Degraded)) }),
        ("Resolving", "", at(Stage::Resolving, None)),
        ("Fetching", "", upgrading(Stage::Fetching)),
        ("Staging", "", upgrading(Stage::Staging)),
        ("Verifying", "", upgrading(Stage::Verifying)),
        ("Swapping", "", upgrading(Stage::Swapping)),
        ("Soaking", "", upgrading(Stage::Soaking)),
    ]
}

fn installed(version: &str) -> Installed {
    candidate(version).installed_as(1)
}

fn candidate(version: &str) -> Candidate {
    Candidate { channel: "r/c.flist".into(), version: version.into(), release: format!("id-{version}") }
}

fn problem(kind: ProblemKind) -> Problem {
    Problem::new(kind, "it did not work")
}

/// Events that are decided differently.
fn events() -> Vec<(String, Event)> {
    let mut events = vec![
        ("Started".to_owned(), Event::Started),
        ("Recovered".to_owned(), Event::Recovered(Ok(()))),
        ("Installed".to_owned(), Event::LookedForInstalled(Ok(Some(installed("1"))))),
        ("NotInstalled".to_owned(), Event::LookedForInstalled(Ok(None))),
        ("PollDue".to_owned(), Event::PollDue),
        ("CheckRequested".to_owned(), Event::CheckRequested),
        ("ApplyRequested".to_owned(), Event::ApplyRequested),
        ("Unchanged".to_owned(), Event::Resolved(Ok(Resolved::Unchanged))),
        ("Candidate".to_owned(), Event::Resolved(Ok(Resolved::Candidate(candidate("2"))))),
        (
            "Bad candidate".to_owned(),
            Event::Resolved(Ok(Resolved::Refused {
                candidate: candidate("2"),
                problem: problem(ProblemKind::Refused),
            })),
        ),
        ("TargetFound".to_owned(), Event::TargetFound(Target { generation: 1, release: candidate("0") })),
        ("Stopped".to_owned(), Event::Applied(Ok(Applied::Stopped { gate: Gate::Hold, why: "x".into() }))),
        ("Committed".to_owned(), Event::Applied(Ok(Applied::Committed { generation: 2 }))),
        ("Nothing".to_owned(), Event::Applied(Ok(Applied::Nothing))),
        ("RolledBack".to_owned(), Event::Applied(Ok(Applied::RolledBack { reason: "ill".into() }))),
    ];
    use ProblemKind::{Busy, Degraded, Local, Network, Refused};
    for kind in [Network, Refused, Busy, Local, Degraded] {
        let name = |what: &str| format!("{what} failed: {}", kind.as_str());
        events.push((name("Recover"), Event::Recovered(Err(problem(kind)))));
        events.push((name("Look"), Event::LookedForInstalled(Err(problem(kind)))));
        events.push((name("Resolve"), Event::Resolved(Err(problem(kind)))));
        events.push((name("Apply"), Event::Applied(Err(problem(kind)))));
    }
    for gate in [Gate::Orders, Gate::Pause, Gate::Hold, Gate::Maintenance] {
        let blocked = Event::Blocked { candidate: candidate("2"), gate, why: "x".into(), opens: None };
        events.push((format!("Blocked {gate}"), blocked));
    }
    for (stage, ..) in STAGES {
        events.push((format!("Progress {stage}"), Event::Progress(*stage)));
    }
    events
}

/// Every stage, and whether it belongs to an upgrade.
const STAGES: &[(Stage, bool)] = &[
    (Stage::Idle, false),
    (Stage::Resolving, false),
    (Stage::Waiting, false),
    (Stage::Fetching, true),
    (Stage::Staging, true),
    (Stage::Verifying, true),
    (Stage::Swapping, true),
    (Stage::Soaking, true),
    (Stage::Committed, false),
    (Stage::RolledBack, false),
    (Stage::Degraded, false),
];

/// Nodes that the diagram draws in one box, with one arrow for all of them.
const GROUPS: &[(&str, &[&str])] = &[
    ("upgrade", &["Fetching", "Staging", "Verifying", "Swapping", "Soaking"]),
    (
        "rest",
        &["Idle", "Committed", "RolledBack", "BackOff", "Refused", "Orders", "Pause", "Hold", "Maintenance"],
    ),
];

/// From (node or group, condition), on these events, to this node, doing this.
type Row = (&'static str, &'static str, &'static [&'static str], &'static str, &'static [Do]);

/// An [`Action`] without its data.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Do {
    Recover,
    Look,
    Resolve,
    Apply,
    Revert,
    PollRegularly,
    BackOff,
    LookLater,
    PollWhenOpen,
}

const DUE: &[&str] = &["PollDue", "CheckRequested", "ApplyRequested"];
const RECOVER_FAILED: &[&str] = &["Recover failed: Network", "Recover failed: Busy", "Recover failed: Local"];
const LOOK_FAILED: &[&str] = &["Look failed: Network", "Look failed: Busy", "Look failed: Local"];
const RESOLVE_FAILED: &[&str] = &["Resolve failed: Network", "Resolve failed: Busy", "Resolve failed: Local"];
const APPLY_FAILED: &[&str] = &["Apply failed: Network", "Apply failed: Busy", "Apply failed: Local"];

const TABLE: &[Row] = &[
    ("Starting", "recovers", &["Started"], "Starting", &[Do::Recover]),
    ("Starting", "recovers", &["Recovered"], "Starting", &[Do::Look]),
    ("Starting", "recovers", RECOVER_FAILED, "BackOff", &[Do::BackOff]),
    ("Starting", "recovers", &["Recover failed: Refused"], "Refused", &[Do::BackOff]),
    ("Starting", "recovers", &["Recover failed: Degraded"], "Degraded", &[Do::BackOff]),
    ("Starting", "looks", &["Installed"], "Resolving", &[Do::Resolve]),
    ("FlistName", "", &["Installed"], "Resolving", &[Do::Resolve]),
    ("FlistName", "", DUE, "FlistName", &[Do::Look]),
    ("rest", "", DUE, "Resolving", &[Do::Resolve]),
    ("BackOff", "nothing known", DUE, "Starting", &[Do::Look]),
    ("BackOff", "not recovered", DUE, "Starting", &[Do::Recover]),
    ("Degraded", "", DUE, "Starting", &[Do::Recover]),
    ("Resolving", "", &["Unchanged"], "Idle", &[Do::PollRegularly]),
    ("Resolving", "", &["Candidate"], "Fetching", &[Do::Apply]),
    ("Resolving", "", &["TargetFound"], "Fetching", &[Do::Revert]),
    ("Resolving", "", &["Bad candidate"], "Refused", &[Do::PollRegularly]),
    ("Resolving", "", &["Blocked Orders"], "Orders", &[Do::PollWhenOpen]),
    ("Resolving", "", &["Blocked Pause"], "Pause", &[Do::PollWhenOpen]),
    ("Resolving", "", &["Blocked Hold"], "Hold", &[Do::PollWhenOpen]),
    ("Resolving", "", &["Blocked Maintenance"], "Maintenance", &[Do::PollWhenOpen]),
    ("Resolving", "", RESOLVE_FAILED, "BackOff", &[Do::BackOff]),
    ("Resolving", "", &["Resolve failed: Refused"], "Refused", &[Do::PollRegularly]),
    ("Resolving", "", &["Resolve failed: Degraded"], "Degraded", &[Do::BackOff]),
    ("Fetching", "", &["Progress Staging"], "Staging", &[]),
    ("Fetching", "", &["Progress Verifying"], "Verifying", &[]),
    ("Fetching", "", &["Progress Swapping"], "Swapping", &[]),
    ("Fetching", "", &["Progress Soaking"], "Soaking", &[]),
    ("Staging", "", &["Progress Verifying"], "Verifying", &[]),
    ("Staging", "", &["Progress Swapping"], "Swapping", &[]),
    ("Staging", "", &["Progress Soaking"], "Soaking", &[]),
    ("Verifying", "", &["Progress Swapping"], "Swapping", &[]),
    ("Verifying", "", &["Progress Soaking"], "Soaking", &[]),
    ("Swapping", "", &["Progress Soaking"], "Soaking", &[]),
    ("upgrade", "", &["Committed"], "Committed", &[Do::PollRegularly]),
    ("upgrade", "", &["Stopped"], "Idle", &[Do::PollRegularly]),
    ("upgrade", "", &["Nothing"], "Idle", &[Do::Look, Do::PollRegularly]),
    ("upgrade", "", &["RolledBack"], "RolledBack", &[Do::BackOff]),
    ("upgrade", "", &["Blocked Orders"], "Orders", &[Do::PollWhenOpen]),
    ("upgrade", "", &["Blocked Pause"], "Pause", &[Do::PollWhenOpen]),
    ("upgrade", "", &["Blocked Hold"], "Hold", &[Do::PollWhenOpen]),
    ("upgrade", "", &["Blocked Maintenance"], "Maintenance", &[Do::PollWhenOpen]),
    ("upgrade", "", APPLY_FAILED, "BackOff", &[Do::BackOff]),
    ("upgrade", "", &["Apply failed: Refused"], "Refused", &[Do::BackOff]),
    ("upgrade", "", &["Apply failed: Degraded"], "Degraded", &[Do::BackOff]),
];

/// What a look for the installed generation brings wherever nothing runs; not drawn, since the
/// agent looks only where the table says so.
const LOOKED_AT_REST: &[Row] = &[
    ("", "", &["NotInstalled"], "FlistName", &[Do::LookLater]),
    ("", "", LOOK_FAILED, "BackOff", &[Do::BackOff]),
    ("", "", &["Look failed: Refused"], "Refused", &[Do::BackOff]),
    ("", "", &["Look failed: Degraded"], "Degraded", &[Do::BackOff]),
];

fn node(state: &State) -> String {
    state.gate.map_or_else(|| state.stage.to_string(), |gate| gate.to_string())
}

fn done(actions: &[Action]) -> Vec<Do> {
    let one = |action: &Action| match action {
        Action::Recover => Do::Recover,
        Action::LookForInstalled => Do::Look,
        Action::Resolve => Do::Resolve,
        Action::Apply(_) => Do::Apply,
        Action::Revert(_) => Do::Revert,
        Action::PollAfter(Delay::Regular) => Do::PollRegularly,
        Action::PollAfter(Delay::Backoff { .. }) => Do::BackOff,
        Action::PollAfter(Delay::Look) => Do::LookLater,
        Action::PollAfter(Delay::Gate { .. }) => Do::PollWhenOpen,
    };
    actions.iter().map(one).collect()
}

/// Whether the row is about this sample.
fn covers(row: &Row, name: &str, condition: &str) -> bool {
    let members = GROUPS.iter().find(|(group, _)| *group == row.0).map(|(_, members)| *members);
    row.1 == condition && members.map_or(row.0 == name, |members| members.contains(&name))
}

/// What must happen; `None`: nothing at all.
fn expected(name: &str, condition: &str, event: &str) -> Option<&'static Row> {
    let looks_are_ignored = name == "Resolving" || GROUPS[0].1.contains(&name);
    TABLE
        .iter()
        .find(|row| covers(row, name, condition) && row.2.contains(&event))
        .or_else(|| LOOKED_AT_REST.iter().find(|row| !looks_are_ignored && row.2.contains(&event)))
}

#[test]
fn the_table_lists_exactly_what_happens() {
    for (name, condition, state) in samples() {
        for (event_name, event) in events() {
            let (after, actions) = step(state.clone(), event);
            let case = format!("{name} ({condition}) on {event_name}");
            match expected(name, condition, &event_name) {
                Some(row) => {
                    assert_eq!(node(&after), row.3, "{case}");
                    assert_eq!(done(&actions), row.4, "{case}");
                }
                None => {
                    // What is installed may become known at any time.
                    let known = State { installed: after.installed.clone(), ..state.clone() };
                    assert_eq!(after, known, "{case}");
                    assert!(after.installed == state.installed || event_name == "Installed", "{case}");
                    assert_eq!(actions, [], "{case}");
                }
            }
            assert_eq!(after.gate.is_some(), after.stage == Stage::Waiting, "{case}");
        }
    }
}

#[test]
fn every_row_of_the_table_is_about_a_sample_and_an_event() {
    let (samples, events) = (samples(), events());
    for row in TABLE.iter().chain(LOOKED_AT_REST) {
        let about_all = row.0.is_empty();
        assert!(
            about_all || samples.iter().any(|(name, condition, _)| covers(row, name, condition)),
            "{row:?}"
        );
        for event in row.2 {
            assert!(events.iter().any(|(name, _)| name == event), "{event} in {row:?}");
        }
        assert!(samples.iter().any(|(name, ..)| *name == row.3), "{row:?}");
    }
}

#[test]
fn upgrading_stages_are_the_ones_between_resolving_and_the_end() {
    for (stage, upgrading) in STAGES {
        assert_eq!(stage.is_upgrading(), *upgrading, "{stage}");
        assert_eq!(serde_json::to_string(stage).unwrap(), format!("\"{stage}\""));
    }
}

fn run(events: impl IntoIterator<Item = Event>) -> (State, Vec<Action>) {
    let start = State { recovered: true, installed: Some(installed("1")), ..State::default() };
    let start = State { stage: Stage::Resolving, gate: None, ..start };
    events.into_iter().fold((start, vec![]), |(state, _), event| step(state, event))
}

fn offers(version: &str) -> Event {
    Event::Resolved(Ok(Resolved::Candidate(candidate(version))))
}

#[test]
fn a_release_that_fails_again_waits_longer_and_another_one_starts_afresh() {
    let fails = || Event::Applied(Err(problem(ProblemKind::Local)));
    let twice = [offers("2"), fails(), Event::PollDue, offers("2"), fails()];
    let (state, actions) = run(twice.clone());
    assert_eq!(actions, [Action::PollAfter(Delay::Backoff { attempt: 2 })]);
    assert_eq!((state.attempts, state.candidate), (2, Some(candidate("2"))));

    let (state, actions) = run(twice.into_iter().chain([Event::PollDue, offers("3")]));
    assert_eq!(actions, [Action::Apply(candidate("3"))]);
    assert_eq!((state.attempts, state.problem), (0, None));
}

#[test]
fn a_check_cuts_the_wait_after_a_failure_and_forgets_nothing() {
    let fails = Event::Applied(Err(problem(ProblemKind::Refused)));
    let (state, actions) = run([offers("2"), fails, Event::CheckRequested]);
    assert_eq!(actions, [Action::Resolve]);
    assert_eq!((state.attempts, state.stage), (1, Stage::Resolving));
}

#[test]
fn success_ends_the_count_of_failures() {
    let fails = Event::Applied(Err(problem(ProblemKind::Network)));
    let committed = Event::Applied(Ok(Applied::Committed { generation: 9 }));
    let (state, _) = run([offers("2"), fails.clone(), Event::PollDue, offers("2"), committed]);
    assert_eq!((state.attempts, &state.problem, &state.candidate), (0, &None, &None));
    assert_eq!(state.installed, Some(candidate("2").installed_as(9)));

    let unchanged = Event::Resolved(Ok(Resolved::Unchanged));
    let (state, _) = run([offers("2"), fails, Event::PollDue, unchanged]);
    assert_eq!((state.stage, state.attempts, state.problem, state.candidate), (Stage::Idle, 0, None, None));
}

#[test]
fn a_degraded_node_undoes_again_before_it_upgrades() {
    let fails = Event::Applied(Err(problem(ProblemKind::Degraded)));
    let (state, actions) = run([offers("2"), fails.clone(), Event::PollDue]);
    assert_eq!((state.recovered, actions), (false, vec![Action::Recover]));
    let (state, actions) = run([offers("2"), fails, Event::PollDue, Event::Recovered(Ok(()))]);
    assert_eq!((state.recovered, actions), (true, vec![Action::Resolve]));
}

#[test]
fn a_rollback_says_why() {
    let ill = Event::Applied(Ok(Applied::RolledBack { reason: "web did not start".into() }));
    let (state, _) = run([offers("2"), ill]);
    assert!(state.problem.unwrap().message.contains("web did not start"));
}
