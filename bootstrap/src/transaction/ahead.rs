//! Values that take long to make, made on several threads and used in order.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// Makes `count` values, numbered from 0, on `threads` threads, and runs `consume` with a function that returns
/// them in order, `None` after the last one. At most `most` values are being made or waiting. When `consume`
/// returns, no further value is begun. Without threads each value is made when it is asked for.
pub(super) fn in_order<T: Send, R>(
    count: usize,
    threads: usize,
    most: usize,
    make: impl Fn(usize) -> T + Sync,
    consume: impl FnOnce(&mut dyn FnMut() -> Option<T>) -> R,
) -> R {
    if threads == 0 {
        let mut numbers = 0..count;
        return consume(&mut || numbers.next().map(&make));
    }
    let queue = Queue { state: Mutex::new(State::new(count)), changed: Condvar::new() };
    thread::scope(|scope| {
        // Also when `consume` panics, nobody waits for ever.
        let _end = End(&queue);
        for _ in 0..threads.min(count) {
            scope.spawn(|| {
                // Whoever waits for a value that is not made because of a panic gets none.
                let end = End(&queue);
                while let Some(number) = queue.begin(most) {
                    queue.finish(number, make(number));
                }
                std::mem::forget(end);
            });
        }
        consume(&mut || queue.next())
    })
}

struct Queue<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

struct State<T> {
    count: usize,
    /// The next that nobody has begun to make.
    begun: usize,
    /// The next to be used.
    used: usize,
    made: BTreeMap<usize, T>,
    ended: bool,
}

impl<T> State<T> {
    fn new(count: usize) -> Self {
        Self { count, begun: 0, used: 0, made: BTreeMap::new(), ended: false }
    }
}

impl<T> Queue<T> {
    fn begin(&self, most: usize) -> Option<usize> {
        let mut state = self.state();
        while !state.ended && state.begun < state.count && state.begun >= state.used + most {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.ended || state.begun == state.count {
            return None;
        }
        state.begun += 1;
        Some(state.begun - 1)
    }

    fn finish(&self, number: usize, value: T) {
        self.state().made.insert(number, value);
        self.changed.notify_all();
    }

    fn next(&self) -> Option<T> {
        let mut state = self.state();
        let number = state.used;
        while !state.ended && number < state.count && !state.made.contains_key(&number) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let value = state.made.remove(&number)?;
        state.used += 1;
        self.changed.notify_all();
        Some(value)
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a queue when it goes.
struct End<'q, T>(&'q Queue<T>);

impl<T> Drop for End<'_, T> {
    fn drop(&mut self) {
        self.0.state().ended = true;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn they_are_made_at_the_same_time_and_come_in_order() {
        // Nobody gets past it alone.
        let together = Barrier::new(4);
        let make = |number| {
            together.wait();
            number
        };
        let all = in_order(40, 4, 8, make, |next| std::iter::from_fn(next).collect::<Vec<_>>());
        assert_eq!(all, (0..40).collect::<Vec<_>>());
        assert_eq!(in_order(0, 4, 8, |number| number, |next| next()), None);
    }

    #[test]
    fn no_more_than_the_limit_are_made_before_they_are_used() {
        let made = AtomicUsize::new(0);
        let make = |number| {
            made.fetch_add(1, Ordering::SeqCst);
            number
        };
        in_order(100, 4, 8, make, |next| {
            for used in 1.. {
                if next().is_none() {
                    break;
                }
                assert!(made.load(Ordering::SeqCst) <= used + 8);
            }
        });
        assert_eq!(made.load(Ordering::SeqCst), 100);
    }

    #[test]
    fn who_stops_using_them_ends_it() {
        let made = AtomicUsize::new(0);
        let make = |number| {
            made.fetch_add(1, Ordering::SeqCst);
            number
        };
        assert_eq!(in_order(1000, 4, 8, make, |next| (next(), next())), (Some(0), Some(1)));
        assert!(made.load(Ordering::SeqCst) <= 10);
    }

    #[test]
    fn a_panic_keeps_nobody_waiting() {
        let make = |number| if number == 5 { panic!("as the test wants it") } else { number };
        let run = || in_order(20, 2, 4, make, |next| while next().is_some() {});
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err());
    }
}
