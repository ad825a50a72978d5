//! Looking at paths of a node all the time, to see whether one is ever missing, empty or not executable.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use crate::error::{Doing, Error};
use crate::{Node, Payload};

/// What was seen of the paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// How often each path was looked at.
    pub rounds: u64,
    /// What was wrong, by path; only the first finding of each.
    pub wrong: BTreeMap<PathBuf, &'static str>,
}

/// A thread that looks at paths until it is told to stop.
pub struct PathWatch {
    stop: Arc<AtomicBool>,
    found: Arc<AtomicBool>,
    thread: JoinHandle<Seen>,
}

/// One path, and what it has to be.
struct Watched {
    shown: PathBuf,
    path: PathBuf,
    executable: bool,
}

impl PathWatch {
    /// Watches everything of the payload but its directories. What is executable in it has to stay so, and
    /// no file may be empty, as none of the payload may be.
    ///
    /// # Errors
    /// When the payload cannot be listed.
    pub fn start(node: &Node, payload: &Payload) -> Result<Self, Error> {
        let mut watched = Vec::new();
        collect(node, payload.directory(), Path::new(""), &mut watched)?;
        Ok(Self::over(watched))
    }

    fn over(watched: Vec<Watched>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let found = Arc::new(AtomicBool::new(false));
        let (stopped, noted) = (stop.clone(), found.clone());
        let thread = thread::spawn(move || {
            let mut seen = Seen::default();
            while !stopped.load(Ordering::Relaxed) {
                for one in &watched {
                    if let Some(wrong) = wrong_with(one) {
                        seen.wrong.entry(one.shown.clone()).or_insert(wrong);
                        noted.store(true, Ordering::Relaxed);
                    }
                }
                seen.rounds += 1;
            }
            seen
        });
        Self { stop, found, thread }
    }

    /// Whether anything was wrong so far.
    pub fn has_found(&self) -> bool {
        self.found.load(Ordering::Relaxed)
    }

    /// Stops looking.
    ///
    /// # Errors
    /// When the thread has died.
    pub fn stop(self) -> Result<Seen, Error> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| Error::Unexpected("the watch over paths died".to_owned()))
    }
}

fn collect(node: &Node, top: &Path, below: &Path, watched: &mut Vec<Watched>) -> Result<(), Error> {
    let directory = top.join(below);
    for entry in fs::read_dir(&directory).doing(|| format!("list {}", directory.display()))? {
        let entry = entry.doing(|| format!("list {}", directory.display()))?;
        let metadata = entry.metadata().doing(|| format!("look at {}", entry.path().display()))?;
        let path = below.join(entry.file_name());
        if metadata.is_dir() {
            collect(node, top, &path, watched)?;
        } else {
            let executable = metadata.is_file() && is_executable(&metadata);
            watched.push(Watched { path: node.path(&path), shown: Path::new("/").join(path), executable });
        }
    }
    Ok(())
}

fn wrong_with(watched: &Watched) -> Option<&'static str> {
    let Ok(metadata) = watched.path.symlink_metadata() else { return Some("is missing") };
    if metadata.is_file() && metadata.len() == 0 {
        return Some("is empty");
    }
    (watched.executable && !is_executable(&metadata)).then_some("is not executable")
}

fn is_executable(metadata: &fs::Metadata) -> bool {
    metadata.permissions().mode() & 0o111 != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What it is for: a gap of the few microseconds between two system calls, as whoever removes a file and then puts
    /// the new one there leaves it.
    #[test]
    fn a_gap_between_two_system_calls_is_seen() {
        const FILES: usize = 200;
        const MOST_PASSES: usize = 100_000;
        let directory = tempfile::tempdir().unwrap();
        let paths: Vec<_> = (0..FILES).map(|number| directory.path().join(number.to_string())).collect();
        paths.iter().for_each(|path| fs::write(path, "old").unwrap());
        let of = |path: &PathBuf| Watched { shown: path.clone(), path: path.clone(), executable: false };
        let pass = |replace: &dyn Fn(&Path, &Path)| {
            for path in &paths {
                let staged = path.with_extension("new");
                fs::write(&staged, "new").unwrap();
                replace(&staged, path);
            }
        };
        let watch = PathWatch::over(paths.iter().map(of).collect());
        (0..10).for_each(|_| pass(&|staged, path| fs::rename(staged, path).unwrap()));
        assert_eq!(watch.stop().unwrap().wrong, BTreeMap::new(), "a rename leaves none");

        let watch = PathWatch::over(paths.iter().map(of).collect());
        let mut passes = 0;
        while !watch.has_found() && passes < MOST_PASSES {
            passes += 1;
            pass(&|staged, path| {
                fs::remove_file(path).unwrap();
                fs::rename(staged, path).unwrap();
            });
        }
        let seen = watch.stop().unwrap();
        println!("seen after {passes} passes over {FILES} files");
        assert!(seen.wrong.values().any(|wrong| *wrong == "is missing"), "{passes} passes");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("program");
        let watched = Watched { shown: path.clone(), path: path.clone(), executable: true };
        assert_eq!(wrong_with(&watched), Some("is missing"));
        fs::write(&path, "").unwrap();
        assert_eq!(wrong_with(&watched), Some("is empty"));
        fs::write(&path, "#!/bin/sh\n").unwrap();
        assert_eq!(wrong_with(&watched), Some("is not executable"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(wrong_with(&watched), None);
    }
}
