//! What was tried, on disk.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::PathBuf;

use bootstrap::durable;
use bootstrap::state_place::StatePlace;

use super::Trial;

/// The file in the state directory.
const NAME: &str = "kernel.json";

/// Larger files are not ours, in bytes.
const LARGEST: u64 = 1 << 20;

/// So many trials are remembered.
const MOST: usize = 32;

/// What was tried cannot be read or recorded.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct TrialError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// The file with the trials.
#[derive(Debug, Clone)]
pub struct TrialFile {
    place: StatePlace,
}

impl TrialFile {
    /// That of this state.
    pub fn at(place: StatePlace) -> Self {
        Self { place }
    }

    /// The trials that are remembered, the last one last.
    ///
    /// # Errors
    /// [`TrialError`]: nobody knows what was tried then.
    pub fn read(&self) -> Result<Vec<Trial>, TrialError> {
        let path = self.path();
        let read = || {
            let mut bytes = Vec::new();
            File::open(&path)?.take(LARGEST + 1).read_to_end(&mut bytes)?;
            if bytes.len() as u64 > LARGEST {
                let why = format!("it is longer than {LARGEST} bytes");
                return Err(io::Error::new(ErrorKind::InvalidData, why));
            }
            Ok(serde_json::from_slice(&bytes)?)
        };
        match read() {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            read => read.map_err(|source| TrialError { action: "read", path: self.path(), source }),
        }
    }

    /// Records a trial, or what has become of it, so that it is known after a reboot. Blocks the thread.
    ///
    /// # Errors
    /// [`TrialError`]: it must not be made then.
    pub fn write(&self, trial: &Trial) -> Result<(), TrialError> {
        let mut trials = self.read()?;
        let is_same = |before: &Trial| before.kernel == trial.kernel && before.from_boot == trial.from_boot;
        trials.retain(|before| !is_same(before));
        trials.push(trial.clone());
        trials.drain(..trials.len().saturating_sub(MOST));
        let written = || {
            let _lock = self.place.write_lock()?;
            durable::replace(&self.path(), &serde_json::to_vec_pretty(&trials)?, 0o600)
        };
        written().map_err(|source| TrialError { action: "write", path: self.path(), source })
    }

    fn path(&self) -> PathBuf {
        self.place.directory().join(NAME)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{How, KernelId, Outcome};
    use super::*;

    #[test]
    fn a_trial_is_known_afterwards_and_a_damaged_one_is_no_trial_at_all() {
        let state = tempfile::tempdir().unwrap();
        let file = TrialFile::at(StatePlace::fixed(state.path()));
        assert_eq!(file.read().unwrap(), Vec::new());
        let kernel = KernelId { release: "1".to_owned(), build: "#1".to_owned() };
        let (from_boot, services) = ("a".to_owned(), vec!["web".parse().unwrap()]);
        let trial = Trial { kernel, how: How::Kexec, from_boot, services, outcome: Outcome::Pending };
        file.write(&trial).unwrap();
        assert_eq!(file.read().unwrap(), std::slice::from_ref(&trial));
        let ended = Trial { outcome: Outcome::Bad("it panicked".to_owned()), ..trial };
        file.write(&ended).unwrap();
        assert_eq!(file.read().unwrap(), std::slice::from_ref(&ended));
        for number in 0..MOST + 5 {
            file.write(&Trial { from_boot: number.to_string(), ..ended.clone() }).unwrap();
        }
        let trials = file.read().unwrap();
        assert_eq!((trials.len(), trials[0].from_boot.as_str()), (MOST, "5"));
        for damaged in ["{".to_owned(), " ".repeat(1_100_000)] {
            std::fs::write(state.path().join(NAME), damaged).unwrap();
            let error = file.read().unwrap_err();
            assert!(error.to_string().contains("kernel.json"), "{error}");
        }
    }
}
