//! From a failing disk into RAM.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::{IN_FORCE, MARGIN, Notice, SCHEMA, StatePlaceError, available, now, read_at_most};
use crate::durable;
use crate::generation::{CURRENT, FLOOR, GENERATIONS};
use crate::held;
use crate::transaction::journal;

/// Largest file that is copied, in bytes; no file of ours is larger.
const LARGEST: u64 = 256 << 20;

/// Most files that are copied; far more than there can be.
const MOST_FILES: usize = 10_000;

/// What stands in `current` when nobody could read it: then a root that something was installed into is compared as
/// a whole, instead of being taken for a new one.
const UNKNOWN: &[u8] = b"unknown\n";

/// Numbers up to this one at least are left to generations that could not be read; and up to the number of seconds
/// since 1970, so that what was numbered like this when the disk failed before is not numbered again.
const LEFT_TO_UNREAD: u64 = 1_000_000;

const ORDERS: &str = "orders.json";

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
    /// Earlier generations, the newest first.
    earlier: Vec<Found>,
    unread: Vec<String>,
}

/// Copies the state from `disk` to `ram`, which counts from then on. `need` bytes of records have to fit as well.
///
/// # Errors
/// [`StatePlaceError`]; the disk still counts then.
pub(super) fn fill(disk: &Path, ram: &Path, reason: &str, need: u64) -> Result<Notice, StatePlaceError> {
    let failed = |action, path: &Path| {
        let path = path.to_owned();
        move |source| StatePlaceError::File { action, path, source }
    };
    // What is there without a notice is of a move that broke off.
    match fs::remove_dir_all(ram) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed("remove", ram)(error)),
        _ => {}
    }
    let generations = ram.join(GENERATIONS);
    durable::private_directory(ram).map_err(failed("create", ram))?;
    durable::private_directory(&generations).map_err(failed("create", &generations))?;

    let Survey { needed, earlier, mut unread } = survey(disk);
    let have = available(ram).map_err(failed("look at the file system of", ram))?;
    let bytes: u64 = needed.iter().map(|found| found.bytes).sum();
    let needs = bytes.saturating_add(need).saturating_add(MARGIN);
    if needs > have {
        // An empty directory is in nobody's way.
        let _ = fs::remove_dir_all(ram);
        let (at, why) = (ram.to_owned(), reason.to_owned());
        return Err(StatePlaceError::NoMemory { at, need: needs, have, why });
    }
    let (mut seeded, mut left) = (Vec::new(), (have - needs) / 2);
    for (Found { name, bytes }, wanted) in
        needed.into_iter().map(|found| (found, true)).chain(earlier.into_iter().map(|found| (found, false)))
    {
        // Earlier generations are for going back: memory for the node's own work comes first.
        if !wanted {
            match left.checked_sub(bytes) {
                Some(rest) => left = rest,
                None => continue,
            }
        }
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
    stand_in(ram, &unread, now()).map_err(failed("write", ram))?;
    let notice = Notice { schema: SCHEMA, since: now(), reason: reason.to_owned(), unread, seeded };
    let marker = ram.join(IN_FORCE);
    let json = serde_json::to_vec(&notice).map_err(io::Error::from);
    json.and_then(|json| durable::replace(&marker, &json, 0o600)).map_err(failed("write", &marker))?;
    Ok(notice)
}

/// Where it cannot be known what is installed, that is written down, and numbers are taken that nobody has. Of orders
/// that cannot be read, the copy counts.
fn stand_in(ram: &Path, unread: &[String], now: u64) -> io::Result<()> {
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
    if under_way || unread.iter().any(|name| name.starts_with(GENERATIONS)) {
        let floor = LEFT_TO_UNREAD.max(now);
        durable::replace(&ram.join(FLOOR), floor.to_string().as_bytes(), 0o600)?;
    }
    if lacks(ORDERS) && ram.join(held::COPY).exists() {
        fs::copy(ram.join(held::COPY), ram.join(ORDERS))?;
    }
    Ok(())
}

fn survey(disk: &Path) -> Survey {
    let mut survey = Survey::default();
    let files = match list(disk) {
        Ok(files) => files,
        // There has never been any state.
        Err(error) if error.kind() == ErrorKind::NotFound => return survey,
        Err(_) => {
            survey.unread =
                [CURRENT, GENERATIONS, "releases.json", ORDERS, journal::NAME].map(str::to_owned).into();
            return survey;
        }
    };
    let is_ours = |name: &String| !name.starts_with('.') && !name.contains(".broken-");
    for name in files.into_iter().filter(is_ours) {
        match size(disk, &name) {
            Ok(Some(bytes)) => survey.needed.push(Found { name, bytes }),
            Ok(None) => {}
            Err(_) => survey.unread.push(name),
        }
    }
    let current = read_at_most(&disk.join(CURRENT), 64).ok();
    let current = current.and_then(|bytes| String::from_utf8_lossy(&bytes).trim().parse::<u64>().ok());
    let mut numbered = match list(&disk.join(GENERATIONS)) {
        Ok(names) => names.into_iter().filter_map(|name| Some((number_in(&name)?, name))).collect(),
        Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
        Err(_) => {
            survey.unread.push(GENERATIONS.to_owned());
            Vec::new()
        }
    };
    numbered.sort_unstable_by_key(|(number, _)| std::cmp::Reverse(*number));
    for (number, name) in numbered {
        let name = format!("{GENERATIONS}/{name}");
        match size(disk, &name) {
            Ok(Some(bytes)) if Some(number) == current => survey.needed.push(Found { name, bytes }),
            Ok(Some(bytes)) => survey.earlier.push(Found { name, bytes }),
            Ok(None) => {}
            Err(_) => survey.unread.push(name),
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

/// The generation that a record belongs to.
fn number_in(name: &str) -> Option<u64> {
    name.strip_suffix(".json").or_else(|| name.strip_suffix(".fl"))?.parse().ok()
}
