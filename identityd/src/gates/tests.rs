//! Every gate, closed and open, and what it says.

mod orders;

use std::path::Path;

use bootstrap::settings::Maintenance;
use flist::package::Unmet;

use super::*;
use crate::agent::{Installed, Problem, ProblemKind, Stage};
use crate::kernel::{KernelId, KernelState};
use crate::orders::{Hold, Pause};

fn candidate() -> Candidate {
    Candidate { channel: "r/c.flist".into(), version: "2.0.0".into(), release: "02".repeat(32) }
}

fn installed() -> Installed {
    Candidate { version: "1.0.0".into(), ..candidate() }.installed_as(3)
}

fn idle() -> State {
    State {
        stage: Stage::Idle,
        gate: None,
        recovered: true,
        installed: Some(installed()),
        ..State::default()
    }
}

fn at(unix: u64) -> Timestamp {
    Timestamp::from_unix(unix)
}

/// 1970-01-01, a Thursday, at noon.
const NOON: u64 = 12 * 3600;

/// What a gate is judged by; everything is fine until it is changed.
struct World {
    state: State,
    candidate: Option<Candidate>,
    cause: Cause,
    orders: Result<Orders, String>,
    windows: Option<Windows>,
    earliest: u64,
    failures: Option<Failures>,
    holder: Option<&'static str>,
    next: Timestamp,
    answered: Option<Timestamp>,
    over_budget: Option<OverBudget>,
    in_ram: Option<StateInRam>,
    unusable: Option<&'static str>,
    withheld: Option<Withheld>,
    mirrors: Mirrors,
    no_way_back: Option<&'static str>,
    lost: Option<&'static str>,
    kernel: Option<KernelStatus>,
    asked: Option<&'static str>,
    boot_waits: Option<&'static str>,
}

impl Default for World {
    fn default() -> Self {
        Self {
            state: idle(),
            candidate: Some(candidate()),
            cause: Cause::Poll,
            orders: Ok(Orders::default()),
            windows: None,
            earliest: 0,
            failures: None,
            holder: None,
            next: at(NOON + 600),
            answered: Some(at(NOON - 60)),
            over_budget: None,
            in_ram: None,
            unusable: None,
            withheld: None,
            mirrors: Mirrors::default(),
            no_way_back: None,
            lost: None,
            kernel: None,
            asked: None,
            boot_waits: None,
        }
    }
}

impl World {
    fn inputs(&self) -> Inputs<'_> {
        Inputs {
            state: &self.state,
            candidate: self.candidate.as_ref(),
            cause: &self.cause,
            held_by_kernel: false,
            orders: self.orders.as_ref().map_err(String::as_str),
            longest_postponement: Duration::from_secs(14 * 24 * 3600),
            windows: self.windows.as_ref(),
            earliest: self.earliest,
            failures: self.failures.clone(),
            lock_holder: self.holder,
            next_check: Some(&self.next),
            answered: self.answered.as_ref(),
            poll_interval: Duration::from_secs(600),
            over_budget: self.over_budget.as_ref(),
            state_in_ram: self.in_ram.as_ref(),
            state_unusable: self.unusable,
            withheld: self.withheld.as_ref(),
            mirrors: &self.mirrors,
            rollback_blocked: self.no_way_back,
            records_lost: self.lost,
            kernel: self.kernel.as_ref(),
            asked_channel: self.asked,
            boot_waits: self.boot_waits,
        }
    }

    fn reports(&self) -> Vec<GateReport> {
        evaluate(&self.inputs(), &at(NOON))
    }

    /// The only closed gate is this one, and it says all of this.
    fn closes(self, gate: Gate, says: &[&str]) -> GateReport {
        let reports = self.reports();
        let closed: Vec<_> = reports.iter().filter(|report| !report.open).collect();
        assert_eq!(closed.iter().map(|report| report.gate).collect::<Vec<_>>(), [gate]);
        assert_eq!(reports[0], *closed[0], "closed gates come first");
        for text in says {
            assert!(closed[0].why.contains(text), "{gate} should say {text}: {}", closed[0].why);
        }
        assert!(!closed[0].may_change.on.is_empty());
        closed[0].clone()
    }

    fn waiting(gate: Gate, kind: Option<ProblemKind>) -> Self {
        let problem = kind.map(|kind| Problem::new(kind, "it did not work"));
        let state = State { stage: Stage::Waiting, gate: Some(gate), problem, attempts: 2, ..idle() };
        Self { state, ..Self::default() }
    }

    fn ordered(order: impl FnOnce(&mut Orders)) -> Self {
        let mut orders = Orders::default();
        order(&mut orders);
        Self { orders: Ok(orders), ..Self::default() }
    }

    fn with_windows(windows: &[&str], cause: Cause) -> Self {
        let windows = windows.iter().map(|window| (*window).to_owned()).collect();
        let maintenance = Maintenance { timezone: "UTC".into(), windows };
        let windows = Windows::new(&maintenance, Path::new("/nonexistent")).unwrap();
        Self { windows: Some(windows), cause, ..Self::default() }
    }
}

