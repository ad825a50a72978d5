//! What can go wrong between a caller and the supervisor.

use std::io;
use std::path::PathBuf;
use std::str::Utf8Error;
use std::time::Duration;

use crate::unit::UnitError;

/// Longest piece of an unreadable answer that an error quotes, in bytes.
const EXCERPT_BYTES: usize = 80;

/// A call to the supervisor that did not bring what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing exists at the socket's path.
    #[error("no supervisor socket at {}; is zinit running, and is this its socket?", socket.display())]
    NoSocket {
        /// The path that was tried.
        socket: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The socket exists, and connecting to it failed.
    #[error("could not connect to the supervisor at {}", socket.display())]
    Connect {
        /// The path that was tried.
        socket: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The call took longer than its deadline. The supervisor may have done what it was asked.
    #[error("the supervisor did not finish `{command}` within {after:?}")]
    Deadline {
        /// The request.
        command: String,
        /// The deadline that passed.
        after: Duration,
    },
    /// The supervisor hung up before its answer was complete, or before it took the request.
    #[error("the supervisor broke off its answer to `{command}` after {received} bytes")]
    BrokenOff {
        /// The request.
        command: String,
        /// How much of the answer had come, in bytes.
        received: usize,
        /// What the system said; `None` for an orderly end of the stream.
        source: Option<io::Error>,
    },
    /// A whole answer came, and it is not one to this request: something else than a zinit listens on the
    /// socket, or one that speaks another dialect than before.
    #[error("the answer to `{command}` is not zinit's: \"{excerpt}\"")]
    Garbage {
        /// The request.
        command: String,
        /// How the answer begins, with everything unprintable escaped.
        excerpt: String,
        /// What is wrong with it.
        source: Malformed,
    },
    /// The answer is larger than any supervisor of sound mind would send.
    #[error("the answer to `{command}` is larger than {limit} bytes")]
    TooLarge {
        /// The request.
        command: String,
        /// The limit, in bytes.
        limit: usize,
    },
    /// The supervisor has more services than any of sound mind would.
    #[error("the answer to `{command}` has more than {limit} services")]
    TooMany {
        /// The request.
        command: String,
        /// The limit.
        limit: usize,
    },
    /// The request was not made, because this supervisor would do more than was asked for.
    #[error("`{command}` was not done: {hazard}")]
    Unsafe {
        /// The request.
        command: String,
        /// What it would do besides.
        hazard: Hazard,
    },
    /// A unit file that this supervisor has to be told, and cannot.
    #[error("the unit {} cannot be given to this zinit", path.display())]
    UnitFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Untranslatable,
    },
    /// The supervisor understood the request and said no.
    #[error("the supervisor refused `{command}`: {reason}")]
    Refused {
        /// The request.
        command: String,
        /// Why, in the supervisor's classes.
        reason: Refusal,
    },
}

impl Error {
    /// Whether the same call may succeed when it is simply repeated a little later.
    ///
    /// True where the fault lies in the conversation (no socket yet, nobody accepting, no answer in
    /// time, half an answer), false where the answer itself is the fault or was a refusal. After a
    /// [`Deadline`](Error::Deadline) or a [`BrokenOff`](Error::BrokenOff) the supervisor may
    /// already have obeyed: a repeated `start` or `stop` does no harm, a repeated `monitor` may be
    /// refused with [`Refusal::AlreadyMonitored`] and a repeated `forget` with
    /// [`Refusal::UnknownService`], and both then mean success.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::NoSocket { .. } | Self::Deadline { .. } | Self::BrokenOff { .. } => true,
            Self::Connect { source, .. } => matches!(
                source.kind(),
                // A socket left by a dead supervisor, a full backlog, a signal.
                io::ErrorKind::ConnectionRefused | io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
            ),
            Self::Garbage { .. }
            | Self::TooLarge { .. }
            | Self::TooMany { .. }
            | Self::Unsafe { .. }
            | Self::UnitFile { .. }
            | Self::Refused { .. } => false,
        }
    }

    /// Whether nobody knows any more who listens there and what he speaks.
    pub(crate) fn is_of_the_conversation(&self) -> bool {
        match self {
            Self::Refused { reason, .. } => matches!(reason, Refusal::Other(_)),
            Self::TooMany { .. } | Self::Unsafe { .. } | Self::UnitFile { .. } => false,
            _ => true,
        }
    }

    /// The supervisor's reason, when this is a refusal.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused { reason, .. } => Some(reason),
            _ => None,
        }
    }

    pub(crate) fn garbage(command: String, answer: &[u8], source: Malformed) -> Self {
        let start = &answer[..answer.len().min(EXCERPT_BYTES)];
        Self::Garbage { command, excerpt: String::from_utf8_lossy(start).escape_debug().collect(), source }
    }
}

