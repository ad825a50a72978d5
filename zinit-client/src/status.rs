//! What the supervisor says of a service. Pure: no input, no output, no clock.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::unit::UnitName;

/// Where a service stands, in zinit's words; [`Display`](fmt::Display) gives them back exactly.
///
/// A word that this version does not know becomes [`State::Other`] and not an error: one service
/// in an unheard-of state must not blind an operator's tool to all the others. No predicate is
/// true of it, so nobody takes it for healthy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum State {
    /// Just monitored, or not monitored at all (as a dependency).
    Unknown,
    /// Waits for a dependency.
    Blocked,
    /// The process lives and its `test` has not passed yet.
    Spawned,
    /// The process lives and its `test`, if any, has passed. Of a oneshot: it is at work.
    Running,
    /// The process ended with exit code 0.
    Success,
    /// The process ended otherwise. zinit starts it again after two seconds unless it is a oneshot
    /// or wanted down.
    Error(ExitCause),
    /// The `test` could not be run.
    TestFailure,
    /// The process could not be started at all; zinit does not try again by itself.
    Failure,
    /// A state of a newer zinit, verbatim.
    Other(String),
}

impl State {
    /// Whether others that come `after` this service may start: it runs, or it has done its work.
    pub fn is_up(&self) -> bool {
        matches!(self, Self::Running | Self::Success)
    }

    /// Whether the service's process or its `test` went wrong.
    pub fn has_failed(&self) -> bool {
        matches!(self, Self::Error(_) | Self::TestFailure | Self::Failure)
    }
}

/// How a process ended that did not end well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExitCause {
    /// It exited by itself.
    Exited {
        /// The process.
        pid: u32,
        /// Its exit code.
        code: i32,
    },
    /// A signal killed it.
    Signaled {
        /// The process.
        pid: u32,
        /// The signal's name, such as `SIGKILL`.
        signal: String,
        /// Whether it left a core dump.
        core_dumped: bool,
    },
    /// A cause of a newer zinit, verbatim.
    Other(String),
}

/// What the supervisor was last told to want of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// It shall run.
    Up,
    /// It shall not run.
    Down,
}

/// Everything the supervisor says of one service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServiceStatus {
    /// The service.
    pub name: UnitName,
    /// Its process, which leads the process group of the service; `None` when there is none.
    pub pid: Option<u32>,
    /// Where it stands.
    pub state: State,
    /// Where it shall be.
    pub target: Target,
    /// The services it waits for at its start, and their states.
    pub after: BTreeMap<String, State>,
}

impl ServiceStatus {
    /// Wanted up, and up.
    pub fn is_up(&self) -> bool {
        self.target == Target::Up && self.state.is_up()
    }

    /// Wanted down and without a process: it can be forgotten.
    pub fn is_stopped(&self) -> bool {
        self.target == Target::Down && self.pid.is_none()
    }

    /// Whether the process or its `test` went wrong while the service is wanted up. A process that
    /// dies of the signal that stops it also ends in [`State::Error`]; that is no failure.
    pub fn has_failed(&self) -> bool {
        self.target == Target::Up && self.state.has_failed()
    }

    /// Whether a supervisor that moves the service in its table (zinit 0.3, when it deletes another) would lose
    /// something: sight of its process, or its next start, of one that has failed. One that runs once has no next
    /// start.
    pub fn is_tracked(&self, oneshot: bool) -> bool {
        is_tracked(self.pid, &self.state, self.target, oneshot)
    }

    /// Whether the supervisor will leave the service as it is, unless its process acts or somebody
    /// gives an order. The status does not tell a oneshot from a long-running service, so the
    /// caller has to: a oneshot settles by ending, any other service by running.
    ///
    /// A service that waits for a dependency or for its `test`, or that is about to be started
    /// again, is not settled, however long that takes.
    pub fn is_settled(&self, oneshot: bool) -> bool {
        match (&self.state, self.target) {
            (_, Target::Down) => self.pid.is_none(),
            (State::Failure, Target::Up) => true,
            (State::Running, Target::Up) => !oneshot,
            (State::Success | State::Error(_), Target::Up) => oneshot,
            (_, Target::Up) => false,
        }
    }
}

/// See [`ServiceStatus::is_tracked`].
pub(crate) fn is_tracked(pid: Option<u32>, state: &State, target: Target, oneshot: bool) -> bool {
    let starts = state.has_failed() || matches!(state, State::Spawned | State::Success);
    pid.is_some() || (target == Target::Up && !oneshot && starts)
}

impl From<&str> for State {
    fn from(text: &str) -> Self {
        match text {
            "Unknown" => Self::Unknown,
            "Blocked" => Self::Blocked,
            "Spawned" => Self::Spawned,
            "Running" => Self::Running,
            "Success" => Self::Success,
            "TestFailure" => Self::TestFailure,
            "Failure" => Self::Failure,
            _ => match text.strip_prefix("Error(").and_then(|rest| rest.strip_suffix(')')) {
                Some(cause) => Self::Error(ExitCause::from(cause)),
                None => Self::Other(text.to_owned()),
            },
        }
    }
}

