//! `identityd generations` and `identityd gc`

use std::collections::BTreeSet;
use std::fmt::Write;

use bootstrap::engine::{Collected, Engine, EngineError, LOCK_PATIENCE, Listed};
use bootstrap::lock::{self, EngineLock, LockError};
use bootstrap::releases::Releases;
use bootstrap::settings::{MAX_KEPT_GENERATIONS, Overrides, Settings};
use bootstrap::state_place::StatePlace;
use identityd::agent::{Candidate, Problem, ProblemKind};
use identityd::control::AskError;
use identityd::handover::Handover;
use identityd::orders::{Hold, Orders, OrdersFile};
use serde::Serialize;
use serde_json::json;

use super::{CommandResult, Failure, bytes, other, print, print_json, require_generations};

/// Show the generations of this node, the oldest first: what is installed, and what can be gone back to. Works
/// without a running identityd.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// As JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    overrides: Overrides,
}

const EXAMPLES: &str = "Examples:
  identityd generations
  identityd generations --json";

/// Forget old generations, and the files that are kept to go back to them. Works without a running identityd.
///
/// The current generation stays, and so do those that are pinned; nothing is forgotten while an upgrade or a rollback is
/// under way.
#[derive(clap::Args)]
#[command(after_help = GC)]
pub(super) struct GcArguments {
    /// So many generations before the current one stay; as configured if nothing is given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(0..=MAX_KEPT_GENERATIONS))]
    keep: Option<u64>,
    /// Only show what would be forgotten
    #[arg(long)]
    dry_run: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    overrides: Overrides,
}

const GC: &str = "Examples:
  identityd gc --dry-run
  identityd gc --keep 1 --json";

/// A generation, with what speaks against its release.
#[derive(Serialize)]
struct Line {
    #[serde(flatten)]
    listed: Listed,
    /// It stays until it is unpinned.
    pinned: bool,
    /// Why the release is bad on this node.
    bad: Option<String>,
    /// The hold that names the release.
    held: Option<Hold>,
}

pub(super) fn run(Arguments { json, overrides }: &Arguments) -> CommandResult {
    let settings = Settings::load_without_secrets(overrides).map_err(Failure::Settings)?;
    require_generations(&StatePlace::of(&settings))?;
    let lines = lines(&settings)?;
    if *json { print_json(&lines) } else { print(&text(&lines)) }
}

fn lines(settings: &Settings) -> Result<Vec<Line>, Failure> {
    let engine = Engine::look(settings).map_err(other)?;
    let pins = engine.pinned().unwrap_or_else(|error| {
        eprintln!("identityd: {}", flist::report(&error));
        BTreeSet::new()
    });
    let releases = Releases::load(&StatePlace::of(settings));
    let orders = OrdersFile::at(StatePlace::of(settings)).load().unwrap_or_else(|error| {
        eprintln!("identityd: {}", flist::report(&error));
        Orders::default()
    });
    let line = |listed: Listed| {
        let note = releases.note(&listed.release).filter(|note| note.is_bad());
        let release = Candidate {
            channel: String::new(),
            version: listed.version.clone(),
            release: listed.release.to_string(),
        };
        let held = orders.holds.iter().find(|hold| hold.release.is_some() && hold.covers(&release));
        let pinned = pins.contains(&listed.number);
        Line { bad: note.map(|note| note.reason.clone()), held: held.cloned(), pinned, listed }
    };
    Ok(engine.generations().map_err(other)?.into_iter().map(line).collect())
}

fn text(lines: &[Line]) -> String {
    if lines.is_empty() {
        return "Nothing is recorded of this root file system.".to_owned();
    }
    let mut text = String::new();
    for Line { listed, bad, held, pinned } in lines {
        let standing = match (listed.current, listed.target) {
            (true, _) => "current",
            (false, true) => "target",
            (false, false) => "-",
        };
        let release: String = listed.release.to_string().chars().take(12).collect();
        let (number, version, cause) = (listed.number, &listed.version, listed.cause.as_str());
        let kept = bytes(listed.kept_bytes);
        // Writing to a String cannot fail.
        let _infallible =
            writeln!(text, "{number:>4}  {standing:<7}  {version:<12}  {release}  {cause:<11}  keeps {kept}");
        if *pinned {
            text.push_str("      pinned: it stays until it is unpinned\n");
        }
        if let Some(reason) = &listed.blocked {
            let _infallible = writeln!(text, "      cannot be gone back to: {reason}");
        }
        if let Some(reason) = bad {
            let _infallible = writeln!(text, "      bad: {reason}");
        }
        if let Some(hold) = held {
            let reason = hold.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
            let until = hold.until.as_ref().map(|until| format!(" until {}", until.at)).unwrap_or_default();
            let _infallible =
                writeln!(text, "      held since {}{until} by user {}{reason}", hold.since.at, hold.by);
        }
    }
    text
}

