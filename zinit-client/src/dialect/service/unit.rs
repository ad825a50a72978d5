//! Units as zinit 0.3 models them, and how ours become such. Pure.
//!
//! It runs `exec` with `/bin/sh -c`, where zinit 0.2 splits words and runs no shell, so every word is quoted
//! for a shell that must see nothing special in it. The shell has to give way to the program: otherwise it is
//! the process that is signalled and watched, and the program outlives it unseen. But a unit whose first word
//! is no program is refused, and `exec` is none.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::Untranslatable;
use crate::unit::{MAX_STOP_TIMEOUT, ServiceUnit, UnitName};

/// zinit 0.2 starts a service again two seconds after it ended, and never gives up.
const RESTART_DELAY: Duration = Duration::from_secs(2);

/// Its word for that.
const ALWAYS: &str = "always";

/// zinit 0.2 runs a `test` every two seconds until it passes.
const TEST_INTERVAL: Duration = Duration::from_secs(2);

/// How long one run of a `test` may take. zinit 0.2 has no limit.
const TEST_TIMEOUT: Duration = Duration::from_secs(60);

/// zinit 0.3 kills a service whose `test` has failed so many times; at two seconds each that is a year.
const TEST_RETRIES: u32 = 15_000_000;

/// A test that never passes, and is made once a day. Who depends on a oneshot has to wait for its end, but zinit 0.3
/// takes it for done as soon as it runs; until its test has passed, it does not.
const NEVER: [(&str, u32); 3] = [("interval_ms", 86_400_000), ("timeout_ms", 1000), ("retries", 1000)];

/// Lines of log that are kept of a service.
const LOG_LINES: u32 = 1000;

/// What of a unit as the supervisor has loaded it is compared with a unit file: everything that
/// [`translate`] says.
#[derive(Debug, PartialEq, Deserialize)]
pub(super) struct Loaded {
    service: Program,
    #[serde(default)]
    dependencies: Dependencies,
    #[serde(default)]
    lifecycle: Lifecycle,
    #[serde(default)]
    health: Option<Health>,
}

