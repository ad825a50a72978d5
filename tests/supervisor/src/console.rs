//! What the supervisor itself says, on its standard output as zinit does.

use std::error::Error;
use std::fmt;
use std::io::Write;

/// Copies the lines of the ring to standard output when set to `1`.
pub(crate) const CONSOLE_VARIABLE: &str = "MOLT_SUPERVISOR_CONSOLE";

/// Standard output, with what may be said there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Console {
    debug: bool,
    ring: bool,
}

impl Console {
    /// A console that says debug messages if `debug`, and lines of the ring if the environment
    /// wants them.
    pub(crate) fn new(debug: bool) -> Self {
        let ring = std::env::var_os(CONSOLE_VARIABLE).is_some_and(|value| value == "1");
        Self { debug, ring }
    }

    pub(crate) fn error(self, message: impl fmt::Display) {
        print(format_args!("molt-supervisor: ERROR {message}"));
    }

    pub(crate) fn info(self, message: impl fmt::Display) {
        print(format_args!("molt-supervisor: INFO {message}"));
    }

    pub(crate) fn debug(self, message: impl fmt::Display) {
        if self.debug {
            print(format_args!("molt-supervisor: DEBUG {message}"));
        }
    }

    pub(crate) fn ring_line(self, line: &str) {
        if self.ring {
            print(format_args!("{line}"));
        }
    }
}

/// Displays an error with all its causes.
#[derive(Debug)]
pub(crate) struct Chain<'a>(pub(crate) &'a dyn Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

/// Nobody may be left to read standard output; that must not stop an init.
fn print(message: fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stdout().lock(), "{message}");
}
