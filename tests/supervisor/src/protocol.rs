//! The line dialect: requests and replies. Pure.

use serde_json::Value;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    List,
    Status(String),
    Start(String),
    Stop(String),
    /// Wants a service down without a signal: the first half of a stop in the jsonrpc dialect.
    Lower(String),
    Forget(String),
    Monitor(String),
    Kill {
        name: String,
        signal: String,
    },
    Shutdown,
    Reboot,
    Log {
        follow: bool,
    },
}

/// Why a request was not done, in zinit's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("service name {0:?} unknown")]
    UnknownService(String),
    #[error("service {0:?} already monitored")]
    AlreadyMonitored(String),
    #[error("service {0:?} is up")]
    IsUp(String),
    #[error("service {0:?} is down")]
    IsDown(String),
    #[error("zinit is shutting down")]
    ShuttingDown,
    #[error("EINVAL: Invalid argument")]
    BadSignal,
    #[error("failed to load service config")]
    ConfigLoad,
    #[error("{0}")]
    System(nix::errno::Errno),
    #[error("unknown command")]
    NoCommand,
    #[error("unknown command '{0}' or wrong arguments count")]
    UnknownCommand(String),
    #[error("invalid command syntax")]
    Syntax,
    #[error("invalid log command arguments")]
    LogArguments,
}

/// Reads a request line. Its words are a shell's; a carriage return is part of a word.
pub(crate) fn parse(line: &str) -> Result<Request, Refusal> {
    let words = shlex::split(line).ok_or(Refusal::Syntax)?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        [] => Err(Refusal::NoCommand),
        ["log"] => Ok(Request::Log { follow: true }),
        ["log", "snapshot"] => Ok(Request::Log { follow: false }),
        ["log", ..] => Err(Refusal::LogArguments),
        ["list", ..] => Ok(Request::List),
        ["shutdown", ..] => Ok(Request::Shutdown),
        ["reboot", ..] => Ok(Request::Reboot),
        ["status", name] => Ok(Request::Status((*name).to_owned())),
        ["start", name] => Ok(Request::Start((*name).to_owned())),
        ["stop", name] => Ok(Request::Stop((*name).to_owned())),
        ["forget", name] => Ok(Request::Forget((*name).to_owned())),
        ["monitor", name] => Ok(Request::Monitor((*name).to_owned())),
        ["kill", name, signal] => {
            Ok(Request::Kill { name: (*name).to_owned(), signal: (*signal).to_owned() })
        }
        [command, ..] => Err(Refusal::UnknownCommand((*command).to_owned())),
    }
}

/// The bytes of a reply: one compact object, the state first, and no line end.
pub(crate) fn reply(result: Result<Value, Refusal>) -> String {
    let (state, body) = match result {
        Ok(body) => ("ok", body),
        Err(refusal) => ("error", Value::String(refusal.to_string())),
    };
    format!(r#"{{"state":"{state}","body":{body}}}"#)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests() {
        let name = || "a b".to_owned();
        for (line, request) in [
            ("list", Request::List),
            ("list of things", Request::List),
            ("status 'a b'", Request::Status(name())),
            ("start a\\ b", Request::Start(name())),
            ("kill 'a b' sigkill", Request::Kill { name: name(), signal: "sigkill".into() }),
            ("log", Request::Log { follow: true }),
            ("log snapshot", Request::Log { follow: false }),
            ("reboot", Request::Reboot),
            ("  stop   a\t", Request::Stop("a".into())),
        ] {
            assert_eq!(parse(line), Ok(request), "{line}");
        }
    }

    #[test]
    fn refusals_are_worded_as_measured() {
        for (line, text) in [
            ("", "unknown command"),
            ("restart a", "unknown command 'restart' or wrong arguments count"),
            ("start", "unknown command 'start' or wrong arguments count"),
            ("start a b", "unknown command 'start' or wrong arguments count"),
            ("list\r", "unknown command 'list\r' or wrong arguments count"),
            ("start 'a", "invalid command syntax"),
            ("log bogus", "invalid log command arguments"),
        ] {
            assert_eq!(parse(line).unwrap_err().to_string(), text, "{line:?}");
        }
    }

    #[test]
    fn replies() {
        assert_eq!(reply(Ok(Value::Null)), r#"{"state":"ok","body":null}"#);
        assert_eq!(
            reply(Err(Refusal::UnknownService("nosuch".into()))),
            r#"{"state":"error","body":"service name \"nosuch\" unknown"}"#
        );
    }
}
