//! Stops an upgrade before the swap, and never after.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::stage::Gate;

/// An upgrade was stopped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Stopped {
    /// The gate that has closed.
    pub gate: Gate,
    /// Who or what stopped it.
    pub why: String,
}

/// It is too late, or there is nothing to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotStopped {
    /// No upgrade runs.
    #[error("no upgrade runs")]
    Nothing,
    /// Services are being stopped and files swapped already.
    #[error("the swap has begun, so the upgrade is finished or undone first")]
    TooLate,
}

/// Shared by whoever decides and whoever installs.
#[derive(Debug, Clone, Default)]
pub struct Brake(Arc<Mutex<Motion>>);

#[derive(Debug, Default)]
enum Motion {
    #[default]
    Rest,
    /// An upgrade is on its way to the swap, which must begin before this second.
    Moving {
        closes: Option<u64>,
        minds_downtime: bool,
    },
    Stopping(Stopped),
    Swapping,
}

impl Brake {
    /// An upgrade begins. It is stopped where the swap would not begin before the maintenance window
    /// `closes`, in seconds since 1970.
    pub fn release(&self, closes: Option<u64>, minds_downtime: bool) {
        *self.motion() = Motion::Moving { closes, minds_downtime };
    }

    /// Whether the upgrade that runs is given up where services would be down for too long.
    pub fn minds_downtime(&self) -> bool {
        matches!(*self.motion(), Motion::Moving { minds_downtime: true, .. })
    }

    /// Nothing runs any more.
    pub fn rest(&self) {
        *self.motion() = Motion::Rest;
    }

    /// Stops the upgrade at the next block, or before the swap at the latest. One that is being stopped is
    /// stopped for this reason.
    ///
    /// # Errors
    /// [`NotStopped`].
    pub fn stop(&self, gate: Gate, why: impl Into<String>) -> Result<(), NotStopped> {
        let mut motion = self.motion();
        match *motion {
            Motion::Rest => Err(NotStopped::Nothing),
            Motion::Swapping => Err(NotStopped::TooLate),
            Motion::Moving { .. } | Motion::Stopping(_) => {
                *motion = Motion::Stopping(Stopped { gate, why: why.into() });
                Ok(())
            }
        }
    }

    /// Whether the upgrade may go on.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn check(&self) -> Result<(), Stopped> {
        match &*self.motion() {
            Motion::Stopping(stopped) => Err(stopped.clone()),
            _ => Ok(()),
        }
    }

    /// The swap begins at `now`, in seconds since 1970; from here on nothing stops the upgrade.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn enter_swap(&self, now: u64) -> Result<(), Stopped> {
        let mut motion = self.motion();
        if let Motion::Moving { closes: Some(closes), .. } = *motion
            && now >= closes
        {
            let why = "the maintenance window closed before everything was staged".to_owned();
            *motion = Motion::Stopping(Stopped { gate: Gate::Maintenance, why });
        }
        match &*motion {
            Motion::Stopping(stopped) => Err(stopped.clone()),
            _ => {
                *motion = Motion::Swapping;
                Ok(())
            }
        }
    }

    fn motion(&self) -> MutexGuard<'_, Motion> {
        // Each change is one assignment, so whoever panicked left it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upgrade_is_stopped_before_the_swap_and_not_after() {
        let brake = Brake::default();
        assert_eq!(brake.stop(Gate::Pause, "no"), Err(NotStopped::Nothing));
        brake.release(None, false);
        brake.check().unwrap();
        brake.stop(Gate::Pause, "paused").unwrap();
        assert_eq!(brake.check().unwrap_err().gate, Gate::Pause);
        brake.stop(Gate::Hold, "cancelled").unwrap();
        assert_eq!(brake.enter_swap(0).unwrap_err(), Stopped { gate: Gate::Hold, why: "cancelled".into() });

        brake.release(None, false);
        brake.enter_swap(u64::MAX).unwrap();
        assert_eq!(brake.stop(Gate::Hold, "cancelled"), Err(NotStopped::TooLate));
        brake.check().unwrap();
        brake.rest();
        assert_eq!(brake.stop(Gate::Hold, "cancelled"), Err(NotStopped::Nothing));
    }

    #[test]
    fn the_swap_begins_in_the_window_or_not_at_all() {
        let brake = Brake::default();
        brake.release(Some(100), false);
        brake.enter_swap(99).unwrap();
        brake.release(Some(100), false);
        assert_eq!(brake.enter_swap(100).unwrap_err().gate, Gate::Maintenance);
        assert_eq!(brake.check().unwrap_err().gate, Gate::Maintenance);
    }
}