#[test]
fn where_nothing_is_in_the_way_all_gates_are_open_and_say_why() {
    let reports = World::default().reports();
    assert_eq!(reports.iter().map(|report| report.gate).collect::<Vec<_>>(), Gate::ALL);
    assert!(reports.iter().all(|report| report.open && !report.why.is_empty()), "{reports:?}");
    assert_eq!(closed_before_upgrade(&World::default().inputs(), &at(NOON)), None);
}

#[test]
fn starting() {
    World::waiting(Gate::Starting, None).closes(Gate::Starting, &["interrupted run"]);
}

#[test]
fn flist_name() {
    let report = World::waiting(Gate::FlistName, None).closes(Gate::FlistName, &["/tmp/flist.name"]);
    assert_eq!(report.may_change.at, Some(at(NOON + 600)));
    let waits = "bootstrap waits for the hub";
    let world = World { boot_waits: Some(waits), ..World::waiting(Gate::FlistName, None) };
    world.closes(Gate::FlistName, &["/tmp/flist.name", waits]);
    // What was asked for is not what is followed: that keeps nothing from being installed, and is said.
    let world = World { asked: Some("flist= asks for a/b"), boot_waits: Some(waits), ..World::default() };
    let reports = world.reports();
    let report = reports.iter().find(|report| report.gate == Gate::FlistName).unwrap();
    assert!(report.open && report.why.contains("flist= asks for a/b"), "{report:?}");
}

#[test]
fn state() {
    let in_ram = StateInRam { since: at(5), reason: "/var/lib/molt: read-only".into(), unread: Vec::new() };
    let reports = World { in_ram: Some(in_ram), ..World::default() }.reports();
    let report = reports.iter().find(|report| report.gate == Gate::State).unwrap();
    assert!(
        report.open && report.why.contains("since 1970-01-01T00:00:05Z (/var/lib/molt: read-only)"),
        "{report:?}"
    );
    let report =
        World { unusable: Some("no memory"), ..World::default() }.closes(Gate::State, &["no memory"]);
    assert_eq!(report.may_change.at, Some(at(NOON + 600)));
}

#[test]
fn the_way_back_keeps_nothing_from_being_installed() {
    let world = World { no_way_back: Some("to 1.0.0: schema-too-new"), ..World::default() };
    world.closes(Gate::Rollback, &["`identityd rollback` would be refused: to 1.0.0: schema-too-new"]);
    assert!(!BEFORE_UPGRADE.contains(&Gate::Rollback));
    let lost = World { lost: Some("nothing says what is installed"), ..World::default() };
    let report = lost.closes(Gate::Rollback, &["nothing says what is installed"]);
    assert!(report.may_change.on.contains("records what is installed"), "{report:?}");
}

