//! The trial of a new daemon that has committed: it has to ask its channel, and to answer requests.
//!
//! It is over as soon as the daemon has done both, whatever the hub has said, or if there was none. A daemon that ends
//! before has failed, unless somebody has stopped the service. So has one that is silent for longer than it may be.

use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use bootstrap::durable;
use bootstrap::generation::random_token;
use bootstrap::releases::Releases;
use bootstrap::settings::Settings;
use bootstrap::state_place::StatePlace;
use bootstrap::supervisor;
use bootstrap::transaction::services::status;
use flist::report;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};
use zinit_client::{Target, UnitName};

use super::guardian::{LOOK, is_readable_within, is_there};
use super::{Handover, Places, local};
use crate::agent::Problem;
use crate::control;

/// The trial that is not over, in the state directory: what the handover's note says, so that a reboot does not end it.
const FILE: &str = "self-update.json";

/// How often the daemon is asked, and how long it is waited for each time.
const ASK: Duration = Duration::from_millis(200);
const ANSWER: Duration = Duration::from_secs(1);

/// How long the first poll may take of a daemon that answers meanwhile. A hub that is slow, or is not there, has less time
/// than that by the limits of a poll.
const LONGEST_POLL: Duration = Duration::from_secs(2 * 60 * 60);

/// What a guardian has seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seen {
    /// It is too early to tell.
    Nothing,
    /// The daemon has stood its trial.
    Stands,
    /// It has ended because somebody has stopped the service: the trial goes on when it is started again.
    Stopped,
    /// It has failed, for this reason.
    Failed(String),
}

/// What a guardian knows of the new daemon.
pub(super) struct Watch {
    process: Option<OwnedFd>,
    begun: Instant,
    /// When the trial was first looked at.
    trial: Option<Instant>,
    asked: Option<Instant>,
    answered: Option<Instant>,
}

impl Watch {
    pub(super) fn begin(handover: &Handover) -> Self {
        let pid = i32::try_from(handover.pid).ok().and_then(Pid::from_raw);
        let process = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        Self { process, begun: Instant::now(), trial: None, asked: None, answered: None }
    }

    /// Looks for a moment whether the process is there.
    fn is_there(&self) -> bool {
        self.process.as_ref().is_some_and(|process| !is_readable_within(process, LOOK))
    }

    /// Why the new daemon has failed before its commit; `None`: it has not.
    pub(super) fn why_not_committed(&self, handover: &Handover) -> Option<String> {
        if !self.is_there() {
            return Some("it ended before it had said that it runs".to_owned());
        }
        // Whoever has given up runs on as the old one.
        let late = self.begun.elapsed() >= Duration::from_secs(handover.seconds);
        (late && !handover.is_given_up())
            .then(|| format!("it did not say within {} s that it runs", handover.seconds))
    }

    /// Looks for a moment how the new daemon does after its commit.
    pub(super) async fn trial(&mut self, handover: &Handover) -> Seen {
        let begun = *self.trial.get_or_insert_with(Instant::now);
        if !self.is_there() {
            return match is_wanted(handover).await {
                // Nobody who does not run can be put back; and the whole node may be going down. A process that is gone
                // is seen at once, so this is where time passes.
                None => {
                    sleep(LOOK).await;
                    Seen::Nothing
                }
                Some(false) => Seen::Stopped,
                Some(true) => Seen::Failed("it ended before it had asked its channel once".to_owned()),
            };
        }
        if self.asked.is_some_and(|asked| asked.elapsed() < ASK) {
            return Seen::Nothing;
        }
        self.asked = Some(Instant::now());
        let socket = handover.places.run_dir.join(control::SOCKET);
        if let Ok(Ok(answer)) = timeout(ANSWER, control::answer_of_any_version(&socket)).await {
            let daemon = &answer["ok"]["status"]["identityd"];
            if daemon["pid"] == handover.pid {
                self.answered = Some(Instant::now());
                if daemon["polled"] == Value::Bool(true) {
                    return Seen::Stands;
                }
            }
        }
        let silence = Duration::from_secs(handover.trial.as_ref().map_or(0, |trial| trial.seconds));
        if self.answered.unwrap_or(begun).elapsed() > silence {
            return Seen::Failed(format!("it answered nobody for {} s", silence.as_secs()));
        }
        if begun.elapsed() > LONGEST_POLL {
            return Seen::Failed("it did not come to ask its channel".to_owned());
        }
        Seen::Nothing
    }
}

/// Whether the supervisor wants the service up; `None` when nobody knows.
async fn is_wanted(handover: &Handover) -> Option<bool> {
    let Places { root, zinit_socket, .. } = &handover.places;
    let status = status(&supervisor::at(root, zinit_socket), &handover.unit).await;
    Some(status.ok()?.is_some_and(|status| status.target == Target::Up))
}

