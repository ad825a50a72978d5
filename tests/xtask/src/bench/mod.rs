//! `cargo xtask bench`: how fast `flist` packs, unpacks and mounts, beside `cp -a` and its peers.
//!
//! ```text
//! tree (of Debian packages) ─► arena (a tmpfs of our own) ─► rounds: cp -a, case, cp -a, case, …
//!                                                                │
//!                                      table, goals, JSON ◄── medians
//! ```
//!
//! A case is measured right after a `cp -a` of the same tree, and what counts is the ratio of the two:
//! a machine that is slower for a while makes both slower.

mod arena;
mod case;
mod goals;
mod machine;
mod measure;
mod ours;
mod peers;
mod report;
mod rounds;
mod tree;

use std::path::PathBuf;
use std::time::Duration;

use molt_tests::{Error, cargo, require_root, target_dir};
use rustix::process::setpriority_process;

use arena::Arena;
use machine::Machine;

/// An optimised build from scratch on a small machine takes many minutes.
const BUILD_LIMIT: Duration = Duration::from_secs(3600);

/// The nice value of a program that all others wait for.
const HIGHEST_PRIORITY: i32 = -20;

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// A smaller tree and three rounds, for a first impression
    #[arg(long)]
    quick: bool,
    /// Write the goals, and what was measured, to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measure this flist program instead of building one
    #[arg(long, value_name = "PROGRAM")]
    flist: Option<PathBuf>,
}

/// Measures and prints. That goals are missed is a result, not a failure.
pub(crate) fn run(options: &Options) -> Result<bool, Error> {
    require_root("cargo xtask bench")?;
    let flist = match &options.flist {
        Some(program) => program.clone(),
        None => build()?,
    };
    let peers = peers::bring()?;
    let tree = tree::bring(options.quick)?;
    // What else runs here disturbs less; where this is not allowed, the report tells how much it disturbs.
    let _ = setpriority_process(None, HIGHEST_PRIORITY);
    let arena = Arena::enter(&tree)?;
    println!("preparing: packs the tree once with every program");
    let mut cases = ours::cases(&arena, &flist)?;
    let missing = peers::add_cases(&arena, &peers, &mut cases.list)?;
    let rounds = if options.quick { 3 } else { 5 };
    let measured = rounds::measure(&arena, &cases, rounds)?;
    let report = report::Report {
        machine: Machine::describe()?,
        tree: arena.facts(),
        rounds,
        goals: goals::judge(&measured),
        measured,
        missing,
    };
    print!("\n{report}");
    if let Some(path) = &options.json {
        report.write(path)?;
    }
    Ok(true)
}

/// Builds `flist` as it is shipped.
fn build() -> Result<PathBuf, Error> {
    println!("building flist with optimisation; the first time this takes some minutes");
    let target = target_dir()?;
    let mut build = cargo();
    build.args(["build", "--quiet", "--release", "--package", "flist", "--features", "server,publish"]);
    molt_tests::run(build.env("CARGO_TARGET_DIR", &target), BUILD_LIMIT)?;
    Ok(target.join("release/flist"))
}
