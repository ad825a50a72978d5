//! Waiting for a condition, bounded.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::Error;

/// Time between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Lets every wait of this process end with [`Error::Interrupted`], now and from now on, so that a program
/// that was told to end gets to its clean-up.
pub fn interrupt() {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// Looks until `look` is satisfied, for at most `limit`. A look that is not satisfied says why, and the
/// last reason is in the error.
///
/// # Errors
/// [`Error::Timeout`], [`Error::Interrupted`].
pub fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<T, String>,
) -> Result<T, Error> {
    let start = Instant::now();
    loop {
        match look() {
            Ok(found) => return Ok(found),
            Err(last) if start.elapsed() >= limit => {
                return Err(Error::Timeout { what: what.to_owned(), after: limit, last });
            }
            Err(_) if INTERRUPTED.load(Ordering::Relaxed) => return Err(Error::Interrupted),
            Err(_) => std::thread::sleep(LOOK_AGAIN),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_reason_is_told() {
        let mut looks = 0;
        let error = wait_for("never", Duration::from_millis(30), || {
            looks += 1;
            Err::<(), _>(format!("look {looks}"))
        })
        .unwrap_err();
        assert!(looks > 1);
        assert!(error.to_string().ends_with(&format!("look {looks}")), "{error}");
    }
}
