//! Which process uses which file: the truth about running services is in /proc, not in what a supervisor
//! says.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use flist::path::FlistPath;
use zinit_client::UnitName;

/// Open files and mappings of one process that are looked at; more than any sane service has.
const MAX_FILES: usize = 100_000;

/// For each service the files of `wanted` (by device and inode number) that one of its processes executes,
/// has mapped or holds open. The processes of a service are its leader, the leader's process group and all
/// descendants; PID 1 stands for itself alone. Processes that end meanwhile use nothing.
pub(crate) fn in_use(
    wanted: &HashMap<(u64, u64), FlistPath>,
    leaders: &BTreeMap<UnitName, u32>,
) -> BTreeMap<UnitName, BTreeSet<FlistPath>> {
    if wanted.is_empty() || leaders.is_empty() {
        return BTreeMap::new();
    }
    let table = process_table();
    let mut uses = BTreeMap::new();
    for (name, leader) in leaders {
        let files: BTreeSet<FlistPath> = members(&table, *leader)
            .into_iter()
            .flat_map(files_of)
            .filter_map(|inode| wanted.get(&inode).cloned())
            .collect();
        if !files.is_empty() {
            uses.insert(name.clone(), files);
        }
    }
    uses
}

/// Of these services, those with a process that has a file mapped that an upgrade replaced and that was removed since,
/// with the generation that it was kept for.
pub(crate) fn on_removed(leaders: &BTreeMap<UnitName, u32>) -> BTreeSet<UnitName> {
    let table = process_table();
    let maps = |pid| std::fs::read(format!("/proc/{pid}/maps")).is_ok_and(|maps| maps_removed(&maps));
    let of = |(name, leader): (&UnitName, &u32)| {
        members(&table, *leader).into_iter().any(maps).then(|| name.clone())
    };
    leaders.iter().filter_map(of).collect()
}

/// From the bytes of `/proc/PID/maps` (proc(5)): the path comes last in a line, with a remark when it is gone. A file
/// that was exchanged has the name of the slot that it lay in.
fn maps_removed(maps: &[u8]) -> bool {
    let slot = format!("/{}/", crate::transaction::STAGING);
    maps.split(|byte| *byte == b'\n').any(|line| {
        let line = String::from_utf8_lossy(line);
        line.ends_with(" (deleted)") && line.contains(&slot)
    })
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
    pids.filter_map(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some((pid, relations(&stat)?))
    })
    .collect()
}

/// From the text of `/proc/PID/stat` (proc(5)): after the command in parentheses, which may hold anything,
/// come the state, the parent and the process group.
fn relations(stat: &str) -> Option<Relations> {
    let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace().skip(1);
    Some(Relations { parent: fields.next()?.parse().ok()?, group: fields.next()?.parse().ok()? })
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

/// Device and inode number of everything a process executes, maps or holds open. The links are followed
/// by the kernel to the very inode, so deleted files and other mount namespaces are no obstacle.
fn files_of(pid: u32) -> Vec<(u64, u64)> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let links = |directory: &str| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(process.join(directory));
        entries.map_or(Vec::new(), |e| e.filter_map(|e| Some(e.ok()?.path())).take(MAX_FILES).collect())
    };
    let mut paths = vec![process.join("exe")];
    paths.extend(links("map_files"));
    paths.extend(links("fd"));
    paths.iter().filter_map(|path: &PathBuf| inode(path)).collect()
}

fn inode(path: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn commands_may_hold_anything() {
        let stat = "42 (a) b (c) R 7 40 40 0 -1 4194304";
        assert_eq!(relations(stat), Some(Relations { parent: 7, group: 40 }));
        assert_eq!(relations("42 (x"), None);
    }

    #[test]
    fn what_was_replaced_and_removed_is_told_from_what_a_process_removed_itself() {
        let line =
            |path: &str| format!("7f00-7f01 r-xp 00000000 00:2a 42                 {path}\n").into_bytes();
        assert!(maps_removed(&[line("/bin/sh"), line("/.molt/3/12 (deleted)")].concat()));
        for other in ["/.molt/3/12", "/tmp/x (deleted)", "/memfd:jit (deleted)", ""] {
            assert!(!maps_removed(&line(other)), "{other}");
        }
    }

    #[test]
    fn open_mapped_and_executed_files_are_found_in_descendants() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "x").unwrap();
        let mut child = Command::new("sh")
            .args(["-c", "sleep 600 <\"$0\" & echo started; wait"])
            .arg(&file)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut started = [0; 8];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut started).unwrap();
        let sleep = std::fs::canonicalize("/bin/sleep").unwrap();
        let wanted: HashMap<_, _> = [(&file, "file"), (&sleep, "sleep")]
            .map(|(at, name)| (inode(at).unwrap(), name.parse::<FlistPath>().unwrap()))
            .into();
        let service: UnitName = "service".parse().unwrap();
        let leaders = BTreeMap::from([(service.clone(), child.id()), ("gone".parse().unwrap(), u32::MAX)]);
        // The shell says "started" when it has forked; the child needs a moment to open and execute.
        let found = (0..500).find_map(|_| {
            let found = in_use(&wanted, &leaders);
            std::thread::sleep(std::time::Duration::from_millis(10));
            (found.get(&service).map(BTreeSet::len) == Some(2)).then_some(found)
        });
        for pid in members(&process_table(), child.id()) {
            let pid = nix::unistd::Pid::from_raw(pid.cast_signed());
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        }
        child.wait().unwrap();
        assert_eq!(found.unwrap().len(), 1);
    }
}
