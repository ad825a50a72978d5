//! What the hubs of a node say, compared: which lags behind, which tells another story, and since when.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flist::hub::HubClient;
use flist::trust::{Source, Standing, TrustClient, TrustError};
use serde::Serialize;
use tokio::task::JoinSet;

/// How long a hub may take to say what it has. It only has to carry one small file.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a hub may lag behind until that is worth a word: copies take a while.
const LAG: u64 = 3600;

/// How one hub stands to what this node has accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mirror {
    /// `same`, `behind`, `ahead`, `fork`, or `unusable`.
    pub standing: &'static str,
    /// What that means, for people.
    pub what: String,
    /// Since when, in seconds since 1970.
    pub since: u64,
}

/// Hubs by address, without the one whose metadata was taken.
type Seen = BTreeMap<String, Mirror>;

/// How the hubs stand, in what they have of the releases and of the director's choices.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Mirrors {
    releases: Seen,
    director: Seen,
}

/// What came of looking at one hub.
pub(crate) type Looked = (String, Result<Option<Standing>, String>);

/// What came of looking at hubs.
#[derive(Debug, Default)]
pub(crate) struct Look {
    pub(crate) releases: Vec<Looked>,
    pub(crate) director: Vec<Looked>,
}

impl Mirrors {
    /// Notes what was seen `now`, in seconds since 1970. What contradicts itself is said at once, and loudly.
    pub(crate) fn note(&mut self, Look { releases, director }: Look, now: u64) {
        self.releases = noted(&self.releases, releases, "", now);
        self.director = noted(&self.director, director, DIRECTORS, now);
    }

    /// What people should know of the hubs `now`; `None` where there is nothing to be said.
    pub fn remarks(&self, now: u64) -> Option<String> {
        let of = |seen: &Seen, whose: &str| -> Vec<String> {
            seen.iter().filter_map(|(hub, mirror)| remark(hub, whose, mirror, now)).collect()
        };
        let remarks = [of(&self.releases, ""), of(&self.director, DIRECTORS)].concat();
        (!remarks.is_empty()).then(|| remarks.join("; "))
    }
}

/// What is said of the director's metadata where nothing is said of that of the releases.
const DIRECTORS: &str = " in what its director has chosen";

fn noted(before: &Seen, looked: Vec<Looked>, whose: &str, now: u64) -> Seen {
    let mut seen = Seen::new();
    for (hub, standing) in looked {
        let Some((standing, what)) = words(standing) else { continue };
        let before = before.get(&hub).filter(|before| before.standing == standing);
        if standing == "fork" && before.is_none_or(|before| before.what != what) {
            tracing::error!(hub, "this hub tells another story{whose}, signed by the same keys: {what}");
        }
        let since = before.map_or(now, |before| before.since);
        seen.insert(hub, Mirror { standing, what, since });
    }
    seen
}

fn remark(hub: &str, whose: &str, mirror: &Mirror, now: u64) -> Option<String> {
    let age = now.saturating_sub(mirror.since);
    match mirror.standing {
        "fork" => Some(format!("hub {hub} tells another story{whose}: {}", mirror.what)),
        "behind" if age >= LAG => Some(format!("hub {hub} is {}{whose} for {} h", mirror.what, age / 3600)),
        "unusable" if age >= LAG => {
            Some(format!("hub {hub} has been of no use{whose} for {} h: {}", age / 3600, mirror.what))
        }
        _ => None,
    }
}

fn words(standing: Result<Option<Standing>, String>) -> Option<(&'static str, String)> {
    let versions = |number: u64| format!("{number} version{}", if number == 1 { "" } else { "s" });
    Some(match standing {
        Ok(None) => return None,
        Ok(Some(Standing::Same)) => ("same", "the same as what was accepted".to_owned()),
        Ok(Some(Standing::Behind(number))) => ("behind", format!("{} behind", versions(number))),
        Ok(Some(Standing::Ahead(number))) => ("ahead", format!("{} ahead", versions(number))),
        Ok(Some(Standing::Rotated)) => ("ahead", "ahead: it has a newer root".to_owned()),
        Ok(Some(Standing::Fork { why, evidence })) => {
            let kept: Vec<String> = evidence.iter().map(|path| path.display().to_string()).collect();
            ("fork", format!("{why}; both are kept: {}", kept.join(", ")))
        }
        Err(error) => ("unusable", error),
    })
}

