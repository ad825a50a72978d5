//! One service in the supervisor's table. Pure.

use std::fmt;

use nix::sys::signal::Signal;

use crate::unit::Unit;

/// Where a service stands; displayed in zinit's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Unknown,
    Blocked,
    Spawned,
    Running,
    Success,
    Error(Ended),
    TestFailure,
    Failure,
}

/// A process that is no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) pid: i32,
    pub(crate) how: End,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Exited(i32),
    /// The signal by its number: real-time signals have no name.
    Signaled {
        signal: i32,
        core_dumped: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Up,
    Down,
}

/// What the supervisor is doing about a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nothing, until somebody gives an order.
    Idle,
    /// Waiting for what it comes after.
    Blocked,
    /// Watching its process.
    Alive,
    /// Letting the respawn delay pass before it looks at it again.
    Resting,
}

#[derive(Debug)]
pub(crate) struct Service {
    /// Tells this entry from an earlier one of the same name.
    pub(crate) serial: u64,
    pub(crate) unit: Unit,
    pub(crate) target: Target,
    pub(crate) state: State,
    pub(crate) phase: Phase,
    pub(crate) pid: Option<i32>,
}

impl Service {
    /// A service that was just told to be monitored: wanted up, and nothing done about it yet.
    pub(crate) fn new(serial: u64, unit: Unit) -> Self {
        Self { serial, unit, target: Target::Up, state: State::Unknown, phase: Phase::Idle, pid: None }
    }

    /// Whether what comes after this service may start: it has done its work, or it runs and is not
    /// one that is done only when it ends.
    pub(crate) fn releases_others(&self) -> bool {
        match self.state {
            State::Success => true,
            State::Running => !self.unit.oneshot,
            _ => false,
        }
    }

    /// Takes note of the end of its process.
    pub(crate) fn ended(&mut self, ended: Ended) {
        self.pid = None;
        self.state = if ended.is_success() { State::Success } else { State::Error(ended) };
        self.phase = if self.unit.oneshot { Phase::Idle } else { Phase::Resting };
    }
}

impl Ended {
    pub(crate) fn is_success(self) -> bool {
        self.how == End::Exited(0)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("Unknown"),
            Self::Blocked => f.write_str("Blocked"),
            Self::Spawned => f.write_str("Spawned"),
            Self::Running => f.write_str("Running"),
            Self::Success => f.write_str("Success"),
            Self::Error(ended) => write!(f, "Error({ended})"),
            Self::TestFailure => f.write_str("TestFailure"),
            Self::Failure => f.write_str("Failure"),
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pid = self.pid;
        match self.how {
            End::Exited(code) => write!(f, "Exited(Pid({pid}), {code})"),
            End::Signaled { signal, core_dumped } => match Signal::try_from(signal) {
                Ok(signal) => write!(f, "Signaled(Pid({pid}), {signal}, {core_dumped})"),
                Err(_) => write!(f, "Signaled(Pid({pid}), SIG{signal}, {core_dumped})"),
            },
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

#[cfg(test)]
mod tests {
    use super::*;

    fn service(unit: &str) -> Service {
        Service::new(1, Unit::parse(unit).unwrap())
    }

    #[test]
    fn states_are_worded_as_measured() {
        let exited = State::Error(Ended { pid: 17761, how: End::Exited(3) });
        assert_eq!(exited.to_string(), "Error(Exited(Pid(17761), 3))");
        let killed = |signal| {
            State::Error(Ended { pid: 17745, how: End::Signaled { signal, core_dumped: false } }).to_string()
        };
        assert_eq!(killed(9), "Error(Signaled(Pid(17745), SIGKILL, false))");
        assert_eq!(killed(34), "Error(Signaled(Pid(17745), SIG34, false))");
    }

    #[test]
    fn who_releases_others() {
        let mut long = service("exec: a");
        let mut once = service("exec: a\noneshot: true");
        for (state, by_long, by_once) in [
            (State::Unknown, false, false),
            (State::Spawned, false, false),
            (State::Running, true, false),
            (State::Success, true, true),
            (State::Failure, false, false),
        ] {
            long.state = state.clone();
            once.state = state;
            assert_eq!((long.releases_others(), once.releases_others()), (by_long, by_once));
        }
    }

    #[test]
    fn a_oneshot_is_left_alone_when_it_ends() {
        let mut long = service("exec: a");
        let mut once = service("exec: a\noneshot: true");
        long.ended(Ended { pid: 1, how: End::Exited(0) });
        once.ended(Ended { pid: 1, how: End::Exited(1) });
        assert_eq!((&long.state, long.phase), (&State::Success, Phase::Resting));
        assert_eq!(once.phase, Phase::Idle);
        assert!(matches!(once.state, State::Error(_)));
    }
}
