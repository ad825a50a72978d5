//! Why a subcommand did not do what it should, in words, as JSON and as an exit code.

use std::error::Error;
use std::io::ErrorKind;

use bootstrap::settings::SettingsError;
use flist::ErrorReport;
use flist::exit::Exit;
use identityd::agent::{Problem, ProblemKind};
use identityd::control::AskError;

/// Why a subcommand did not do what it should.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The running identityd gave no good answer.
    #[error(transparent)]
    Ask(AskError),
    /// The settings are wrong, or cannot be read.
    #[error(transparent)]
    Settings(SettingsError),
    /// The doctor has found something that nobody has repaired; it is told already.
    #[error("{}", needs_somebody(*.0))]
    Ill(usize),
    /// What was given cannot be used; the causes are in the error.
    #[error(transparent)]
    Usage(Box<dyn Error>),
    /// It was refused, because something would be lost.
    #[error(transparent)]
    Refused(Box<dyn Error>),
    /// Anything else; the causes are in the error.
    #[error(transparent)]
    Other(Box<dyn Error>),
}

pub(super) type CommandResult = Result<(), Failure>;

/// What went wrong otherwise than by what was asked for.
pub(super) fn other(error: impl Error + 'static) -> Failure {
    Failure::Other(Box::new(error))
}

impl Failure {
    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::Ask(error) if error.is_unreachable() => Exit::Unreachable,
            Self::Ask(AskError::Refused(problem)) => of_problem(problem),
            Self::Ask(error) if error.is_forbidden() => Exit::Refused,
            Self::Ill(_) => Exit::Differs,
            Self::Settings(SettingsError::Read { source, .. })
                if source.kind() == ErrorKind::PermissionDenied =>
            {
                Exit::Refused
            }
            // What could not be read may be readable the next time.
            Self::Settings(SettingsError::Read { .. }) => Exit::Failed,
            Self::Settings(_) | Self::Usage(_) => Exit::Usage,
            Self::Refused(_) => Exit::Refused,
            Self::Ask(_) | Self::Other(_) => Exit::Failed,
        }
    }

    /// The report that all programs of this project give, and the kind of a problem that the daemon told.
    pub(super) fn as_json(&self) -> serde_json::Value {
        let mut report = serde_json::json!(ErrorReport::new(self, self.exit(), None));
        if let Self::Ask(AskError::Refused(problem)) = self {
            report["kind"] = problem.kind.as_str().into();
            if !problem.unmet.is_empty() {
                report["unmet"] = serde_json::json!(problem.unmet);
            }
        }
        report
    }
}

fn needs_somebody(findings: usize) -> String {
    match findings {
        1 => "what was found above needs somebody".to_owned(),
        more => format!("{more} of the findings above need somebody"),
    }
}

/// What the daemon's answer means.
fn of_problem(problem: &Problem) -> Exit {
    match problem.kind {
        _ if problem.misused => Exit::Usage,
        _ if !problem.unmet.is_empty() => Exit::Refused,
        _ if problem.absent => Exit::NotFound,
        ProblemKind::Network | ProblemKind::Busy => Exit::Unreachable,
        ProblemKind::Refused => Exit::Refused,
        ProblemKind::Local | ProblemKind::Degraded => Exit::Failed,
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::PathBuf;

    use identityd::agent::Gate;

    use super::*;

    /// The table of docs/cli.md, by what the daemon answers and by what happens before.
    #[test]
    fn exit_codes() {
        let socket = || PathBuf::from("/nowhere");
        let connect = |kind: io::ErrorKind| AskError::Connect { socket: socket(), source: kind.into() };
        let unmet = || flist::package::Unmet {
            code: "kernel-too-old".into(),
            package: "web".into(),
            need: "kernel 9.0.0 or newer".into(),
            have: "6.1.0".into(),
        };
        let problem = |kind| Problem::new(kind, "no");
        let closed = |gate| Problem::closed(gate, "no");
        let unreadable = |kind: io::ErrorKind| SettingsError::Read { path: socket(), source: kind.into() };
        let secret = flist::hub::Access::read(&[], Some(&socket()), None).unwrap_err();
        let asked = [
            (
                AskError::NotRunning {
                    socket: socket(),
                    waits: None,
                    source: io::ErrorKind::NotFound.into(),
                },
                3,
            ),
            (AskError::Deadline { socket: socket(), after: std::time::Duration::ZERO }, 3),
            (AskError::BrokenOff { socket: socket(), source: None }, 3),
            (AskError::Garbage { socket: socket(), source: None }, 1),
            (connect(io::ErrorKind::Other), 3),
            (connect(io::ErrorKind::PermissionDenied), 5),
        ];
        let answered = [
            (problem(ProblemKind::Network), 3),
            (Problem::absent(ProblemKind::Network, "no"), 4),
            (Problem::absent(ProblemKind::Local, "no"), 4),
            (Problem { misused: true, ..problem(ProblemKind::Local) }, 2),
            (problem(ProblemKind::Busy), 3),
            (problem(ProblemKind::Local), 1),
            (problem(ProblemKind::Degraded), 1),
            (problem(ProblemKind::Refused), 5),
            (Problem { unmet: vec![unmet()], ..problem(ProblemKind::Refused) }, 5),
            (closed(Gate::Trust), 5),
            (closed(Gate::BadRelease), 5),
            (closed(Gate::Hold), 5),
            (closed(Gate::Pause), 5),
            (closed(Gate::Maintenance), 5),
        ];
        let others = [
            (Failure::Settings(unreadable(io::ErrorKind::NotFound)), 1),
            (Failure::Settings(unreadable(io::ErrorKind::PermissionDenied)), 5),
            (Failure::Settings(SettingsError::Access(secret)), 2),
            (Failure::Ill(1), 6),
            (Failure::Usage(Box::new(io::Error::other("x"))), 2),
            (Failure::Refused(Box::new(io::Error::other("x"))), 5),
            (other(io::Error::other("x")), 1),
        ];
        let answered = answered.map(|(problem, code)| (Failure::Ask(AskError::Refused(problem)), code));
        let asked = asked.map(|(error, code)| (Failure::Ask(error), code));
        for (failure, code) in asked.into_iter().chain(answered).chain(others) {
            assert_eq!(failure.exit().code(), code, "{failure:?}");
            assert_eq!(failure.as_json()["exit_code"], code, "{failure:?}");
        }
        let lacking = Problem { unmet: vec![unmet()], ..problem(ProblemKind::Refused) };
        let report = Failure::Ask(AskError::Refused(lacking)).as_json();
        assert_eq!(
            (&report["unmet"][0]["code"], &report["kind"]),
            (&"kernel-too-old".into(), &"Refused".into())
        );
    }

    #[test]
    fn a_daemon_that_does_not_run_is_told_with_what_starts_it() {
        let socket = PathBuf::from("/nowhere");
        let waits = Some("for the hub".to_owned());
        let missing = AskError::NotRunning { socket, waits, source: io::ErrorKind::NotFound.into() };
        let report = Failure::Ask(missing).as_json();
        let text = report["error"].as_str().unwrap_or_default();
        for said in ["/nowhere", "identityd run", "not booted yet: for the hub"] {
            assert!(text.contains(said), "{report}");
        }
    }
}
