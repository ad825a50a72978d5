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

    /// Whether budgets of downtime count: nobody wanted this very upgrade.
    pub fn minds_downtime(&self) -> bool {
        matches!(self, Self::Poll | Self::Check { .. } | Self::Unknown)
    }

    /// The cause that counts when another request comes while this one is being looked into: the one that asks
    /// for more, and of two alike the later.
    #[must_use]
    pub fn or(self, later: Self) -> Self {
        let demand = |cause: &Self| match cause {
            Self::Poll | Self::Unknown => 0,
            Self::Check { .. } => 1,
            Self::Apply { now: false, .. } | Self::Retry { now: false, .. } => 2,
            Self::Apply { now: true, .. } | Self::Retry { now: true, .. } => 3,
            Self::Rollback { .. } => 4,
        };
        if demand(&later) >= demand(&self) { later } else { self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_for_more_is_not_replaced_by_who_asks_for_less() {
        let apply = |by, now| Cause::Apply { by, now };
        assert_eq!(apply(1, true).or(Cause::Check { by: 2 }), apply(1, true));
        assert_eq!(apply(1, true).or(apply(2, false)), apply(1, true));
        assert_eq!(apply(1, false).or(apply(2, false)), apply(2, false));
        assert_eq!(Cause::Poll.or(Cause::Check { by: 2 }), Cause::Check { by: 2 });
        assert_eq!(Cause::Check { by: 1 }.or(apply(2, true)), apply(2, true));
    }
}
