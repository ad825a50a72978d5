//! What zinit 0.3 says of a service, and what its ancestors would say. Pure.

use serde::Deserialize;

use crate::status::{ExitCause, State, Target, is_tracked};
use crate::unit::SignalName;

/// `service.status` and the state in `service.list_full`.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Status {
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    pub(super) pid: u32,
    pub(super) state: String,
    pub(super) exit_code: Option<i32>,
    pub(super) error: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Listed {
    pub(super) name: String,
    pub(super) state: ListedState,
}

#[derive(Deserialize)]
pub(super) struct ListedState {
    pub(super) state: String,
    #[serde(default)]
    pub(super) pid: u32,
    pub(super) exit_code: Option<i32>,
    pub(super) reason: Option<Reason>,
}

/// Why a service has failed, in `service.list_full`; `service.status` has a sentence.
#[derive(Deserialize)]
pub(super) struct Reason {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) code: Option<i32>,
    pub(super) signal: Option<i32>,
}

impl ListedState {
    pub(super) fn into_status(self) -> Status {
        let code = self.reason.as_ref().and_then(|reason| reason.code);
        let error = self.reason.map(|reason| match (reason.kind.as_str(), reason.signal) {
            ("signal", Some(signal)) => format!("killed by signal {signal}"),
            ("missing_dependency" | "dependency_failed", _) => "dependency".to_owned(),
            (kind, _) => kind.replace('_', " "),
        });
        let exit_code = self.exit_code.or(code);
        Status { name: String::new(), pid: self.pid, state: self.state, exit_code, error }
    }
}

impl Status {
    /// Its process, if it has one.
    pub(super) fn process(&self) -> Option<u32> {
        (self.pid != 0).then_some(self.pid)
    }

    /// Whether it is told to end, and has not yet.
    pub(super) fn is_stopping(&self) -> bool {
        self.state == "stopping"
    }

    /// Whether its process has exited with 0, by itself or because it was stopped.
    pub(super) fn has_ended_well(&self) -> bool {
        self.state == "exited" && self.exit_code == Some(0)
    }

    /// Whether a process that runs once has come to its end. One that is stopped has no exit code, unless it
    /// exits.
    pub(super) fn has_exited_by_itself(&self) -> bool {
        self.state == "exited" && self.exit_code.is_some()
    }

    /// Whether it would be lost track of at another place of the table.
    pub(super) fn is_tracked(&self, oneshot: bool) -> bool {
        let (state, target) = self.state();
        is_tracked(self.process(), &state, target, oneshot)
    }

    /// What 0.2 would say of it.
    pub(super) fn state(&self) -> (State, Target) {
        match self.state.as_str() {
            "running" => (State::Running, Target::Up),
            "starting" => (State::Spawned, Target::Up),
            "blocked" => (State::Blocked, Target::Up),
            "failed" => (self.failure(), Target::Up),
            // Until its process has ended.
            "stopping" => (State::Running, Target::Down),
            "inactive" => (State::Unknown, Target::Down),
            // Unless it is one that is started again, which its state does not say.
            "exited" => match self.exit_code {
                None | Some(0) => (State::Success, Target::Down),
                Some(code) => (State::Error(ExitCause::Exited { pid: 0, code }), Target::Down),
            },
            other => (State::Other(other.to_owned()), Target::Up),
        }
    }

    fn failure(&self) -> State {
        let error = self.error.as_deref().unwrap_or_default();
        let signal = error.strip_prefix("killed by signal ").and_then(|number| number.parse().ok());
        match (self.exit_code, signal.and_then(SignalName::from_number)) {
            (Some(code), _) => State::Error(ExitCause::Exited { pid: 0, code }),
            (None, Some(signal)) => {
                State::Error(ExitCause::Signaled { pid: 0, signal: signal.to_string(), core_dumped: false })
            }
            _ if error.starts_with("spawn error") => State::Failure,
            _ if error.starts_with("health check failed") || error == "start timeout" => State::TestFailure,
            _ if error.contains("dependency") => State::Blocked,
            _ => State::Error(ExitCause::Other(error.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_as_zinit_0_2_says_them() {
        let status = |text: &str| {
            let status: Status = serde_json::from_str(text).unwrap();
            let (state, target) = status.state();
            format!("{state} {target}")
        };
        for (text, expected) in [
            (r#"{"name":"a","pid":7,"state":"running"}"#, "Running Up"),
            (r#"{"name":"a","pid":7,"state":"starting"}"#, "Spawned Up"),
            (r#"{"name":"a","pid":7,"state":"stopping"}"#, "Running Down"),
            (r#"{"name":"a","pid":0,"state":"inactive"}"#, "Unknown Down"),
            (r#"{"name":"a","pid":0,"state":"blocked","error":"waiting on: b"}"#, "Blocked Up"),
            (r#"{"name":"a","pid":0,"state":"exited"}"#, "Success Down"),
            (r#"{"name":"a","pid":0,"state":"exited","exit_code":3}"#, "Error(Exited(Pid(0), 3)) Down"),
            (r#"{"name":"a","pid":0,"state":"failed","exit_code":3}"#, "Error(Exited(Pid(0), 3)) Up"),
            (
                r#"{"name":"a","pid":0,"state":"failed","error":"killed by signal 9"}"#,
                "Error(Signaled(Pid(0), SIGKILL, false)) Up",
            ),
            (r#"{"name":"a","pid":0,"state":"failed","error":"spawn error: no"}"#, "Failure Up"),
            (r#"{"name":"a","pid":0,"state":"failed","error":"start timeout"}"#, "TestFailure Up"),
            (r#"{"name":"a","pid":0,"state":"failed","error":"missing dependency 'b'"}"#, "Blocked Up"),
            (r#"{"name":"a","pid":0,"state":"napping"}"#, "napping Up"),
        ] {
            assert_eq!(status(text), expected, "{text}");
        }
    }

    #[test]
    fn a_list_says_what_a_status_says() {
        let state = |text: &str| {
            let listed: Listed = serde_json::from_str(text).unwrap();
            listed.state.into_status().state().0.to_string()
        };
        for (text, expected) in [
            (r#"{"name":"a","is_target":false,"state":{"exit_code":null,"state":"exited"}}"#, "Success"),
            (
                r#"{"name":"a","state":{"reason":{"code":3,"type":"exit_code"},"state":"failed"}}"#,
                "Error(Exited(Pid(0), 3))",
            ),
            (
                r#"{"name":"a","state":{"reason":{"signal":9,"type":"signal"},"state":"failed"}}"#,
                "Error(Signaled(Pid(0), SIGKILL, false))",
            ),
            (
                r#"{"name":"a","state":{"reason":{"message":"x","type":"spawn_error"},"state":"failed"}}"#,
                "Failure",
            ),
            (r#"{"name":"a","state":{"reason":{"type":"start_timeout"},"state":"failed"}}"#, "TestFailure"),
            (r#"{"name":"a","state":{"state":"blocked","waiting_on":["b"]}}"#, "Blocked"),
        ] {
            assert_eq!(state(text), expected, "{text}");
        }
    }
}
