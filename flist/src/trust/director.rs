//! The director: a second repository, with keys that are online, which chooses for each node among the releases that
//! the first one has signed. It cannot add any.
//!
//! Its targets are those of the first repository once more, with the same length and digest; what is signed with them
//! says for whom they are.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use semver::Version;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::client::{Fresh, SignedTarget};
use super::error::TrustError;
use super::offer::SignedOffer;
use crate::hub::{ReleaseId, Sha256};

/// For whom a release is chosen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Rule {
    /// The node with this id.
    Node(String),
    /// The nodes of this group.
    Group(String),
    /// A part of all nodes, one after the other.
    Wave(Wave),
}

/// A part of all nodes, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wave {
    /// When the first node gets it, in seconds since 1970.
    pub start: i64,
    /// How long it takes until the last one may, in seconds.
    pub seconds: u32,
    /// The share of all nodes that get it, in percent: those whose place lies in it.
    pub percent: u8,
}

/// What the director signs for a release. An unknown field is an error: it may be a restriction.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Choice {
    /// For whom it is: each rule is enough.
    #[serde(rename = "for")]
    pub rules: Vec<Rule>,
    /// Since when waves stand still, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<i64>,
    /// Whether nobody gets it any more who does not have it.
    #[serde(default)]
    pub aborted: bool,
    /// Which release the target belongs to: the names of flists do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<Of>,
}

/// A release, as the director names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Of {
    /// The channel that offers it.
    pub channel: String,
    /// Its version.
    pub version: Version,
    /// Its id.
    pub release: ReleaseId,
}

/// Who a node is to the director.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Who {
    /// Its id.
    pub node: String,
    /// Its group.
    pub group: Option<String>,
}

/// Why a node does not get a release.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotChosen {
    /// The director says nothing of it.
    #[error("the director has not chosen it")]
    Unnamed,
    /// The director means another content.
    #[error("the director and the release keys do not mean the same content of {0}")]
    Disagree(String),
    /// It was called off.
    #[error("the director has called it off")]
    Aborted,
    /// It is for others.
    #[error("the director has chosen it for other nodes")]
    Others,
    /// The node's turn has not come, in seconds since 1970.
    #[error("this node's turn comes at {}", at(*.0))]
    Later(i64),
    /// The wave stands still.
    #[error("the director has stopped the wave before this node's turn")]
    Paused,
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX)
}

/// A newer release than what a node is offered, which the director has not chosen for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Withheld {
    /// Its version.
    pub version: Version,
    /// Its id.
    pub release: ReleaseId,
    /// Why not.
    pub why: NotChosen,
}

impl Withheld {
    /// The newest of the releases that were not chosen, if it is newer than this one.
    pub fn newest(others: &[(SignedOffer, NotChosen)], than: Option<&Version>) -> Option<Self> {
        let newest = others.iter().max_by(|(a, _), (b, _)| a.version.cmp(&b.version));
        let newest = newest.filter(|(offer, _)| than.is_none_or(|than| offer.version > *than));
        newest.map(|(offer, why)| Self {
            version: offer.version.clone(),
            release: offer.release,
            why: why.clone(),
        })
    }

    /// When the director lets this node have it, if nobody changes anything, in seconds since 1970.
    pub fn turn(&self) -> Option<i64> {
        match self.why {
            NotChosen::Later(turn) => Some(turn),
            _ => None,
        }
    }
}

impl fmt::Display for Withheld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "version {}: {}", self.version, self.why)
    }
}

impl Who {
    /// Its fixed place among all nodes, from 0 to below 1.
    pub fn position(&self) -> f64 {
        let digest = Sha256::of(format!("place of a node\0{}", self.node).as_bytes());
        let [a, b, c, d, ..] = *digest.as_bytes();
        f64::from(u32::from_be_bytes([a, b, c, d])) / (f64::from(u32::MAX) + 1.0)
    }
}

