//! Which process uses which file: the truth about running services is in /proc, not in what a supervisor
//! says.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use flist::path::FlistPath;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{SysconfVar, sysconf};
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use serde::{Deserialize, Serialize};
use zinit_client::UnitName;

/// Open files and mappings of one process that are looked at; more than any sane service has.
const MAX_FILES: usize = 100_000;

/// Open files and mappings that are looked at in all.
const MAX_FILES_IN_ALL: usize = 2_000_000;

/// Bytes of `/proc/PID/maps` that are read of one process (twice what the kernel's own limit of 65,530 mappings makes with
/// ordinary paths), in all, and in one line: anybody can have many mappings with long paths.
const MAX_MAPS: u64 = 16 << 20;
const MAX_MAPS_IN_ALL: u64 = 48 << 20;
const MAX_MAPS_LINE: u64 = 8 << 10;

/// Processes of nobody's service that are told of by name.
const MAX_STRANGERS: usize = 100;

/// Files of one process or service that are told of by name, and bytes that all of them may take: who reads the status
/// has a limit, too.
const MAX_SHOWN_FILES: usize = 20;
pub(crate) const MAX_SHOWN_BYTES: usize = 64 << 10;

/// Longest name of a process that is shown, in bytes; the kernel has 15.
const MAX_NAME: usize = 64;

/// Who uses the files that are asked about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Uses {
    /// By service.
    pub services: BTreeMap<UnitName, BTreeSet<FlistPath>>,
    /// Processes of no service.
    pub strangers: Vec<Stranger>,
    /// How many more of them there are.
    pub more_strangers: usize,
}

/// A process that no service of the supervisor has: started by hand, detached from its service, or in a
/// container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stranger {
    /// Its number.
    pub pid: u32,
    /// When it was started, in clock ticks since the boot: tells it from a later process of the same number.
    pub started: u64,
    /// Its name.
    pub name: String,
    /// Whether it is in another mount namespace.
    pub elsewhere: bool,
    /// What it executes, has mapped or open, or has for its root; empty when that is no longer kept.
    pub uses: BTreeSet<FlistPath>,
    /// How many more files there are of that.
    #[serde(default)]
    pub more_uses: usize,
}

impl Stranger {
    /// Whether it still runs: the same process, not just one of its number.
    pub fn runs(&self) -> bool {
        stat_of(self.pid).is_some_and(|stat| stat.started == self.started && stat.state != 'Z')
    }
}

impl std::fmt::Display for Stranger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { pid, name, elsewhere, uses, more_uses, .. } = self;
        write!(f, "process {pid} ({})", name.escape_debug())?;
        if *elsewhere {
            f.write_str(" in another mount namespace")?;
        }
        let mut paths = uses.iter();
        if let Some(first) = paths.next() {
            write!(f, " uses /{first}")?;
        }
        match paths.count() + more_uses {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// Who uses the files of `wanted` (by device and inode number): executes them, has them mapped or open. The
/// processes of a service are its leader, the leader's process group and all descendants. Processes that end
/// meanwhile use nothing.
pub(crate) fn in_use(wanted: &HashMap<(u64, u64), FlistPath>, leaders: &BTreeMap<UnitName, u32>) -> Uses {
    if wanted.is_empty() { Uses::default() } else { look(wanted, leaders, false) }
}

/// Who runs what upgrades have replaced: as [`in_use`] of what is still kept, and whoever has something mapped that was
/// removed since, with the generation that it was kept for.
pub(crate) fn runs_old(kept: &HashMap<(u64, u64), FlistPath>, leaders: &BTreeMap<UnitName, u32>) -> Uses {
    look(kept, leaders, true)
}

fn look(wanted: &HashMap<(u64, u64), FlistPath>, leaders: &BTreeMap<UnitName, u32>, removed: bool) -> Uses {
    let mut uses = Uses::default();
    let table = process_table();
    let mut left = MAX_FILES_IN_ALL;
    let mut known = HashSet::from([std::process::id()]);
    let mut maps = Maps { room: MAX_MAPS_IN_ALL, not_all_read: 0 };
    for (name, leader) in leaders {
        let (mut files, mut gone) = (BTreeSet::new(), false);
        for pid in members(&table, *leader) {
            known.insert(pid);
            files.extend(used(pid, wanted, &mut left));
            gone |= removed && maps.may_be_removed(pid);
        }
        if gone || !files.is_empty() {
            uses.services.insert(name.clone(), files);
        }
    }
    let mut others: Vec<u32> = table.keys().copied().filter(|pid| !known.contains(pid)).collect();
    others.sort_unstable();
    let mut room = MAX_SHOWN_BYTES;
    for pid in others {
        let Some(before) = stat_of(pid) else { continue };
        let files = used(pid, wanted, &mut left);
        let concerned = !files.is_empty() || (removed && maps.may_be_removed(pid));
        // Another process may have got the number meanwhile.
        if !concerned || stat_of(pid).is_none_or(|after| after.started != before.started) {
            continue;
        }
        if uses.strangers.len() >= MAX_STRANGERS {
            uses.more_strangers += 1;
            continue;
        }
        let elsewhere = namespace(&pid.to_string()) != namespace("self");
        let Stat { started, name, .. } = before;
        let (uses_these, more_uses) = shown(files, &mut room);
        uses.strangers.push(Stranger { pid, started, name, elsewhere, uses: uses_these, more_uses });
    }
    maps.tell();
    if left == 0 {
        tracing::warn!(
            limit = MAX_FILES_IN_ALL,
            "so many files are open and mapped that not all of them were looked at: who uses a file that changes may go on with the old one"
        );
    }
    uses
}

/// The first of these paths that are shown where many may be, within `room` bytes for all of them, and how many more
/// there are.
pub(crate) fn shown(files: BTreeSet<FlistPath>, room: &mut usize) -> (BTreeSet<FlistPath>, usize) {
    let all = files.len();
    let fits = |path: &FlistPath| {
        let left = room.checked_sub(path.as_bytes().len());
        *room = left.unwrap_or(0);
        left.is_some()
    };
    let shown: BTreeSet<_> = files.into_iter().take(MAX_SHOWN_FILES).take_while(fits).collect();
    let more = all - shown.len();
    (shown, more)
}

/// What the mappings of a process tell of what was replaced and removed since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Removed {
    /// It has nothing of it.
    Nothing,
    /// It has something of it.
    Something,
    /// Nobody knows: there is more than is read of one process or of all.
    NotAllRead,
}

