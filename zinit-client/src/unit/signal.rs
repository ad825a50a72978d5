//! Names of signals.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

/// Every name that zinit knows on Linux, in the order of their numbers on most processors.
const NAMES: [&str; 31] = [
    "SIGHUP",
    "SIGINT",
    "SIGQUIT",
    "SIGILL",
    "SIGTRAP",
    "SIGABRT",
    "SIGBUS",
    "SIGFPE",
    "SIGKILL",
    "SIGUSR1",
    "SIGSEGV",
    "SIGUSR2",
    "SIGPIPE",
    "SIGALRM",
    "SIGTERM",
    "SIGSTKFLT",
    "SIGCHLD",
    "SIGCONT",
    "SIGSTOP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGXCPU",
    "SIGXFSZ",
    "SIGVTALRM",
    "SIGPROF",
    "SIGWINCH",
    "SIGIO",
    "SIGPWR",
    "SIGSYS",
];

/// The name of a signal, in full and in upper case: `SIGTERM`.
///
/// Read in any case, as zinit reads it; neither `TERM` nor `15` is a name to zinit.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SignalName(&'static str);

impl SignalName {
    /// `SIGTERM`, which asks a process to end.
    pub const TERM: Self = Self("SIGTERM");
    /// `SIGKILL`, which ends it unasked.
    pub const KILL: Self = Self("SIGKILL");

    /// The signal with this number on Linux; real-time signals have no name.
    pub(crate) fn from_number(number: usize) -> Option<Self> {
        NAMES.get(number.checked_sub(1)?).copied().map(Self)
    }

    /// The name.
    pub fn as_str(self) -> &'static str {
        self.0
    }
}

/// Text that is no name of a signal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no name of a signal; write it in full, such as SIGTERM")]
pub struct SignalError(String);

impl Default for SignalName {
    fn default() -> Self {
        Self::TERM
    }
}

impl FromStr for SignalName {
    type Err = SignalError;

    fn from_str(text: &str) -> Result<Self, SignalError> {
        NAMES
            .into_iter()
            .find(|name| name.eq_ignore_ascii_case(text))
            .map(Self)
            .ok_or_else(|| SignalError(text.to_owned()))
    }
}

impl<'de> Deserialize<'de> for SignalName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl fmt::Display for SignalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl fmt::Debug for SignalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_names_in_any_case_and_nothing_else() {
        for (text, name) in [("SIGTERM", "SIGTERM"), ("sigterm", "SIGTERM"), ("SigUsr1", "SIGUSR1")] {
            assert_eq!(text.parse::<SignalName>().unwrap().as_str(), name);
        }
        for text in ["", "TERM", "15", "SIGTERM ", "SIGNOPE", "SIGRTMIN"] {
            assert_eq!(text.parse::<SignalName>(), Err(SignalError(text.to_owned())));
        }
    }
}
