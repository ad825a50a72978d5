//! identityd's own unit: what it says now, and what the supervisor remembers of it.
//!
//! zinit reads a unit when it begins to monitor a service, and never again. It is not made to forget identityd (see
//! `docs/decisions/0021-guardians.md`), so what a release changes in this unit it knows after the next boot only. Two
//! things follow. A process that it starts until then has the old arguments, which the new program may not understand:
//! identityd goes on with those of the unit. And whoever looks is told: everything else of the unit (`env`, `after`, `log`)
//! is the old one.

use std::ffi::OsString;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use bootstrap::durable;
use bootstrap::plan::UNIT_DIRECTORY;
use serde::{Deserialize, Serialize};
use zinit_client::{MAX_UNIT_BYTES, ServiceUnit, UnitName};

use crate::agent::Problem;
use crate::handover;

/// The service.
const NAME: &str = "identityd";

/// What the supervisor remembers, in the run directory.
const FILE: &str = "unit.json";

/// The unit as it was when the supervisor read it.
#[derive(Debug, Serialize, Deserialize)]
struct Remembered {
    boot: String,
    text: String,
}

/// Executes this program anew with the arguments that its unit has, if it was started by the supervisor, with others.
/// Returns where there is nothing to do, or that failed. `is_good` tells whether it could start with these words.
///
/// # Errors
/// A [`Problem`] when it could not be executed; then the words that were given are all that there is.
pub fn follow(given: &[OsString], is_good: impl Fn(&[String]) -> bool) -> Result<(), Problem> {
    // Others may start it with whatever they want.
    if nix::unistd::getppid().as_raw() != 1 {
        return Ok(());
    }
    let Ok(program) = std::env::current_exe() else { return Ok(()) };
    let is_this = |word: &str| Path::new(word).canonicalize().is_ok_and(|path| path == program);
    let Ok(Some(text)) = read(&path(Path::new("/"))) else { return Ok(()) };
    match other_words(given, &text, is_this).filter(|words| is_good(words)) {
        Some(words) => {
            // Before there is a log.
            eprintln!("identityd: zinit has other arguments than the unit says; going on as the unit says");
            Err(handover::exec(&program, &words))
        }
        None => Ok(()),
    }
}

/// The words of the unit's command, where it runs the daemon directly and with other ones than were given.
fn other_words(given: &[OsString], unit: &str, is_this: impl Fn(&str) -> bool) -> Option<Vec<String>> {
    let unit = ServiceUnit::parse(&NAME.parse().ok()?, unit).ok()?;
    let words = unit.command().ok()?;
    let is_daemon = |word: Option<&str>| word == Some("run");
    let given_run = given.get(1).and_then(|word| word.to_str());
    if !is_daemon(given_run) || !is_daemon(words.get(1).map(String::as_str)) || !is_this(words.first()?) {
        return None;
    }
    let differs =
        words.len() != given.len() || words.iter().zip(given).skip(1).any(|(new, old)| old != new.as_str());
    differs.then_some(words)
}

/// The path of the unit, if the supervisor has another text of it than the root. What it was at the first question in a
/// boot is what the supervisor has: the daemon asks when it starts, before it changes anything.
///
/// # Errors
/// The system's.
pub fn outdated(run_dir: &Path, root: &Path, boot: &str) -> io::Result<Option<String>> {
    let Some(text) = read(&path(root))? else { return Ok(None) };
    let file = run_dir.join(FILE);
    let remembered = match std::fs::read(&file) {
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        bytes => {
            serde_json::from_slice::<Remembered>(&bytes?).ok().filter(|remembered| remembered.boot == boot)
        }
    };
    let Some(remembered) = remembered else {
        let json = serde_json::to_vec(&Remembered { boot: boot.to_owned(), text })?;
        durable::replace(&file, &json, 0o600)?;
        return Ok(None);
    };
    Ok(differs(&remembered.text, &text).then(|| format!("{UNIT_DIRECTORY}/{NAME}.yaml")))
}

/// Whether the supervisor would do something else after it had read the new text.
fn differs(old: &str, new: &str) -> bool {
    let Ok(name) = NAME.parse::<UnitName>() else { return old != new };
    match (ServiceUnit::parse(&name, old), ServiceUnit::parse(&name, new)) {
        (Ok(old), Ok(new)) => old != new,
        _ => old != new,
    }
}

fn path(root: &Path) -> PathBuf {
    root.join(UNIT_DIRECTORY).join(format!("{NAME}.yaml"))
}

/// The text of a unit; `None` without one, or where it is too large to be one.
fn read(path: &Path) -> io::Result<Option<String>> {
    let file = match std::fs::File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut text = String::new();
    file.take(MAX_UNIT_BYTES as u64 + 1).read_to_string(&mut text)?;
    Ok((text.len() <= MAX_UNIT_BYTES).then_some(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_units_words_count_where_it_runs_this_daemon() {
        let given = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        let other = |line: &str, exec: &str| {
            other_words(&given(line), &format!("exec: {exec}\n"), |word| word == "/sbin/identityd")
        };
        let words = other("/sbin/identityd run --old", "/sbin/identityd run --new").unwrap();
        assert_eq!(words, ["/sbin/identityd", "run", "--new"]);
        // The same ones, by whatever name the program was called.
        assert_eq!(other("identityd run --old", "/sbin/identityd run --old"), None);
        for (line, exec) in [
            ("/sbin/identityd status", "/sbin/identityd run"),
            ("/sbin/identityd run", "/sbin/identityd status"),
            ("/sbin/identityd run", "/usr/bin/wrapper run --x"),
            ("/sbin/identityd run", "/bin/sh -c '/sbin/identityd run --x'"),
            ("/sbin/identityd run", "/sbin/identityd run 'not closed"),
        ] {
            assert_eq!(other(line, exec), None, "{line}, {exec}");
        }
    }

    #[test]
    fn the_first_text_of_a_boot_is_what_the_supervisor_has() {
        let (root, run) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let outdated = |boot: &str| outdated(run.path(), root.path(), boot).unwrap();
        let write = |text: &str| std::fs::write(path(root.path()), text).unwrap();
        assert_eq!(outdated("one"), None);
        std::fs::create_dir_all(root.path().join(UNIT_DIRECTORY)).unwrap();
        write("exec: /sbin/identityd run\n");
        assert_eq!(outdated("one"), None);
        write("exec: /sbin/identityd run\n# a comment\n");
        assert_eq!(outdated("one"), None);
        write("exec: /sbin/identityd run --quiet\n");
        assert_eq!(outdated("one").as_deref(), Some("etc/zinit/identityd.yaml"));
        assert_eq!(outdated("two"), None);
    }
}
