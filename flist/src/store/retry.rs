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
        self.repeat_after(id, ask(self.inner.as_ref()), ask)
    }

    /// `answer` is that of the first attempt.
    fn repeat_after<T>(
        &self,
        id: &BlockId,
        mut answer: Result<T, StoreError>,
        ask: impl Fn(&dyn Store) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut attempt = 0;
        loop {
            let error = match answer {
                Err(error) if error.is_retryable() && attempt + 1 < self.policy.attempts => error,
                answer => return answer,
            };
            // Different blocks spread; the same block does so in different attempts.
            let dice = id.as_bytes()[attempt as usize % id.as_bytes().len()];
            let pause = self.policy.pause(attempt, dice);
            tracing::debug!(block = %id, error = %crate::report(&error), ?pause, "asking again");
            std::thread::sleep(pause);
            attempt += 1;
            answer = ask(self.inner.as_ref());
        }
    }
}

impl Store for RetryStore {
    fn get(&self, id: &BlockId) -> Result<Option<Vec<u8>>, StoreError> {
        self.repeat(id, |store| store.get(id))
    }

    fn get_each(&self, ids: &[BlockId], buffers: &mut [Vec<u8>]) -> Vec<Result<bool, StoreError>> {
        let answers = self.inner.get_each(ids, buffers);
        let or_again = |((id, buffer), answer): ((&BlockId, &mut Vec<u8>), Result<bool, StoreError>)| {
            let Err(error) = answer else { return answer };
            let stored = self.repeat_after(id, Err(error), |store| store.get(id))?;
            Ok(stored.map(|stored| *buffer = stored).is_some())
        };
        ids.iter().zip(buffers).zip(answers).map(or_again).collect()
    }

    fn at_once(&self, ids: &[BlockId]) -> usize {
        self.inner.at_once(ids)
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

    use super::super::one_by_one;
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

        fn get_each(&self, ids: &[BlockId], buffers: &mut [Vec<u8>]) -> Vec<Result<bool, StoreError>> {
            one_by_one(self, ids, buffers)
        }

        fn at_once(&self, _: &[BlockId]) -> usize {
            1
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

    #[test]
    fn of_several_blocks_only_those_that_failed_are_asked_for_again() {
        let inner = Arc::new(Failing { times: 2, status: 503, asked: AtomicU32::new(0) });
        let pause = Duration::from_micros(1);
        let policy = RetryPolicy { attempts: 3, first_pause: pause, longest_pause: pause };
        let ids = [1, 2, 3, 4].map(|seed| BlockId::of(&[seed]));
        let mut buffers = vec![Vec::new(); ids.len()];
        let answers = RetryStore::new(inner.clone(), policy).get_each(&ids, &mut buffers);
        assert!(answers.iter().all(|answer| matches!(answer, Ok(false))), "{answers:?}");
        assert_eq!(inner.asked.load(Ordering::Relaxed), 4 + 2);
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
