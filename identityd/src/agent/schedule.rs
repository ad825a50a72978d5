//! How long the agent waits.
//!
//! | delay                | from                                   | to                            |
//! |----------------------|----------------------------------------|-------------------------------|
//! | [`Delay::Regular`]   | interval − 10 %                        | interval + 10 %               |
//! | [`Delay::Backoff`]   | half of *d*                            | *d* = 5 s · 2^(attempt − 1)   |
//! | [`Delay::Look`]      | 10 s − 10 %                            | 10 s + 10 %                   |
//! | [`Delay::Gate`]      | when the gate opens                    | 10 % of the interval later    |
//!
//! A gate is looked at again at a regular poll at the latest. Where the interval is shorter than 5 s (10 s), the interval takes its place; *d* grows no
//! further than 5 minutes or the interval, whichever is longer. The place within the range is random,
//! so that nodes that started together, or lost their hub together, do not ask together.

use std::time::Duration;

const FIRST_BACK_OFF: Duration = Duration::from_secs(5);
const BACK_OFF_CAP: Duration = Duration::from_secs(5 * 60);
const LOOK: Duration = Duration::from_secs(10);

/// Why the agent waits before it polls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delay {
    /// All is well.
    Regular,
    /// Something failed.
    Backoff {
        /// How many times in a row, from 1.
        attempt: u32,
    },
    /// Nothing says what is installed.
    Look,
    /// A gate is closed.
    Gate {
        /// How long until it opens; `None`: on an event.
        opens: Option<Duration>,
    },
}

/// The length of a delay, for polls every `interval` and a `random` number of which all values are
/// equally likely.
pub(super) fn duration(delay: Delay, interval: Duration, random: u64) -> Duration {
    match delay {
        Delay::Regular => around(interval, random),
        Delay::Look => around(LOOK.min(interval), random),
        Delay::Gate { opens: None } => around(interval, random),
        Delay::Gate { opens: Some(opens) } => {
            between(opens, opens.saturating_add(interval / 10), random).min(around(interval, random))
        }
        Delay::Backoff { attempt } => {
            let factor = 2_u32.saturating_pow(attempt.saturating_sub(1));
            let longest = FIRST_BACK_OFF.min(interval).saturating_mul(factor).min(BACK_OFF_CAP.max(interval));
            between(longest / 2, longest, random)
        }
    }
}

/// Within 10 % of `middle`.
fn around(middle: Duration, random: u64) -> Duration {
    let tenth = middle / 10;
    between(middle.saturating_sub(tenth), middle.saturating_add(tenth), random)
}

/// The point of `shortest..=longest` that `random` picks.
fn between(shortest: Duration, longest: Duration, random: u64) -> Duration {
    let fraction = random as f64 / u64::MAX as f64;
    // A fraction of a span of seconds fits into a Duration, for every interval that fits.
    let offset = longest.saturating_sub(shortest).as_secs_f64() * fraction;
    shortest.saturating_add(Duration::try_from_secs_f64(offset).unwrap_or(Duration::ZERO)).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANDOMS: [u64; 5] = [0, 1, u64::MAX / 3, u64::MAX - 1, u64::MAX];

    fn range(delay: Delay, interval: Duration) -> (Duration, Duration) {
        let all = RANDOMS.map(|random| duration(delay, interval, random));
        assert!(all.is_sorted(), "{delay:?} {interval:?}: {all:?}");
        (all[0], all[4])
    }

    fn secs(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn regular_polls_stay_within_a_tenth_of_the_interval() {
        assert_eq!(range(Delay::Regular, secs(600.0)), (secs(540.0), secs(660.0)));
        assert_eq!(range(Delay::Regular, secs(2.0)), (secs(1.8), secs(2.2)));
        assert_eq!(range(Delay::Regular, Duration::ZERO), (Duration::ZERO, Duration::ZERO));
    }

    #[test]
    fn back_off_doubles_from_five_seconds_to_its_cap() {
        let hour = secs(3600.0);
        for (attempt, longest) in [(0, 5.0), (1, 5.0), (2, 10.0), (3, 20.0), (10, 2560.0), (11, 3600.0)] {
            let expected = (secs(longest / 2.0), secs(longest));
            assert_eq!(range(Delay::Backoff { attempt }, hour), expected, "attempt {attempt}");
        }
        assert_eq!(range(Delay::Backoff { attempt: u32::MAX }, hour), (hour / 2, hour));
    }

    #[test]
    fn a_short_interval_makes_the_back_off_begin_shorter_and_end_at_five_minutes() {
        assert_eq!(range(Delay::Backoff { attempt: 1 }, secs(2.0)), (secs(1.0), secs(2.0)));
        assert_eq!(range(Delay::Backoff { attempt: 99 }, secs(2.0)), (secs(150.0), secs(300.0)));
    }

    #[test]
    fn looking_for_flist_name_is_never_slower_than_polling() {
        assert_eq!(range(Delay::Look, secs(600.0)), (secs(9.0), secs(11.0)));
        assert_eq!(range(Delay::Look, secs(2.0)), (secs(1.8), secs(2.2)));
    }

    #[test]
    fn a_gate_is_looked_at_when_it_opens_and_at_a_regular_poll_at_the_latest() {
        let opens = |seconds| Delay::Gate { opens: Some(secs(seconds)) };
        assert_eq!(range(opens(100.0), secs(600.0)), (secs(100.0), secs(160.0)));
        assert_eq!(range(opens(0.0), secs(600.0)), (Duration::ZERO, secs(60.0)));
        assert_eq!(range(opens(86_400.0), secs(600.0)), (secs(540.0), secs(660.0)));
        assert_eq!(range(Delay::Gate { opens: None }, secs(600.0)), (secs(540.0), secs(660.0)));
    }

    #[test]
    fn absurd_intervals_do_not_overflow() {
        let gate = Delay::Gate { opens: Some(Duration::MAX) };
        for delay in [Delay::Regular, Delay::Look, Delay::Backoff { attempt: u32::MAX }, gate] {
            for random in RANDOMS {
                duration(delay, Duration::MAX, random);
            }
        }
    }
}
