//! On whose behalf something is installed.

use serde::{Deserialize, Serialize};

/// On whose behalf something is installed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Cause {
    /// A poll found another release; nobody asked.
    #[default]
    Poll,
    /// Somebody had the channel asked.
    Check {
        /// The user.
        by: u32,
    },
    /// Somebody wanted what the channel offers.
    Apply {
        /// The user.
        by: u32,
        /// Without waiting for a maintenance window.
        now: bool,
    },
    /// Somebody wanted a release tried again.
    Retry {
        /// The user.
        by: u32,
        /// Without waiting for a maintenance window.
        now: bool,
    },
    /// Somebody wanted an earlier generation put back.
    Rollback {
        /// The user.
        by: u32,
        /// The generation.
        to: u64,
    },
    /// A newer version of this program knows it.
    #[serde(other)]
    Unknown,
}

impl Cause {
    /// Whether no maintenance window is waited for. Who goes back wants that now.
    pub fn is_now(&self) -> bool {
        matches!(self, Self::Apply { now: true, .. } | Self::Retry { now: true, .. } | Self::Rollback { .. })
    }
}
