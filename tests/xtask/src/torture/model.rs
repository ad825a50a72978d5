//! Every fault at every effect of the engine, in a model of a node.

use std::collections::BTreeMap;

use molt_model::campaign::{Extent, Tally, missing_endings, run_all};
use molt_model::scenario;
use molt_tests::Error;

use super::Options;

/// Distinct cases that a whole campaign has to come to.
const GOAL: usize = 100_000;

/// Runs the campaign and prints a table; `false` when a case went wrong, or the campaign did not bite.
///
/// # Errors
/// A scenario does not work even without a fault.
pub(super) fn run(options: &Options) -> Result<bool, Error> {
    let stride = if options.quick { 3 } else { 1 };
    let second_stride = options.second_stride.unwrap_or(if options.quick { 0 } else { 40 });
    let extent = Extent { stride, second_stride };
    let mut scenarios = scenario::all();
    scenarios.retain(|scenario| options.scenario.as_ref().is_none_or(|text| scenario.name.contains(text)));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let directory = tempfile::tempdir()
        .map_err(|source| Error::System { action: "make a directory".to_owned(), source })?;
    let tell = |name: &str, tally: &Tally| eprintln!("{name}: {} cases, {} wrong", tally.cases, tally.failed);
    let tallies = run_all(scenarios, extent, threads, directory.path(), &tell).map_err(|error| {
        Error::System { action: "set up a scenario".to_owned(), source: std::io::Error::other(error) }
    })?;
    print_table(&tallies);
    let cases: usize = tallies.values().map(|tally| tally.cases).sum();
    let failed: usize = tallies.values().map(|tally| tally.failed).sum();
    let missing = missing_endings(&tallies);
    for ending in &missing {
        println!("no case ended with {ending:?}: the campaign did not bite");
    }
    let is_whole = !options.quick && options.scenario.is_none();
    let enough = is_enough(is_whole, cases);
    if !enough {
        println!("{cases} distinct cases are fewer than the {GOAL} of a whole campaign: it did not bite");
    }
    Ok(failed == 0 && enough && (missing.is_empty() || options.scenario.is_some()))
}

/// Whether a campaign tried enough. A part of it may be as small as it likes.
fn is_enough(is_whole: bool, cases: usize) -> bool {
    !is_whole || cases >= GOAL
}

fn print_table(tallies: &BTreeMap<&'static str, Tally>) {
    println!("| scenario | effects | distinct cases | old | new | wrong |");
    println!("|---|---:|---:|---:|---:|---:|");
    let mut total = Tally::default();
    let row = |name: &str, tally: &Tally| {
        let ended = |ending| tally.endings.get(&ending).copied().unwrap_or_default();
        let (old, new) = (ended(molt_model::Ending::Old), ended(molt_model::Ending::New));
        println!("| {name} | {} | {} | {old} | {new} | {} |", tally.operations, tally.cases, tally.failed);
    };
    for (name, tally) in tallies {
        row(name, tally);
        total.operations += tally.operations;
        total.cases += tally.cases;
        total.failed += tally.failed;
        for (ending, count) in &tally.endings {
            *total.endings.entry(*ending).or_default() += count;
        }
    }
    row("all", &total);
    for (name, tally) in tallies {
        for problem in &tally.problems {
            println!("{name}: {problem}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_campaign_with_too_few_cases_fails() {
        assert!(!is_enough(true, GOAL - 1));
        assert!(is_enough(true, GOAL));
        assert!(is_enough(false, 1));
    }
}