/// The mappings of all processes, as far as they are read.
struct Maps {
    /// Bytes that may still be read.
    room: u64,
    /// Processes that have more.
    not_all_read: usize,
}

impl Maps {
    /// Whether a process may have something mapped that was replaced and removed since.
    fn may_be_removed(&mut self, pid: u32) -> bool {
        let Ok(maps) = File::open(format!("/proc/{pid}/maps")) else { return false };
        let most = MAX_MAPS.min(self.room);
        let mut room = most;
        let found = maps_removed(BufReader::new(maps), &mut room);
        self.room -= most - room;
        self.not_all_read += usize::from(found == Removed::NotAllRead);
        found != Removed::Nothing
    }

    fn tell(&self) {
        if self.not_all_read > 0 {
            tracing::warn!(
                processes = self.not_all_read,
                "they have more or longer mappings than are looked at, and count as running what was replaced"
            );
        }
    }
}

/// From the bytes of `/proc/PID/maps` (proc(5)): the path comes last in a line, with a remark when it is gone. A file
/// that was exchanged has the name of the slot that it lay in. At most `room` bytes are read, and taken from it.
fn maps_removed(mut maps: impl BufRead, room: &mut u64) -> Removed {
    let slot = format!("/{}/", crate::transaction::STAGING);
    let mut line = Vec::new();
    loop {
        line.clear();
        let most = MAX_MAPS_LINE.min(*room);
        // A process that ends meanwhile has nothing.
        let read = (&mut maps).take(most).read_until(b'\n', &mut line).unwrap_or(0) as u64;
        *room -= read;
        if read == most && line.last() != Some(&b'\n') {
            return Removed::NotAllRead;
        }
        if read == 0 {
            return Removed::Nothing;
        }
        let text = String::from_utf8_lossy(&line);
        if text.trim_end_matches('\n').ends_with(" (deleted)") && text.contains(&slot) {
            return Removed::Something;
        }
    }
}

/// The files of `wanted` that one process uses; at most `left` files are looked at.
fn used(pid: u32, wanted: &HashMap<(u64, u64), FlistPath>, left: &mut usize) -> BTreeSet<FlistPath> {
    let files = files_of(pid, *left);
    *left -= files.len().min(*left);
    files.into_iter().filter_map(|inode| wanted.get(&inode).cloned()).collect()
}

/// The mount namespace of a process, as the kernel names it.
fn namespace(process: &str) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/{process}/ns/mnt")).ok()
}

/// What `/proc/PID/stat` says of a process.
struct Stat {
    name: String,
    state: char,
    relations: Relations,
    started: u64,
}