impl Handover {
    /// The handover whose trial is not over, as the state says it.
    pub fn on_trial(place: &StatePlace) -> Option<Self> {
        let note = std::fs::read(place.directory().join(FILE)).ok()?;
        let read = serde_json::from_slice::<Self>(&note);
        let read = read.inspect_err(|error| tracing::warn!(%error, "the note about the trial is not usable"));
        read.ok().filter(|handover| handover.current() == Some(handover.generation))
    }

    /// The generation that is gone back to if the identityd that is on trial now fails; `None`: none is on trial. Also where
    /// the state could not be told of the trial.
    pub fn goes_back_to(settings: &Settings) -> Option<u64> {
        let noted = Self::read(&settings.run_dir).filter(Self::is_on_trial);
        let handover = noted.or_else(|| Self::on_trial(&StatePlace::of(settings)))?;
        handover.trial.map(|trial| trial.before)
    }

    /// The same trial, of this process.
    ///
    /// # Errors
    /// A [`Problem`] when /proc is not there.
    pub fn resumed(self, settings: &Settings, unit: UnitName) -> Result<Self, Problem> {
        let token = random_token().map_err(|error| local("cannot go on with the trial", &error))?;
        let fresh = Self::new(settings, unit, self.generation, self.release)?;
        Ok(Self { token, trial: self.trial, ..fresh })
    }

    /// Whether somebody watches over a handover now.
    pub fn is_watched(run_dir: &Path) -> bool {
        is_there(run_dir)
    }

    /// Whether the new daemon is on trial.
    pub fn is_on_trial(&self) -> bool {
        matches!(self.phase(), super::Phase::Trial | super::Phase::Failed(_))
            && self.current() == Some(self.generation)
    }

    /// Whether a trial follows the commit.
    pub fn has_trial(&self) -> bool {
        self.trial.is_some()
    }

    /// Writes into the state that there is a trial: before the commit, and where it is gone on with.
    ///
    /// # Errors
    /// As the disk says; nobody would go on with the trial after a reboot.
    pub fn begin_trial(&self) -> io::Result<()> {
        let json = serde_json::to_vec(self)?;
        let place = self.places.state();
        let _lock = place.write_lock()?;
        durable::replace(&place.directory().join(FILE), &json, 0o600)
    }

    /// The trial is over, whatever came of it; tells whether it was noted until now.
    pub(super) fn end_trial(&self) -> bool {
        let place = self.places.state();
        let path = place.directory().join(FILE);
        let remove = || {
            let _lock = place.write_lock()?;
            let noted = serde_json::from_slice::<Self>(&std::fs::read(&path)?)?;
            // Another one may have begun since.
            if noted.token != self.token {
                return Ok(false);
            }
            std::fs::remove_file(&path).map(|()| true)
        };
        remove().unwrap_or_else(|error: io::Error| {
            if error.kind() != ErrorKind::NotFound {
                tracing::warn!(%error, "the trial is begun again at the next start");
            }
            false
        })
    }

    /// The trial is stood: what counted against the release, as long as nobody knew, counts no more. The rest of it is
    /// an attempt of its own.
    #[tracing::instrument(level = "debug", skip_all)]
    pub(super) fn stood(&self) {
        if self.noted().is_none() {
            return;
        }
        // In this order, so that nothing is taken back twice by two guardians.
        if self.trial.is_some()
            && self.end_trial()
            && let Err(error) = Releases::load(&self.places.state()).excuse(self.release)
        {
            tracing::warn!(error = report(&error), "the attempt still counts");
        }
        self.close();
    }

    /// From here on the old daemon is put back, by whichever guardian.
    #[tracing::instrument(level = "debug", skip_all)]
    pub(super) fn fail(&self, why: &str) {
        let Some(now) = self.noted() else { return };
        if let Err(problem) = (Self { failed: Some(why.to_owned()), ..now }).write() {
            tracing::warn!(%problem, "another guardian would judge the new identityd anew");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn time_passes_where_neither_the_daemon_nor_the_supervisor_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places {
            root: "/".into(),
            state_dir: dir.path().to_owned(),
            run_dir: dir.path().to_owned(),
            zinit_socket: dir.path().join("nobody"),
        };
        let handover: Handover = serde_json::from_value(serde_json::json!({
            "pid": 0, "unit": "identityd", "generation": 3, "release": "ff".repeat(32), "seconds": 30,
            "places": places,
        }))
        .unwrap();
        let mut watch = Watch::begin(&handover);
        let begun = Instant::now();
        assert_eq!(watch.trial(&handover).await, Seen::Nothing);
        assert!(begun.elapsed() >= LOOK, "a guardian would only turn round");
    }
}
