//! The time at which everything must be over, where somebody sets one.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Environment variable with that time, in seconds since 1970.
pub const DEADLINE: &str = "MOLT_DEADLINE";

/// The time that is left; `None` where nobody says when it ends.
pub fn left() -> Option<Duration> {
    let deadline: u64 = std::env::var(DEADLINE).ok()?.parse().ok()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    Some(Duration::from_secs(deadline).saturating_sub(now))
}
