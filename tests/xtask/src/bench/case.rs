//! One thing to measure, as data.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A program with its arguments.
#[derive(Debug, Clone)]
pub(super) struct Invocation {
    program: PathBuf,
    arguments: Vec<OsString>,
    libraries: Vec<PathBuf>,
}

/// One step of a case. The time of all steps counts.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// Runs to its end.
    Run(Invocation),
    /// Runs beside the steps that follow, from when it has printed its first line; it has to end by
    /// itself when the last of them is done.
    Start(Invocation),
}

/// What a case leaves.
#[derive(Debug, Clone)]
pub(super) enum Outcome {
    /// A copy of the tree.
    Copy(PathBuf),
    /// The tree in another form.
    Packed,
}

/// One thing to measure.
#[derive(Debug, Clone)]
pub(super) struct Case {
    /// What people call it, unique.
    pub(super) name: &'static str,
    /// Emptied, and made, before; the time of that does not count.
    pub(super) fresh: Vec<PathBuf>,
    /// What is done.
    pub(super) steps: Vec<Step>,
    /// What that results in.
    pub(super) outcome: Outcome,
}

impl Invocation {
    /// A program without arguments: a path, or a name that is searched for.
    pub(super) fn new(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), arguments: Vec::new(), libraries: Vec::new() }
    }

    /// Adds an argument.
    pub(super) fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Adds arguments.
    pub(super) fn args<const N: usize>(mut self, arguments: [&str; N]) -> Self {
        self.arguments.extend(arguments.map(OsString::from));
        self
    }

    /// Directories where the program's libraries are looked for first.
    pub(super) fn libraries(mut self, directories: &[PathBuf]) -> Self {
        self.libraries = directories.to_vec();
        self
    }

    /// The command that runs it.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).env("LC_ALL", "C").env("RUST_LOG", "warn");
        // A directory whose name holds a colon cannot be searched; the loader then says what is missing.
        if !self.libraries.is_empty()
            && let Ok(path) = std::env::join_paths(&self.libraries)
        {
            command.env("LD_LIBRARY_PATH", path);
        }
        command
    }
}

/// `cp -a` of the content of a directory to another.
pub(super) fn copy(from: &Path, to: &Path) -> Invocation {
    Invocation::new("cp").args(["-a", "-T"]).arg(from).arg(to)
}
