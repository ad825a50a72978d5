//! Names of points. Pure.

use std::ffi::OsString;
use std::fmt::{self, Debug, Write};

use tracing::field::{Field, Visit};

/// Who is at work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// The daemon.
    Daemon,
    /// The process that starts the guardian.
    Launcher,
    /// Who watches over a handover.
    Guardian,
}

impl Role {
    /// By the command line.
    pub(crate) fn of(arguments: &[OsString]) -> Self {
        let has = |word: &str| arguments.iter().any(|argument| argument == word);
        match (has("guardian"), has("--launch")) {
            (true, true) => Self::Launcher,
            (true, false) => Self::Guardian,
            (false, _) => Self::Daemon,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Daemon => "daemon",
            Self::Launcher => "launcher",
            Self::Guardian => "guardian",
        })
    }
}

/// The values of a span or an event, as they become part of a name.
#[derive(Debug, Default)]
pub(crate) struct Values {
    text: String,
}

impl Values {
    /// `name:value,value`.
    pub(crate) fn after(self, name: &str) -> String {
        match self.text.is_empty() {
            true => name.to_owned(),
            false => format!("{name}:{}", without_numbers(&self.text)),
        }
    }
}

impl Visit for Values {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // A number that is another one every time.
        if field.name() == "pid" {
            return;
        }
        let separator = if self.text.is_empty() { "" } else { "," };
        // Writing to a String does not fail.
        let _ = write!(self.text, "{separator}{value:?}");
    }
}

/// A generation has another number every time, and a temporary file another name.
fn without_numbers(text: &str) -> String {
    let mut text = text.to_owned();
    for before in ["/.molt/", "/generations/", "/generations/.new-"] {
        let mut parts = text.split(before);
        let mut replaced = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let rest = part.trim_start_matches(|c: char| c.is_ascii_digit());
            let number = if rest.len() < part.len() { "N" } else { "" };
            replaced.extend([before, number, rest]);
        }
        text = replaced;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_at_work() {
        let role = |line: &str| Role::of(&line.split(' ').map(OsString::from).collect::<Vec<_>>());
        assert_eq!(role("identityd run"), Role::Daemon);
        assert_eq!(role("identityd guardian --launch /run/molt"), Role::Launcher);
        assert_eq!(role("identityd guardian /run/molt"), Role::Guardian);
    }

    #[test]
    fn the_number_of_a_generation_is_in_no_name() {
        for (text, name) in [
            ("/.molt/12/3,/usr/bin/web2", "/.molt/N/3,/usr/bin/web2"),
            ("/var/lib/molt/generations/.new-12.json", "/var/lib/molt/generations/.new-N.json"),
            ("/var/lib/molt/generations/7.fl", "/var/lib/molt/generations/N.fl"),
            ("/.molt", "/.molt"),
            ("swap 3", "swap 3"),
        ] {
            assert_eq!(without_numbers(text), name);
        }
    }
}
