//! Notes what becomes of every attempt, for the history.

use std::time::Instant;

use bootstrap::generation::{boot_id, random_token};
use bootstrap::releases::{Note, Releases};
use bootstrap::state_place::StatePlace;
use flist::hub::ReleaseId;

use super::model::{Applied, Candidate, Installed, Problem, ProblemKind, ServiceEvent};
use super::stage::{Gate, Stage};
use super::state::Event;
use crate::downtime::Expected;
use crate::gates::Failures;
use crate::history::{Cause, EndedBy, History, HistoryError, Named, Outcome, PutOff, Record, StageTime};
use crate::timestamp::Timestamp;

/// What the engine writes down of an attempt before anybody knows better.
const INTERRUPTED: &str = "the attempt was interrupted";

/// What was so when an attempt began.
#[derive(Debug, Default)]
pub(super) struct Before {
    /// Failures of the release that had been counted.
    pub(super) failures: u32,
    /// Who had postponed it.
    pub(super) postponed: Option<PutOff>,
}

/// The attempt that runs, and the one that was cut off.
#[derive(Debug)]
pub(super) struct Attempts {
    history: History,
    /// This boot's id.
    boot: String,
    running: Option<Running>,
    /// Ran when the process before this one ended.
    unfinished: Option<Record>,
    /// The release and the reason of the last refusal that was noted: a poll that finds the same is no news.
    refused: Option<(String, String)>,
}

#[derive(Debug)]
struct Running {
    record: Record,
    stage: Stage,
    since: Instant,
}

impl Attempts {
    /// Goes on with this history. With `handed_over`, the attempt that runs goes on in this process.
    pub(super) fn open(history: History, boot: String, handed_over: bool) -> Self {
        let unfinished = history.unfinished();
        let last = history.read(1).unwrap_or_default().records.pop();
        let refused = last.filter(|last| last.outcome == Outcome::Refused);
        let refused = refused.map(|last| (last.to.release, last.reason.unwrap_or_default()));
        let mut attempts = Self { history, boot, running: None, unfinished: None, refused };
        match unfinished {
            Some(record) if handed_over => {
                attempts.running = Some(Running { record, stage: Stage::Swapping, since: Instant::now() });
            }
            unfinished => attempts.unfinished = unfinished,
        }
        attempts
    }

    /// Whether what became of earlier attempts can be read.
    pub(super) fn can_be_read(&self) -> bool {
        self.history.read(1).is_ok()
    }

    /// On whose behalf the attempt runs.
    pub(super) fn cause(&self) -> Option<&Cause> {
        self.running.as_ref().map(|running| &running.record.cause)
    }

    pub(super) fn begin(
        &mut self,
        cause: Cause,
        (installed, candidate): (Option<&Installed>, &Candidate),
        before: Before,
        now: Timestamp,
    ) {
        let what = (installed.map(Named::from), Named::from(candidate));
        let mut record = Record::begin((self.new_id(&now), self.boot.clone()), cause, what, now);
        (record.failures_before, record.postponed) = (before.failures, before.postponed);
        report(self.history.keep_running(&record));
        self.running = Some(Running { record, stage: Stage::Fetching, since: Instant::now() });
    }

    pub(super) fn stage(&mut self, stage: Stage) {
        let Some(running) = &mut self.running else { return };
        running.close_stage();
        running.stage = stage;
        report(self.history.keep_running(&running.record));
    }

    pub(super) fn expect(&mut self, expected: &[Expected]) {
        if let Some(running) = &mut self.running {
            running.record.expect(expected);
        }
    }

    pub(super) fn service(&mut self, name: &str, event: ServiceEvent) {
        let Some(running) = &mut self.running else { return };
        let down = match event {
            ServiceEvent::Stopped => None,
            ServiceEvent::Started { down_ms } => Some(down_ms),
        };
        running.record.service(name, down);
    }

    pub(super) fn fetched(&mut self, bytes: u64) {
        if let Some(running) = &mut self.running {
            running.record.bytes_fetched = bytes;
        }
    }

