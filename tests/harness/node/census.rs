//! Counting what is in a node: processes, mounts, open files, leftovers.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256};

use super::Node;
use crate::error::{Doing, Error};

/// A process of a node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// Its pid outside of the node.
    pub pid: u32,
    /// Its pid in the node.
    pub pid_inside: u32,
    /// When it started, in clock ticks since the boot of the machine. A pid and this name one process.
    pub started: u64,
    /// Its executable, as the kernel tells it; empty when it has ended and was not waited for.
    pub executable: PathBuf,
    /// Its name, as in /proc/PID/comm.
    pub name: String,
}

/// What could leak in a node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Census {
    /// Mounts, as `<type> <mount point>`.
    pub mounts: Vec<String>,
    /// Names of all processes, sorted.
    pub processes: Vec<String>,
    /// Open descriptors of identityd, as counted in /proc/PID/fd; 0 when it does not run.
    pub identityd_descriptors: usize,
    /// Files in the directories that the two programs work in.
    pub files: BTreeSet<PathBuf>,
}

/// Where bootstrap and identityd keep things.
const WORK_DIRECTORIES: [&str; 6] =
    ["/.molt", "/var/lib/molt", "/var/cache/molt", "/run/molt", "/tmp", "/etc/zinit"];

impl Node {
    /// All processes of the node.
    ///
    /// # Errors
    /// When /proc cannot be read.
    pub fn processes(&self) -> Result<Vec<Process>, Error> {
        let namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/pid"));
        let ours = namespace(self.pid1()).doing(|| "find the pid namespace of the node".to_owned())?;
        let entries = fs::read_dir("/proc").doing(|| "list /proc".to_owned())?;
        let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        // A process that ends while it is looked at is left out.
        let there = pids.filter(|pid| namespace(*pid).is_ok_and(|theirs| theirs == ours));
        let mut processes: Vec<_> = there.filter_map(describe).collect();
        processes.sort();
        Ok(processes)
    }

    /// The processes with this name in /proc/PID/comm.
    ///
    /// # Errors
    /// When /proc cannot be read.
    pub fn running(&self, name: &str) -> Result<Vec<Process>, Error> {
        Ok(self.processes()?.into_iter().filter(|process| process.name == name).collect())
    }

    /// PID 1, with its start time.
    ///
    /// # Errors
    /// When it is gone.
    pub fn init(&self) -> Result<Process, Error> {
        describe(self.pid1()).ok_or_else(|| Error::Unexpected("PID 1 of the node is gone".to_owned()))
    }

    /// Counts what could leak.
    ///
    /// # Errors
    /// When something cannot be counted.
    pub fn census(&self) -> Result<Census, Error> {
        let mut census = Census { mounts: self.mounts()?, ..Census::default() };
        for process in self.processes()? {
            if process.name == "identityd" {
                let entries = fs::read_dir(format!("/proc/{}/fd", process.pid))
                    .doing(|| "list the open files of identityd".to_owned())?;
                census.identityd_descriptors += entries.count();
            }
            census.processes.push(process.name);
        }
        census.processes.sort();
        for directory in WORK_DIRECTORIES {
            let top = self.path(directory);
            if top.is_dir() {
                self.collect(&top, &mut census.files)?;
            }
        }
        Ok(census)
    }

    fn mounts(&self) -> Result<Vec<String>, Error> {
        let path = format!("/proc/{}/mountinfo", self.pid1());
        let text = fs::read_to_string(&path).doing(|| format!("read {path}"))?;
        let mut mounts: Vec<_> = text.lines().filter_map(mount_of).collect();
        mounts.sort();
        Ok(mounts)
    }

    fn collect(&self, directory: &Path, found: &mut BTreeSet<PathBuf>) -> Result<(), Error> {
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            // Removed since it was listed.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error).doing(|| format!("list {}", directory.display())),
        };
        for entry in entries.flatten() {
            let path = entry.path();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.collect(&path, found)?;
            }
            found.insert(path.strip_prefix(self.root()).map_or_else(|_| path.clone(), Path::to_owned));
        }
        Ok(())
    }
}

/// SHA-256 of a file's content, in hex. `/proc/PID/exe` is what a process really runs.
///
/// # Errors
/// When it cannot be read.
pub fn digest_of(path: impl AsRef<Path>) -> Result<String, Error> {
    let path = path.as_ref();
    let mut file = fs::File::open(path).doing(|| format!("open {}", path.display()))?;
    let (mut context, mut buffer) = (Context::new(&SHA256), vec![0; 256 << 10]);
    loop {
        match file.read(&mut buffer).doing(|| format!("read {}", path.display()))? {
            0 => return Ok(hex::encode(context.finish())),
            length => context.update(&buffer[..length]),
        }
    }
}

fn describe(pid: u32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let name = stat.split_once('(')?.1.rsplit_once(')')?.0.to_owned();
    // Field 22 of proc_pid_stat(5); the first after the name is field 3.
    let started = stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()?;
    let pid_inside =
        status.lines().find_map(|line| line.strip_prefix("NSpid:"))?.split_whitespace().last()?;
    let executable = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    Some(Process { pid, pid_inside: pid_inside.parse().ok()?, started, executable, name })
}

/// Mount point and type of a line of proc_pid_mountinfo(5).
fn mount_of(line: &str) -> Option<String> {
    let (place, device) = line.split_once(" - ")?;
    Some(format!("{} {}", device.split(' ').next()?, place.split(' ').nth(4)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_described() {
        let own = describe(std::process::id()).unwrap();
        assert_eq!(own.executable, std::env::current_exe().unwrap());
        assert!(own.started > 0);
        assert_eq!(digest_of("/proc/self/exe").unwrap(), digest_of(&own.executable).unwrap());
    }

    #[test]
    fn mountinfo_is_understood() {
        let line = "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue";
        assert_eq!(mount_of(line).unwrap(), "ext3 /mnt2");
    }
}
