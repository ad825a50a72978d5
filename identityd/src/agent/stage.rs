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
    /// Checks what was fetched.
    Verifying,
    /// Puts files beside their destinations, and rehearses.
    Staging,
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
            Self::Verifying => "Verifying",
            Self::Staging => "Staging",
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

/// Why the agent waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Gate {
    /// Recovery runs, or the first look for what is installed.
    Starting,
    /// No boot has said yet which channel this node follows.
    FlistName,
    /// Something failed and is tried again after a delay.
    BackOff,
    /// What the channel offers cannot be installed here.
    Refused,
}

impl Gate {
    /// The gate's one name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "Starting",
            Self::FlistName => "FlistName",
            Self::BackOff => "BackOff",
            Self::Refused => "Refused",
        }
    }

    /// What is waited for, for people.
    pub const fn explanation(self) -> &'static str {
        match self {
            Self::Starting => {
                "finishes or undoes what an interrupted run left, and finds out what is installed"
            }
            Self::FlistName => {
                "live upgrade is disabled: there is no /tmp/flist.name, so this node was not booted from a \
                 flist (yet); looks again every few seconds"
            }
            Self::BackOff => "something failed; tries again after a delay that grows with every failure",
            Self::Refused => "the release that the channel offers cannot be installed; waits for another one",
        }
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
