//! How long services will be down, by how long earlier upgrades of this node took. Pure.

use serde::{Deserialize, Serialize};

use crate::history::Record;

/// Most upgrades that count, the newest ones.
const MOST_SAMPLES: usize = 100;

/// How long a service was down when it was restarted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prediction {
    /// Half of the times it was at most this long, in milliseconds.
    pub p50_ms: u64,
    /// In 95 of 100 times.
    pub p95_ms: u64,
    /// So many times were recorded.
    pub samples: usize,
}

/// What is to be expected of one service that is restarted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expected {
    /// The service.
    pub service: String,
    /// How long it will be down; `None`: there is no record.
    pub prediction: Option<Prediction>,
    /// The longest that its unit allows, in milliseconds.
    pub budget_ms: Option<u64>,
}

impl Expected {
    /// Whether it will be down for longer than its unit allows, as far as is known.
    pub fn exceeds(&self) -> bool {
        self.prediction.zip(self.budget_ms).is_some_and(|(prediction, budget)| prediction.p95_ms > budget)
    }
}

impl std::fmt::Display for Expected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { service, prediction, budget_ms } = self;
        match prediction {
            None => write!(f, "{service}: no record")?,
            Some(Prediction { p50_ms, p95_ms, samples }) => {
                write!(f, "{service}: p50 {p50_ms} ms, p95 {p95_ms} ms ({samples} recorded)")?;
            }
        }
        match budget_ms {
            Some(budget) if self.exceeds() => write!(f, ", MORE than its budget of {budget} ms"),
            Some(budget) => write!(f, ", budget {budget} ms"),
            None => Ok(()),
        }
    }
}

/// What is to be expected of these services, each with its budget, by these attempts, the oldest one first.
pub fn expect(services: impl IntoIterator<Item = (String, Option<u64>)>, past: &[Record]) -> Vec<Expected> {
    let of = |(service, budget_ms): (String, Option<u64>)| {
        let prediction = predict(&service, past);
        Expected { service, prediction, budget_ms }
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

fn predict(service: &str, past: &[Record]) -> Option<Prediction> {
    let all = past.iter().rev().flat_map(|record| &record.services);
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
        record
    }

    fn of(service: &str, budget: Option<u64>, past: &[Record]) -> Expected {
        expect([(service.to_owned(), budget)], past).remove(0)
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
    fn a_budget_is_exceeded_only_by_what_was_measured() {
        let past = [record(&[("web", Some(100))])];
        assert_eq!(why_over_budget(&[of("web", Some(100), &past), of("new", Some(0), &past)]), None);
        let over = why_over_budget(&[of("web", Some(99), &past), of("new", Some(0), &past)]).unwrap();
        assert!(
            over.contains("web: p50 100 ms, p95 100 ms (1 recorded), MORE than its budget of 99 ms"),
            "{over}"
        );
        assert!(!over.contains("new"), "{over}");
    }
}