    /// Notes what an event says about attempts. `failures` is what is remembered of a release, by its id.
    pub(super) fn follow(
        &mut self,
        event: &Event,
        failures: impl Fn(&str) -> Option<Failures>,
        now: &Timestamp,
    ) {
        match event {
            // The self-update has committed: the rest of the release is an attempt of its own.
            Event::Recovered(Ok(())) => {
                self.end(Outcome::Committed, "Handover", Some("identityd has replaced itself"), now);
            }
            Event::LookedForInstalled(Ok(Some(installed))) => {
                self.settle_unfinished(installed, failures, now)
            }
            Event::Applied(Ok(Applied::Committed { .. })) => {
                self.end(Outcome::Committed, "Committed", None, now)
            }
            Event::Applied(Ok(Applied::Nothing)) => self.end(Outcome::Nothing, "Nothing", None, now),
            Event::Applied(Ok(Applied::RolledBack { reason })) => {
                self.end(Outcome::RolledBack, "RolledBack", Some(reason), now);
            }
            Event::Applied(Err(problem)) => {
                let outcome = match problem.kind {
                    ProblemKind::Refused => Outcome::Refused,
                    ProblemKind::Degraded => Outcome::Degraded,
                    _ => Outcome::Failed,
                };
                self.end(outcome, problem.kind.as_str(), Some(&problem.message), now);
            }
            // Told by `Blocked`, unless it is a rollback.
            Event::Blocked { gate, why, .. } | Event::Applied(Ok(Applied::Stopped { gate, why })) => {
                let outcome = if *gate == Gate::Hold { Outcome::Cancelled } else { Outcome::Stopped };
                self.end(outcome, gate.as_str(), Some(why), now);
            }
            _ => {}
        }
    }

    /// Notes that a release is not to be installed, unless that is known.
    pub(super) fn refused(
        &mut self,
        cause: Cause,
        (installed, candidate): (Option<&Installed>, &Candidate),
        problem: &Problem,
        now: &Timestamp,
    ) {
        let refusal = (candidate.release.clone(), problem.message.clone());
        if self.refused.as_ref() == Some(&refusal) {
            return;
        }
        let what = (installed.map(Named::from), Named::from(candidate));
        let record = Record::begin((self.new_id(now), self.boot.clone()), cause, what, now.clone());
        let code = problem.kind.as_str();
        report(self.history.append(&record.end(
            Outcome::Refused,
            Some(code),
            Some(&problem.message),
            now.clone(),
        )));
        self.refused = Some(refusal);
    }

    fn end(&mut self, outcome: Outcome, code: &str, reason: Option<&str>, now: &Timestamp) {
        let Some(mut running) = self.running.take() else { return };
        running.close_stage();
        report(self.history.append(&running.record.end(outcome, Some(code), reason, now.clone())));
        report(self.history.nothing_runs());
    }

    /// Says how the attempt ended that was cut off: what is installed now, and what is remembered of the
    /// release, tell.
    fn settle_unfinished(
        &mut self,
        installed: &Installed,
        failures: impl Fn(&str) -> Option<Failures>,
        now: &Timestamp,
    ) {
        let Some(record) = self.unfinished.take() else { return };
        let noted = failures(&record.to.release)
            .filter(|noted| noted.attempts > record.failures_before && noted.reason != INTERRUPTED);
        let (power, boot) = (record.boot != self.boot, &record.boot);
        let (outcome, code, reason, ended_by) = match noted {
            _ if installed.release == record.to.release => (
                Outcome::Committed,
                "Recovered",
                "recovery found it committed and finished it".to_owned(),
                None,
            ),
            Some(noted) => (Outcome::RolledBack, "RolledBack", noted.reason, None),
            None if power => {
                let reason = format!("the node went down in the middle of it (boot {boot})");
                (Outcome::Interrupted, "Interrupted", reason, Some(EndedBy::PowerLoss))
            }
            None => {
                let reason = "identityd was killed in the middle of it".to_owned();
                (Outcome::Interrupted, "Interrupted", reason, Some(EndedBy::Killed))
            }
        };
        let mut record = record.end(outcome, Some(code), Some(&reason), now.clone());
        record.ended_by = ended_by;
        report(self.history.append(&record));
        report(self.history.nothing_runs());
    }