/// Why an answer cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    /// The answer is not text.
    #[error("it is not UTF-8")]
    Encoding(#[source] Utf8Error),
    /// The answer is not JSON, or JSON of another shape than this request is answered with.
    #[error("it is not the JSON that this request is answered with")]
    Json(#[source] serde_json::Error),
    /// The answer is that of no zinit.
    #[error("no zinit answers so")]
    NoDialect,
    /// The answer has neither a result nor an error.
    #[error("it has neither a result nor an error")]
    NoResult,
    /// The supervisor could not read the request.
    #[error("the request was not understood: {message:?}")]
    NotUnderstood {
        /// In its words.
        message: String,
    },
    /// Many answers came, and none of them to this request.
    #[error("none of {passed_over} answers is to this request")]
    NoAnswer {
        /// How many were passed over.
        passed_over: usize,
    },
    /// The answer speaks of another service than the one asked about.
    #[error("it is about the service {answered:?}")]
    OtherService {
        /// The name in the answer.
        answered: String,
    },
}

/// What zinit 0.3 would do besides, if it were asked to delete a service.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Hazard {
    /// It deletes what depends on the service, and ends it.
    #[error("this zinit would delete {dependant} too, which depends on it; stop and forget that one first")]
    Deletes {
        /// A service that depends on it, directly or by way of others.
        dependant: String,
    },
    /// It moves another service in its table, and never learns of the end of that one's process.
    #[error(
        "this zinit would lose track of {service}, which runs; stop it first, and start it again afterwards"
    )]
    LosesTrack {
        /// The service that it would move.
        service: String,
    },
}

/// Why a unit file cannot be given to zinit 0.3.
#[derive(Debug, thiserror::Error)]
pub enum Untranslatable {
    /// It cannot be read.
    #[error("it cannot be read")]
    Read(#[source] io::Error),
    /// It is no unit.
    #[error(transparent)]
    Unit(UnitError),
    /// A command line is none.
    #[error(transparent)]
    Command(UnitError),
    /// It takes no names with a dot.
    #[error("it takes no names with a dot")]
    Name,
    /// It runs commands by way of a shell, which would not take this for the name of a program.
    #[error("it runs commands with a shell, which would not take {0:?} for the name of a program")]
    Program(String),
    /// A shell cannot pass this word on.
    #[error("an argument has a NUL byte: {0:?}")]
    Argument(String),
}

/// Why the supervisor said no.
///
/// The line dialect has no error codes, only sentences; they are told apart by their text as
/// zinit 0.2.11 words it, and a sentence nobody knows is kept as [`Refusal::Other`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No service of this name is monitored.
    #[error("it does not know the service {name:?}; `monitor` it first")]
    UnknownService {
        /// The name as the supervisor quotes it.
        name: String,
    },
    /// `monitor` of a service that is monitored.
    #[error("the service {name:?} is monitored already; to load a changed unit, stop and forget it first")]
    AlreadyMonitored {
        /// The name as the supervisor quotes it.
        name: String,
    },
    /// `forget` of a service that is wanted up or whose process lives.
    #[error("the service {name:?} is up; stop it and wait until its process is gone")]
    IsUp {
        /// The name as the supervisor quotes it.
        name: String,
    },
    /// `kill` of a service without a process.
    #[error("the service {name:?} has no process to signal")]
    IsDown {
        /// The name as the supervisor quotes it.
        name: String,
    },
    /// `kill` with a name that is no signal's.
    #[error("it does not know this signal")]
    BadSignal,
    /// `monitor` of a unit file that is missing or that zinit cannot use. It never says which.
    #[error("it could not load the unit file; is it there, with the ending .yaml, and valid?")]
    ConfigLoad,
    /// `start` or `monitor` while the supervisor stops everything.
    #[error("it is shutting down")]
    ShuttingDown,
    /// zinit 0.3 does not take the unit that it was given, in its own words.
    #[error("it does not take the unit: {0:?}")]
    Unit(String),
    /// Anything else, in the supervisor's own words.
    #[error("{0:?}")]
    Other(String),
}

