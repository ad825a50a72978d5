//! Asking again what may go better the next time.

use std::sync::Arc;
use std::time::Duration;

use super::{Store, StoreError};
use crate::block::BlockId;

/// How often and how patiently.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicy {
    /// How often it is asked at most.
    pub attempts: u32,
    /// The first pause; each further one is twice as long.
    pub first_pause: Duration,
    /// The longest pause.
    pub longest_pause: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { attempts: 4, first_pause: Duration::from_millis(100), longest_pause: Duration::from_secs(2) }
    }
}

impl RetryPolicy {
    /// The pause after attempt number `attempt` (from 0), with up to a quarter taken away so that many
    /// readers do not come back at once; `dice` decides how much. Pure.
    pub fn pause(&self, attempt: u32, dice: u8) -> Duration {
        let factor = 2_u32.saturating_pow(attempt);
        let full = self.first_pause.saturating_mul(factor).min(self.longest_pause);
        full - full / 4 * u32::from(dice) / u32::from(u8::MAX)
    }
}

/// Asks a store again when its failure may pass. "Missing" is an answer and not asked again.
pub struct RetryStore {
    inner: Arc<dyn Store>,
    policy: RetryPolicy,
}

impl RetryStore {
    /// Asks `inner` by this policy.
    pub fn new(inner: Arc<dyn Store>, policy: RetryPolicy) -> Self {
        Self { inner, policy }
    }

    fn repeat<T>(
        &self,
        id: &BlockId,
        ask: impl Fn(&dyn Store) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut attempt = 0;
        loop {
            let error = match ask(self.inner.as_ref()) {
                Err(error) if error.is_retryable() && attempt + 1 < self.policy.attempts => error,
                answer => return answer,
            };
            // Different blocks spread; the same block does so in different attempts.
            let dice = id.as_bytes()[attempt as usize % id.as_bytes().len()];
            let pause = self.policy.pause(attempt, dice);
            tracing::debug!(block = %id, error = %crate::report(&error), ?pause, "asking again");
            std::thread::sleep(pause);
            attempt += 1;
        }
    }
}

impl Store for RetryStore {
    fn get(&self, id: &BlockId) -> Result<Option<Vec<u8>>, StoreError> {
        self.repeat(id, |store| store.get(id))
    }

    fn has(&self, id: &BlockId) -> Result<bool, StoreError> {
        self.repeat(id, |store| store.has(id))
    }

    fn put(&self, id: &BlockId, stored: &[u8]) -> Result<(), StoreError> {
        self.repeat(id, |store| store.put(id, stored))
    }

    fn url(&self) -> String {
        self.inner.url()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// Fails so many times with this status.
    struct Failing {
        times: u32,
        status: u16,
        asked: AtomicU32,
    }

    impl Store for Failing {
        fn get(&self, _: &BlockId) -> Result<Option<Vec<u8>>, StoreError> {
            if self.asked.fetch_add(1, Ordering::Relaxed) < self.times {
                return Err(StoreError::Status { url: "u".to_owned(), status: self.status });
            }
            Ok(None)
        }
        fn has(&self, _: &BlockId) -> Result<bool, StoreError> {
            Ok(false)
        }
        fn put(&self, _: &BlockId, _: &[u8]) -> Result<(), StoreError> {
            Ok(())
        }
        fn url(&self) -> String {
            "failing".to_owned()
        }
    }

    fn ask(times: u32, status: u16) -> (bool, u32) {
        let inner = Arc::new(Failing { times, status, asked: AtomicU32::new(0) });
        let policy = RetryPolicy { attempts: 3, first_pause: Duration::ZERO, longest_pause: Duration::ZERO };
        let store = RetryStore::new(inner.clone(), policy);
        let answered = store.get(&BlockId::of(b"x")).is_ok();
        (answered, inner.asked.load(Ordering::Relaxed))
    }

    #[test]
    fn only_what_may_pass_is_asked_again_and_not_for_ever() {
        assert_eq!(ask(0, 503), (true, 1));
        assert_eq!(ask(2, 503), (true, 3));
        assert_eq!(ask(9, 503), (false, 3));
        assert_eq!(ask(9, 403), (false, 1));
    }

    #[test]
    fn pauses_grow_to_a_limit() {
        let policy = RetryPolicy::default();
        assert_eq!(policy.pause(0, 0), Duration::from_millis(100));
        assert_eq!(policy.pause(2, 0), Duration::from_millis(400));
        assert_eq!(policy.pause(u32::MAX, 0), policy.longest_pause);
        assert_eq!(policy.pause(0, 255), Duration::from_millis(75));
    }
}
