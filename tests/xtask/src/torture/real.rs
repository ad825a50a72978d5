//! The campaigns with real nodes.

use std::fmt::Display;
use std::time::Instant;

use molt_tests::campaign::chaos::{self, Trouble};
use molt_tests::campaign::{ByRoot, Ending, Extent, Tally, kill, named, neutral};
use molt_tests::{Error, RootKind, require_root};

use super::Options;

/// Kills and upgrades of whole campaigns, and of quick ones.
const KILLS: (u32, u32) = (1000, 40);
const POINTS: (u32, u32) = (u32::MAX, 40);
const UPGRADES: (u32, u32) = (1000, 39);
const NEUTRAL: (u32, u32) = (500, 12);

/// Kills identityd at random moments; `false` when a node was not what it had to be, or the kills did not bite.
///
/// # Errors
/// A node cannot be set up.
pub(super) fn kill(options: &Options) -> Result<bool, Error> {
    let (extent, start) = (with_roots(options, "kill", KILLS)?, Instant::now());
    let tally = kill::run(extent, &|said| eprintln!("{said}"))?;
    Ok(tell(&tally, start, &kill::WANTED))
}

/// Kills identityd at every named point; `false` as for [`kill`], or when a point was not reached.
///
/// # Errors
/// A node cannot be set up.
pub(super) fn named(options: &Options) -> Result<bool, Error> {
    let (extent, start) = (with_roots(options, "named", POINTS)?, Instant::now());
    let reached = named::run(extent, &|said| eprintln!("{said}"))?;
    println!("{} points were listed, {} were reached", reached.listed, reached.points.len());
    // A part of the points may lie anywhere.
    let wanted: &[_] = if reached.tally.kills() < reached.listed { &[] } else { &Ending::ALL };
    Ok(tell(&reached.tally, start, wanted))
}

/// Prints what the kills came to; whether all is well.
fn tell(tally: &Tally, start: Instant, wanted: &[Ending]) -> bool {
    table("after the kill, the transaction was", &tally.endings);
    println!("something else {} times", tally.problems.len());
    println!("{} kills in {:.0?}; stages they fell into: {:?}", tally.kills(), start.elapsed(), tally.stages);
    tally.problems.iter().for_each(|problem| println!("{problem}"));
    let missing = tally.missing(wanted);
    for ending in &missing {
        println!("no transaction was {ending}: the campaign did not bite");
    }
    tally.problems.is_empty() && missing.is_empty()
}

/// Upgrades with something wrong; `false` when a node was worse off after one.
///
/// # Errors
/// A node cannot be set up.
pub(super) fn chaos(options: &Options) -> Result<bool, Error> {
    let (extent, start) = (with_roots(options, "chaos", UPGRADES)?, Instant::now());
    let tally = chaos::run(extent, &|said| eprintln!("{said}"))?;
    let none = ByRoot::default();
    let rows =
        Trouble::all().map(|trouble| (format!("{trouble:?}"), tally.upgrades.get(&trouble).unwrap_or(&none)));
    table("trouble", rows);
    let upgrades: usize = tally.upgrades.values().map(ByRoot::total).sum();
    println!("{upgrades} upgrades in {:.0?}, {} problems", start.elapsed(), tally.problems.len());
    tally.problems.iter().for_each(|problem| println!("{problem}"));
    Ok(tally.problems.is_empty())
}

/// Upgrades to good releases on a busy machine; `false` when one was not kept.
///
/// # Errors
/// A node cannot be set up.
pub(super) fn neutral(options: &Options) -> Result<bool, Error> {
    let (extent, start) = (with_roots(options, "neutral", NEUTRAL)?, Instant::now());
    let neutral::Tally { kept, problems } = neutral::run(extent, &|said| eprintln!("{said}"))?;
    table("upgrades under load", [("kept", &kept)]);
    let kept = kept.total();
    println!("{kept} upgrades under load were kept in {:.0?}, {} were not", start.elapsed(), problems.len());
    problems.iter().for_each(|problem| println!("{problem}"));
    Ok(problems.is_empty())
}

/// How often something was seen, by the roots of the nodes.
fn table<'r, T: Display>(title: &str, rows: impl IntoIterator<Item = (T, &'r ByRoot)>) {
    let [a, b, c] = RootKind::ALL;
    println!("| {title} | {a} | {b} | {c} | all |");
    println!("|---|---:|---:|---:|---:|");
    for (name, count) in rows {
        let [a, b, c] = RootKind::ALL.map(|root| count.on(root));
        println!("| {name} | {a} | {b} | {c} | {} |", count.total());
    }
}

/// As [`extent`], and says what the nodes have as their roots.
fn with_roots(options: &Options, part: &'static str, runs: (u32, u32)) -> Result<Extent, Error> {
    let extent = extent(options, part, runs)?;
    let roots: Vec<_> = extent.roots.among(extent.nodes).iter().map(RootKind::to_string).collect();
    println!("{part}: nodes with a root on {}", roots.join(", "));
    Ok(extent)
}

pub(super) fn extent(
    options: &Options,
    part: &'static str,
    (whole, quick): (u32, u32),
) -> Result<Extent, Error> {
    require_root("a campaign with real nodes")?;
    let runs = options.runs.unwrap_or(if options.quick { quick } else { whole });
    let seed = options.seed.unwrap_or_else(|| if options.quick { 1 } else { fastrand::u64(..) });
    let number = if runs == u32::MAX { "all".to_owned() } else { format!("at most {runs}") };
    println!("{part}: {number} runs on {} nodes, --seed {seed}", options.nodes);
    Ok(Extent { runs: runs as usize, nodes: options.nodes as usize, seed, roots: options.root })
}
