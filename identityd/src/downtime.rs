//! How long services will be down, by how long earlier upgrades of this node took, and by how long the programs that
//! migrate state may take. Pure.

use serde::{Deserialize, Serialize};

use crate::history::{Outcome, Record};

/// Fewer records than this say nothing about 95 of 100 times.
const ENOUGH_SAMPLES: usize = 20;

/// Most upgrades that count, the newest ones.
const MOST_SAMPLES: usize = 100;

/// How long a service was down when it was restarted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prediction {
    /// Half of the times it was at most this long, in milliseconds.
    pub p50_ms: u64,
    /// In 95 of 100 times; with fewer than 20 records, the longest of them.
    pub p95_ms: u64,
    /// So many times were recorded.
    pub samples: usize,
}

impl std::fmt::Display for Prediction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { p50_ms, p95_ms, samples } = self;
        match samples {
            1 => write!(f, "{p50_ms} ms the one time it was recorded"),
            2..ENOUGH_SAMPLES => write!(f, "p50 {p50_ms} ms, longest {p95_ms} ms ({samples} recorded)"),
            _ => write!(f, "p50 {p50_ms} ms, p95 {p95_ms} ms ({samples} recorded)"),
        }
    }
}

/// What is to be expected of one service that is restarted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expected {
    /// The service.
    pub service: String,
    /// How long it will be down; `None`: there is no record.
    pub prediction: Option<Prediction>,
    /// How long the programs that migrate state may take besides, in milliseconds. No record has them: each runs once.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub migrating_ms: u64,
    /// The longest that its unit allows, in milliseconds.
    pub budget_ms: Option<u64>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Expected {
    /// Whether it will be down for longer than its unit allows, as far as is known.
    pub fn exceeds(&self) -> bool {
        let restart = self.prediction.map_or(0, |prediction| prediction.p95_ms);
        self.budget_ms.is_some_and(|budget| restart.saturating_add(self.migrating_ms) > budget)
    }
}

impl std::fmt::Display for Expected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { service, prediction, migrating_ms, budget_ms } = self;
        match prediction {
            None => write!(f, "{service}: no record")?,
            Some(prediction) => write!(f, "{service}: {prediction}")?,
        }
        if *migrating_ms > 0 {
            write!(f, ", and up to {migrating_ms} ms for migrations")?;
        }
        match budget_ms {
            Some(budget) if self.exceeds() => write!(f, ", MORE than its budget of {budget} ms"),
            Some(budget) => write!(f, ", budget {budget} ms"),
            None => Ok(()),
        }
    }
}

/// What is to be expected of these services, each with its budget, by these attempts, the oldest one first. Programs
/// that migrate state run while all of them are down, for at most so many milliseconds.
pub fn expect(
    services: impl IntoIterator<Item = (String, Option<u64>)>,
    past: &[Record],
    migrating_ms: u64,
) -> Vec<Expected> {
    let of = |(service, budget_ms): (String, Option<u64>)| {
        let prediction = predict(&service, past);
        Expected { service, prediction, migrating_ms, budget_ms }
    };
    services.into_iter().map(of).collect()
}

/// Why an upgrade waits for somebody who wants it all the same; `None`: every budget is kept.
pub fn why_over_budget(expected: &[Expected]) -> Option<String> {
    let over: Vec<_> =
        expected.iter().filter(|expected| expected.exceeds()).map(ToString::to_string).collect();
    (!over.is_empty()).then(|| {
        format!(
            "it would take services away for longer than they allow: {}; `identityd apply` installs it",
            over.join("; ")
        )
    })
}

/// Why an upgrade waits when nobody can read the records; `None`: no service has a budget.
pub fn why_unknown(expected: &[Expected], problem: &str) -> Option<String> {
    let budgets = expected.iter().filter_map(|one| Some((&one.service, one.budget_ms?)));
    let budgets: Vec<_> =
        budgets.map(|(service, budget)| format!("{service} (budget {budget} ms)")).collect();
    (!budgets.is_empty()).then(|| {
        format!(
            "nobody knows whether it would take services away for longer than they allow, because the history cannot be read: {}; {problem}; it is looked at again at each poll, and `identityd apply` installs it all the same",
            budgets.join(", ")
        )
    })
}

