//! From RAM back to the disk, once it works again.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::Path;

use serde_json::{Map, Value};

use super::seed::UNKNOWN;
use super::{GIVEN_OUT, IN_FORCE, Notice, StatePlaceError, failed, signed};
use crate::durable;
use crate::generation::{CURRENT, FLOOR, GENERATIONS, Generation, GenerationError, RootIdentity, StateDir};
use crate::transaction::journal;

/// The pointer and what it leads to: they come home at the end.
const LAST: [&str; 3] = [CURRENT, FLOOR, journal::NAME];

/// Bytes of what is in RAM.
pub(super) fn size(ram: &Path) -> u64 {
    let of = |directory: &Path| -> u64 {
        let files =
            fs::read_dir(directory).into_iter().flatten().filter_map(|entry| entry.ok()?.metadata().ok());
        files.filter(|metadata| metadata.is_file()).map(|metadata| metadata.len()).sum()
    };
    let directories = signed::directories().into_iter().chain([GENERATIONS.to_owned()]);
    directories.fold(of(ram), |all, directory| all.saturating_add(of(&ram.join(directory))))
}

/// Brings the state back. What was copied from the disk before is what RAM has made of it; what could not be read
/// then is joined with what came to be in RAM. Breaking off and beginning again is no harm: RAM counts until
/// everything is on the disk.
///
/// # Errors
/// [`StatePlaceError`]; RAM still counts then.
pub(super) fn bring(
    ram: &Path,
    disk: &Path,
    notice: &Notice,
    identity: &RootIdentity,
) -> Result<(), StatePlaceError> {
    let names = to_bring(ram)?;
    for directory in signed::directories() {
        let (from, on_disk) = (format!("{directory}/"), disk.join(&directory));
        if names.iter().any(|name| name.starts_with(&from)) {
            durable::private_directory(&on_disk).map_err(failed("create", &on_disk))?;
        }
    }
    for name in &names {
        bring_file((ram, disk), name, notice)?;
    }
    // What was there, and is no more: an attempt that has ended.
    let gone = |name: &&String| {
        (!name.contains('/') || signed::is_signed(name))
            && !names.contains(name)
            && !LAST.contains(&name.as_str())
    };
    for name in notice.seeded.iter().filter(gone) {
        remove(&disk.join(name)).map_err(failed("remove", &disk.join(name)))?;
    }
    bring_generations(ram, disk, notice, identity)?;
    // From here on the disk counts.
    remove(&ram.join(IN_FORCE)).map_err(failed("remove", ram))?;
    if let Err(error) = fs::remove_dir_all(ram) {
        tracing::warn!(path = %ram.display(), %error, "the copy of the state stays in RAM");
    }
    Ok(())
}

/// The files in RAM that come home first, by their names in the state directory.
fn to_bring(ram: &Path) -> Result<Vec<String>, StatePlaceError> {
    let mut names = files(ram).map_err(failed("list", ram))?;
    names.retain(|name| name != IN_FORCE && !LAST.contains(&name.as_str()));
    for directory in signed::directories() {
        let there = match files(&ram.join(&directory)) {
            // An earlier version has brought the state here.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            there => there.map_err(failed("list", ram))?,
        };
        names.extend(there.iter().map(|name| format!("{directory}/{name}")));
    }
    Ok(names)
}

/// Brings one file, joined with what the disk has of it where nobody could read that before.
fn bring_file((ram, disk): (&Path, &Path), name: &String, notice: &Notice) -> Result<(), StatePlaceError> {
    let (from, to) = (ram.join(name), disk.join(name));
    let new = fs::read(&from).map_err(failed("read", &from))?;
    let unread = notice.unread.contains(name) || !notice.seeded.contains(name);
    let old = match unread.then(|| fs::read(&to)).transpose() {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed("read", &to)(error)),
        old => old.ok().flatten(),
    };
    let content = old.map_or_else(|| new.clone(), |old| joined(name, &old, &new));
    durable::replace(&to, &content, 0o600).map_err(failed("write", &to))
}

/// Whose current generation the root is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Counts {
    Ram,
    Disk,
    /// Somebody has gone on with each of them, and nobody can tell.
    Nobody,
}

/// Decides it. Pure. `here` is what RAM has under the number of its current generation, `there` what the disk says is
/// installed in this root, and `undecided` what an attempt to come home has found before it broke off: the disk's
/// pointer may be damaged since then.
fn which_counts(
    number: u64,
    here: Option<&Generation>,
    there: Option<&Generation>,
    undecided: Option<u64>,
) -> Counts {
    match there {
        Some(there) if there.number > number => Counts::Disk,
        _ if undecided == Some(number) => Counts::Nobody,
        Some(there) if there.number == number && here != Some(there) => Counts::Nobody,
        _ => Counts::Ram,
    }
}