#[test]
fn another_kernel_keeps_nothing_from_being_installed() {
    let kernel = |state| {
        let running = KernelId { release: "6.1".into(), build: "#1".into() };
        Some(KernelStatus { state, installed: None, running, reason: "another one runs".into() })
    };
    let world = World { kernel: kernel(KernelState::RebootRequired), ..World::default() };
    let report = world.closes(Gate::Kernel, &["another one runs"]);
    assert_eq!(report.inputs["kernel"]["state"], "reboot-required", "{report:?}");
    assert!(report.may_change.on.contains("reboot"), "{report:?}");
    let world = World { kernel: kernel(KernelState::Unknown), ..World::default() };
    assert_eq!(world.closes(Gate::Kernel, &[]).may_change.on, "another release");
    assert!(!BEFORE_UPGRADE.contains(&Gate::Kernel));
}

#[test]
fn downtime() {
    let found = |release: String, unknown, cause| World {
        over_budget: Some(OverBudget { release, why: "web: p95 9 ms".to_owned(), unknown }),
        cause,
        ..World::default()
    };
    let over = |release, cause| found(release, false, cause);
    over(candidate().release, Cause::Poll).closes(Gate::Downtime, &["web: p95 9 ms"]);
    over(candidate().release, Cause::Check { by: 0 }).closes(Gate::Downtime, &["web"]);
    let unknown = found(candidate().release, true, Cause::Poll).closes(Gate::Downtime, &["web"]);
    assert!(unknown.may_change.on.contains("a history that can be read"), "{unknown:?}");
    for world in
        [over(candidate().release, Cause::Apply { by: 0, now: false }), over("other".into(), Cause::Poll)]
    {
        assert!(world.reports().iter().all(|report| report.open));
    }
}

#[test]
fn bad_release() {
    let failures = |bad| {
        Some(Failures { attempts: 3, bad, reason: "web did not start".into(), unknown: false, rests: false })
    };
    let world = |bad| World { failures: failures(bad), ..World::default() };
    let id = candidate().release;
    let says = ["2.0.0", &id, "failed 3 times", "web did not start", "identityd retry"];
    world(true).closes(Gate::BadRelease, &says);
    assert!(world(false).reports().iter().all(|report| report.open));
    let refused =
        Failures { attempts: 0, bad: true, reason: "web is missing".into(), unknown: false, rests: false };
    let why = World { failures: Some(refused), ..World::default() }
        .closes(Gate::BadRelease, &["2.0.0", &id, "is refused", "web is missing", "identityd retry"])
        .why;
    assert!(!why.contains("failed"), "{why}");
    let unknown = Failures {
        attempts: 0,
        bad: true,
        reason: "releases.json cannot be read".into(),
        unknown: true,
        rests: false,
    };
    let world = World { failures: Some(unknown), ..World::default() };
    let report = world.closes(Gate::BadRelease, &["nobody knows", "2.0.0", "releases.json cannot be read"]);
    assert!(
        report.may_change.on.contains("can be read") && report.may_change.on.contains("doctor"),
        "{report:?}"
    );
}

#[test]
fn refused() {
    let world = World::waiting(Gate::Refused, Some(ProblemKind::Refused));
    let report = world.closes(Gate::Refused, &["cannot be installed here: it did not work"]);
    assert_eq!(report.may_change.on, "another release");
    // What the node lacks is told with its code, and may change here.
    let mut world = World::waiting(Gate::Refused, Some(ProblemKind::Refused));
    let unmet = Unmet {
        code: "memory-too-small".into(),
        package: "web".into(),
        need: "2 MiB of memory".into(),
        have: "1 MiB".into(),
    };
    world.state.problem.as_mut().unwrap().unmet.push(unmet);
    let report = world.closes(Gate::Refused, &["it did not work"]);
    assert_eq!(report.inputs["problem"]["unmet"][0]["code"], "memory-too-small");
    assert!(report.may_change.on.contains("a change of this node"), "{}", report.may_change.on);
}

