//! Where the state is: on its disk, or for this boot in RAM, because its disk fails.
//!
//! ```text
//! /run/molt/state/            0700  a copy of the state directory, which counts instead of it
//! /run/molt/state/in-force    says so, and why; written last, removed first
//! /run/molt/state.lock        held by whoever writes a small file of the state, and while the state moves
//! /run/molt/state.floor       the highest number that was given out in RAM since the boot; usually not there
//! ```
//!
//! Every program of ours asks here which directory counts; only who holds the engine's lock moves the state. It
//! moves when its disk cannot be written or has no room for the next upgrade, and back when it can and has.

mod home;
mod notice;
mod seed;
mod signed;

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, SystemTime};

use flist::path::FlistPath;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::statvfs::statvfs;

pub use notice::Notice;

use crate::disk::{Beneath, Disk};
use crate::durable;
use crate::generation::{CURRENT, GENERATIONS, RootIdentity};
use crate::lock::EngineLock;
use crate::settings::Settings;

/// The directory in the run directory.
const DIRECTORY: &str = "state";

/// The file in it that makes it count.
const IN_FORCE: &str = "in-force";

/// The lock of small writes, in the run directory.
const LOCK: &str = "state.lock";

/// The highest number of a generation that RAM has brought home, in the run directory: when the disk fails once more
/// before the next boot, no generation may get one of those again.
const GIVEN_OUT: &str = "state.floor";

/// The file that is tried on the disk, and its length in bytes.
const PROBE: &str = ".probe";
const PROBE_BYTES: usize = 4096;

/// Left free where state is written to, in bytes.
const MARGIN: u64 = 1 << 20;

/// How long somebody may keep others from writing. Moving the state takes longest. Less in the unit tests, which wait
/// for it.
const WRITE_PATIENCE: Duration = Duration::from_millis(if cfg!(test) { 50 } else { 10_000 });

/// Longest number in a file, in bytes.
const LONGEST_NUMBER: u64 = 64;

/// Largest notice that is read, in bytes.
const LARGEST_NOTICE: u64 = 1 << 20;

/// The state could not be moved.
#[derive(Debug, thiserror::Error)]
pub enum StatePlaceError {
    /// There is not enough memory for it.
    #[error(
        "the state directory cannot be used ({why}), and there is not enough memory to work without it: {} needs {need} bytes and has {have}",
        at.display()
    )]
    NoMemory {
        /// Where the state would go.
        at: PathBuf,
        /// What it takes, in bytes.
        need: u64,
        /// What there is.
        have: u64,
        /// What is wrong with its disk.
        why: String,
    },
    /// A file could not be moved.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

/// Where the state is.
#[derive(Debug, Clone)]
pub struct StatePlace {
    disk: PathBuf,
    /// `None`: it never moves.
    run_dir: Option<PathBuf>,
}

/// Held while a small file of the state is written.
#[derive(Debug)]
pub struct WriteLock {
    _file: Option<Flock<File>>,
}

impl StatePlace {
    /// The state directory, and the run directory that it moves to.
    pub fn new(state_dir: &Path, run_dir: &Path) -> Self {
        Self { disk: state_dir.to_owned(), run_dir: Some(run_dir.to_owned()) }
    }

    /// As the settings have it.
    pub fn of(settings: &Settings) -> Self {
        Self::new(&settings.state_dir, &settings.run_dir)
    }

    /// A directory that is the state's, whatever becomes of its disk.
    pub fn fixed(directory: &Path) -> Self {
        Self { disk: directory.to_owned(), run_dir: None }
    }

    /// The directory that counts now.
    pub fn directory(&self) -> PathBuf {
        match self.ram() {
            Some(ram) if ram.join(IN_FORCE).exists() => ram,
            _ => self.disk.clone(),
        }
    }

    /// The directory of the state, or the run directory, that the user of this process may not look into: nothing can
    /// be said of what is in it. `None` where there is no such thing.
    pub fn forbidden(&self) -> Option<PathBuf> {
        let is_forbidden = |directory: &&PathBuf| {
            let refused = |error: io::Error| error.kind() == ErrorKind::PermissionDenied;
            fs::read_dir(directory).err().is_some_and(refused)
                || directory.join(CURRENT).symlink_metadata().err().is_some_and(refused)
        };
        [Some(&self.disk), self.run_dir.as_ref()].into_iter().flatten().find(is_forbidden).cloned()
    }

    /// Why the state is in RAM; `None` where it is on its disk.
    pub fn notice(&self) -> Option<Notice> {
        let bytes = match read_at_most(&self.ram()?.join(IN_FORCE), LARGEST_NOTICE) {
            Err(error) if error.kind() == ErrorKind::NotFound => return None,
            read => read.unwrap_or_default(),
        };
        Some(Notice::parse(&bytes))
    }