/// The newer generation of this root counts. A journal on the disk is about something that RAM has finished or undone
/// since, if it knew of it.
fn bring_generations(
    ram: &Path,
    disk: &Path,
    notice: &Notice,
    identity: &RootIdentity,
) -> Result<(), StatePlaceError> {
    let (here, there) =
        (StateDir::open(ram).map_err(unusable(ram))?, StateDir::open(disk).map_err(unusable(disk))?);
    let next = here.next_number().map_err(unusable(ram))?;
    let given_out = ram.with_file_name(GIVEN_OUT);
    durable::replace(&given_out, next.saturating_sub(1).to_string().as_bytes(), 0o600)
        .map_err(failed("write", &given_out))?;
    let Some(number) = here.current_number().map_err(unusable(ram))? else { return Ok(()) };
    let recorded = here.recorded(number).map_err(unusable(ram))?;
    let newest = there.standing(identity).map_err(unusable(disk))?.generation();
    let counts = which_counts(number, recorded.as_ref(), newest.as_ref(), notice.undecided);
    if counts == Counts::Disk {
        return Ok(());
    }
    if counts == Counts::Nobody {
        tracing::error!(
            generation = number,
            "RAM and the disk have different generations of this number: the next upgrade compares the whole root"
        );
        // Before the pointer is damaged: after that nobody could see it again.
        Notice { undecided: Some(number), ..notice.clone() }.write(ram)?;
    }
    // First: what it says must never be done to what RAM has made of the root.
    let journal = disk.join(journal::NAME);
    remove(&journal).map_err(failed("remove", &journal))?;
    if counts == Counts::Nobody {
        let pointer = disk.join(CURRENT);
        return durable::replace(&pointer, UNKNOWN, 0o600).map_err(failed("write", &pointer));
    }
    bring_records((ram, &here), (disk, &there), number, notice)
}

/// Brings the records of RAM's generations, makes this one current, and forgets what RAM has forgotten.
fn bring_records(
    (ram, here): (&Path, &StateDir),
    (disk, there): (&Path, &StateDir),
    number: u64,
    notice: &Notice,
) -> Result<(), StatePlaceError> {
    let records = files(&ram.join(GENERATIONS)).map_err(failed("list", ram))?;
    for name in records.iter().map(|name| format!("{GENERATIONS}/{name}")) {
        let (from, to) = (ram.join(&name), disk.join(&name));
        let new = fs::read(&from).map_err(failed("read", &from))?;
        if fs::read(&to).ok().as_ref() != Some(&new) {
            durable::replace(&to, &new, 0o600).map_err(failed("write", &to))?;
        }
    }
    there.commit(number).map_err(unusable(disk))?;
    // What RAM knew and has forgotten: its files are gone.
    let known = here.numbers().map_err(unusable(ram))?;
    let seeded = notice.seeded.iter().filter_map(|name| {
        name.strip_prefix(GENERATIONS)?.strip_prefix('/')?.strip_suffix(".json")?.parse::<u64>().ok()
    });
    for forgotten in seeded.filter(|number| !known.contains(number)) {
        there.forget(forgotten).map_err(unusable(disk))?;
    }
    Ok(())
}

fn unusable(path: &Path) -> impl Fn(GenerationError) -> StatePlaceError + use<> {
    let path = path.to_owned();
    move |error| failed("use", &path)(io::Error::other(error))
}

fn files(directory: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().into_string().ok().filter(|name| !name.starts_with('.'));
        if entry.file_type()?.is_file() {
            names.extend(name);
        }
    }
    names.sort();
    Ok(names)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all()),
    }
}

/// What the disk had and RAM did not know, with what came to be in RAM. Pure.
fn joined(name: &str, old: &[u8], new: &[u8]) -> Vec<u8> {
    if signed::is_signed(name) {
        return signed::later(old, new).to_vec();
    }
    if name.ends_with(".jsonl") {
        // One record a line, the older ones first; the last one may have been cut off.
        let end: &[u8] = if old.is_empty() || old.ends_with(b"\n") { b"" } else { b"\n" };
        // An earlier attempt to come home may have brought some of them.
        let there: HashSet<&[u8]> = old.split_inclusive(|byte| *byte == b'\n').collect();
        let more = new.split_inclusive(|byte| *byte == b'\n').filter(|line| !there.contains(line));
        return [old, end].into_iter().chain(more).collect::<Vec<_>>().concat();
    }
    match (serde_json::from_slice(old), serde_json::from_slice(new)) {
        (Ok(Value::Object(mut old)), Ok(Value::Object(new))) => {
            // One that has ended in RAM is not there any more.
            old.remove("rollback");
            Value::Object(united(old, new)).to_string().into_bytes()
        }
        // What is damaged says nothing.
        (Err(_), _) | (_, Ok(_)) => new.to_vec(),
        (Ok(_), Err(_)) => old.to_vec(),
    }
}

