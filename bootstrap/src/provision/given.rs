//! The directory with what a node is to be given.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use flist::trust::check_root;
use nix::fcntl::OFlag;

use super::checks::check_access;
use super::{CERTIFICATE, CONFIGURATION, FILES, MAX_FILE, ProvisionError, TOKEN};
use crate::settings::Settings;

/// What is in the directory.
#[derive(Debug)]
pub(super) struct Given {
    /// Name, mode and content.
    pub(super) files: Vec<(&'static str, u32, Vec<u8>)>,
    /// The names of everything else.
    pub(super) not_taken: Vec<String>,
}

impl Given {
    /// Reads what is there, and names what is not taken.
    pub(super) fn read(from: &Path) -> Result<Self, ProvisionError> {
        let not_taken = not_taken(from)?;
        let mut files = Vec::new();
        for (name, mode) in FILES {
            files.extend(read(&from.join(name))?.map(|bytes| (name, mode, bytes)));
        }
        match files.is_empty() {
            true => Err(ProvisionError::Empty { from: from.to_owned(), not_taken }),
            false => Ok(Self { files, not_taken }),
        }
    }

    /// Checks each file by itself; returns what the configuration says, where there is one.
    pub(super) fn check(&self, from: &Path) -> Result<Option<Settings>, ProvisionError> {
        let mut settings = None;
        for (name, _, bytes) in &self.files {
            let path = from.join(name);
            match *name {
                CONFIGURATION => {
                    settings = Some(Settings::check(&path, bytes).map_err(ProvisionError::Config)?);
                }
                TOKEN => check_access(Some(&path), None)?,
                CERTIFICATE => check_access(None, Some(&path))?,
                _ => check_root(bytes).map_err(|source| ProvisionError::Root { path, source })?,
            }
        }
        Ok(settings)
    }

    pub(super) fn bytes_of(&self, name: &str) -> Option<&[u8]> {
        self.files.iter().find(|(of, ..)| *of == name).map(|(.., bytes)| bytes.as_slice())
    }
}

/// The names of what is none of the files, sorted.
fn not_taken(from: &Path) -> Result<Vec<String>, ProvisionError> {
    let failed = |source: io::Error| match source.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => {
            ProvisionError::NoDirectory { path: from.to_owned(), source }
        }
        _ => ProvisionError::File { action: "list", path: from.to_owned(), source },
    };
    let mut names = Vec::new();
    for entry in fs::read_dir(from).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        match FILES.into_iter().find(|(known, _)| name.eq_ignore_ascii_case(known)) {
            Some((known, _)) if name == known => {}
            // A file system that does not tell them apart has it under both names.
            Some((known, _)) if is_one_file(&from.join(known), &from.join(&name)) => {}
            Some((known, _)) => return Err(ProvisionError::Misnamed { path: from.join(&name), name: known }),
            None => names.push(name.to_string_lossy().into_owned()),
        }
    }
    names.sort();
    Ok(names)
}

fn is_one_file(one: &Path, other: &Path) -> bool {
    let inode = |path: &Path| path.metadata().map(|metadata| (metadata.dev(), metadata.ino())).ok();
    inode(one).is_some_and(|one| Some(one) == inode(other))
}

/// Reads a regular file; `None` where nothing is of this name.
fn read(path: &Path) -> Result<Option<Vec<u8>>, ProvisionError> {
    let failed = |source| ProvisionError::File { action: "read", path: path.to_owned(), source };
    let file = match open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return match path.symlink_metadata() {
                Ok(_) => Err(ProvisionError::Dangling(path.to_owned())),
                Err(_) => Ok(None),
            };
        }
        Err(error) => return Err(failed(error)),
    };
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(ProvisionError::NoFile(path.to_owned()));
    }
    let mut bytes = Vec::new();
    // One byte more than allowed: what is cut off could still be read, and would say something else.
    file.take(MAX_FILE as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    match bytes.len() > MAX_FILE {
        true => Err(ProvisionError::TooLong { path: path.to_owned(), limit: MAX_FILE }),
        false => Ok(Some(bytes)),
    }
}

fn open(path: &Path) -> io::Result<File> {
    // Without O_NONBLOCK, opening a FIFO would wait for its writer.
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)
}
