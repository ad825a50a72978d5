//! What can go wrong in the harness itself.

use std::error::Error as _;
use std::fmt;
use std::io;
use std::time::Duration;

/// Why the harness could not do what it was told.
///
/// Its `Debug` is the chain of causes in plain words, because that is what `unwrap` and a test function's
/// `Result` show.
#[derive(thiserror::Error)]
pub enum Error {
    /// Namespaces, mounts and device nodes need root.
    #[error("{what} needs root (namespaces, mounts, /dev/fuse): run it as root, for example with sudo")]
    NotRoot {
        /// What was tried.
        what: &'static str,
    },
    /// The system refused something.
    #[error("cannot {action}")]
    System {
        /// What was tried, and on what.
        action: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A program ran and failed.
    #[error("`{command}` failed ({status})\n{output}")]
    Command {
        /// The command line.
        command: String,
        /// How it ended.
        status: String,
        /// The end of what it wrote.
        output: String,
    },
    /// Something did not happen in time.
    #[error("{what}: not within {after:?}; last seen: {last}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// For how long.
        after: Duration,
        /// Why the last look did not satisfy.
        last: String,
    },
    /// The program was told to end.
    #[error("interrupted")]
    Interrupted,
    /// Something is not as it has to be.
    #[error("{0}")]
    Unexpected(String),
    /// The supervisor did not do what it was asked.
    #[error("the supervisor does not {action}")]
    Supervisor {
        /// What was asked.
        action: String,
        /// Its answer.
        #[source]
        source: zinit_client::Error,
    },
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        let mut cause = self.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

/// Says what was tried when an operating system call fails.
pub(crate) trait Doing<T> {
    /// Turns the error into [`Error::System`].
    fn doing(self, action: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, action: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|error| Error::System { action: action(), source: error.into() })
    }
}

/// Fails unless the process is root's.
///
/// # Errors
/// [`Error::NotRoot`].
pub fn require_root(what: &'static str) -> Result<(), Error> {
    if nix::unistd::geteuid().is_root() { Ok(()) } else { Err(Error::NotRoot { what }) }
}
