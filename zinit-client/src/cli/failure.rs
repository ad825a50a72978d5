//! Why a command did not do what it should.

use std::error::Error as _;
use std::io;
use std::time::Duration;

use zinit_client::{Error, Refusal, UnitName};

/// Wrong usage, in the table of exit codes that all programs of this project share (docs/cli.md).
pub(super) const USAGE: u8 = 2;

#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The supervisor did not do it.
    #[error(transparent)]
    Zinit(#[from] Error),
    /// A service did not end.
    #[error(
        "{service} has not ended within {after:?}; it stays stopped, see `status`, or use `kill {service} SIGKILL`"
    )]
    StillUp {
        /// The service.
        service: UnitName,
        /// How long it was waited for.
        after: Duration,
    },
    /// Nobody takes the output.
    #[error("cannot print the answer")]
    Output(#[source] io::Error),
}

impl Failure {
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Zinit(error) if error.is_retryable() => 3,
            Self::Zinit(Error::Connect { .. }) => 3,
            Self::Zinit(Error::Refused { reason: Refusal::UnknownService { .. }, .. }) => 4,
            Self::Zinit(Error::Refused { .. } | Error::Unsafe { .. }) => 5,
            Self::Zinit(Error::UnitFile { .. }) => USAGE,
            // It ends later, or with another signal.
            Self::StillUp { .. } => 3,
            Self::Zinit(_) | Self::Output(_) => 1,
        }
    }

    /// The error and its causes, in one line.
    pub(super) fn report(&self) -> String {
        let mut texts = vec![self.to_string()];
        texts.extend(self.causes());
        texts.join(": ")
    }

    pub(super) fn as_json(&self) -> serde_json::Value {
        serde_json::json!({
            "error": self.to_string(),
            "causes": self.causes(),
            "exit_code": self.exit_code(),
        })
    }

    fn causes(&self) -> Vec<String> {
        let (mut causes, mut next, mut last) = (Vec::new(), self.source(), self.to_string());
        while let Some(error) = next {
            let text = error.to_string();
            // Some foreign errors repeat their cause.
            if !last.ends_with(&text) {
                causes.push(text.clone());
                last = text;
            }
            next = error.source();
        }
        causes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes() {
        let refused = |reason| Failure::Zinit(Error::Refused { command: "start a".into(), reason });
        let name = || "a".to_owned();
        for (failure, code) in [
            (refused(Refusal::UnknownService { name: name() }), 4),
            (refused(Refusal::IsUp { name: name() }), 5),
            (Failure::Zinit(Error::TooLarge { command: "list".into(), limit: 1 }), 1),
            (Failure::Zinit(Error::Deadline { command: "list".into(), after: Duration::from_secs(1) }), 3),
            (
                Failure::Zinit(Error::NoSocket {
                    socket: "/s".into(),
                    source: io::ErrorKind::NotFound.into(),
                }),
                3,
            ),
            (Failure::StillUp { service: "a".parse().unwrap(), after: Duration::from_secs(1) }, 3),
        ] {
            assert_eq!(failure.exit_code(), code, "{failure:?}");
        }
    }
}
