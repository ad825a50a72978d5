//! Holds that end by themselves, and how long a release may be postponed in all. Pure.

use bootstrap::held::Patience;
use flist::span;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Hold, Orders, OrdersError};
use crate::agent::Candidate;
use crate::timestamp::Timestamp;

/// Releases of which it is remembered when they were postponed first; the oldest are forgotten.
pub const MOST_POSTPONED: usize = 64;

/// A release that the channel offered and somebody postponed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Postponed {
    /// Its id.
    pub release: String,
    /// When for the first time.
    pub first: Timestamp,
    /// The user who did.
    pub by: u32,
    #[serde(flatten)]
    unknown: Map<String, Value>,
}

/// A hold that counts, and when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holding<'o> {
    /// The hold.
    pub hold: &'o Hold,
    /// When it ends by itself, in seconds since 1970; `None`: when somebody lets go.
    pub ends: Option<u64>,
}

impl Orders {
    /// The hold that keeps this release, or without one everything, back for the longest.
    pub fn holding(&self, candidate: Option<&Candidate>, patience: &Patience) -> Option<Holding<'_>> {
        let first = candidate.and_then(|candidate| self.postponed(&candidate.release));
        let first = first.map(|postponed| postponed.first.unix);
        let covers = |hold: &&Hold| hold.release.is_none() || candidate.is_some_and(|it| hold.covers(it));
        let holding = |hold| {
            let until = Hold::until_unix(hold);
            (!patience.is_over(until, first))
                .then(|| Holding { hold, ends: until.map(|until| patience.end(until, first)) })
        };
        let holding = self.holds.iter().filter(covers).filter_map(holding);
        holding.max_by_key(|holding| (holding.ends.unwrap_or(u64::MAX), holding.hold.release.is_none()))
    }

    /// When the release with this id was postponed first.
    pub fn postponed(&self, release: &str) -> Option<&Postponed> {
        self.postponed.iter().find(|postponed| postponed.release == release)
    }

    /// Adds a hold that ends by itself, in the place of one on the same release. `candidate` is what the channel offers.
    ///
    /// # Errors
    /// [`OrdersError::TooLong`], [`OrdersError::HeldForGood`], [`OrdersError::TooMany`].
    pub fn postpone(
        &mut self,
        hold: Hold,
        candidate: Option<&Candidate>,
        patience: &Patience,
    ) -> Result<(), OrdersError> {
        let candidate = candidate.filter(|candidate| hold.covers(candidate));
        let noted = candidate.and_then(|candidate| self.postponed(&candidate.release));
        let last = noted.map_or(patience.now, |noted| noted.first.unix);
        let last = Timestamp::from_unix(last.saturating_add(patience.longest.as_secs()));
        if hold.until_unix().is_some_and(|until| until > last.unix) {
            let first = noted.map(|Postponed { first, by, .. }| {
                format!("it was postponed first at {} by user {by}, and ", first.at)
            });
            return Err(OrdersError::TooLong {
                what: hold.what(),
                until: hold.until.as_ref().map(|until| until.at.clone()).unwrap_or_default(),
                first: first.unwrap_or_default(),
                longest: span::text(patience.longest),
                last: last.at,
            });
        }
        let declined = |held: &&Hold| held.release == hold.release && held.until.is_none();
        if let Some(held) = self.holds.iter().find(declined) {
            return Err(OrdersError::HeldForGood { what: held.what(), lets_go: held.lets_go() });
        }
        self.hold(hold)?;
        if let Some(candidate) = candidate {
            self.note_postponed(candidate, patience);
        }
        Ok(())
    }

    /// Looks after holds that end: what the channel offers now is noted as postponed where one keeps it back, and those
    /// whose end has come go. Tells which went.
    pub fn tend(&mut self, candidate: Option<&Candidate>, patience: &Patience) -> Vec<Hold> {
        self.follow_clock(patience);
        if let Some(candidate) = candidate {
            self.note_postponed(candidate, patience);
        }
        self.unhold(|hold| patience.is_over(hold.until_unix(), None))
    }

    /// Remembers since when a release is postponed that only a hold keeps back which ends.
    fn note_postponed(&mut self, candidate: &Candidate, patience: &Patience) {
        let Some(Holding { hold, ends: Some(_) }) = self.holding(Some(candidate), patience) else { return };
        let by = hold.by;
        if self.postponed(&candidate.release).is_some() {
            return;
        }
        let first = Timestamp::from_unix(patience.now);
        self.postponed.push(Postponed { release: candidate.release.clone(), first, by, unknown: Map::new() });
        let more = self.postponed.len().saturating_sub(MOST_POSTPONED);
        self.postponed.drain(..more);
    }

    /// Where the clock was ahead when something was postponed, and was set right since, its length counts from now on:
    /// else it would not end before the time comes that was wrong.
    fn follow_clock(&mut self, patience: &Patience) {
        let last = patience.now.saturating_add(patience.longest.as_secs());
        for hold in &mut self.holds {
            let Some(until) = hold.until_unix().filter(|until| *until > last) else { continue };
            let length = until.saturating_sub(hold.since.unix).min(patience.longest.as_secs());
            hold.since = Timestamp::from_unix(patience.now);
            hold.until = Some(Timestamp::from_unix(patience.now.saturating_add(length)));
        }
        for postponed in self.postponed.iter_mut().filter(|postponed| postponed.first.unix > patience.now) {
            postponed.first = Timestamp::from_unix(patience.now);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const DAY: u64 = 24 * 3600;

    fn on_day(day: u64) -> Patience {
        Patience { now: day * DAY, longest: Duration::from_secs(14 * DAY) }
    }

    fn hold(release: Option<&str>, from: u64, to: u64) -> Hold {
        let hold = Hold::new(release.map(str::to_owned), Timestamp::from_unix(from * DAY), 7, None);
        Hold { until: Some(Timestamp::from_unix(to * DAY)), ..hold }
    }

    fn candidate(version: &str) -> Candidate {
        let release = version[..1].repeat(64);
        Candidate { channel: "r/c.flist".into(), version: version.into(), release }
    }

    #[test]
    fn it_ends_by_itself_and_not_before() {
        let (mut orders, two) = (Orders::default(), candidate("2.0.0"));
        orders.postpone(hold(Some("2.0.0"), 1, 3), Some(&two), &on_day(1)).unwrap();
        let ends =
            |orders: &Orders, day| orders.holding(Some(&two), &on_day(day)).map(|holding| holding.ends);
        assert_eq!(ends(&orders, 2), Some(Some(3 * DAY)));
        assert_eq!(ends(&orders, 3), None);
        assert_eq!(orders.holding(Some(&candidate("3.0.0")), &on_day(2)), None);
        assert!(orders.tend(Some(&two), &on_day(2)).is_empty());
        assert_eq!(orders.tend(Some(&two), &on_day(3)).len(), 1);
        assert!(orders.holds.is_empty());
        // A plain hold beside it does not end.
        orders.postpone(hold(None, 3, 4), Some(&two), &on_day(3)).unwrap();
        orders.hold(Hold { until: None, ..hold(Some("22222222"), 3, 4) }).unwrap();
        assert_eq!((ends(&orders, 3), ends(&orders, 9)), (Some(None), Some(None)));
    }

    #[test]
    fn no_release_is_postponed_longer_than_in_all_allowed_under_whatever_name() {
        let two = candidate("2.0.0");
        for names in [["2.0.0", "2.0.0"], ["2.0.0", "22222222"], ["", "2.0.0"], ["2.0.0", ""], ["", ""]] {
            let name = |at: usize| Some(names[at]).filter(|name| !name.is_empty());
            let mut orders = Orders::default();
            orders.postpone(hold(name(0), 10, 20), Some(&two), &on_day(10)).unwrap();
            // Letting go meanwhile is no new beginning.
            orders.unhold(|_| true);
            let again = orders.postpone(hold(name(1), 20, 25), Some(&two), &on_day(20));
            let error = again.unwrap_err().to_string();
            let (first, last) = (Timestamp::from_unix(10 * DAY).at, Timestamp::from_unix(24 * DAY).at);
            for part in [first.as_str(), "user 7", "longest_postponement", "14d", &last, "without --for"] {
                assert!(error.contains(part), "{part}: {error}");
            }
            orders.postpone(hold(name(1), 20, 24), Some(&two), &on_day(20)).unwrap();
            // Another release has a time of its own.
            let three = candidate("3.0.0");
            orders.postpone(hold(Some("3.0.0"), 24, 38), Some(&three), &on_day(24)).unwrap();
        }
        let error = Orders::default().postpone(hold(None, 0, 15), None, &on_day(0)).unwrap_err().to_string();
        assert!(error.starts_with("every release cannot be postponed until 1970-01-16"), "{error}");
    }

    #[test]
    fn a_hold_that_was_ordered_before_the_release_came_ends_with_what_is_left_of_its_time() {
        let (mut orders, two) = (Orders::default(), candidate("2.0.0"));
        orders.postpone(hold(None, 0, 13), None, &on_day(0)).unwrap();
        assert!(orders.tend(Some(&two), &on_day(5)).is_empty());
        assert_eq!(orders.postponed(&two.release).map(|noted| noted.first.unix), Some(5 * DAY));
        // The channel offers another one meanwhile, and then the first one again.
        orders.tend(Some(&candidate("3.0.0")), &on_day(13));
        orders.postpone(hold(None, 13, 25), Some(&candidate("3.0.0")), &on_day(13)).unwrap();
        let ends = orders.holding(Some(&two), &on_day(14)).and_then(|holding| holding.ends);
        assert_eq!(ends, Some(19 * DAY));
        assert_eq!(orders.holding(Some(&two), &on_day(19)), None);
        assert!(orders.holding(Some(&candidate("3.0.0")), &on_day(19)).is_some());
    }

    #[test]
    fn a_clock_that_was_ahead_does_not_hold_until_the_time_that_was_wrong() {
        let (mut orders, two) = (Orders::default(), candidate("2.0.0"));
        orders.postpone(hold(Some("2.0.0"), 30_000, 30_002), Some(&two), &on_day(30_000)).unwrap();
        assert!(orders.tend(Some(&two), &on_day(100)).is_empty());
        assert_eq!(orders.holds[0].until, Some(Timestamp::from_unix(102 * DAY)));
        assert_eq!(orders.postponed[0].first, Timestamp::from_unix(100 * DAY));
        assert_eq!(orders.tend(Some(&two), &on_day(102)).len(), 1);
    }

    #[test]
    fn what_is_remembered_is_limited() {
        let mut orders = Orders::default();
        for number in 0..=MOST_POSTPONED {
            let release = format!("{number:064}");
            let candidate = Candidate { channel: String::new(), version: "1.0.0".into(), release };
            orders.postpone(hold(None, 0, 1), Some(&candidate), &on_day(0)).unwrap();
        }
        assert_eq!(orders.postponed.len(), MOST_POSTPONED);
        assert!(orders.postponed(&format!("{:064}", 0)).is_none());
    }
}