#[test]
fn trust() {
    let world = World::waiting(Gate::Trust, Some(ProblemKind::Refused));
    world.closes(Gate::Trust, &["what is installed stays: it did not work"]);
}

/// An operator does what is said there.
#[test]
fn what_may_change_a_gate_is_what_helps_against_this_problem() {
    for gate in [Gate::Trust, Gate::Refused, Gate::BackOff] {
        let mut world = World::waiting(gate, Some(ProblemKind::Refused));
        let problem = world.state.problem.take().unwrap();
        world.state.problem = Some(problem.helped_by("the file, put back"));
        let report = world.closes(gate, &["it did not work"]);
        assert!(report.may_change.on.ends_with("the file, put back"), "{report:?}");
    }
    let wrong_clock = World { earliest: NOON + 1, ..World::with_windows(&["11:00-13:00"], Cause::Poll) };
    let report = wrong_clock.closes(Gate::Maintenance, &[]);
    assert_eq!(
        (report.may_change.at, report.may_change.on.starts_with("a clock that is right")),
        (None, true)
    );
    let rests = Failures { attempts: 3, bad: true, reason: "full".into(), unknown: false, rests: true };
    let report = World { failures: Some(rests), ..World::default() }.closes(Gate::BadRelease, &["full"]);
    assert!(report.may_change.on.contains("a reboot"), "{report:?}");
    let waits = World { boot_waits: Some("for a hub"), ..World::waiting(Gate::FlistName, None) };
    assert_eq!(waits.closes(Gate::FlistName, &[]).may_change.on, "what the boot waits for");
}

#[test]
fn director() {
    let withheld = Withheld {
        version: "2.0.0".into(),
        release: "ab".into(),
        why: "this node's turn comes at noon".into(),
        turn: Some(at(NOON + 300)),
        node: "n1".into(),
        group: Some("canary".into()),
        place: "37.50".into(),
    };
    let world = World { withheld: Some(withheld), candidate: None, ..World::default() };
    let report = world.closes(Gate::Director, &["release 2.0.0 (ab)", "this node's turn comes at noon"]);
    assert_eq!(report.may_change.at, Some(at(NOON + 300)));
    let inputs = &report.inputs["withheld"];
    let said = [&inputs["node"], &inputs["group"], &inputs["place"]];
    assert_eq!(said, ["n1", "canary", "37.50"]);
}

#[test]
fn back_off() {
    let world = World::waiting(Gate::BackOff, Some(ProblemKind::Network));
    let says = ["failed 2 times in a row: it did not work", "tries again 1970-01-01T12:10:00Z"];
    let report = world.closes(Gate::BackOff, &says);
    assert_eq!((&report.inputs["attempts"], report.may_change.at), (&2.into(), Some(at(NOON + 600))));
}

#[test]
fn lock() {
    let world = World { holder: Some("bootstrap (pid 7)"), ..World::default() };
    world.closes(Gate::Lock, &["bootstrap (pid 7)"]);
}

#[test]
fn degraded() {
    let problem = Some(Problem::new(ProblemKind::Degraded, "/bin/web is not back"));
    let state = State { stage: Stage::Degraded, problem, attempts: 1, recovered: false, ..idle() };
    let world = World { state, ..World::default() };
    world.closes(Gate::Degraded, &["could not be undone", "/bin/web is not back"]);
}

#[test]
fn freshness() {
    let answered = |answered| World { answered, ..World::default() };
    answered(None).closes(Gate::Freshness, &["has not answered since identityd started"]);
    answered(Some(at(NOON - 3601))).closes(Gate::Freshness, &["3601 s"]);
    assert!(answered(Some(at(NOON - 3600))).reports().iter().all(|report| report.open));
    // A clock that was set back.
    assert!(answered(Some(at(NOON + 9999))).reports().iter().all(|report| report.open));
}
