//! From a failing disk into RAM.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::{MARGIN, Notice, StatePlaceError, available, failed, now, read_at_most, signed};
use crate::durable;
use crate::generation::{CURRENT, FLOOR, GENERATIONS, PINS};
use crate::held;
use crate::transaction::journal;

/// Largest file that is copied, in bytes; no file of ours is larger.
const LARGEST: u64 = 256 << 20;

/// Most files that are copied; far more than there can be.
const MOST_FILES: usize = 10_000;

/// What stands in `current` when nobody could read it: then a root that something was installed into is compared as
/// a whole, instead of being taken for a new one.
pub(super) const UNKNOWN: &[u8] = b"unknown\n";

/// Numbers up to this one at least are left to generations that could not be read; and up to the number of seconds
/// since 1970, so that what was numbered like this when the disk failed in an earlier boot is not numbered again.
const LEFT_TO_UNREAD: u64 = 1_000_000;

const ORDERS: &str = "orders.json";

/// What stands for pins that nobody could read: while they are not known, nothing is forgotten. They are no JSON, so the
/// disk's count when they can be read again.
const UNREAD_PINS: &[u8] = b"could not be read\n";

/// A file to copy.
struct Found {
    /// Its name in the state directory.
    name: String,
    bytes: u64,
}

/// What the disk holds, as far as it says.
#[derive(Default)]
struct Survey {
    /// What no upgrade can do without: everything but earlier generations.
    needed: Vec<Found>,
    /// The files of earlier generations, the newest first.
    earlier: BTreeMap<Reverse<u64>, Vec<Found>>,
    /// The highest number of a generation.
    highest: u64,
    unread: Vec<String>,
}

/// Copies the state from `disk` to `ram`, which counts from then on. `need` bytes of records have to fit as well, and
/// numbers up to `given_out` are taken.
///
/// # Errors
/// [`StatePlaceError`]; the disk still counts then.
pub(super) fn fill(
    disk: &Path,
    ram: &Path,
    reason: &str,
    (need, given_out): (u64, u64),
) -> Result<Notice, StatePlaceError> {
    begin(ram)?;
    let survey = survey(disk);
    let highest = survey.highest;
    let have = available(ram).map_err(failed("look at the file system of", ram))?;
    let needs = survey.bytes_needed().saturating_add(need).saturating_add(MARGIN);
    if needs > have {
        // An empty directory is in nobody's way.
        let _ = fs::remove_dir_all(ram);
        let (at, why) = (ram.to_owned(), reason.to_owned());
        return Err(StatePlaceError::NoMemory { at, need: needs, have, why });
    }
    // Earlier generations are for going back: memory for the node's own work comes first.
    let Chosen { files, left_out, mut unread } = survey.choose((have - needs) / 2);
    let seeded = copy((disk, ram), files, &mut unread)?;
    stand_in(ram, &unread).map_err(failed("write", ram))?;
    // What is kept for generations that are not here is needed when they are.
    let floor = floor(&unread, now().max(given_out), if left_out { highest } else { 0 });
    if floor > 0 {
        let at = ram.join(FLOOR);
        durable::replace(&at, floor.to_string().as_bytes(), 0o600).map_err(failed("write", &at))?;
    }
    let notice = Notice::new(reason, unread, seeded);
    notice.write(ram)?;
    Ok(notice)
}

/// Makes the directories in RAM, empty.
fn begin(ram: &Path) -> Result<(), StatePlaceError> {
    // What is there without a notice is of a move that broke off.
    match fs::remove_dir_all(ram) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed("remove", ram)(error)),
        _ => {}
    }
    let inside = [GENERATIONS.to_owned()].into_iter().chain(signed::directories()).map(|name| ram.join(name));
    for directory in [ram.to_owned()].into_iter().chain(inside) {
        durable::private_directory(&directory).map_err(failed("create", &directory))?;
    }
    Ok(())
}