pub(super) fn gc(GcArguments { keep, dry_run, json, overrides }: &GcArguments) -> CommandResult {
    let settings = Settings::load_without_secrets(overrides).map_err(Failure::Settings)?;
    let keep = keep.and_then(|keep| usize::try_from(keep).ok()).or(settings.keep_generations);
    require_generations(&StatePlace::of(&settings))?;
    let collected = match dry_run {
        true => collectable(&settings, keep)?,
        false => collect(&settings, keep)?,
    };
    match json {
        true => {
            let Collected { generations, directories, bytes, pinned, on_the_way } = &collected;
            print_json(&json!({
                "dry_run": dry_run, "generations": generations, "directories": directories, "bytes": bytes,
                "pinned": pinned, "on_the_way": on_the_way,
            }))
        }
        false => print(&outcome(&collected, *dry_run)),
    }
}

/// Takes the engine's lock for who says so, waiting a while for whoever has it.
pub(super) fn take_lock(settings: &Settings, who: &str) -> Result<EngineLock, Failure> {
    lock::take(&settings.run_dir, who, LOCK_PATIENCE).map_err(|error| match error {
        held @ LockError::Held { .. } => busy(flist::report(&held)),
        error => other(error),
    })
}

fn collect(settings: &Settings, keep: Option<usize>) -> Result<Collected, Failure> {
    let lock = take_lock(settings, "identityd gc")?;
    refuse_during_rollback(settings)?;
    refuse_during_trial(settings)?;
    let engine = Engine::open(settings).map_err(other)?;
    engine.collect(&lock, keep).map_err(not_collected)
}

/// Takes no lock, which would make its directory: whoever only looks changes nothing.
fn collectable(settings: &Settings, keep: Option<usize>) -> Result<Collected, Failure> {
    if let Some(holder) = lock::holder(&settings.run_dir).map_err(other)? {
        return Err(busy(format!("another engine is at work: {holder}; try again later")));
    }
    refuse_during_rollback(settings)?;
    refuse_during_trial(settings)?;
    Engine::look(settings).map_err(other)?.collectable(keep).map_err(not_collected)
}

fn refuse_during_rollback(settings: &Settings) -> CommandResult {
    let orders = OrdersFile::at(StatePlace::of(settings)).load().map_err(other)?;
    match orders.rollback {
        None => Ok(()),
        Some(rollback) => {
            let message = format!("a rollback to generation {} is under way; try again later", rollback.to);
            Err(busy(message))
        }
    }
}

fn refuse_during_trial(settings: &Settings) -> CommandResult {
    match Handover::goes_back_to(settings) {
        None => Ok(()),
        Some(before) => Err(busy(format!(
            "a new identityd is on trial, and generation {before} is what is gone back to if it fails; try again when it              has asked its channel once and answers, which `identityd status` shows as polled"
        ))),
    }
}

fn not_collected(error: EngineError) -> Failure {
    match error {
        unfinished @ EngineError::Unfinished => busy(flist::report(&unfinished)),
        error => other(error),
    }
}

fn outcome(collected: &Collected, dry_run: bool) -> String {
    let Collected { generations, directories, bytes: freed, pinned, on_the_way } = collected;
    let forgotten = if generations.is_empty() && directories.is_empty() {
        "There is nothing to forget.".to_owned()
    } else {
        let what = named(generations).unwrap_or_else(|| "files of no generation".to_owned());
        let (forgot, freed) = (if dry_run { "Would forget" } else { "Forgot" }, bytes(*freed));
        format!("{forgot} {what}; {freed} of kept files.")
    };
    let pinned = named(pinned).map(|pinned| format!("\nPinned, and so kept: {pinned}."));
    let on_the_way = named(on_the_way).map(|between| {
        format!("\nKept with what is pinned, because what they replaced leads back to it: {between}.")
    });
    [Some(forgotten), pinned, on_the_way].into_iter().flatten().collect()
}

/// Generations by their numbers; `None` for none.
fn named(numbers: &[u64]) -> Option<String> {
    let numbers: Vec<_> = numbers.iter().map(ToString::to_string).collect();
    match numbers.as_slice() {
        [] => None,
        [one] => Some(format!("generation {one}")),
        _ => Some(format!("generations {}", numbers.join(", "))),
    }
}