impl From<String> for State {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

impl From<State> for String {
    fn from(state: State) -> Self {
        state.to_string()
    }
}

impl From<&str> for ExitCause {
    fn from(text: &str) -> Self {
        // What does not read back as the same text (a sign, a leading zero) was not understood.
        parse_cause(text)
            .filter(|cause| cause.to_string() == text)
            .unwrap_or_else(|| Self::Other(text.to_owned()))
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error(cause) => write!(f, "Error({cause})"),
            Self::Other(text) => f.write_str(text),
            Self::Unknown => f.write_str("Unknown"),
            Self::Blocked => f.write_str("Blocked"),
            Self::Spawned => f.write_str("Spawned"),
            Self::Running => f.write_str("Running"),
            Self::Success => f.write_str("Success"),
            Self::TestFailure => f.write_str("TestFailure"),
            Self::Failure => f.write_str("Failure"),
        }
    }
}

impl fmt::Display for ExitCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited { pid, code } => write!(f, "Exited(Pid({pid}), {code})"),
            Self::Signaled { pid, signal, core_dumped } => {
                write!(f, "Signaled(Pid({pid}), {signal}, {core_dumped})")
            }
            Self::Other(text) => f.write_str(text),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Up => "Up",
            Self::Down => "Down",
        })
    }
}

fn parse_cause(text: &str) -> Option<ExitCause> {
    let (kind, rest) = text.strip_suffix(')')?.split_once("(Pid(")?;
    let (pid, rest) = rest.split_once("), ")?;
    let pid = pid.parse().ok()?;
    match kind {
        "Exited" => Some(ExitCause::Exited { pid, code: rest.parse().ok()? }),
        "Signaled" => {
            let (signal, core_dumped) = rest.split_once(", ")?;
            let core_dumped = core_dumped.parse().ok()?;
            Some(ExitCause::Signaled { pid, signal: signal.to_owned(), core_dumped })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_measured_states_are_read_and_written_alike() {
        let killed = ExitCause::Signaled { pid: 17745, signal: "SIGKILL".to_owned(), core_dumped: false };
        for (text, state) in [
            ("Unknown", State::Unknown),
            ("Blocked", State::Blocked),
            ("Spawned", State::Spawned),
            ("Running", State::Running),
            ("Success", State::Success),
            ("TestFailure", State::TestFailure),
            ("Failure", State::Failure),
            ("Error(Exited(Pid(17761), 3))", State::Error(ExitCause::Exited { pid: 17761, code: 3 })),
            ("Error(Signaled(Pid(17745), SIGKILL, false))", State::Error(killed)),
        ] {
            assert_eq!(State::from(text), state);
            assert_eq!(state.to_string(), text);
        }
    }

    #[test]
    fn what_nobody_knows_is_kept_verbatim_and_counts_as_nothing_good() {
        for text in ["", "Napping", "Error", "Error(", "running", "Spawned "] {
            let state = State::from(text);
            assert_eq!(state, State::Other(text.to_owned()));
            assert_eq!(state.to_string(), text);
            assert!(!state.is_up() && !state.has_failed());
        }
        for cause in [
            "",
            "Stopped(Pid(1), SIGSTOP)",
            "Exited(Pid(+1), 3)",
            "Exited(Pid(1), three)",
            "Exited(Pid(1))",
            "Signaled(Pid(1), SIGKILL)",
            "Exited(Pid(99999999999), 3)",
        ] {
            let text = format!("Error({cause})");
            let state = State::from(text.as_str());
            assert_eq!(state, State::Error(ExitCause::Other(cause.to_owned())), "{text}");
            assert_eq!(state.to_string(), text);
            assert!(state.has_failed());
        }
    }

    #[test]
    fn settled_means_that_nothing_more_comes_by_itself() {
        let died = State::Error(ExitCause::Exited { pid: 1, code: 1 });
        let of = |state: State, target, pid| ServiceStatus {
            name: "a".parse().unwrap(),
            pid,
            state,
            target,
            after: BTreeMap::new(),
        };
        // (state, settled as a long-running service, settled as a oneshot)
        for (state, long, oneshot) in [
            (State::Running, true, false),
            (State::Success, false, true),
            (died.clone(), false, true),
            (State::Failure, true, true),
            (State::TestFailure, false, false),
            (State::Blocked, false, false),
            (State::Spawned, false, false),
            (State::Other("Napping".into()), false, false),
        ] {
            let status = of(state, Target::Up, None);
            assert_eq!((status.is_settled(false), status.is_settled(true)), (long, oneshot), "{status:?}");
        }
        let ignores_the_signal = of(State::Running, Target::Down, Some(7));
        assert!(!ignores_the_signal.is_settled(false));
        assert!(!ignores_the_signal.is_up() && !ignores_the_signal.is_stopped());
        let stopped = of(died.clone(), Target::Down, None);
        assert!(stopped.is_settled(false) && stopped.is_stopped() && !stopped.has_failed());
        assert!(of(died, Target::Up, None).has_failed());
    }
}