/// Objects by their keys, lists one behind the other without repeats; otherwise the newer one.
fn united(old: Map<String, Value>, new: Map<String, Value>) -> Map<String, Value> {
    let mut all = old;
    for (key, new) in new {
        let value = match (all.remove(&key), new) {
            (Some(Value::Object(old)), Value::Object(new)) => Value::Object(united(old, new)),
            (Some(Value::Array(mut old)), Value::Array(new)) => {
                let more: Vec<_> = new.into_iter().filter(|new| !old.contains(new)).collect();
                old.extend(more);
                Value::Array(old)
            }
            (_, new) => new,
        };
        all.insert(key, value);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generation::{Cause, generation};
    use crate::item::Items;
    use crate::state_place::StatePlace;

    /// A generation 1 of the root `here`, in a state directory, where it is current.
    fn install(directory: &Path, version: &str) -> Generation {
        let release = format!("{:02x}", version.len()).repeat(32).parse().unwrap();
        let channel = "r/c.flist".parse().unwrap();
        let version = flist::hub::ReleaseVersion::Text(version.to_owned());
        let of = (channel, version, release, &[][..]);
        let made = generation(1, Cause::Release, of, here(), String::new(), Items::new());
        let state = StateDir::open(directory).unwrap();
        state.prepare(&made, &[], b"").unwrap();
        state.commit(1).unwrap();
        made
    }

    fn here() -> RootIdentity {
        RootIdentity { marker: Some("here".to_owned()), volatile: false }
    }

    #[test]
    fn what_nobody_can_decide_stays_undecided_when_coming_home_breaks_off() {
        let dir = tempfile::tempdir().unwrap();
        let (run, disk) = (dir.path().join("run"), dir.path().join("disk"));
        let (ram, place) = (run.join(super::super::DIRECTORY), StatePlace::new(&disk, &run));
        let (in_ram, on_disk) = (install(&ram, "in RAM"), install(&disk, "on disk"));
        let notice = r#"{"schema":1,"since":0,"reason":"it failed"}"#;
        fs::write(ram.join(IN_FORCE), notice).unwrap();

        // Killed when the pointer is damaged, and before the notice is gone; twice.
        for _ in 0..2 {
            bring_generations(&ram, &disk, &place.notice().unwrap(), &here()).unwrap();
            assert_eq!(fs::read(disk.join(CURRENT)).unwrap(), UNKNOWN);
            assert_eq!(place.directory(), ram);
        }
        // Killed before the pointer was damaged.
        StateDir::open(&disk).unwrap().commit(1).unwrap();
        bring(&ram, &disk, &place.notice().unwrap(), &here()).unwrap();
        assert_eq!((fs::read(disk.join(CURRENT)).unwrap().as_slice(), place.directory()), (UNKNOWN, disk));
        assert_ne!(in_ram, on_disk);
        let left = StateDir::open(&place.directory()).unwrap().recorded(1).unwrap();
        assert_eq!(left, Some(on_disk), "neither has taken the other one's place");
    }

    #[test]
    fn the_newer_generation_counts_unless_there_are_two_of_one_number() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (install(&dir.path().join("1"), "x"), install(&dir.path().join("2"), "another"));
        let newer = Generation { number: 2, ..other.clone() };
        let counts = |here, there, undecided| which_counts(1, here, there, undecided);
        assert_eq!(counts(Some(&one), Some(&newer), None), Counts::Disk);
        assert_eq!(counts(Some(&one), Some(&one), None), Counts::Ram);
        assert_eq!(counts(Some(&one), None, None), Counts::Ram);
        assert_eq!(counts(Some(&one), Some(&other), None), Counts::Nobody);
        assert_eq!(counts(None, Some(&other), None), Counts::Nobody);
        assert_eq!(counts(Some(&one), None, Some(1)), Counts::Nobody, "found before it broke off");
        // RAM has gone on with a later one since.
        assert_eq!(which_counts(2, Some(&newer), None, Some(1)), Counts::Ram);
    }

    #[test]
    fn what_nobody_could_read_is_joined_with_what_came_after() {
        let holds = |old: &str, new: &str| {
            serde_json::from_slice::<Value>(&joined("orders.json", old.as_bytes(), new.as_bytes())).unwrap()
        };
        let old = r#"{"schema":1,"holds":[{"release":"1"}],"pause":{"by":1}}"#;
        let new = r#"{"schema":1,"holds":[{"release":"1"},{"release":"2"}]}"#;
        let both = holds(old, new);
        assert_eq!(both["holds"].as_array().unwrap().len(), 2);
        assert_eq!(both["pause"]["by"], 1);
        assert_eq!(holds("{", new)["holds"].as_array().unwrap().len(), 2);
        assert_eq!(joined("history.jsonl", b"1\n{", b"2\n"), b"1\n{\n2\n");
        assert_eq!(joined("history.jsonl", b"1\n2\n", b"2\n3\n"), b"1\n2\n3\n", "brought twice");
        assert_eq!(joined("history.jsonl", b"", b"{}\n"), b"{}\n");
    }
}
