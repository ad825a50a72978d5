//! Things to do later.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Farthest that anything is put off. A unit may ask for more seconds than a clock can count.
const MAX_DELAY: Duration = Duration::from_secs(365 * 24 * 3600);

/// A set of things to do, each at its time.
#[derive(Debug)]
pub(crate) struct Timers<T> {
    pending: BTreeMap<(Instant, u64), T>,
    count: u64,
}

impl<T> Timers<T> {
    pub(crate) fn new() -> Self {
        Self { pending: BTreeMap::new(), count: 0 }
    }

    /// Puts `what` off by `delay`.
    pub(crate) fn add(&mut self, delay: Duration, what: T) {
        // The count keeps apart what is due at the same instant, in the order it was added.
        self.count += 1;
        self.pending.insert((Instant::now() + delay.min(MAX_DELAY), self.count), what);
    }

    /// Takes the first thing that is due, if any.
    pub(crate) fn take_due(&mut self) -> Option<T> {
        let entry = self.pending.first_entry()?;
        (entry.key().0 <= Instant::now()).then(|| entry.remove())
    }

    /// Waits until something is due; for ever if there is nothing.
    pub(crate) async fn wait(&self) {
        match self.pending.first_key_value() {
            Some(((due, _), _)) => sleep_until(*due).await,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn things_come_in_their_order_and_not_before_their_time() {
        let mut timers = Timers::new();
        timers.add(Duration::MAX, "never");
        timers.add(Duration::from_millis(20), "later");
        timers.add(Duration::ZERO, "first");
        timers.add(Duration::ZERO, "second");
        timers.wait().await;
        assert_eq!(timers.take_due(), Some("first"));
        timers.wait().await;
        assert_eq!(timers.take_due(), Some("second"));
        timers.wait().await;
        assert_eq!(timers.take_due(), Some("later"));
        assert_eq!(timers.take_due(), None);
    }
}