/// Copies files as far as they can be read, and tells which; the others are added to `unread`.
fn copy(
    (disk, ram): (&Path, &Path),
    wanted: Vec<Found>,
    unread: &mut Vec<String>,
) -> Result<Vec<String>, StatePlaceError> {
    let mut seeded = Vec::new();
    for Found { name, .. } in wanted {
        match read_at_most(&disk.join(&name), LARGEST) {
            Ok(content) => {
                let to = ram.join(&name);
                durable::replace(&to, &content, 0o600).map_err(failed("write", &to))?;
                seeded.push(name);
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                tracing::error!(file = name, %error, "cannot be read: nobody knows what it says until the disk works again");
                unread.push(name);
            }
        }
    }
    Ok(seeded)
}

/// The number up to which generations may exist that are not in RAM, and up to which files are kept on the root for
/// them; 0 where all are there. Pure. Numbers that nobody has are above `taken`; `left_out` is the highest one where
/// some were left out.
fn floor(unread: &[String], taken: u64, left_out: u64) -> u64 {
    // A journal that nobody can read is about a generation that may be recorded nowhere else.
    let unknown = unread.iter().any(|name| name.starts_with(GENERATIONS) || name == journal::NAME);
    if unknown { LEFT_TO_UNREAD.max(taken).max(left_out) } else { left_out }
}

/// Where it cannot be known what is installed, that is written down. Of orders that cannot be read, the copy counts.
fn stand_in(ram: &Path, unread: &[String]) -> io::Result<()> {
    let current = fs::read(ram.join(CURRENT)).ok();
    let number = current.as_ref().map(|bytes| String::from_utf8_lossy(bytes).trim().to_owned());
    let manifest = number.map(|number| format!("{GENERATIONS}/{number}.json"));
    let lacks = |name: &str| unread.iter().any(|unread| unread == name);
    // A journal that nobody can read may be about half a swap.
    let under_way = lacks(journal::NAME);
    if under_way || lacks(CURRENT) || lacks(GENERATIONS) || manifest.is_some_and(|manifest| lacks(&manifest))
    {
        durable::replace(&ram.join(CURRENT), UNKNOWN, 0o600)?;
    }
    if lacks(PINS) {
        durable::replace(&ram.join(PINS), UNREAD_PINS, 0o600)?;
    }
    if lacks(ORDERS) && ram.join(held::COPY).exists() {
        fs::copy(ram.join(held::COPY), ram.join(ORDERS))?;
    }
    Ok(())
}

/// What is copied.
struct Chosen {
    files: Vec<Found>,
    /// Not every generation is among them.
    left_out: bool,
    unread: Vec<String>,
}

impl Survey {
    /// Length of what no upgrade can do without.
    fn bytes_needed(&self) -> u64 {
        self.needed.iter().map(|found| found.bytes).sum()
    }

    /// What is needed, and of earlier generations what has room in so many bytes: each as a whole, or not.
    fn choose(self, mut left: u64) -> Chosen {
        let Self { needed: mut files, earlier, unread, .. } = self;
        let mut left_out = false;
        for (Reverse(number), of_one) in earlier {
            match left.checked_sub(of_one.iter().map(|found| found.bytes).sum()) {
                Some(rest) => {
                    left = rest;
                    files.extend(of_one);
                }
                None => {
                    tracing::warn!(
                        generation = number,
                        "there is no memory for its record: it cannot be gone back to until the disk works again"
                    );
                    left_out = true;
                }
            }
        }
        Chosen { files, left_out, unread }
    }

    /// Files of the state directory that are needed.
    fn take(&mut self, disk: &Path, names: impl IntoIterator<Item = String>) {
        let is_ours = |name: &String| {
            let file = name.rsplit_once('/').map_or(name.as_str(), |(_, file)| file);
            !file.starts_with('.') && !file.contains(".broken-")
        };
        for name in names.into_iter().filter(is_ours) {
            match size(disk, &name) {
                Ok(Some(bytes)) => self.needed.push(Found { name, bytes }),
                Ok(None) => {}
                Err(_) => self.unread.push(name),
            }
        }
    }
}