fn stat_of(pid: u32) -> Option<Stat> {
    stat(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// How long a process has been there; `None` when it is not.
pub(crate) fn age(pid: u32) -> Option<Duration> {
    let started = stat_of(pid)?.started;
    let ticks = u64::try_from(sysconf(SysconfVar::CLK_TCK).ok()??).ok().filter(|ticks| *ticks > 0)?;
    let started = Duration::from_millis(started.saturating_mul(1000) / ticks);
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).ok()?;
    Some(Duration::from(now).saturating_sub(started))
}

/// Parent and process group of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Relations {
    parent: u32,
    group: u32,
}

fn process_table() -> HashMap<u32, Relations> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return HashMap::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| Some((pid, stat_of(pid)?.relations))).collect()
}

/// From the text of `/proc/PID/stat` (proc(5)): behind the command in parentheses, which may hold anything, come
/// the state, the parent and the process group, and as the 20th field the time of the start.
fn stat(text: &str) -> Option<Stat> {
    let (from, to) = (text.find('(')?, text.rfind(')')?);
    let name = text.get(from + 1..to)?.chars().take(MAX_NAME).collect();
    let fields: Vec<&str> = text[to + 1..].split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse().ok();
    let relations = Relations { parent: number(1)?, group: number(2)? };
    let started = fields.get(19).and_then(|text| text.parse().ok()).unwrap_or(0);
    Some(Stat { name, state: fields.first()?.chars().next()?, relations, started })
}

fn members(table: &HashMap<u32, Relations>, leader: u32) -> Vec<u32> {
    // Everything descends from PID 1, but is no part of it.
    if leader == 1 {
        return vec![1];
    }
    let belongs = |pid: u32| {
        let (mut at, mut seen) = (pid, HashSet::new());
        loop {
            match table.get(&at) {
                _ if at == leader => return true,
                Some(relations) if relations.group == leader => return true,
                Some(relations) if seen.insert(at) => at = relations.parent,
                _ => return false,
            }
        }
    };
    table.keys().copied().filter(|pid| belongs(*pid)).collect()
}

/// Device and inode number of everything a process executes, maps or holds open, and of its root. The links
/// are followed by the kernel to the very inode, so deleted files and other mount namespaces are no obstacle.
fn files_of(pid: u32, limit: usize) -> Vec<(u64, u64)> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let limit = limit.min(MAX_FILES);
    let links = |directory: &str| -> Option<Vec<PathBuf>> {
        let entries = std::fs::read_dir(process.join(directory)).ok()?;
        Some(entries.filter_map(|entry| Some(entry.ok()?.path())).take(limit).collect())
    };
    let mut paths = vec![process.join("exe"), process.join("root")];
    let mapped = links("map_files");
    // Where the kernel does not show the mappings themselves, it shows their numbers.
    let listed = if mapped.is_none() { maps(&process, limit) } else { Vec::new() };
    paths.extend(mapped.unwrap_or_default());
    paths.extend(links("fd").unwrap_or_default());
    if paths.len() + listed.len() > limit {
        tracing::warn!(pid, limit, "it has more files open and mapped than are looked at");
    }
    let followed = paths.iter().filter_map(|path: &PathBuf| inode(path));
    followed.chain(listed).take(limit).collect()
}

/// The mappings of a process by `/proc/PID/maps`: `from-to perms offset major:minor inode path`.
fn maps(process: &Path, limit: usize) -> Vec<(u64, u64)> {
    let Ok(file) = File::open(process.join("maps")) else { return Vec::new() };
    let lines = BufReader::new(file.take(MAX_MAPS)).split(b'\n').map_while(Result::ok).take(limit);
    lines.filter_map(|line| mapping(&String::from_utf8_lossy(&line))).collect()
}

fn mapping(line: &str) -> Option<(u64, u64)> {
    let mut fields = line.split_ascii_whitespace().skip(3);
    let (major, minor) = fields.next()?.split_once(':')?;
    let device =
        rustix::fs::makedev(u32::from_str_radix(major, 16).ok()?, u32::from_str_radix(minor, 16).ok()?);
    let inode: u64 = fields.next()?.parse().ok()?;
    (inode != 0).then_some((device, inode))
}

/// What a link in /proc leads to. A file system whose server does not answer is not asked (statx(2)): what is on it was
/// put there by no upgrade, and nobody has to wait for it.
fn inode(path: &Path) -> Option<(u64, u64)> {
    let cached = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
    let stat = statx(CWD, path, cached, StatxFlags::INO).ok()?;
    Some((rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor), stat.stx_ino))
}

#[cfg(test)]
mod tests;