    fn new_id(&self, now: &Timestamp) -> String {
        // Without /proc, the second of its beginning has to do.
        random_token().unwrap_or_else(|_| now.unix.to_string())
    }
}

impl Running {
    fn close_stage(&mut self) {
        let ms = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.record.stages.push(StageTime { stage: self.stage, ms });
        self.since = Instant::now();
    }
}

/// What is remembered of a release.
pub(super) fn failures(place: &StatePlace, release: &str) -> Option<Failures> {
    let id: ReleaseId = release.parse().ok()?;
    let releases = Releases::load(place);
    if let Some(why) = releases.unreadable() {
        return Some(Failures {
            attempts: 0,
            bad: true,
            reason: why.to_owned(),
            unknown: true,
            rests: false,
        });
    }
    let note = releases.note(&id)?;
    let Note { attempts, reason, excused, .. } = note;
    let (bad, rests) = (note.is_bad(), note.rests(&boot_id()));
    if rests && !bad {
        let reason = format!("{reason}; a reboot tries it again, too");
        return Some(Failures { attempts: *excused, bad: true, reason, unknown: false, rests: true });
    }
    (*attempts > 0 || bad).then(|| Failures {
        attempts: *attempts,
        bad,
        reason: reason.clone(),
        unknown: false,
        rests: false,
    })
}

