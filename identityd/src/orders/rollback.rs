//! A rollback that somebody has ordered, until it has ended. It outlives the program, because on its way
//! identityd itself may be put back.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Hold, Orders, OrdersError};
use crate::timestamp::Timestamp;

/// So often a rollback is begun that is cut off each time.
pub const MOST_BEGINNINGS: u32 = 3;

/// Somebody wants an earlier generation put back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollback {
    /// The generation.
    pub to: u64,
    /// Its release, by its id.
    #[serde(default)]
    pub release: String,
    /// The release that is left behind, by its id; `None` where nobody knows what is installed.
    #[serde(default)]
    pub left: Option<String>,
    /// Whether that release was not held before, so that it is let go if the rollback fails.
    #[serde(default)]
    pub holds: bool,
    /// Since when it is wanted.
    pub since: Timestamp,
    /// The user who ordered it.
    pub by: u32,
    /// How often it was begun.
    #[serde(default)]
    pub begun: u32,
    #[serde(flatten)]
    unknown: Map<String, Value>,
}

impl Rollback {
    /// An order to put the generation `to` back, which is of this release.
    pub fn new((to, release): (u64, String), left: Option<String>, since: Timestamp, by: u32) -> Self {
        Self { to, release, left, holds: false, since, by, begun: 0, unknown: Map::new() }
    }
}

impl Orders {
    /// A rollback begins. What it leaves behind is held from now on, for this reason, so that no crash on the
    /// way lets it come back.
    ///
    /// # Errors
    /// [`OrdersError::TooMany`].
    pub fn begin_rollback(&mut self, mut rollback: Rollback, reason: String) -> Result<(), OrdersError> {
        rollback.begun += 1;
        let left = rollback.left.clone().filter(|_| !rollback.holds);
        if let Some(left) =
            left.filter(|left| self.holds.iter().all(|hold| hold.release.as_ref() != Some(left)))
        {
            self.hold(Hold::new(Some(left), rollback.since.clone(), rollback.by, Some(reason)))?;
            rollback.holds = true;
        }
        self.rollback = Some(rollback);
        Ok(())
    }

    /// A rollback has ended. If it was `done`, somebody wanted the release that runs now, so no hold names it
    /// any more; otherwise the one that would have been left behind is let go.
    pub fn end_rollback(&mut self, done: bool) {
        let Some(rollback) = self.rollback.take() else { return };
        let let_go = match done {
            true => Some(rollback.release),
            false => rollback.left.filter(|_| rollback.holds),
        };
        self.unhold(|hold| hold.release.is_some() && hold.release == let_go);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order() -> Rollback {
        Rollback::new((1, "id-1".to_owned()), Some("id-2".to_owned()), Timestamp::from_unix(7), 1000)
    }

    fn begun(orders: &mut Orders) -> Rollback {
        let before = orders.rollback.clone();
        orders.begin_rollback(before.unwrap_or_else(order), "rolled back".to_owned()).unwrap();
        orders.rollback.clone().unwrap()
    }

    #[test]
    fn what_is_left_behind_is_held_from_the_beginning_and_after_the_end() {
        let mut orders = Orders::default();
        assert_eq!(begun(&mut orders).begun, 1);
        assert_eq!(begun(&mut orders).begun, 2);
        let written = serde_json::to_string(&orders).unwrap();
        assert_eq!(serde_json::from_str::<Orders>(&written).unwrap(), orders);
        // Who went back from it before wants it now.
        orders.hold(Hold::new(Some("id-1".to_owned()), Timestamp::from_unix(1), 7, None)).unwrap();
        orders.end_rollback(true);
        assert_eq!((orders.holds.len(), orders.rollback.is_none()), (1, true));
        assert_eq!((orders.holds[0].release.as_deref(), orders.holds[0].by), (Some("id-2"), 1000));
    }

    #[test]
    fn a_rollback_that_failed_leaves_the_holds_that_there_were() {
        let mut orders = Orders::default();
        begun(&mut orders);
        orders.end_rollback(false);
        assert_eq!(orders, Orders::default());

        orders.hold(Hold::new(Some("id-2".to_owned()), Timestamp::from_unix(1), 7, None)).unwrap();
        orders.hold(Hold::new(None, Timestamp::from_unix(1), 7, None)).unwrap();
        let before = orders.clone();
        begun(&mut orders);
        assert_eq!(orders.holds, before.holds);
        orders.end_rollback(false);
        assert_eq!(orders, before);
    }
}
