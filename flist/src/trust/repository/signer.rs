//! Who can sign here: key files, and commands that sign with a key that never leaves its token.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::commands::{self, Commands, CommandsError};
use super::key::{KeyError, Passphrase, SecretKey, public_in};

/// Lengths of signatures, in bytes: 64 of ed25519; of ECDSA, as DER, 8 to 72.
const SIGNATURE: RangeInclusive<usize> = 8..=72;

/// How much of what a command prints is looked at, in bytes.
const MAX_SIGNATURE: usize = 4096;

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    /// A key cannot be used.
    #[error("cannot sign with key {id}")]
    Key {
        /// Its id.
        id: String,
        /// The reason.
        #[source]
        source: KeyError,
    },
    /// A directory of keys cannot be read.
    #[error("cannot look for keys in {path}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The commands of keys cannot be read.
    #[error("cannot tell which commands sign")]
    Commands(#[source] CommandsError),
    /// The command of a key cannot be run.
    #[error("cannot run the signer {command}")]
    Run {
        /// The command.
        command: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The command of a key did not sign.
    #[error("the signer {command} did not sign: {problem}")]
    Command {
        /// The command.
        command: String,
        /// What it did instead.
        problem: String,
    },
    /// There are key files, but nothing that opens them.
    #[error(
        "key {id} is sealed, and there is no terminal to ask for its passphrase on: use --passphrase-file"
    )]
    NoPassphrase {
        /// Its id.
        id: String,
    },
}

/// The keys that can sign here.
#[derive(Debug, Default)]
pub struct Signers {
    files: BTreeMap<String, PathBuf>,
    commands: Commands,
    passphrase: Option<Passphrase>,
    opened: BTreeMap<String, SecretKey>,
}

impl Signers {
    /// Finds the key files (`*.key`) of these directories; directories that are not there have none. Of two files with
    /// one key the first one counts, so those of whoever signs come before what somebody else has brought. One that others
    /// can use is refused when it is to sign, and is in nobody's way before.
    ///
    /// # Errors
    /// A directory cannot be read, or has a key file that is none.
    pub fn find(directories: &[PathBuf], passphrase: Option<Passphrase>) -> Result<Self, SignerError> {
        let mut files = BTreeMap::new();
        for directory in directories {
            for path in key_files(directory)? {
                let public = public_in(&path);
                let public =
                    public.map_err(|source| SignerError::Key { id: path.display().to_string(), source })?;
                files.entry(public.id().to_owned()).or_insert(path);
            }
        }
        Ok(Self { files, passphrase, ..Self::default() })
    }

    /// Signs with the key whose id begins so by running a command, a program and its arguments: it gets the bytes on its
    /// standard input, and prints the signature as hexadecimal digits. A key file comes first.
    pub fn add_command(&mut self, id: &str, command: &[String]) {
        self.commands.insert(id.to_owned(), command.to_owned());
    }

    /// As [`Signers::add_command`] with the commands that are written down in a directory of keys (`signers.json`). They
    /// are run, so the directory has to be one that whoever signs has filled.
    ///
    /// # Errors
    /// They cannot be read, or others than their owner can write them.
    pub fn add_commands_in(&mut self, directory: &Path) -> Result<(), SignerError> {
        self.commands.extend(commands::read(directory).map_err(SignerError::Commands)?);
        Ok(())
    }

    /// Whether there are key files that cannot be opened without a passphrase.
    pub fn needs_passphrase(&self) -> bool {
        self.passphrase.is_none() && !self.files.is_empty()
    }

    /// Whether it can sign with the key of this id.
    pub fn has(&self, id: &str) -> bool {
        self.files.contains_key(id) || self.command(id).is_some()
    }

    /// Signs with the key of this id.
    ///
    /// # Errors
    /// [`SignerError`].
    pub fn sign(&mut self, id: &str, bytes: &[u8]) -> Result<Vec<u8>, SignerError> {
        self.unseal(id)?;
        match self.opened.get(id) {
            Some(key) => Ok(key.sign(bytes)),
            None => run(self.command(id).unwrap_or_default(), bytes),
        }
    }

    fn command(&self, id: &str) -> Option<&[String]> {
        let named = self.commands.iter().find(|(begins, _)| id.starts_with(begins.as_str()));
        named.map(|(_, command)| command.as_slice())
    }

    /// Opens the key file of this id, if it has one.
    ///
    /// # Errors
    /// [`SignerError`].
    pub fn unseal(&mut self, id: &str) -> Result<(), SignerError> {
        let Some(path) = self.files.get(id).filter(|_| !self.opened.contains_key(id)) else { return Ok(()) };
        let passphrase = self.passphrase.as_ref();
        let passphrase = passphrase.ok_or_else(|| SignerError::NoPassphrase { id: id.to_owned() })?;
        let failed = |source| SignerError::Key { id: id.to_owned(), source };
        let key = SecretKey::open(path, passphrase).map_err(failed)?;
        self.opened.insert(id.to_owned(), key);
        Ok(())
    }
}

fn key_files(directory: &Path) -> Result<Vec<PathBuf>, SignerError> {
    let failed = |source| SignerError::Directory { path: directory.to_owned(), source };
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "key") {
            paths.push(path);
        }
    }
    Ok(paths)
}

fn run(words: &[String], bytes: &[u8]) -> Result<Vec<u8>, SignerError> {
    let command = words.join(" ");
    let refused = |problem: String| SignerError::Command { command: command.clone(), problem };
    let failed = |source| SignerError::Run { command: command.clone(), source };
    let [program, arguments @ ..] = words else { return Err(refused("there is no command".to_owned())) };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command that does not read says with its answer what it thinks of that.
        let _unread = stdin.write_all(bytes);
    }
    let output = child.wait_with_output().map_err(failed)?;
    if !output.status.success() {
        return Err(refused(format!("it ended with {}", output.status)));
    }
    let text = String::from_utf8_lossy(&output.stdout[..output.stdout.len().min(MAX_SIGNATURE)]);
    let signature = hex::decode(text.trim()).ok().filter(|bytes| SIGNATURE.contains(&bytes.len()));
    signature.ok_or_else(|| {
        let of = "128 of ed25519, or an ECDSA signature in DER";
        refused(format!("it printed no signature in hexadecimal digits, which are {of}"))
    })
}