impl Wave {
    /// When a node's turn comes; `None` when it does not belong to it.
    fn turn(self, who: &Who) -> Option<i64> {
        let share = f64::from(self.percent.min(100)) / 100.0;
        let position = who.position();
        // Within a duration of at most 2³² seconds.
        #[allow(clippy::cast_possible_truncation, reason = "at most 2³²")]
        let after = (position / share * f64::from(self.seconds)) as i64;
        (position < share).then(|| self.start.saturating_add(after))
    }
}

impl Choice {
    /// Whether a node gets the release now, in seconds since 1970. Pure.
    ///
    /// # Errors
    /// Why not.
    pub fn is_for(&self, who: &Who, now: i64) -> Result<(), NotChosen> {
        if self.aborted {
            return Err(NotChosen::Aborted);
        }
        let named = |rule: &Rule| match rule {
            Rule::Node(node) => *node == who.node,
            Rule::Group(group) => who.group.as_ref() == Some(group),
            Rule::Wave(_) => false,
        };
        if self.rules.iter().any(named) {
            return Ok(());
        }
        let waves = self.rules.iter().filter_map(|rule| match rule {
            Rule::Wave(wave) => wave.turn(who),
            _ => None,
        });
        match (waves.min(), self.paused) {
            (None, _) => Err(NotChosen::Others),
            (Some(turn), Some(paused)) if turn > paused => Err(NotChosen::Paused),
            (Some(turn), _) if turn > now => Err(NotChosen::Later(turn)),
            _ => Ok(()),
        }
    }

    /// Lets waves stand still.
    pub fn pause(&mut self, now: i64) {
        self.paused.get_or_insert(now);
    }

    /// Lets waves go on where they stood.
    pub fn resume(&mut self, now: i64) {
        let Some(paused) = self.paused.take() else { return };
        let stood = now.saturating_sub(paused).max(0);
        for rule in &mut self.rules {
            if let Rule::Wave(wave) = rule
                && wave.start.saturating_add(i64::from(wave.seconds)) > paused
            {
                wave.start = wave.start.saturating_add(stood);
            }
        }
    }
}

/// What the director has chosen: the paths of targets, and for whom they are.
pub type Choices = BTreeMap<String, (SignedTarget, Choice)>;

impl Fresh {
    /// What this repository, if it is a director's, has chosen.
    ///
    /// # Errors
    /// [`TrustError`].
    pub async fn choices(&mut self) -> Result<Choices, TrustError> {
        let mut choices = Choices::new();
        for path in self.paths("targets") {
            let target = self.target(&path).await?;
            match Choice::deserialize(target.custom.as_ref().unwrap_or(&Value::Null)) {
                Ok(choice) => drop(choices.insert(path, (target, choice))),
                Err(error) => tracing::warn!(path, %error, "this target chooses nothing"),
            }
        }
        Ok(choices)
    }
}

/// Keeps the releases that the director has chosen for this node, and says why not the others. Pure.
pub fn chosen(
    offers: Vec<SignedOffer>,
    choices: &Choices,
    who: &Who,
    now: i64,
) -> (Vec<SignedOffer>, Vec<(SignedOffer, NotChosen)>) {
    let (mut kept, mut others) = (Vec::new(), Vec::new());
    for offer in offers {
        match is_chosen(&offer, choices, who, now) {
            Ok(()) => kept.push(offer),
            Err(why) => others.push((offer, why)),
        }
    }
    (kept, others)
}

/// What is chosen of each flist of a release, which all have to be there with the content that the release keys mean.
/// Pure.
///
/// # Errors
/// [`NotChosen::Unnamed`] or [`NotChosen::Disagree`].
pub fn choices_of<'c>(offer: &SignedOffer, choices: &'c Choices) -> Result<Vec<&'c Choice>, NotChosen> {
    let choice = |(target, _): &(SignedTarget, _)| {
        let (chosen, choice) = choices.get(&target.path).ok_or(NotChosen::Unnamed)?;
        let same = chosen.length == target.length
            && chosen.sha256().is_some_and(|sha256| target.sha256() == Some(sha256));
        same.then_some(choice).ok_or_else(|| NotChosen::Disagree(target.path.clone()))
    };
    offer.flists.iter().map(choice).collect()
}