    /// Keeps everybody else from writing small files of the state, and from moving it. Waits for whoever does, which
    /// takes as long as writing them, but not for who hangs. Blocks the thread.
    ///
    /// # Errors
    /// The system's; `TimedOut` with the lock's path.
    pub fn write_lock(&self) -> io::Result<WriteLock> {
        self.write_lock_within(WRITE_PATIENCE)
    }

    /// As [`StatePlace::write_lock`], for who has more or less patience.
    ///
    /// # Errors
    /// As there.
    pub fn write_lock_within(&self, patience: Duration) -> io::Result<WriteLock> {
        let Some(run_dir) = &self.run_dir else { return Ok(WriteLock { _file: None }) };
        durable::private_directory(run_dir)?;
        let path = run_dir.join(LOCK);
        let mut open = File::options();
        let open = open.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = match Flock::lock(open.open(&path)?, FlockArg::LockExclusiveNonblock) {
            Ok(locked) => return Ok(WriteLock { _file: Some(locked) }),
            Err((file, _)) => file,
        };
        // In the kernel's queue, so that nobody who takes it again and again is always first. Who gets it when nobody
        // waits any more gives it back at once.
        let (done, got) = sync_channel(0);
        let wait = move || {
            let _too_late = done.send(lock_at_last(file));
        };
        std::thread::Builder::new().name("state lock".to_owned()).spawn(wait)?;
        match got.recv_timeout(patience) {
            Ok(locked) => Ok(WriteLock { _file: Some(locked?) }),
            Err(_) => {
                let path = path.display();
                let why = format!(
                    "another program has held {path} for more than {patience:?}; end it if it hangs, and try again"
                );
                Err(io::Error::new(ErrorKind::TimedOut, why))
            }
        }
    }

    /// Decides which directory counts, and moves the state if another one has to: into RAM when its disk fails or has
    /// no room for `need` bytes of records, back when it works again. `identity` is that of the root now; who does
    /// not know it leaves the way back to others.
    ///
    /// # Errors
    /// [`StatePlaceError`]; the directory that counted before still does.
    pub fn settle(
        &self,
        _: &EngineLock,
        identity: Option<&RootIdentity>,
        need: u64,
    ) -> Result<Option<Notice>, StatePlaceError> {
        let Some(ram) = self.ram() else { return Ok(None) };
        let failed = |source| StatePlaceError::File { action: "lock", path: ram.clone(), source };
        let _lock = self.write_lock().map_err(failed)?;
        let notice = self.notice();
        let need_here = match &notice {
            // What was written in RAM has to fit, too.
            Some(_) => need.saturating_add(home::size(&ram)),
            None => need,
        };
        // What says something about this process only changes nothing.
        let Ok(trouble) = self.trouble(need_here, &ram) else { return Ok(notice) };
        match (trouble, notice) {
            (None, None) => Ok(None),
            (Some(reason), None) => {
                let given_out = ram.parent().map_or(0, given_out);
                let notice = seed::fill(&self.disk, &ram, &reason, (need, given_out))?;
                tracing::error!(reason, path = %ram.display(), "the state directory cannot be used: working from RAM until it can, or the node reboots");
                Ok(Some(notice))
            }
            (Some(_), Some(notice)) => Ok(Some(notice)),
            // What is under way there ends there.
            (None, Some(notice)) if ram.join(crate::transaction::journal::NAME).exists() => Ok(Some(notice)),
            (None, Some(notice)) => {
                let Some(identity) = identity else { return Ok(Some(notice)) };
                if let Err(error) = home::bring(&ram, &self.disk, &notice, identity) {
                    // RAM still counts, and works.
                    tracing::error!(error = %flist::report(&error), "the state cannot be brought back to its disk");
                    return Ok(Some(notice));
                }
                tracing::warn!(path = %self.disk.display(), "the state directory can be used again: the state is back on its disk");
                Ok(None)
            }
        }
    }

    fn ram(&self) -> Option<PathBuf> {
        Some(self.run_dir.as_ref()?.join(DIRECTORY))
    }

    /// What keeps the disk from being used.
    ///
    /// # Errors
    /// That cannot be judged now.
    fn trouble(&self, need: u64, ram: &Path) -> io::Result<Option<String>> {
        let run_dir = ram.parent().unwrap_or(ram).metadata()?.dev();
        let looked = probe(&self.disk).and_then(|()| {
            let (space, at) = (statvfs(&self.disk)?, self.disk.metadata()?.dev());
            let free = space.blocks_available().saturating_mul(space.fragment_size());
            let short = need > 0 && space.blocks() > 0 && free < need.saturating_add(MARGIN);
            // Where both are in one file system, moving would gain nothing.
            Ok((short && at != run_dir).then_some(free))
        });
        let disk = self.disk.display();
        match looked {
            Err(error) if is_ours(&error) => Err(error),
            Err(error) => Ok(Some(format!("{disk}: {error}"))),
            Ok(short) => Ok(short.map(|free| format!("{disk} has {free} bytes left, and {need} are needed"))),
        }
    }
}

