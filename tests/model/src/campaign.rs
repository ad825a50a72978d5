//! Every fault at every effect.

mod shared;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bootstrap::engine::EngineError;
use bootstrap::lock::{self, EngineLock};
use bootstrap::transaction::TransactionError;

use crate::fault::{FAULTS, FIRST_OF_TWO, Fault, IN_RECOVERY, IN_UNDO, KILLS, LASTING, Operation, Planned};
use crate::machine::Machine;
use crate::scenario::{Act, Scenario, SetUpError, Stage};
use crate::verdict::{Ending, Observed, compare, judge};
pub use shared::run_all;

/// Problems that are told in full.
const TOLD: usize = 20;

/// How much is tried.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    /// Of the operations of a scenario, every so many-th gets its faults (1: all). Each scenario begins at another one,
    /// so that among them a sample has all places of what they have in common.
    pub stride: usize,
    /// Of the operations of a recovery, and of those of an act after a failure, every so many-th gets a second fault (1:
    /// all); 0 for none.
    pub second_stride: usize,
}

/// What happened in one scenario.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Operations without any fault.
    pub operations: usize,
    /// Distinct cases.
    pub cases: usize,
    /// How they ended.
    pub endings: BTreeMap<Ending, usize>,
    /// What went wrong: case and reason.
    pub problems: Vec<String>,
    /// How many went wrong.
    pub failed: usize,
}

/// One case: a fault, one later in the same act, and one during the recovery from them.
#[derive(Debug, Clone, Copy)]
struct Case {
    first: Planned,
    again: Option<Planned>,
    second: Option<Planned>,
}

/// The operations of a case.
#[derive(Default)]
struct Course {
    act: Vec<Seen>,
    recovery: Vec<Seen>,
}

impl Case {
    fn of(first: Planned) -> Self {
        Self { first, again: None, second: None }
    }

    /// The last fault of the act.
    fn last(&self) -> Planned {
        self.again.unwrap_or(self.first)
    }

    fn plan(&self, machine: &Machine) {
        match self.again {
            None => machine.plan(Some(self.first)),
            Some(again) => machine.plan_after_failure(self.first.at, again),
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let one = |f: &mut fmt::Formatter<'_>, planned: &Planned| {
            let lasting = if planned.lasting { " for good" } else { "" };
            write!(f, "{}{lasting} at {}", planned.fault, planned.at)
        };
        one(f, &self.first)?;
        if let Some(again) = &self.again {
            f.write_str(", and ")?;
            one(f, again)?;
        }
        if let Some(second) = &self.second {
            f.write_str(", then ")?;
            one(f, second)?;
        }
        Ok(())
    }
}

/// An operation, and how many changes of names of root and state were not synced before it.
type Seen = (Operation, (usize, usize));

/// The operations of a machine, in their order.
fn seen(machine: &Machine) -> Vec<Seen> {
    machine.operations().into_iter().zip(machine.unsynced()).collect()
}

/// Those of some faults that can happen there and are not the same.
fn distinct(faults: &[Fault], (operation, unsynced): Seen) -> BTreeSet<Fault> {
    let apply = faults.iter().filter(|fault| fault.applies_to(operation));
    apply.map(|fault| fault.of(unsynced)).collect()
}

/// The faults of each of these operations.
fn each<'f>(
    operations: impl Iterator<Item = (usize, Seen)> + 'f,
    faults: &'f [Fault],
) -> impl Iterator<Item = (usize, Fault)> + 'f {
    operations.flat_map(|(at, there)| distinct(faults, there).into_iter().map(move |fault| (at, fault)))
}

/// Everything that the cases of one scenario need.
struct Trial<'t> {
    stage: Stage,
    old: Observed,
    new: Observed,
    /// Where it leads when nothing happens.
    done: Ending,
    operations: Vec<Seen>,
    lock: &'t EngineLock,
}