fn is_chosen(offer: &SignedOffer, choices: &Choices, who: &Who, now: i64) -> Result<(), NotChosen> {
    choices_of(offer, choices)?.into_iter().try_for_each(|choice| choice.is_for(who, now))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn who(node: &str, group: Option<&str>) -> Who {
        Who { node: node.to_owned(), group: group.map(str::to_owned) }
    }

    fn of(rules: Vec<Rule>) -> Choice {
        Choice { rules, ..Choice::default() }
    }

    #[test]
    fn nodes_and_groups() {
        let choice = of(vec![Rule::Node("n1".into()), Rule::Group("canary".into())]);
        assert_eq!(choice.is_for(&who("n1", None), NOW), Ok(()));
        assert_eq!(choice.is_for(&who("n2", Some("canary")), NOW), Ok(()));
        assert_eq!(choice.is_for(&who("n2", Some("others")), NOW), Err(NotChosen::Others));
        let aborted = Choice { aborted: true, ..choice };
        assert_eq!(aborted.is_for(&who("n1", None), NOW), Err(NotChosen::Aborted));
    }

    #[test]
    fn a_wave_reaches_its_share_and_no_more_evenly() {
        let wave = Wave { start: NOW, seconds: 1000, percent: 25 };
        let choice = of(vec![Rule::Wave(wave)]);
        let nodes: Vec<Who> = (0..4000).map(|number| who(&format!("node {number}"), None)).collect();
        let got = |now| nodes.iter().filter(|who| choice.is_for(who, now).is_ok()).count();
        assert!(got(NOW) <= 20, "{}", got(NOW));
        let (half, all) = (got(NOW + 500), got(NOW + 1000));
        assert!((900..1100).contains(&all), "{all}");
        assert!((400..600).contains(&half), "{half}");
        assert_eq!(got(NOW + 1_000_000), all);
        // The whole of all nodes.
        let everybody = of(vec![Rule::Wave(Wave { percent: 100, ..wave })]);
        assert!(nodes.iter().all(|who| everybody.is_for(who, NOW + 1000).is_ok()));
        let nobody = of(vec![Rule::Wave(Wave { percent: 0, ..wave })]);
        assert!(nodes.iter().all(|who| nobody.is_for(who, NOW + 1000) == Err(NotChosen::Others)));
    }

    #[test]
    fn a_pause_stops_a_wave_and_a_resumed_one_goes_on_where_it_stood() {
        let wave = Wave { start: NOW, seconds: 1000, percent: 100 };
        let mut choice = of(vec![Rule::Wave(wave)]);
        let nodes: Vec<Who> = (0..1000).map(|number| who(&format!("node {number}"), None)).collect();
        let got = |choice: &Choice, now| nodes.iter().filter(|who| choice.is_for(who, now).is_ok()).count();
        let before = got(&choice, NOW + 300);
        choice.pause(NOW + 300);
        choice.pause(NOW + 400);
        assert_eq!(got(&choice, NOW + 5000), before);
        choice.resume(NOW + 5000);
        assert_eq!(got(&choice, NOW + 5000), before);
        assert_eq!(got(&choice, NOW + 5000 + 700), 1000);
    }

    #[test]
    fn unknown_restrictions_choose_nothing() {
        let json = serde_json::json!({"for": [{"group": "canary"}], "aborted": false});
        assert!(Choice::deserialize(&json).is_ok());
        for bad in [
            serde_json::json!({"for": [{"group": "canary"}], "only_at_night": true}),
            serde_json::json!({"for": [{"moon": "full"}]}),
            serde_json::json!({}),
        ] {
            assert!(Choice::deserialize(&bad).is_err(), "{bad}");
        }
    }
}
