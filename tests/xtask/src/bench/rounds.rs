//! Every case right after a `cp -a`, round by round, and the medians of that.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use molt_tests::{Error, output};
use serde::Serialize;

use super::arena::Arena;
use super::case::{Case, Outcome, Step, copy};
use super::machine::Watch;
use super::measure::{self, Usage};
use super::ours::Cases;

/// Name of the copy that everything is compared with.
pub(super) const COPY: &str = "cp -a";

/// A pair during which other programs used more of the processors than this is measured again.
const QUIET: f64 = 0.1;

/// How often at most; the pair with the least disturbance counts.
const ATTEMPTS: usize = 3;

/// How long comparing two trees may take.
const COMPARE_LIMIT: Duration = Duration::from_secs(600);

/// What was measured of one case.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Measured {
    /// The case.
    pub(super) name: String,
    /// Whether it ends with a copy of the tree.
    pub(super) copies: bool,
    /// Median of the ratios to the `cp -a` right before.
    pub(super) ratio: f64,
    /// The smallest and the largest of these ratios.
    pub(super) ratios: (f64, f64),
    /// Median duration in seconds.
    pub(super) wall: f64,
    /// 10^6 bytes of the tree per second, by that duration.
    pub(super) rate: f64,
    /// Median of the processor time in seconds.
    pub(super) cpu: f64,
    /// Largest memory of a program, in MiB.
    pub(super) peak: f64,
    /// Largest part of the processors that other programs had, 0 to 1.
    pub(super) disturbance: f64,
}

/// Measures all cases; the first is the copy itself.
///
/// # Errors
/// When a program fails, or what it made differs from the tree.
pub(super) fn measure(arena: &Arena, cases: &Cases, rounds: usize) -> Result<Vec<Measured>, Error> {
    let copied = arena.path("copied");
    let copy = Case {
        name: COPY,
        fresh: vec![copied.clone()],
        steps: vec![Step::Run(copy(&arena.tree(), &copied))],
        outcome: Outcome::Copy(copied),
    };
    let cases_and_hub = (cases.list.as_slice(), cases.hub.pid());
    let mut pairs = vec![Vec::new(); cases.list.len()];
    for round in 0..rounds {
        println!("round {} of {rounds}", round + 1);
        for (case, pairs) in cases_and_hub.0.iter().zip(&mut pairs) {
            let pair = least_disturbed(&copy, case, cases_and_hub.1)?;
            if round == 0
                && let Outcome::Copy(made) = &case.outcome
            {
                compare(&arena.tree(), made, case.name)?;
            }
            clear(case)?;
            pairs.push(pair);
        }
    }
    let bytes = arena.facts().bytes;
    let all_copies: Vec<_> = pairs.iter().flatten().map(|pair| Pair { case: pair.copy, ..*pair }).collect();
    let measured = cases.list.iter().zip(&pairs).map(|(case, pairs)| summary(case, pairs, bytes));
    Ok([summary(&copy, &all_copies, bytes)].into_iter().chain(measured).collect())
}

/// A case with the copy before it.
#[derive(Debug, Clone, Copy)]
struct Pair {
    copy: Usage,
    case: Usage,
    disturbance: f64,
}

impl Pair {
    fn ratio(&self) -> f64 {
        self.case.wall.as_secs_f64() / self.copy.wall.as_secs_f64()
    }
}

fn least_disturbed(copy: &Case, case: &Case, hub_pid: i32) -> Result<Pair, Error> {
    let mut best: Option<Pair> = None;
    for _ in 0..ATTEMPTS {
        // What was made before is removed outside of what is watched.
        clear(copy)?;
        clear(case)?;
        let watch = Watch::start(hub_pid)?;
        let (copy, case) = (measure::measure(copy)?, measure::measure(case)?);
        let pair = Pair { copy, case, disturbance: watch.others(&[copy, case])? };
        if best.is_none_or(|best| pair.disturbance < best.disturbance) {
            best = Some(pair);
        }
        if pair.disturbance <= QUIET {
            break;
        }
    }
    best.ok_or_else(|| Error::Unexpected(format!("{} was not measured", case.name)))
}

fn clear(case: &Case) -> Result<(), Error> {
    case.fresh.iter().try_for_each(|directory| measure::empty(directory))
}

/// Fails unless both directories hold the same names, types, links and bytes.
fn compare(tree: &Path, made: &Path, name: &str) -> Result<(), Error> {
    let mut diff = Command::new("diff");
    let ended =
        output(diff.args(["--recursive", "--no-dereference", "--brief"]).arg(tree).arg(made), COMPARE_LIMIT)?;
    let names = fs::read_dir(made).map_or(0, Iterator::count);
    if ended.status.success() && names > 0 {
        return Ok(());
    }
    let differences = String::from_utf8_lossy(&ended.stdout);
    let first = differences.lines().take(3).collect::<Vec<_>>().join("; ");
    Err(Error::Unexpected(format!("{name} made something else than the tree: {first}")))
}

fn summary(case: &Case, pairs: &[Pair], bytes: u64) -> Measured {
    let of = |value: &dyn Fn(&Pair) -> f64| pairs.iter().map(value).collect::<Vec<_>>();
    let ratios = of(&Pair::ratio);
    let wall = median(of(&|pair| pair.case.wall.as_secs_f64()));
    Measured {
        name: case.name.to_owned(),
        copies: matches!(case.outcome, Outcome::Copy(_)),
        ratio: median(ratios.clone()),
        ratios: (largest(ratios.iter().map(|ratio| -ratio)).abs(), largest(ratios)),
        wall,
        rate: bytes as f64 / 1e6 / wall,
        cpu: median(of(&|pair| pair.case.cpu.as_secs_f64())),
        peak: largest(of(&|pair| pair.case.peak as f64 / f64::from(1 << 20))),
        disturbance: largest(of(&|pair| pair.disturbance)),
    }
}

fn largest(values: impl IntoIterator<Item = f64>) -> f64 {
    values.into_iter().fold(f64::NEG_INFINITY, f64::max)
}

/// The middle value; of an even number, the mean of the two in the middle.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.as_slice() {
        [] => f64::NAN,
        values if values.len() % 2 == 1 => values[half],
        values => f64::midpoint(values[half - 1], values[half]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_counts() {
        assert!((median(vec![9.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(vec![4.0, 1.0, 2.0, 9.0]) - 3.0).abs() < 1e-9);
        assert!(median(Vec::new()).is_nan());
    }

    #[test]
    fn the_ratio_is_that_of_each_pair() {
        let usage =
            |millis| Usage { wall: Duration::from_millis(millis), cpu: Duration::ZERO, peak: 3 << 20 };
        let pair = |copy, case| Pair { copy: usage(copy), case: usage(case), disturbance: 0.0 };
        // The machine was four times slower during the second pair.
        let pairs = [pair(100, 200), pair(400, 800), pair(100, 250)];
        let case = Case { name: "x", fresh: Vec::new(), steps: Vec::new(), outcome: Outcome::Packed };
        let measured = summary(&case, &pairs, 1_000_000);
        assert!((measured.ratio - 2.0).abs() < 1e-9 && (measured.peak - 3.0).abs() < 1e-9);
        assert!((measured.ratios.0 - 2.0).abs() < 1e-9 && (measured.ratios.1 - 2.5).abs() < 1e-9);
        assert!((measured.rate - 4.0).abs() < 1e-9);
    }
}