fn survey(disk: &Path) -> Survey {
    let mut survey = Survey::default();
    let files = match list(disk) {
        Ok(files) => files,
        // There has never been any state.
        Err(error) if error.kind() == ErrorKind::NotFound => return survey,
        Err(_) => {
            survey.unread = [CURRENT, GENERATIONS, "releases.json", ORDERS, PINS, journal::NAME]
                .map(str::to_owned)
                .into();
            return survey;
        }
    };
    survey.take(disk, files);
    for directory in signed::directories() {
        match list(&disk.join(&directory)) {
            Ok(names) => survey.take(disk, names.iter().map(|name| format!("{directory}/{name}"))),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(_) => survey.unread.push(directory),
        }
    }
    let current = read_at_most(&disk.join(CURRENT), 64).ok();
    let current = current.and_then(|bytes| String::from_utf8_lossy(&bytes).trim().parse::<u64>().ok());
    let numbered: Vec<(u64, String)> = match list(&disk.join(GENERATIONS)) {
        Ok(names) => names.into_iter().filter_map(|name| Some((number_in(&name)?, name))).collect(),
        Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
        Err(_) => {
            survey.unread.push(GENERATIONS.to_owned());
            Vec::new()
        }
    };
    for (number, name) in numbered {
        survey.highest = survey.highest.max(number);
        let name = format!("{GENERATIONS}/{name}");
        match size(disk, &name) {
            Ok(Some(bytes)) if Some(number) == current => survey.needed.push(Found { name, bytes }),
            Ok(Some(bytes)) => {
                survey.earlier.entry(Reverse(number)).or_default().push(Found { name, bytes });
            }
            // A record is a file, or nobody can read it.
            Ok(None) | Err(_) => survey.unread.push(name),
        }
    }
    survey
}

fn list(directory: &Path) -> io::Result<Vec<String>> {
    let names = fs::read_dir(directory)?.take(MOST_FILES);
    names.filter_map(|entry| entry.map(|entry| entry.file_name().into_string().ok()).transpose()).collect()
}

/// The length of a regular file; `None` for anything else.
fn size(disk: &Path, name: &str) -> io::Result<Option<u64>> {
    let path: PathBuf = disk.join(name);
    let metadata = match path.symlink_metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        metadata => metadata?,
    };
    match metadata.len() {
        _ if !metadata.is_file() => Ok(None),
        bytes if bytes > LARGEST => Err(Errno::EFBIG.into()),
        bytes => Ok(Some(bytes)),
    }
}

/// The generation that a record belongs to: `<n>.json`, `<n>.fl`, or one of several flists, `<n>.<k>.fl`.
fn number_in(name: &str) -> Option<u64> {
    let (number, kind) = name.split_once('.')?;
    let kind = kind.rsplit_once('.').map_or(kind, |(_, kind)| kind);
    matches!(kind, "json" | "fl").then(|| number.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generation::{GenerationError, Pins, StateDir};

    #[test]
    fn every_record_of_a_generation_belongs_to_it() {
        for name in ["12.json", "12.fl", "12.0.fl", "12.31.fl"] {
            assert_eq!(number_in(name), Some(12), "{name}");
        }
        for name in ["12", "x.json", "12.json.broken-1", ".new-12.json", "12.txt"] {
            assert_eq!(number_in(name), None, "{name}");
        }
    }

    #[test]
    fn pins_that_nobody_could_read_are_not_taken_for_none() {
        let ram = tempfile::tempdir().unwrap();
        let pins = || StateDir::there(ram.path()).unwrap().pins();
        stand_in(ram.path(), &["orders.json".to_owned()]).unwrap();
        assert_eq!(pins().unwrap(), Pins::default());
        stand_in(ram.path(), &["pins.json".to_owned()]).unwrap();
        assert!(matches!(pins(), Err(GenerationError::Pins { .. })));
    }

    #[test]
    fn nobody_gets_a_number_that_may_be_taken_or_that_something_is_kept_for() {
        let unread = |name: &str| vec![name.to_owned()];
        assert_eq!(floor(&[], 1_700_000_000, 0), 0);
        assert_eq!(floor(&unread("releases.json"), 1_700_000_000, 0), 0);
        assert_eq!(floor(&[], 1_700_000_000, 3), 3, "left out for lack of memory");
        for name in ["generations", "generations/7.json", "journal"] {
            assert_eq!(floor(&unread(name), 1_700_000_000, 0), 1_700_000_000, "{name}");
            // Without a clock.
            assert_eq!(floor(&unread(name), 7, 0), LEFT_TO_UNREAD, "{name}");
            assert_eq!(floor(&unread(name), 7, 2_000_000_000), 2_000_000_000, "{name}");
        }
    }
}
