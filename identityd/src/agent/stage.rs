//! Where the agent is, in the words that status, logs and documents use.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What the agent is doing. Ordered as an upgrade goes through them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Stage {
    /// The channel offers what is installed; waits for the next poll.
    Idle,
    /// Asks the hub what the channel offers.
    Resolving,
    /// Something must happen first; the [`Gate`] says what.
    Waiting,
    /// Gets the blocks that are not on the node yet.
    Fetching,
    /// Puts files beside their destinations, each block checked before it is used.
    Staging,
    /// Rehearses whether what is staged would run, and brings it to its medium.
    Verifying,
    /// Stops the affected services, exchanges files, starts the services.
    Swapping,
    /// Watches what was started for its health window.
    Soaking,
    /// The new generation is kept.
    Committed,
    /// The transaction was undone; the generation from before runs.
    RolledBack,
    /// Undoing was incomplete.
    Degraded,
}

impl Stage {
    /// The stage's one name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "Idle",
            Self::Resolving => "Resolving",
            Self::Waiting => "Waiting",
            Self::Fetching => "Fetching",
            Self::Staging => "Staging",
            Self::Verifying => "Verifying",
            Self::Swapping => "Swapping",
            Self::Soaking => "Soaking",
            Self::Committed => "Committed",
            Self::RolledBack => "RolledBack",
            Self::Degraded => "Degraded",
        }
    }

    /// Whether an upgrade runs: the stages that belong to one transaction.
    pub fn is_upgrading(self) -> bool {
        (Self::Fetching..=Self::Soaking).contains(&self)
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A reason to wait. The names are stable: programs tell by them why nothing is installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Gate {
    /// Recovery runs, or the first look for what is installed.
    Starting,
    /// There is no place for generations, journal and orders.
    State,
    /// No boot has said yet which channel this node follows.
    FlistName,
    /// The file with holds and pause is damaged, so nobody knows what is held.
    Orders,
    /// Somebody has paused upgrades.
    Pause,
    /// Somebody holds this release back, or everything.
    Hold,
    /// No maintenance window is open.
    Maintenance,
    /// Services would be down for longer than their units allow.
    Downtime,
    /// The release has failed, or would not run, or too many attempts to install it were cut off.
    BadRelease,
    /// What the channel offers is not signed as it has to be: expired, kept back, forged, or the clock is wrong.
    Trust,
    /// The director has not chosen a newer release for this node yet, or not for this one.
    Director,
    /// What the channel offers cannot be installed here.
    Refused,
    /// Something failed and is tried again after a delay.
    BackOff,
    /// Another engine is at work.
    Lock,
    /// Undoing was incomplete.
    Degraded,
    /// Nobody knows what the channel offers now.
    Freshness,
    /// The release before could not read the state that there is now. Keeps nothing from being installed.
    Rollback,
    /// The release brings another kernel than the one that runs, or that one is on trial. Keeps nothing from being installed.
    Kernel,
}

impl Gate {
    /// All of them, in the order in which they are asked.
    pub const ALL: [Self; 18] = [
        Self::Starting,
        Self::State,
        Self::FlistName,
        Self::Orders,
        Self::Pause,
        Self::Hold,
        Self::Maintenance,
        Self::Downtime,
        Self::BadRelease,
        Self::Trust,
        Self::Director,
        Self::Refused,
        Self::BackOff,
        Self::Lock,
        Self::Degraded,
        Self::Freshness,
        Self::Rollback,
        Self::Kernel,
    ];

    /// The gate's one name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "Starting",
            Self::State => "State",
            Self::FlistName => "FlistName",
            Self::Orders => "Orders",
            Self::Pause => "Pause",
            Self::Hold => "Hold",
            Self::Maintenance => "Maintenance",
            Self::Downtime => "Downtime",
            Self::BadRelease => "BadRelease",
            Self::Trust => "Trust",
            Self::Director => "Director",
            Self::Refused => "Refused",
            Self::BackOff => "BackOff",
            Self::Lock => "Lock",
            Self::Degraded => "Degraded",
            Self::Freshness => "Freshness",
            Self::Rollback => "Rollback",
            Self::Kernel => "Kernel",
        }
    }

    /// What is waited for, for people.
    pub const fn explanation(self) -> &'static str {
        match self {
            Self::Starting => {
                "finishes or undoes what an interrupted run left, and finds out what is installed"
            }
            Self::State => "the state directory cannot be used, and there is no memory to work without it",
            Self::FlistName => {
                "live upgrade is disabled: there is no /tmp/flist.name, so this node was not booted from a \
                 flist (yet); looks again every few seconds"
            }
            Self::Orders => "the file with holds and pause is damaged, so nobody knows what is held",
            Self::Pause => "upgrades are paused; `identityd resume` goes on",
            Self::Hold => "the release is held back; `identityd unhold` lets it go",
            Self::Maintenance => "no maintenance window is open",
            Self::Downtime => {
                "services would be down for longer than their units allow; `identityd apply` installs it"
            }
            Self::BadRelease => "the release failed or would not run here; `identityd retry` tries it again",
            Self::Trust => {
                "what the channel offers is not signed as it has to be; waits for somebody who may sign"
            }
            Self::Director => "the director keeps a newer release from this node",
            Self::Refused => "the release that the channel offers cannot be installed; waits for another one",
            Self::BackOff => "something failed; tries again after a delay that grows with every failure",
            Self::Lock => "another engine is at work",
            Self::Degraded => "an upgrade could not be undone completely",
            Self::Freshness => "nobody knows what the channel offers now",
            Self::Rollback => "the release before could not read the state that there is now",
            Self::Kernel => "the release brings another kernel than the one that runs",
        }
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
