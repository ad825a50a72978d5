//! The passphrase of signing keys: from a private file, or from the terminal. Never from the command line or a
//! variable, which others can see.

use std::io;
use std::path::PathBuf;

use flist::exit::Exit;
use flist::private_file::{self, NotPrivate};
use flist::trust::repository::Passphrase;

use super::failure::Failure;
use super::terminal::{LONGEST, ask_secret as ask};

#[derive(clap::Args)]
pub(super) struct PassphraseAccess {
    /// File with the passphrase of the keys, readable by its owner only; without it the terminal is asked
    #[arg(long, value_name = "FILE", env = "FLIST_PASSPHRASE_FILE")]
    passphrase_file: Option<PathBuf>,
}

impl PassphraseAccess {
    /// The passphrase of keys that exist; `None` when there is nobody to ask. Only asked when there are sealed keys.
    pub(super) fn existing(&self) -> Result<Option<Passphrase>, Failure> {
        match self.in_file()? {
            Some(text) => Ok(Some(Passphrase::new(text))),
            None => Ok(ask("Passphrase of the keys: ").ok().map(Passphrase::new)),
        }
    }

    /// A passphrase for new keys, asked for twice.
    pub(super) fn new_one(&self) -> Result<Passphrase, Failure> {
        if let Some(text) = self.in_file()? {
            return Ok(Passphrase::new(text));
        }
        let nobody =
            |_| Failure::usage("there is no terminal to ask for a passphrase on: use --passphrase-file");
        let first = ask("Passphrase for the new keys: ").map_err(nobody)?;
        let second = ask("The same once more: ").map_err(nobody)?;
        match (first == second, first.is_empty()) {
            (true, false) => Ok(Passphrase::new(first)),
            (true, true) => Err(Failure::usage("an empty passphrase protects nothing")),
            (false, _) => Err(Failure::usage("these are two different passphrases")),
        }
    }

    fn in_file(&self) -> Result<Option<String>, Failure> {
        let Some(path) = &self.passphrase_file else { return Ok(None) };
        let shown = path.display();
        let failed = |error: io::Error| {
            Failure::new(Exit::Usage, format!("cannot read passphrase file {shown}: {error}"))
        };
        let (file, _) = private_file::open(path, LONGEST).map_err(|error| match error {
            NotPrivate::Open(error) => failed(error),
            NotPrivate::Unsafe(problem) => Failure::usage(format!("passphrase file {shown} {problem}")),
        })?;
        let mut text = String::new();
        io::Read::read_to_string(&mut io::Read::take(file, LONGEST), &mut text).map_err(failed)?;
        match text.lines().next().unwrap_or_default() {
            "" => Err(Failure::usage(format!("there is no passphrase in {shown}"))),
            line => Ok(Some(line.to_owned())),
        }
    }
}