fn failed(action: &'static str, path: &Path) -> impl Fn(io::Error) -> StatePlaceError + use<> {
    let path = path.to_owned();
    move |source| StatePlaceError::File { action, path: path.clone(), source }
}

fn lock_at_last(mut file: File) -> io::Result<Flock<File>> {
    loop {
        match Flock::lock(file, FlockArg::LockExclusive) {
            Ok(locked) => return Ok(locked),
            Err((back, Errno::EINTR)) => file = back,
            Err((_, errno)) => return Err(errno.into()),
        }
    }
}

/// Whether an error says something about this process, and nothing about the disk.
fn is_ours(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::EINTR))
}

/// Reads and writes in both directories, so that a disk that cannot do either shows it, and one of which only a part
/// cannot.
fn probe(directory: &Path) -> io::Result<()> {
    durable::private_directory(directory)?;
    let generations = directory.join(GENERATIONS);
    durable::private_directory(&generations)?;
    for directory in [directory, &generations] {
        for name in fs::read_dir(directory)? {
            name?;
        }
    }
    // What it says is not this function's business, but nothing can be done without what is installed now.
    let pointer = match read_at_most(&directory.join(CURRENT), LONGEST_NUMBER) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::FileTooLarge) => Vec::new(),
        pointer => pointer?,
    };
    if let Ok(number) = String::from_utf8_lossy(&pointer).trim().parse::<u64>() {
        readable(&generations.join(format!("{number}.json")))?;
    }
    let (from, to) = (generations.join(PROBE), directory.join(PROBE));
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&from)?;
    file.write_all(&[0; PROBE_BYTES])?;
    file.sync_all()?;
    fs::rename(&from, &to)?;
    fs::remove_file(&to)?;
    File::open(&generations)?.sync_all()?;
    File::open(directory)?.sync_all()
}

/// Reads a file to its end; one that is not there can be read.
fn readable(path: &Path) -> io::Result<()> {
    match File::open(path).and_then(|mut file| io::copy(&mut file, &mut io::sink())) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The highest number that RAM has given out since the boot; 0 before it has come home.
fn given_out(run_dir: &Path) -> u64 {
    let noted = read_at_most(&run_dir.join(GIVEN_OUT), LONGEST_NUMBER).ok();
    noted.and_then(|bytes| String::from_utf8_lossy(&bytes).trim().parse().ok()).unwrap_or(0)
}

/// Bytes that can be written to the file system of a directory, in RAM at most the memory that is available.
fn available(directory: &Path) -> io::Result<u64> {
    let filesystem = Beneath::open(directory)?.filesystem(&FlistPath::root())?;
    Ok(filesystem.available.unwrap_or(u64::MAX))
}

fn read_at_most(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(File::open(path)?, limit.saturating_add(1)), &mut bytes)?;
    match bytes.len() as u64 > limit {
        true => Err(Errno::EFBIG.into()),
        false => Ok(bytes),
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_hangs_with_the_lock_of_small_writes_is_not_waited_for_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let place = StatePlace::new(&dir.path().join("state"), &dir.path().join("run"));
        let held = place.write_lock().unwrap();
        let error = place.write_lock_within(Duration::from_millis(30)).unwrap_err();
        let text = error.to_string();
        assert!(error.kind() == ErrorKind::TimedOut && text.contains("run/state.lock"), "{text}");
        // Who waits gets it as soon as it is free.
        let waits = std::thread::spawn(move || place.write_lock_within(Duration::from_secs(600)).map(drop));
        drop(held);
        waits.join().unwrap().unwrap();
    }

    /// What says something about this process must not move the state; everything else must.
    #[test]
    fn an_error_is_about_the_disk_unless_it_is_about_this_process() {
        for (errno, ours) in [
            (Errno::EMFILE, true),
            (Errno::ENFILE, true),
            (Errno::ENOMEM, true),
            (Errno::EINTR, true),
            (Errno::EIO, false),
            (Errno::EROFS, false),
            (Errno::ENOSPC, false),
            (Errno::EDQUOT, false),
            (Errno::EUCLEAN, false),
            (Errno::ESTALE, false),
            (Errno::ENOTDIR, false),
        ] {
            assert_eq!(is_ours(&errno.into()), ours, "{errno}");
        }
    }
}