impl Refusal {
    /// Sorts an error body of the line dialect into its class.
    pub(crate) fn from_line_body(body: &str) -> Self {
        match body {
            "EINVAL: Invalid argument" => return Self::BadSignal,
            "failed to load service config" => return Self::ConfigLoad,
            "zinit is shutting down" => return Self::ShuttingDown,
            _ => {}
        }
        if let Some(name) = between(body, "service name \"", "\" unknown") {
            Self::UnknownService { name }
        } else if let Some(name) = between(body, "service \"", "\" already monitored") {
            Self::AlreadyMonitored { name }
        } else if let Some(name) = between(body, "service \"", "\" is up") {
            Self::IsUp { name }
        } else if let Some(name) = between(body, "service \"", "\" is down") {
            Self::IsDown { name }
        } else {
            Self::Other(body.to_owned())
        }
    }
}

fn between(text: &str, prefix: &str, suffix: &str) -> Option<String> {
    text.strip_prefix(prefix)?.strip_suffix(suffix).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_measured_error_body_has_its_class() {
        let name = || "long".to_owned();
        for (body, class) in [
            (r#"service name "long" unknown"#, Refusal::UnknownService { name: name() }),
            (r#"service "long" already monitored"#, Refusal::AlreadyMonitored { name: name() }),
            (r#"service "long" is up"#, Refusal::IsUp { name: name() }),
            (r#"service "long" is down"#, Refusal::IsDown { name: name() }),
            ("EINVAL: Invalid argument", Refusal::BadSignal),
            ("failed to load service config", Refusal::ConfigLoad),
            ("zinit is shutting down", Refusal::ShuttingDown),
            ("unknown command", Refusal::Other("unknown command".to_owned())),
        ] {
            assert_eq!(Refusal::from_line_body(body), class);
        }
    }

    #[test]
    fn only_faults_of_the_conversation_are_retryable() {
        let connect = |kind: io::ErrorKind| Error::Connect { socket: "/s".into(), source: kind.into() };
        assert!(connect(io::ErrorKind::ConnectionRefused).is_retryable());
        assert!(connect(io::ErrorKind::WouldBlock).is_retryable());
        assert!(!connect(io::ErrorKind::PermissionDenied).is_retryable());
        assert!(Error::Deadline { command: "list".into(), after: Duration::from_secs(1) }.is_retryable());
        let refused = Error::Refused { command: "start x".into(), reason: Refusal::ShuttingDown };
        assert!(!refused.is_retryable());
        assert_eq!(refused.refusal(), Some(&Refusal::ShuttingDown));
        assert!(!Error::TooLarge { command: "list".into(), limit: 1 }.is_retryable());
    }

    #[test]
    fn an_excerpt_is_short_and_printable() {
        let answer = [b"\x1b[2J\xff".as_slice(), &[b'x'; 500]].concat();
        let utf8 = std::str::from_utf8(&answer).unwrap_err();
        let Error::Garbage { excerpt, .. } =
            Error::garbage("list".into(), &answer, Malformed::Encoding(utf8))
        else {
            panic!("not garbage");
        };
        assert!(excerpt.starts_with("\\u{1b}[2J"), "{excerpt}");
        assert!(excerpt.len() < 200 && !excerpt.contains('\u{1b}'));
    }
}