/// By the upgrades that were kept: one that was undone took the time of going back, too.
fn predict(service: &str, past: &[Record]) -> Option<Prediction> {
    let kept = past.iter().rev().filter(|record| record.outcome == Outcome::Committed);
    let all = kept.flat_map(|record| &record.services);
    let times = all.filter(|noted| noted.name == service).filter_map(|noted| noted.down_ms);
    let mut times: Vec<u64> = times.take(MOST_SAMPLES).collect();
    times.sort_unstable();
    // The nearest rank: a time that was measured.
    let rank = |percent: usize| times.get((times.len() * percent).div_ceil(100).saturating_sub(1)).copied();
    Some(Prediction { p50_ms: rank(50)?, p95_ms: rank(95)?, samples: times.len() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Cause, Named};
    use crate::timestamp::Timestamp;

    fn record(services: &[(&str, Option<u64>)]) -> Record {
        let named = Named { version: "1".to_owned(), release: "ab".to_owned() };
        let ids = ("id".to_owned(), "boot".to_owned());
        let mut record = Record::begin(ids, Cause::Poll, (None, named), Timestamp::from_unix(0));
        services.iter().for_each(|(name, down)| record.service(name, *down));
        record.end(Outcome::Committed, None, None, Timestamp::from_unix(1))
    }

    fn of(service: &str, budget: Option<u64>, past: &[Record]) -> Expected {
        expect([(service.to_owned(), budget)], past, 0).remove(0)
    }

    #[test]
    fn half_and_nearly_all_of_what_was_measured() {
        let past: Vec<_> = (1..=20).map(|ms| record(&[("web", Some(ms * 10)), ("db", None)])).collect();
        let expected = Some(Prediction { p50_ms: 100, p95_ms: 190, samples: 20 });
        assert_eq!(of("web", None, &past).prediction, expected);
        assert_eq!(of("db", None, &past).prediction, None);
        assert_eq!(of("new", None, &past).to_string(), "new: no record");
        let one = of("web", None, &past[..1]).prediction.unwrap();
        assert_eq!((one.p50_ms, one.p95_ms, one.samples), (10, 10, 1));
        // What was long ago counts no more.
        let many: Vec<_> =
            (0..300).map(|n| record(&[("web", Some(if n < 200 { 9000 } else { 5 }))])).collect();
        assert_eq!(of("web", None, &many).prediction.unwrap().p95_ms, 5);
    }

    #[test]
    fn one_record_is_no_percentile() {
        let past: Vec<_> = (1..=20).map(|ms| record(&[("web", Some(ms * 10))])).collect();
        let said = |records: usize| of("web", None, &past[..records]).to_string();
        assert_eq!(said(1), "web: 10 ms the one time it was recorded");
        assert_eq!(said(2), "web: p50 10 ms, longest 20 ms (2 recorded)");
        assert_eq!(said(20), "web: p50 100 ms, p95 190 ms (20 recorded)");
    }

    #[test]
    fn migrations_count_and_what_was_undone_does_not() {
        let kept = record(&[("web", Some(100))]);
        let undone = record(&[("web", Some(9000))]);
        let undone = undone.end(Outcome::RolledBack, None, None, Timestamp::from_unix(1));
        let past = [kept, undone];
        let expected = |migrating, budget| {
            expect([("web".to_owned(), Some(budget)), ("new".to_owned(), Some(budget))], &past, migrating)
        };
        assert_eq!(why_over_budget(&expected(400, 500)), None);
        let over = why_over_budget(&expected(450, 500)).unwrap();
        assert!(
            over.contains("100 ms the one time it was recorded, and up to 450 ms for migrations"),
            "{over}"
        );
        assert!(!over.contains("new"), "{over}");
        assert!(why_over_budget(&expected(501, 500)).unwrap().contains("new: no record, and up to 501 ms"));
    }

    #[test]
    fn without_records_a_budget_is_not_known_to_be_kept() {
        let expected = [of("web", Some(5), &[]), of("db", None, &[])];
        let why = why_unknown(&expected, "it is broken").unwrap();
        assert!(why.contains("web (budget 5 ms)") && why.contains("it is broken"), "{why}");
        assert_eq!(why_unknown(&expected[1..], "it is broken"), None);
    }

    #[test]
    fn a_budget_is_exceeded_only_by_what_was_measured() {
        let past = [record(&[("web", Some(100))])];
        assert_eq!(why_over_budget(&[of("web", Some(100), &past), of("new", Some(0), &past)]), None);
        let over = why_over_budget(&[of("web", Some(99), &past), of("new", Some(0), &past)]).unwrap();
        assert!(
            over.contains("web: 100 ms the one time it was recorded, MORE than its budget of 99 ms"),
            "{over}"
        );
        assert!(!over.contains("new"), "{over}");
    }
}
