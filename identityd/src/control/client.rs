//! The command line's side of the control socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout};

use super::{LARGEST_ANSWER, Line, patience, read_line};
use crate::agent::{Answer, Asked, Gate, Outcome, Problem, ProblemKind, Progress, Stage, Upgraded, Verb};
use crate::status::Status;
use bootstrap::boot_waits;

/// How long connecting and sending the request may take.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// How long an identityd that replaces itself may be away: the guardian's bound, and a restart.
const LONGEST_HANDOVER: Duration = Duration::from_secs(90);
/// How long an upgrade is followed after a handover.
const LONGEST_FOLLOWING: Duration = Duration::from_secs(60 * 60);
/// Time between two looks while an upgrade is followed after a handover.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// A question that got no good answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens.
    #[error(
        "identityd is not running: nobody listens on {}{}; start it with `zinit start identityd`, or by hand with `identityd run`",
        socket.display(),
        waits.as_ref().map(|waits| format!(", and this node has not booted yet: {waits}")).unwrap_or_default()
    )]
    NotRunning {
        /// The socket.
        socket: PathBuf,
        /// What the boot of this node waits for, if it does.
        waits: Option<String>,
        /// What the system said.
        source: io::Error,
    },
    /// The socket is there and cannot be used.
    #[error(
        "could not ask identityd on {}{}",
        socket.display(),
        if source.kind() == io::ErrorKind::PermissionDenied { ", which only root may" } else { "" }
    )]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The daemon is too slow, or stands still.
    #[error("identityd did not answer on {} within {after:?}", socket.display())]
    Deadline {
        /// The socket.
        socket: PathBuf,
        /// How long it was given.
        after: Duration,
    },
    /// The connection ended before the answer.
    #[error("identityd broke off its answer on {}", socket.display())]
    BrokenOff {
        /// The socket.
        socket: PathBuf,
        /// What the system said; `None` for an orderly end of the stream.
        source: Option<io::Error>,
    },
    /// What came is no answer of identityd's.
    #[error("what answered on {} is not this version's identityd", socket.display())]
    Garbage {
        /// The socket.
        socket: PathBuf,
        /// What is wrong with the answer; `None` when it has no end.
        source: Option<serde_json::Error>,
    },
    /// The daemon said no.
    #[error(transparent)]
    Refused(Problem),
}

impl AskError {
    /// Whether identityd could not be asked, or not to the end: later it may be possible.
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::NotRunning { .. } | Self::Deadline { .. } | Self::BrokenOff { .. } => true,
            Self::Connect { .. } => !self.is_forbidden(),
            Self::Garbage { .. } | Self::Refused(_) => false,
        }
    }

    /// Whether this user may not ask.
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Self::Connect { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
    }
}

/// What is heard before the last answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard<'a> {
    /// The upgrade moves.
    Progress(&'a Progress),
    /// The daemon went away in the middle of an upgrade: most likely it replaces itself.
    Handover,
}