fn busy(message: String) -> Failure {
    Failure::Ask(AskError::Refused(Problem::new(ProblemKind::Busy, message)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};

    use bootstrap::generation::Cause;
    use clap::Parser;
    use identityd::timestamp::Timestamp;

    use super::*;

    #[test]
    fn a_generation_is_listed_with_what_speaks_against_it() {
        let listed = Listed {
            number: 3,
            current: false,
            target: true,
            blocked: None,
            cause: Cause::Release,
            version: "2.0.0".to_owned(),
            release: "ab".repeat(32).parse().unwrap(),
            kept_bytes: 2048,
        };
        let hold = Hold::new(Some("2.0.0".into()), Timestamp::from_unix(0), 7, Some("no".into()));
        let line = Line { listed, pinned: true, bad: Some("web is not well".into()), held: Some(hold) };
        let expected = "   3  target   2.0.0         abababababab  release      keeps 2.0 KiB\n      pinned: it stays until it is unpinned\n      bad: web is not well\n      held since 1970-01-01T00:00:00Z by user 7 (no)\n";
        let json = serde_json::to_value(&line).unwrap();
        assert_eq!(text(&[line]), expected);
        assert_eq!((&json["number"], &json["cause"]), (&3.into(), &"release".into()));
        assert_eq!(json["pinned"], true);
        assert_eq!((&json["bad"], &json["held"]["by"]), (&"web is not well".into(), &7.into()));
    }

    #[derive(clap::Parser)]
    struct Words {
        #[command(flatten)]
        overrides: Overrides,
    }

    /// Names below a directory, with their modes.
    fn tree(directory: &Path) -> Vec<(PathBuf, u32)> {
        let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
        let with_what_is_in_it = |path: PathBuf| {
            let below = if path.is_dir() { tree(&path) } else { Vec::new() };
            let mode = path.metadata().unwrap().permissions().mode();
            std::iter::once((path, mode)).chain(below)
        };
        let mut all: Vec<_> = entries.flat_map(with_what_is_in_it).collect();
        all.sort();
        all
    }

    #[test]
    fn who_looks_makes_nothing_and_a_mistyped_directory_is_told() {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        std::fs::write(path("cmdline"), "").unwrap();
        std::fs::write(path("config.yaml"), "").unwrap();
        for directory in ["root", "state", "state/generations", "other"] {
            std::fs::create_dir(path(directory)).unwrap();
        }
        std::fs::set_permissions(path("state"), std::fs::Permissions::from_mode(0o755)).unwrap();
        let overrides = |state: &str| {
            let of = |option: &str, name: &str| [format!("--{option}"), path(name).display().to_string()];
            let words = [
                of("root", "root"),
                of("config", "config.yaml"),
                of("cmdline", "cmdline"),
                of("state-dir", state),
                of("run-dir", "run"),
            ];
            Words::parse_from(std::iter::once("x".to_owned()).chain(words.into_iter().flatten())).overrides
        };
        let list = |state| run(&Arguments { json: true, overrides: overrides(state) });
        let forget = |state, dry_run| {
            gc(&GcArguments { keep: None, dry_run, json: true, overrides: overrides(state) })
        };
        let before = tree(place.path());
        for (state, said) in [("nowhere", "there is no directory"), ("other", "there is no generations in")] {
            for result in [list(state), forget(state, true), forget(state, false)] {
                let failure = result.unwrap_err();
                let text = failure.to_string();
                assert!(text.contains(said) && text.contains("--state-dir"), "{text}");
                assert_eq!(failure.exit().code(), 2, "{text}");
            }
        }
        list("state").unwrap();
        forget("state", true).unwrap();
        assert_eq!(tree(place.path()), before);
        // Nobody else may change anything meanwhile, so this one takes the lock.
        forget("state", false).unwrap();
        assert!(path("run/lock").exists());
    }

    #[test]
    fn what_was_forgotten_is_named() {
        let mut collected = Collected::default();
        assert_eq!(outcome(&collected, false), "There is nothing to forget.");
        collected.generations = vec![1, 2];
        assert_eq!(outcome(&collected, true), "Would forget generations 1, 2; 0 B of kept files.");
        collected.generations = vec![1];
        assert_eq!(outcome(&collected, false), "Forgot generation 1; 0 B of kept files.");
        collected = Collected { pinned: vec![1], on_the_way: vec![2, 3], ..Collected::default() };
        assert_eq!(
            outcome(&collected, true),
            "There is nothing to forget.\nPinned, and so kept: generation 1.\nKept with what is pinned, because what they replaced leads back to it: generations 2, 3."
        );
    }
}
