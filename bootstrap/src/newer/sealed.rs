//! A program in memory that nobody can change any more, and that this process can become.
//!
//! State lies on disks that are mounted `noexec`, and stays there: what is executed is a copy (memfd_create(2)) with
//! seals, and what is compared with what was published is that copy, not the file that it was made from.

use std::convert::Infallible;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use flist::tree::Fingerprint;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::{Errno, FdFlags, fcntl_setfd};

/// What the copy is called where the kernel shows it: in `/proc/PID/exe`.
const NAME: &str = "bootstrap";

/// How a script begins.
const SCRIPT: &[u8] = b"#!";

/// Every byte of it was compared.
#[derive(Debug)]
pub(super) struct Sealed {
    copy: File,
    is_script: bool,
}

impl Sealed {
    /// Copies a program of so many bytes at most; `None` when the copy is not what is wanted.
    ///
    /// # Errors
    /// The system's: the file cannot be read, or there is no memory for it.
    pub(super) fn of(program: &Path, wanted: Fingerprint, limit: u64) -> io::Result<Option<Self>> {
        let file = File::open(program)?;
        let copy = match in_memory() {
            Ok(mut memory) => {
                io::copy(&mut file.take(limit), &mut memory)?;
                let all = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
                fcntl_add_seals(&memory, all)?;
                memory.rewind()?;
                memory
            }
            // `vm.memfd_noexec=2`, or no such call. Then it has to be where it may be executed.
            Err(Errno::ACCESS | Errno::NOSYS) => file,
            Err(errno) => return Err(errno.into()),
        };
        if Fingerprint::of_reader(&copy, wanted.codec())? != wanted {
            return Ok(None);
        }
        let mut beginning = [0; SCRIPT.len()];
        let is_script = match std::os::unix::fs::FileExt::read_exact_at(&copy, &mut beginning, 0) {
            Ok(()) => beginning == SCRIPT,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => false,
            Err(error) => return Err(error),
        };
        Ok(Some(Self { copy, is_script }))
    }

    /// Replaces this process. What the kernel does not know as a program is an error: the C library's `execvp`,
    /// which the standard library uses, would have a shell read it.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn execute(
        &self,
        arguments: impl Iterator<Item = OsString>,
        environment: impl Iterator<Item = (OsString, OsString)>,
    ) -> io::Result<Infallible> {
        let arguments: Vec<CString> = arguments.map(|text| word(&text)).collect::<Result<_, _>>()?;
        let environment: Vec<CString> = environment.map(pair).collect::<Result<_, _>>()?;
        if self.is_script {
            // Its interpreter opens it once more, by the same name.
            fcntl_setfd(&self.copy, FdFlags::empty())?;
        }
        let path = format!("/proc/self/fd/{}", self.copy.as_raw_fd());
        Ok(nix::unistd::execve(&word(OsStr::new(&path))?, &arguments, &environment)?)
    }
}

/// An empty file in memory that may become a program. Linux before 6.3 does not know the wish, and grants it.
fn in_memory() -> Result<File, Errno> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match memfd_create(NAME, flags | MemfdFlags::EXEC) {
        Err(Errno::INVAL) => memfd_create(NAME, flags),
        made => made,
    }
    .map(File::from)
}

fn pair((name, value): (OsString, OsString)) -> io::Result<CString> {
    word(&OsString::from_vec([name.as_bytes(), value.as_bytes()].join(&b'=')))
}

fn word(text: &OsStr) -> io::Result<CString> {
    Ok(CString::new(text.as_bytes())?)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flist::block::Codec;

    use super::*;

    fn fingerprint(bytes: &[u8]) -> Fingerprint {
        Fingerprint::of_reader(bytes, Codec::default()).unwrap()
    }

    #[test]
    fn what_is_executed_is_what_was_compared_whatever_becomes_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("program");
        std::fs::write(&path, "#!/bin/sh\nexit 0\n").unwrap();
        let wanted = fingerprint(b"#!/bin/sh\nexit 0\n");
        let sealed = Sealed::of(&path, wanted, 1 << 20).unwrap().unwrap();
        std::fs::write(&path, "#!/bin/sh\nexit 1\n").unwrap();
        assert!((&sealed.copy).write_all(b"x").is_err(), "nobody can write to it any more");
        assert!(sealed.copy.set_len(0).is_err());
        assert_eq!(std::fs::read(format!("/proc/self/fd/{}", sealed.copy.as_raw_fd())).unwrap().len(), 17);
        assert!(sealed.is_script);

        assert!(Sealed::of(&path, wanted, 1 << 20).unwrap().is_none(), "another program");
        std::fs::write(&path, "#!/bin/sh\nexit 0\n").unwrap();
        assert!(Sealed::of(&path, wanted, 16).unwrap().is_none(), "no more is read than the limit");
        assert!(Sealed::of(&dir.path().join("none"), wanted, 1 << 20).is_err());
        std::fs::write(&path, "#").unwrap();
        assert!(!Sealed::of(&path, fingerprint(b"#"), 1 << 20).unwrap().unwrap().is_script);
    }
}