/// Asks the daemon on this socket; `heard` is told what comes before the last answer.
pub async fn ask(
    socket: &Path,
    asked: impl Into<Asked>,
    mut heard: impl FnMut(Heard<'_>) + Send,
) -> Result<Outcome, AskError> {
    let asked = asked.into();
    let mut stream = BufReader::new(connect(socket, &asked).await?);
    let after = patience(asked.verb);
    let socket = || socket.to_owned();
    loop {
        let line = match timeout(after, read_line(&mut stream, LARGEST_ANSWER)).await {
            Ok(Ok(Line::Whole(line))) => line,
            Ok(Ok(Line::BrokenOff(_))) => {
                return Err(AskError::BrokenOff { socket: socket(), source: None });
            }
            Ok(Ok(Line::TooLong)) => return Err(AskError::Garbage { socket: socket(), source: None }),
            Ok(Err(error)) => return Err(AskError::BrokenOff { socket: socket(), source: Some(error) }),
            Err(_) => return Err(AskError::Deadline { socket: socket(), after }),
        };
        match serde_json::from_slice(&line) {
            Ok(Answer::Progress(progress)) => heard(Heard::Progress(&progress)),
            Ok(Answer::Ok(outcome)) => return Ok(outcome),
            Ok(Answer::Error(problem)) => return Err(AskError::Refused(problem)),
            Err(error) => return Err(AskError::Garbage { socket: socket(), source: Some(error) }),
        }
    }
}

/// The first line of the answer to `status`, whichever version of identityd says it.
///
/// # Errors
/// [`AskError`].
pub async fn answer_of_any_version(socket: &Path) -> Result<serde_json::Value, AskError> {
    let mut stream = BufReader::new(connect(socket, &Verb::Status.into()).await?);
    let socket = || socket.to_owned();
    match timeout(patience(Verb::Status), read_line(&mut stream, LARGEST_ANSWER)).await {
        Ok(Ok(Line::Whole(line))) => serde_json::from_slice(&line)
            .map_err(|error| AskError::Garbage { socket: socket(), source: Some(error) }),
        Ok(Ok(Line::BrokenOff(_))) => Err(AskError::BrokenOff { socket: socket(), source: None }),
        Ok(Ok(Line::TooLong)) => Err(AskError::Garbage { socket: socket(), source: None }),
        Ok(Err(error)) => Err(AskError::BrokenOff { socket: socket(), source: Some(error) }),
        Err(_) => Err(AskError::Deadline { socket: socket(), after: patience(Verb::Status) }),
    }
}

/// Asks for an upgrade ([`Verb::Apply`], [`Verb::Retry`]), and follows to the end, also across a handover: the
/// daemon that comes back goes on by itself and is only watched, so that a release that broke it is
/// not tried again at once.
pub async fn follow_upgrade(
    socket: &Path,
    asked: impl Into<Asked>,
    heard: impl FnMut(Heard<'_>) + Send,
) -> Result<Outcome, AskError> {
    let before = installed_release(socket).await?;
    follow(socket, asked.into(), heard, |status| end_of_upgrade(status, before.as_deref())).await
}

/// Asks for a rollback to the generation `to`, or to the one before the current release, and follows it as
/// [`follow_upgrade`] does.
pub async fn follow_rollback(
    socket: &Path,
    to: Option<u64>,
    heard: impl FnMut(Heard<'_>) + Send,
) -> Result<Outcome, AskError> {
    let before = installed_release(socket).await?;
    let asked = Asked { to, ..Verb::Rollback.into() };
    follow(socket, asked, heard, |status| end_of_rollback(status, before.as_deref())).await
}

/// The id of the release that is installed now.
async fn installed_release(socket: &Path) -> Result<Option<String>, AskError> {
    match ask(socket, Verb::Status, |_| {}).await? {
        Outcome::Status(status) => Ok(status.installed.map(|installed| installed.release)),
        _ => Err(AskError::Garbage { socket: socket.to_owned(), source: None }),
    }
}

async fn follow(
    socket: &Path,
    asked: Asked,
    mut heard: impl FnMut(Heard<'_>) + Send,
    end: impl Fn(&Status) -> Option<Result<Upgraded, Problem>>,
) -> Result<Outcome, AskError> {
    match ask(socket, asked, &mut heard).await {
        Err(AskError::BrokenOff { .. }) => heard(Heard::Handover),
        answer => return answer,
    }
    let start = Instant::now();
    let mut last_seen = start;
    let mut last_stage = None;
    loop {
        match ask(socket, Verb::Status, |_| {}).await {
            Ok(Outcome::Status(status)) => {
                last_seen = Instant::now();
                if status.stage.is_upgrading() && last_stage.replace(status.stage) != Some(status.stage) {
                    heard(Heard::Progress(&Progress::Stage(status.stage)));
                }
                if let Some(end) = end(&status) {
                    return end.map(Outcome::Apply).map_err(AskError::Refused);
                }
            }
            Ok(_) => return Err(AskError::Garbage { socket: socket.to_owned(), source: None }),
            Err(error @ AskError::Garbage { .. }) => return Err(error),
            Err(error) if last_seen.elapsed() > LONGEST_HANDOVER => return Err(error),
            Err(_) => {}
        }
        if start.elapsed() > LONGEST_FOLLOWING {
            return Err(AskError::Deadline { socket: socket.to_owned(), after: LONGEST_FOLLOWING });
        }
        sleep(LOOK_AGAIN).await;
    }
}

/// How the upgrade from the release `before` ended, if this status says that it did. A daemon that was killed,
/// and to which nothing is offered any more, has nothing to do either.
fn end_of_upgrade(status: &Status, before: Option<&str>) -> Option<Result<Upgraded, Problem>> {
    let release = status.installed.as_ref().map(|installed| installed.release.as_str());
    match (status.stage, status.gate) {
        (Stage::Idle | Stage::Committed, _) if release != before => Some(Ok(installed(status))),
        (Stage::Idle | Stage::Committed, _) => Some(Err(ended_badly(status))),
        (Stage::RolledBack | Stage::Degraded, _) => Some(Err(ended_badly(status))),
        (Stage::Waiting, Some(gate)) if gate != Gate::Starting => Some(Err(ended_badly(status))),
        _ => None,
    }
}

/// How the rollback from the release `before` ended, if this status says that it did. What the daemon does
/// afterwards may have begun.
fn end_of_rollback(status: &Status, before: Option<&str>) -> Option<Result<Upgraded, Problem>> {
    let release = status.installed.as_ref().map(|installed| installed.release.as_str());
    match (&status.rollback, release) {
        (Some(_), _) | (None, None) => None,
        (None, now) if now != before => Some(Ok(installed(status))),
        (None, _) => Some(Err(ended_badly(status))),
    }
}

fn installed(status: &Status) -> Upgraded {
    Upgraded {
        committed: true,
        version: status.installed.as_ref().map(|installed| installed.version.clone()),
        generation: status.installed.as_ref().map(|installed| installed.generation),
        withheld: None,
    }
}

fn ended_badly(status: &Status) -> Problem {
    match (&status.last_error, &status.reason) {
        (Some(error), _) => Problem::new(error.kind, error.message.clone()),
        (None, Some(reason)) => Problem::new(ProblemKind::Local, reason.clone()),
        (None, None) => {
            let message = "it did not come to its end; `identityd history` tells why";
            Problem::new(ProblemKind::Local, message)
        }
    }
}

async fn connect(socket: &Path, asked: &Asked) -> Result<UnixStream, AskError> {
    let connected = async {
        let mut stream = UnixStream::connect(socket).await?;
        let mut line = serde_json::to_vec(asked)?;
        line.push(b'\n');
        match stream.write_all(&line).await {
            // It answered before it read, as it does to those it will not listen to.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(stream),
            Err(error) => Err(error),
            Ok(()) => Ok(stream),
        }
    };
    let socket = socket.to_owned();
    match timeout(CONNECT_DEADLINE, connected).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(source)) => Err(match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                let waits = socket.parent().and_then(boot_waits::read);
                AskError::NotRunning { socket, waits, source }
            }
            _ => AskError::Connect { socket, source },
        }),
        Err(_) => Err(AskError::Deadline { socket, after: CONNECT_DEADLINE }),
    }
}