/// An upgrade is not held up because nobody will know of it.
fn report(written: Result<(), HistoryError>) {
    if let Err(error) = written {
        tracing::warn!(error = flist::report(&error), "the history is not complete");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(version: &str) -> Candidate {
        Candidate { channel: "r/c.flist".into(), version: version.into(), release: format!("id-{version}") }
    }

    fn installed(version: &str) -> Installed {
        candidate(version).installed_as(1)
    }

    fn now() -> Timestamp {
        Timestamp::from_unix(100)
    }

    /// What the history says of an attempt that was cut off in the boot `boot`.
    fn cut_off(boot: &str, now_installed: &str, noted: Option<Failures>) -> Record {
        let directory = tempfile::tempdir().unwrap();
        let history = History::new(directory.path());
        let mut first = Attempts::open(history.clone(), boot.to_owned(), false);
        first.begin(
            Cause::Poll,
            (Some(&installed("1")), &candidate("2")),
            Before { failures: 1, ..Before::default() },
            now(),
        );
        first.stage(Stage::Staging);
        drop(first);

        let mut second = Attempts::open(history.clone(), "this boot".to_owned(), false);
        assert_eq!(history.read(9).unwrap().records, []);
        let looked = Event::LookedForInstalled(Ok(Some(installed(now_installed))));
        second.follow(&looked, |_| noted.clone(), &now());
        second.follow(&looked, |_| noted.clone(), &now());
        assert_eq!(history.unfinished(), None);
        let mut past = history.read(9).unwrap();
        assert_eq!(past.records.len(), 1);
        past.records.pop().unwrap()
    }

    #[test]
    fn an_attempt_that_was_cut_off_says_what_cut_it_off() {
        let noted = |attempts, reason: &str| {
            Some(Failures { attempts, bad: false, reason: reason.to_owned(), unknown: false, rests: false })
        };
        let killed = cut_off("this boot", "1", None);
        assert_eq!((killed.outcome, killed.ended_by), (Outcome::Interrupted, Some(EndedBy::Killed)));
        assert_eq!(killed.stages[0].stage, Stage::Fetching);
        let power = cut_off("another boot", "1", noted(2, INTERRUPTED));
        assert_eq!((power.outcome, power.ended_by), (Outcome::Interrupted, Some(EndedBy::PowerLoss)));
        let finished = cut_off("this boot", "2", None);
        assert_eq!((finished.outcome, finished.ended_by), (Outcome::Committed, None));
        // The guardian has put the old one back and has noted why.
        let undone = cut_off("this boot", "1", noted(2, "its identityd failed: it hung"));
        assert_eq!(undone.outcome, Outcome::RolledBack);
        assert!(undone.reason.unwrap().contains("it hung"));
        // That failure was known before.
        let old = cut_off("this boot", "1", noted(1, "its identityd failed: it hung"));
        assert_eq!(old.outcome, Outcome::Interrupted);
    }

    #[test]
    fn an_attempt_goes_on_across_a_handover_on_the_same_behalf() {
        let directory = tempfile::tempdir().unwrap();
        let history = History::new(directory.path());
        let cause = Cause::Apply { by: 1000, now: true };
        let mut first = Attempts::open(history.clone(), "boot".to_owned(), false);
        first.begin(cause.clone(), (None, &candidate("2")), Before::default(), now());
        drop(first);
        let mut second = Attempts::open(history.clone(), "boot".to_owned(), true);
        assert_eq!(second.cause(), Some(&cause));
        second.follow(&Event::Recovered(Ok(())), |_| None, &now());
        let past = history.read(9).unwrap().records;
        assert_eq!((past[0].outcome, past[0].code.as_deref()), (Outcome::Committed, Some("Handover")));
        assert_eq!(second.cause(), None);
    }

    #[test]
    fn every_end_has_an_outcome_and_a_code() {
        let blocked = |gate| Event::Blocked { candidate: candidate("2"), gate, why: "x".into(), opens: None };
        let failed = |kind| Event::Applied(Err(Problem::new(kind, "x")));
        let rolled_back = Applied::RolledBack { reason: "x".into() };
        for (event, outcome, code) in [
            (Event::Applied(Ok(Applied::Committed { generation: 2 })), Outcome::Committed, "Committed"),
            (Event::Applied(Ok(Applied::Nothing)), Outcome::Nothing, "Nothing"),
            (Event::Applied(Ok(rolled_back)), Outcome::RolledBack, "RolledBack"),
            (failed(ProblemKind::Refused), Outcome::Refused, "Refused"),
            (failed(ProblemKind::Network), Outcome::Failed, "Network"),
            (failed(ProblemKind::Degraded), Outcome::Degraded, "Degraded"),
            (blocked(Gate::Hold), Outcome::Cancelled, "Hold"),
            (blocked(Gate::Pause), Outcome::Stopped, "Pause"),
            (blocked(Gate::Maintenance), Outcome::Stopped, "Maintenance"),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let history = History::new(directory.path());
            let mut attempts = Attempts::open(history.clone(), "boot".to_owned(), false);
            // Nothing runs: nothing to note.
            attempts.follow(&event, |_| None, &now());
            attempts.begin(Cause::Poll, (Some(&installed("1")), &candidate("2")), Before::default(), now());
            attempts.fetched(7);
            attempts.service("web", ServiceEvent::Started { down_ms: 12 });
            attempts.follow(&event, |_| None, &now());
            let past = history.read(9).unwrap().records;
            assert_eq!((past.len(), past[0].outcome, past[0].code.as_deref()), (1, outcome, Some(code)));
            assert_eq!((past[0].bytes_fetched, past[0].services[0].down_ms), (7, Some(12)));
            assert_eq!((past[0].to.version.as_str(), history.unfinished()), ("2", None));
        }
    }

    #[test]
    fn the_same_refusal_is_noted_once_also_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let history = History::new(directory.path());
        let refuse = |message: &str| {
            let mut attempts = Attempts::open(history.clone(), "boot".to_owned(), false);
            let problem = Problem::new(ProblemKind::Refused, message);
            for _ in 0..2 {
                attempts.refused(Cause::Poll, (None, &candidate("2")), &problem, &now());
            }
            history.read(9).unwrap().records.len()
        };
        assert_eq!((refuse("bad"), refuse("bad"), refuse("worse")), (1, 1, 2));
    }
}
