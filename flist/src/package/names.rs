//! Names, paths and commands of a package description: bad ones cannot be built.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::path::FlistPath;

/// Longest name of a package or a hook, in bytes.
const MAX_NAME: usize = 64;

/// Most words of a command, and most bytes of all of them.
const MAX_WORDS: usize = 32;
const MAX_COMMAND: usize = 4096;

/// Directories in which nothing is a package's: they are made anew at every boot, or Molt's own.
const NOT_A_PACKAGES: [&str; 8] =
    [".molt", "dev", "proc", "run/molt", "sys", "var/cache/molt", "var/lib/molt", "usr/lib/molt"];

/// Why a text is no name, path or command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It is no name.
    #[error(
        "'{0}' is no name: 1 to {MAX_NAME} lower-case letters, digits, '-', '_', '+' and '.', beginning with a letter or digit"
    )]
    Name(String),
    /// It is no path of a node.
    #[error("'{0}' is no absolute path without '.', '..' and double slashes")]
    Path(String),
    /// Nothing of a package belongs there.
    #[error("'{0}' is not a package's: state lies in a directory of its own, such as /var/lib/<package>")]
    NotAPackages(String),
    /// It is no command.
    #[error(
        "a command is a list of 1 to {MAX_WORDS} words with at most {MAX_COMMAND} bytes and without NUL, the first one the absolute path of a program"
    )]
    Command,
}

fn checked(text: &str) -> Result<(), NameError> {
    let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'+' | b'.');
    let begins = text.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
    match begins && text.len() <= MAX_NAME && text.bytes().all(allowed) {
        true => Ok(()),
        false => Err(NameError::Name(text.chars().take(MAX_NAME).collect())),
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                checked(text).map(|()| Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// The name of a package.
    PackageName
);
name!(
    /// The name of a hook.
    HookName
);

/// An absolute path on a node, not `/`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodePath(FlistPath);

impl NodePath {
    /// The path from the root.
    pub fn inside(&self) -> &FlistPath {
        &self.0
    }

    /// Whether state of a package may lie there.
    ///
    /// # Errors
    /// [`NameError::NotAPackages`].
    pub fn check_state(&self) -> Result<(), NameError> {
        let taken = |place: &&str| place.parse().is_ok_and(|place| super::overlap(&self.0, &place));
        // A directory of the system as a whole is nobody's state.
        let top = self.0.components().count() < 2;
        match top || NOT_A_PACKAGES.iter().any(taken) {
            true => Err(NameError::NotAPackages(self.to_string())),
            false => Ok(()),
        }
    }
}

impl TryFrom<String> for NodePath {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        let path = text.strip_prefix('/').and_then(|text| text.parse::<FlistPath>().ok());
        let path = path.filter(|path| !path.is_root());
        path.map(Self).ok_or_else(|| NameError::Path(text.chars().take(MAX_COMMAND).collect()))
    }
}

impl From<NodePath> for String {
    fn from(path: NodePath) -> Self {
        path.to_string()
    }
}

impl fmt::Display for NodePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", self.0)
    }
}

/// A program by its absolute path, and its arguments. No shell is involved.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct Command {
    program: NodePath,
    arguments: Vec<String>,
}

impl Command {
    /// The program.
    pub fn program(&self) -> &FlistPath {
        self.program.inside()
    }

    /// All words, the program's path first.
    pub fn words(&self) -> Vec<String> {
        std::iter::once(self.program.to_string()).chain(self.arguments.iter().cloned()).collect()
    }
}

impl TryFrom<Vec<String>> for Command {
    type Error = NameError;
    fn try_from(words: Vec<String>) -> Result<Self, NameError> {
        let bytes: usize = words.iter().map(|word| word.len() + 1).sum();
        let bad =
            words.len() > MAX_WORDS || bytes > MAX_COMMAND || words.iter().any(|word| word.contains('\0'));
        let mut words = words.into_iter();
        let program = words.next().and_then(|word| NodePath::try_from(word).ok());
        match program {
            Some(program) if !bad => Ok(Self { program, arguments: words.collect() }),
            _ => Err(NameError::Command),
        }
    }
}

impl From<Command> for Vec<String> {
    fn from(command: Command) -> Self {
        command.words()
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words().join(" "))
    }
}
