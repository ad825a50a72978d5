//! The campaigns with virtual machines.

use std::time::{Duration, Instant};

use molt_tests::Error;
use molt_tests::campaign::power::{self, Root, Tally};
use molt_tests::campaign::{Ending, hub_loss};

use super::Options;

/// Cuts of whole campaigns and of quick ones: with the root on a disk, in RAM, and with reordered writes. One of four
/// with a whole disk comes before the first record of the journal or after the commit; 30 and 10 come between.
const CUTS: [(&str, u32, u32); 3] = [("ext4", 40, 3), ("RAM", 14, 1), ("ext4, reordered", 12, 2)];

/// The same where the machine's own kernel logs what it writes.
const CUTS_BY_GUEST: (&str, u32, u32) = ("ext4, reordered by the guest", 12, 2);

/// From so many cuts on, every ending has to be there.
const ENOUGH: usize = 16;

/// Boots of whole campaigns and of quick ones.
const BOOTS: (u32, u32) = (20, 3);

/// Longest time that a boot may take once the hub is back.
const BACK: Duration = Duration::from_secs(60);

/// Cuts the power; `false` when a machine was not what it had to be.
///
/// # Errors
/// A machine cannot be set up.
pub(super) fn power(options: &Options) -> Result<bool, Error> {
    let (start, mut rows, mut problems) = (Instant::now(), Vec::new(), Vec::new());
    for (number, (name, whole, quick)) in CUTS.into_iter().enumerate() {
        let extent = super::real::extent(options, name, (whole, quick))?;
        let tell = |said: &str| eprintln!("{name}: {said}");
        let tally = match number {
            0 => power::run(extent, Root::Disk, &tell)?,
            1 => power::run(extent, Root::Ram, &tell)?,
            _ => power::reordered(extent, &tell)?,
        };
        problems.extend(tally.problems.iter().map(|problem| format!("{name}: {problem}")));
        // A few cuts may all come to the same.
        if number == 0 && extent.runs >= ENOUGH {
            let missing = tally.missing();
            problems.extend(
                missing
                    .iter()
                    .map(|ending| format!("{name}: no upgrade was {ending}: the cuts did not bite")),
            );
        }
        rows.push((name, tally));
    }
    print_table(&rows);
    println!("{:.0?} in all", start.elapsed());
    problems.iter().for_each(|problem| println!("{problem}"));
    Ok(problems.is_empty())
}

/// Cuts the power of machines whose own kernel logs what it writes; `false` when one was not what it had to be.
///
/// # Errors
/// A machine cannot be set up.
pub(super) fn guest_dm(options: &Options) -> Result<bool, Error> {
    let start = Instant::now();
    let (name, whole, quick) = CUTS_BY_GUEST;
    let extent = super::real::extent(options, name, (whole, quick))?;
    let tally = power::reordered_by_guest(extent, &|said| eprintln!("{name}: {said}"))?;
    let mut problems = tally.problems.clone();
    if extent.runs >= whole as usize && !tally.has_both() {
        problems
            .push("there was not both, the old release and the new one: the cuts did not bite".to_owned());
    }
    print_table(&[(name, tally)]);
    println!("{:.0?} in all", start.elapsed());
    problems.iter().for_each(|problem| println!("{problem}"));
    Ok(problems.is_empty())
}

fn print_table(rows: &[(&str, Tally)]) {
    println!(
        "| root | cuts | not begun | undone | finished | completed | installed anew | something else | moments |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---:|---|");
    rows.iter().for_each(|(name, tally)| print_row(name, tally));
    let (kept, lost) =
        rows.iter().fold((0, 0), |sum, (_, tally)| (sum.0 + tally.writes.0, sum.1 + tally.writes.1));
    println!("reordered: of the writes after the last flush, {kept} were kept and {lost} lost");
}

fn print_row(name: &str, tally: &Tally) {
    let endings = Ending::ALL.map(power::Ending::Recovered).into_iter().chain([power::Ending::Anew]);
    let counts = endings.map(|ending| tally.endings.get(&ending).copied().unwrap_or_default().to_string());
    let counts = counts.collect::<Vec<_>>().join(" | ");
    let stages: Vec<_> = tally.stages.iter().map(|(stage, count)| format!("{stage} {count}")).collect();
    let (cuts, problems) = (tally.cuts(), tally.problems.len());
    println!("| {name} | {cuts} | {counts} | {problems} | {} |", stages.join(", "));
}

/// Kills the hub; `false` when a boot took too long after its return.
///
/// # Errors
/// Nothing can be set up.
pub(super) fn hub(options: &Options) -> Result<bool, Error> {
    let extent = super::real::extent(options, "hub", BOOTS)?;
    let tally = hub_loss::run(extent, &|said| eprintln!("{said}"))?;
    println!("{} boots, the longest took {:.1?} after the hub's return", tally.boots.len(), tally.longest());
    tally.problems.iter().for_each(|problem| println!("{problem}"));
    Ok(tally.problems.is_empty() && tally.longest() <= BACK)
}