/// Runs cases of a scenario on one thread: those of the operations from `first` on, every `step`-th; with the first of
/// all comes what can happen when all is done.
///
/// # Errors
/// The scenario does not work without any fault.
fn run(
    scenario: Scenario,
    (first, step): (usize, usize),
    extent: Extent,
    directory: &Path,
) -> Result<Tally, SetUpError> {
    let lock = lock::take(directory, "the campaign", Duration::ZERO)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    runtime.block_on(async {
        let trial = Trial::begin(scenario, &lock).await?;
        let mut tally = Tally { operations: trial.operations.len(), ..Tally::default() };
        for at in (first..trial.operations.len()).step_by(step) {
            trial.at(at, extent, &mut tally).await;
        }
        if first < extent.stride.max(1) {
            trial.when_done(&mut tally).await;
        }
        Ok(tally)
    })
}

impl<'t> Trial<'t> {
    async fn begin(scenario: Scenario, lock: &'t EngineLock) -> Result<Self, SetUpError> {
        let may_fail = scenario.undoes_itself();
        let stage = scenario.set_up(lock).await?;
        let recovers = stage.scenario.act == Act::Recover;
        let whole = Arc::new(stage.machine.copy());
        whole.plan(None);
        let done = stage.act(&whole, lock).await;
        let operations = seen(&whole);
        match done {
            Err(error) if !may_fail => return Err(flist::report(&error).into()),
            _ => {}
        }
        let after = Observed::of(&whole);
        // What is cut off has no presentable state before; recovery leads to the old or the new one.
        let (old, new) = match recovers {
            true => {
                let again = Arc::new(whole.copy());
                stage.try_again(&again, lock).await.map_err(|error| flist::report(&error))?;
                (after, Observed::of(&again))
            }
            false => (Observed::of(&stage.machine), after),
        };
        let done = if recovers || old == new { Ending::Old } else { Ending::New };
        Ok(Self { stage, old, new, done, operations, lock })
    }

    async fn at(&self, at: usize, extent: Extent, tally: &mut Tally) {
        let here = self.operations[at];
        for fault in distinct(&FAULTS, here) {
            let first = Case::of(Planned { at, fault, lasting: false });
            let course = self.count(first, tally).await;
            if extent.second_stride == 0 {
                continue;
            }
            if KILLS.contains(&fault) {
                // Each first fault begins at another place, so that among them every effect of a recovery is hit.
                let recovery = course.recovery.into_iter().enumerate().skip(at % extent.second_stride);
                let recovery = recovery.step_by(extent.second_stride);
                for (at, fault) in each(recovery, &IN_RECOVERY) {
                    let second = Some(Planned { at, fault, lasting: false });
                    self.count(Case { second, ..first }, tally).await;
                }
            } else if fault == FIRST_OF_TWO {
                let later = course.act.into_iter().enumerate().skip(at + 1 + at % extent.second_stride);
                let later = later.step_by(extent.second_stride);
                for (at, fault) in each(later, &IN_UNDO) {
                    let again = Some(Planned { at, fault, lasting: false });
                    self.count(Case { again, ..first }, tally).await;
                }
            }
        }
        for fault in LASTING.into_iter().filter(|fault| fault.applies_to(here.0)) {
            self.count(Case::of(Planned { at, fault, lasting: true }), tally).await;
        }
    }

    /// The power goes when all is done: that has to last.
    async fn when_done(&self, tally: &mut Tally) {
        let at = self.operations.len();
        for fault in FAULTS.into_iter().filter(|fault| matches!(fault, Fault::Disorder(..))) {
            self.count(Case::of(Planned { at, fault, lasting: false }), tally).await;
        }
    }

    /// Runs one case and returns its operations.
    async fn count(&self, case: Case, tally: &mut Tally) -> Course {
        tally.cases += 1;
        let machine = Arc::new(self.stage.machine.copy());
        let (ended, course) = self.run(&machine, case).await;
        match ended {
            Ok(ending) => *tally.endings.entry(ending).or_default() += 1,
            Err(problem) => {
                tally.failed += 1;
                if tally.problems.len() < TOLD {
                    tally.problems.push(format!("{case}: {problem}"));
                }
            }
        }
        course
    }

    /// What is wrong with what is recorded.
    fn trouble(&self, machine: &Arc<Machine>, ending: Ending) -> Option<String> {
        match self.stage.trouble_with_record(machine, ending) {
            Ok(trouble) => trouble.map(|trouble| format!("{ending:?}, but {trouble}")),
            Err(error) => Some(flist::report(&error)),
        }
    }

