//! A campaign on several threads.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Extent, TOLD, Tally, run};
use crate::scenario::{Scenario, SetUpError};

/// Parts that the cases of a scenario are run in: one scenario takes ten times as long as another, and at the end no
/// thread shall wait for the longest.
const PARTS: usize = 8;

/// Tallies of scenarios, and how many parts of each are still out.
type Parts = BTreeMap<&'static str, (Tally, usize)>;

/// Runs scenarios on several threads; tells each result as it comes.
///
/// # Errors
/// The first scenario that does not work without any fault.
pub fn run_all(
    scenarios: Vec<Scenario>,
    extent: Extent,
    threads: usize,
    directory: &Path,
    tell: &(dyn Fn(&str, &Tally) + Sync),
) -> Result<BTreeMap<&'static str, Tally>, SetUpError> {
    let next = AtomicUsize::new(0);
    let parts = Mutex::new(scenarios.iter().map(|it| (it.name, (Tally::default(), PARTS))).collect());
    let work = |number: usize| -> Result<(), SetUpError> {
        let directory = directory.join(number.to_string());
        loop {
            let taken = next.fetch_add(1, Ordering::Relaxed);
            let (at, part) = (taken / PARTS, taken % PARTS);
            let Some(scenario) = scenarios.get(at) else { return Ok(()) };
            let stride = extent.stride.max(1);
            let share = (at % stride + part * stride, PARTS * stride);
            let tally = run(scenario.clone(), share, extent, &directory)?;
            add(&parts, scenario.name, tally, tell);
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.max(1)).map(|number| scope.spawn(move || work(number))).collect();
        workers.into_iter().try_for_each(|worker| match worker.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })?;
    let parts = parts.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(parts.into_iter().map(|(name, (tally, _))| (name, tally)).collect())
}

/// Adds what came of a part; tells the whole with the last one.
fn add(parts: &Mutex<Parts>, name: &'static str, tally: Tally, tell: &(dyn Fn(&str, &Tally) + Sync)) {
    let mut parts: MutexGuard<'_, Parts> = parts.lock().unwrap_or_else(PoisonError::into_inner);
    let (whole, out) = parts.entry(name).or_insert((Tally::default(), 1));
    whole.add(tally);
    *out -= 1;
    if *out == 0 {
        tell(name, whole);
    }
}

impl Tally {
    /// Adds the cases of another part of the same scenario.
    fn add(&mut self, part: Tally) {
        let Tally { operations, cases, endings, problems, failed } = part;
        self.operations = operations;
        self.cases += cases;
        for (ending, count) in endings {
            *self.endings.entry(ending).or_default() += count;
        }
        let room = TOLD.saturating_sub(self.problems.len());
        self.problems.extend(problems.into_iter().take(room));
        self.failed += failed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario;

    /// In whichever parts it is run, it is the same cases.
    #[test]
    fn parts_add_up_to_all_cases() {
        let directory = tempfile::tempdir().unwrap();
        let first = || scenario::all().into_iter().take(1).collect::<Vec<_>>();
        let extent = Extent { stride: 3, second_stride: 0 };
        let whole = run(first().remove(0), (0, 3), extent, directory.path()).unwrap();
        let told = AtomicUsize::new(0);
        let tell = |_: &str, tally: &Tally| told.store(tally.cases, Ordering::Relaxed);
        let parts = run_all(first(), extent, 2, directory.path(), &tell).unwrap();
        let parts = parts.values().next().unwrap();
        assert_eq!((parts.cases, parts.operations), (whole.cases, whole.operations));
        assert_eq!((&parts.endings, told.into_inner()), (&whole.endings, whole.cases));
    }
}