/// Asks these hubs at once what they have.
pub(crate) async fn look(hubs: &[&HubClient], root: &[u8], state: &Path, repository: &str) -> Vec<Looked> {
    let mut asked = JoinSet::new();
    for hub in hubs {
        let (url, source) = (hub.url().to_owned(), Source::of_hub(hub, repository));
        let (root, state): (Vec<u8>, PathBuf) = (root.to_vec(), state.to_owned());
        asked.spawn(async move {
            let compare = async {
                let fetch = |source| TrustError::Fetch { url: url.clone(), source };
                TrustClient::open(&root, &state, source.map_err(fetch)?)?.compare().await
            };
            let answer = tokio::time::timeout(PATIENCE, compare).await;
            let answer = answer.map_err(|_| format!("nothing came for {PATIENCE:?}"));
            let standing = answer.and_then(|answer| answer.map_err(|error| flist::report(&error)));
            (url, standing)
        });
    }
    let mut looked = asked.join_all().await;
    looked.sort_by(|(a, _), (b, _)| a.cmp(b));
    looked
}

/// The hub that is ahead of what was accepted, the furthest if there are several.
pub(crate) fn furthest(looked: &[Looked]) -> Option<&str> {
    let ahead = looked.iter().filter_map(|(hub, standing)| match standing {
        Ok(Some(Standing::Ahead(versions))) => Some((*versions, hub.as_str())),
        // Nothing that the old keys have signed counts any more.
        Ok(Some(Standing::Rotated)) => Some((u64::MAX, hub.as_str())),
        _ => None,
    });
    ahead.max().map(|(_, hub)| hub)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(hub: &str, standing: Standing) -> Looked {
        (hub.to_owned(), Ok(Some(standing)))
    }

    fn releases(releases: Vec<Looked>) -> Look {
        Look { releases, ..Look::default() }
    }

    #[test]
    fn how_long_a_hub_lags_is_remembered_and_said_after_a_while() {
        let mut mirrors = Mirrors::default();
        mirrors.note(releases(vec![of("b", Standing::Behind(1)), of("c", Standing::Same)]), 1000);
        assert_eq!(mirrors.remarks(1000 + LAG - 1), None);
        mirrors.note(releases(vec![of("b", Standing::Behind(3)), of("c", Standing::Same)]), 20_000);
        assert_eq!(mirrors.remarks(1000 + 6 * LAG).unwrap(), "hub b is 3 versions behind for 6 h");
        // It has caught up, and lags anew.
        mirrors.note(releases(vec![of("b", Standing::Same)]), 30_000);
        mirrors.note(releases(vec![of("b", Standing::Behind(1))]), 40_000);
        assert_eq!(mirrors.remarks(40_000), None);
    }

    #[test]
    fn another_story_is_said_at_once() {
        let mut mirrors = Mirrors::default();
        let fork = Standing::Fork { why: "two worlds".to_owned(), evidence: vec!["/e/1.json".into()] };
        mirrors.note(releases(vec![of("b", fork), ("c".to_owned(), Err("silent".to_owned()))]), 5);
        let said = mirrors.remarks(5).unwrap();
        assert!(
            said.contains("hub b tells another story: two worlds") && said.contains("/e/1.json"),
            "{said}"
        );
    }

    #[test]
    fn what_is_said_of_the_director_says_so() {
        let mut mirrors = Mirrors::default();
        let look =
            || Look { releases: vec![of("b", Standing::Same)], director: vec![of("b", Standing::Behind(2))] };
        mirrors.note(look(), 1000);
        mirrors.note(look(), 9000);
        let said = mirrors.remarks(9000).unwrap();
        assert_eq!(said, "hub b is 2 versions behind in what its director has chosen for 2 h");
    }

    #[test]
    fn the_one_that_is_furthest_ahead_is_asked() {
        let looked = [of("a", Standing::Ahead(1)), of("b", Standing::Ahead(4)), of("c", Standing::Behind(9))];
        assert_eq!(furthest(&looked), Some("b"));
        assert_eq!(furthest(&[of("a", Standing::Rotated), of("b", Standing::Ahead(4))]), Some("a"));
        assert_eq!(furthest(&looked[2..]), None);
    }
}