    /// What is wrong while a fault lasts that no engine can do anything about: it has to say that the node is neither
    /// old nor new, and keep every byte.
    fn while_it_lasts(&self, machine: &Arc<Machine>, done: &Result<(), EngineError>) -> Result<(), String> {
        // A recovery begins where the node is neither, and has kept what the journal tells of.
        if self.stage.scenario.act == Act::Recover {
            return Ok(());
        }
        let verdict = match self.stage.scenario.act {
            // On a first boot what does not come up after the commit is told, and kept (contract, item 2).
            Act::Boot => compare(
                &Observed::of(machine).but_made_last(),
                (&self.old.but_made_last(), &self.new.but_made_last()),
            ),
            _ => judge(machine, (&self.old, &self.new), &self.stage.ignored_while_it_lasts()),
        };
        let Err(problem) = verdict else { return Ok(()) };
        let lost = self.old.lost_in(machine);
        if Observed::of(machine) != self.new && !lost.is_empty() {
            return Err(lost.join("; "));
        }
        match done {
            Err(EngineError::Transaction(
                TransactionError::Degraded { .. } | TransactionError::NotRecovered(_),
            )) => Ok(()),
            Err(error) => Err(format!("it only says that {}, and is {problem}", flist::report(error))),
            Ok(()) => Err(format!("it says that all is well, and is {problem}")),
        }
    }

    /// What is wrong right after the act, before any recovery.
    fn right_after(
        &self,
        machine: &Arc<Machine>,
        case: &Case,
        done: &Result<(), EngineError>,
    ) -> Result<(), String> {
        if case.last().fault.kills() {
            return Ok(());
        }
        if case.first.lasting {
            return self
                .while_it_lasts(machine, done)
                .map_err(|problem| format!("while it lasts: {problem}"));
        }
        if matches!(self.stage.scenario.act, Act::SelfUpdate | Act::SelfRevert | Act::Recover)
            || self.stage.scenario.undoes_itself()
        {
            return Ok(());
        }
        match case.again {
            // Undoing failed as well: what is left is for a recovery, as long as it is said and nothing is lost.
            Some(_) => self.while_it_lasts(machine, done),
            // One fault that passes is dealt with at once, without any recovery.
            None => judge(machine, (&self.old, &self.new), &self.stage.ignored()).map(drop),
        }
        .map_err(|problem| format!("right after it: {problem}"))
    }

    async fn run(&self, machine: &Arc<Machine>, case: Case) -> (Result<Ending, String>, Course) {
        let ignored = self.stage.ignored();
        case.plan(machine);
        let done = self.stage.act(machine, self.lock).await;
        let mut course = Course { act: seen(machine), recovery: Vec::new() };
        if let Err(problem) = self.right_after(machine, &case, &done) {
            return (Err(problem), course);
        }
        let mut restarted = false;
        if case.last().fault.cuts_power() {
            machine.power_on();
            restarted = true;
        }
        machine.plan(case.second);
        let first_recovery = self.stage.recover(machine, self.lock, restarted).await;
        course.recovery = seen(machine);
        if let (Err(error), None) = (first_recovery, case.second) {
            return (Err(format!("it does not recover at once: {}", flist::report(&error))), course);
        }
        if case.second.is_some_and(|second| second.fault.cuts_power()) {
            machine.power_on();
            restarted = true;
        }
        machine.plan(None);
        if let Err(error) = self.stage.recover(machine, self.lock, restarted).await {
            return (Err(format!("it does not recover: {}", flist::report(&error))), course);
        }
        let ended = match judge(machine, (&self.old, &self.new), &ignored) {
            Ok(ending) if let Some(trouble) = self.trouble(machine, ending) => Err(trouble),
            Ok(ending) if case.first.at == self.operations.len() && ending != self.done => {
                Err(format!("it was done, and is {ending:?} now"))
            }
            ended => ended,
        };
        (ended, course)
    }
}

/// The names of all endings that must occur, or the campaign has not bitten.
pub fn missing_endings(tallies: &BTreeMap<&'static str, Tally>) -> BTreeSet<Ending> {
    let seen: BTreeSet<Ending> = tallies.values().flat_map(|tally| tally.endings.keys().copied()).collect();
    [Ending::Old, Ending::New].into_iter().filter(|ending| !seen.contains(ending)).collect()
}