#[derive(Debug, PartialEq, Deserialize)]
struct Program {
    exec: String,
    #[serde(default)]
    dir: Option<String>,
    #[serde(default)]
    oneshot: bool,
    #[serde(default)]
    env: BTreeMap<String, String>,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Dependencies {
    after: Vec<String>,
    requires: Vec<String>,
    wants: Vec<String>,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Lifecycle {
    restart: String,
    stop_timeout_ms: u64,
    stop_signal: String,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Health {
    target: String,
}

impl Loaded {
    /// Whether it runs to its end once.
    pub(super) fn is_oneshot(&self) -> bool {
        self.service.oneshot
    }

    /// Whether it is started again after it has ended, however that was: unlike one that runs once.
    pub(super) fn is_started_again(&self) -> bool {
        !self.service.oneshot && self.lifecycle.restart == ALWAYS
    }

    /// The services it waits for at its start.
    pub(super) fn waits_for(&self) -> impl Iterator<Item = &str> {
        let Dependencies { after, requires, wants } = &self.dependencies;
        after.iter().chain(requires).chain(wants).map(String::as_str)
    }

    /// Whether a unit file says the same.
    pub(super) fn is(&self, unit: &Value) -> bool {
        serde_json::from_value::<Self>(unit.clone()).is_ok_and(|unit| unit == *self)
    }
}

/// The parameters of `service.set` for a unit.
pub(super) fn translate(name: &UnitName, unit: &ServiceUnit) -> Result<Value, Untranslatable> {
    if name.as_str().contains('.') {
        return Err(Untranslatable::Name);
    }
    let words = unit.command().map_err(Untranslatable::Command)?;
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let requires: Vec<&str> = unit.after.iter().map(UnitName::as_str).collect();
    // It kills at the end of the time; zero, which 0.2 takes, is none.
    let stop = Duration::from_secs(unit.shutdown_timeout).clamp(Duration::from_millis(1), MAX_STOP_TIMEOUT);
    let mut translated = json!({
        "service": {
            "name": name.as_str(),
            "exec": format!("true && {}", shell(&words)?),
            "dir": unit.working_directory(),
            "oneshot": unit.oneshot,
            "env": unit.env,
        },
        "dependencies": {"requires": requires},
        "lifecycle": {
            "restart": if unit.oneshot { "never" } else { ALWAYS },
            "restart_delay_ms": millis(RESTART_DELAY),
            "restart_delay_max_ms": millis(RESTART_DELAY),
            "max_restarts": 0,
            "stop_timeout_ms": millis(stop),
            "stop_signal": unit.stop_signal.as_str(),
        },
        "logging": {"buffer_lines": LOG_LINES},
    });
    if unit.oneshot {
        translated["health"] = json!({"type": "exec", "target": "false"});
        for (key, value) in NEVER {
            translated["health"][key] = value.into();
        }
    } else if let Some(test) = unit.test_command().map_err(Untranslatable::Command)? {
        translated["health"] = json!({
            "type": "exec",
            "target": shell(&test)?,
            "interval_ms": millis(TEST_INTERVAL),
            "timeout_ms": millis(TEST_TIMEOUT),
            "retries": TEST_RETRIES,
        });
    }
    Ok(translated)
}

/// A command line with which a POSIX shell becomes the program, with exactly these words.
fn shell(words: &[String]) -> Result<String, Untranslatable> {
    // A shell would take it for an option of its own.
    if words.first().is_none_or(|program| program.is_empty() || program.starts_with('-')) {
        return Err(Untranslatable::Program(words.first().cloned().unwrap_or_default()));
    }
    let mut line = "exec".to_owned();
    for word in words {
        line.push(' ');
        line.push_str(&quoted(word)?);
    }
    Ok(line)
}

fn quoted(word: &str) -> Result<String, Untranslatable> {
    let bare = |c: char| c.is_ascii_alphanumeric() || "/._+-@%,:=".contains(c);
    if word.contains('\0') {
        return Err(Untranslatable::Argument(word.to_owned()));
    }
    if !word.is_empty() && word.chars().all(bare) {
        return Ok(word.to_owned());
    }
    // Nothing is special between single quotes, and a single quote cannot stand there.
    Ok(format!("'{}'", word.replace('\'', r"'\''")))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn translated(name: &str, text: &str) -> Result<Value, Untranslatable> {
        let name: UnitName = name.parse().unwrap();
        let unit = ServiceUnit::parse(&name, text).unwrap();
        translate(&name, &unit)
    }

    #[test]
    fn a_shell_sees_the_words_that_zinit_sees() {
        for exec in [
            r##"printf %s\n a "b c" 'd"e' "f'g" "" $HOME `id` "a;b|c&d>e<f" "*" "~" "#no" "!x" "\\" "tab	x""##,
            "printf %s\\\\n 'new\nline' '$(touch /tmp/no)' '{a,b}' '[ab]' ä '%' '=' 'A=B'",
        ] {
            let unit = ServiceUnit::new(exec);
            let words = unit.command().unwrap();
            let direct = Command::new(&words[0]).args(&words[1..]).output().unwrap().stdout;
            let line = shell(&words).unwrap();
            let through = Command::new("/bin/sh").args(["-c", &line]).output().unwrap().stdout;
            assert_eq!(String::from_utf8(through).unwrap(), String::from_utf8(direct).unwrap(), "{line}");
        }
    }

    #[test]
    fn every_key_has_its_place() {
        let unit = translated(
            "web",
            "exec: /bin/web --flag 'a b'\ntest: check it\nafter: [redis]\nshutdown_timeout: 3\n\
             signal: {stop: sigint}\nenv: {A: b}\ndir: /srv\n",
        )
        .unwrap();
        assert_eq!(unit["service"]["exec"], "true && exec /bin/web --flag 'a b'");
        assert_eq!(unit["service"]["env"]["A"], "b");
        assert_eq!(unit["service"]["dir"], "/srv");
        assert_eq!(unit["dependencies"]["requires"][0], "redis");
        assert_eq!(unit["lifecycle"]["stop_timeout_ms"], 3000);
        assert_eq!(unit["lifecycle"]["stop_signal"], "SIGINT");
        assert_eq!(unit["lifecycle"]["restart"], "always");
        assert_eq!(unit["health"]["target"], "exec check it");
        let once =
            translated("once", "exec: 'true'\noneshot: true\ntest: check\nshutdown_timeout: 0\n").unwrap();
        assert_eq!(once["lifecycle"]["restart"], "never");
        assert_eq!(once["lifecycle"]["stop_timeout_ms"], 1);
        assert_eq!(once["health"]["target"], "false");
    }

    #[test]
    fn what_has_no_translation_is_refused() {
        assert!(matches!(translated("a.b", "exec: x"), Err(Untranslatable::Name)));
        for exec in ["-x", "''"] {
            let unit = translated("a", &format!("exec: {exec:?}\n"));
            assert!(matches!(unit, Err(Untranslatable::Program(_))), "{exec} {unit:?}");
        }
        assert!(matches!(translated("a", "exec: \"'open\""), Err(Untranslatable::Command(_))));
    }

    #[test]
    fn a_loaded_unit_is_compared_by_what_matters() {
        let unit = translated("web", "exec: web\nafter: [redis]\n").unwrap();
        let mut loaded = unit.clone();
        loaded["service"]["status"] = "start".into();
        loaded["dependencies"]["conflicts"] = json!([]);
        loaded["health"] = Value::Null;
        let read = |value: &Value| serde_json::from_value::<Loaded>(value.clone()).unwrap();
        assert!(read(&loaded).is(&unit));
        for (path, value) in [
            ("/service/exec", json!("web -v")),
            ("/dependencies/requires", json!([])),
            ("/lifecycle/stop_timeout_ms", json!(1)),
        ] {
            let mut other = loaded.clone();
            *other.pointer_mut(path).unwrap() = value;
            assert!(!read(&other).is(&unit), "{path}");
        }
    }
}
