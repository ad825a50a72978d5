//! How a campaign goes: what the director has chosen, compared with what nodes say of themselves. Pure.
//!
//! ```text
//! director's targets ──► Campaign ─┐
//! documents ──────────► Report ────┴─► statistics ──► counts
//! ```
//! Whom a release is for is judged by the code by which nodes judge it.

mod documents;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::director::{Choice, NotChosen, Of, Rule, Who};

pub use documents::{Collected, CollectedError, Damaged, MOST_DOCUMENTS, Reports};

/// Seconds by which the clock of a node may be ahead.
const A_DAY: u64 = 24 * 3600;

/// Most reasons of failures that are told apart in one count; the rarest are summed up.
const MOST_REASONS: usize = 20;

/// The version of the statistics' layout. Additions do not change it.
const SCHEMA: u32 = 1;

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Who it is.
    pub who: Who,
    /// Whether it follows a director.
    pub directed: bool,
    /// The channel that it follows, where known.
    pub channel: Option<String>,
    /// The id of the release that is installed.
    pub installed: Option<String>,
    /// What it is doing.
    pub stage: String,
    /// Why it waits.
    pub gate: Option<String>,
    /// The id of the release that it installs, waits with, or failed to install.
    pub candidate: Option<String>,
    /// The id of the release that failed here, and why.
    pub failed: Option<(String, String)>,
    /// What went wrong last.
    pub problem: Option<String>,
    /// When it said so, in seconds since 1970; 0 where it does not say.
    pub at: u64,
}

/// A release that the director has chosen for somebody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Campaign {
    /// Which.
    pub of: Of,
    /// What is chosen of each of its flists, by its path.
    pub flists: Vec<(String, Choice)>,
}

/// Targets of a director, as releases; and the paths of those that do not say to which release they belong, because an
/// earlier version has chosen them.
pub fn campaigns(targets: impl IntoIterator<Item = (String, Choice)>) -> (Vec<Campaign>, Vec<String>) {
    let (mut campaigns, mut unnamed) = (Vec::<Campaign>::new(), Vec::new());
    for (path, choice) in targets {
        let Some(of) = choice.of.clone() else {
            unnamed.push(path);
            continue;
        };
        match campaigns.iter_mut().find(|campaign| campaign.of == of) {
            Some(campaign) => campaign.flists.push((path, choice)),
            None => campaigns.push(Campaign { of, flists: vec![(path, choice)] }),
        }
    }
    campaigns.sort_by(|a, b| (&a.of.channel, &a.of.version).cmp(&(&b.of.channel, &b.of.version)));
    (campaigns, unnamed)
}

impl Campaign {
    /// Whether a node that follows this channel is offered the release: as its channel, or as one of the flists itself.
    fn is_on(&self, channel: &str) -> bool {
        let is_flist =
            |(path, _): &(String, Choice)| path.split_once('/').is_some_and(|(_, name)| name == channel);
        self.of.channel == channel || self.flists.iter().any(is_flist)
    }

    fn is_for(&self, who: &Who, now: i64) -> Result<(), NotChosen> {
        self.flists.iter().try_for_each(|(_, choice)| choice.is_for(who, now))
    }

    /// Each rule once, by itself, with what holds for all of them.
    fn rules(&self) -> Vec<(Rule, Choice)> {
        let mut rules = Vec::<&Rule>::new();
        for rule in self.flists.iter().flat_map(|(_, choice)| &choice.rules) {
            if !rules.contains(&rule) {
                rules.push(rule);
            }
        }
        let paused = self.paused();
        let alone = |rule: &Rule| Choice { rules: vec![rule.clone()], paused, ..Choice::default() };
        rules.into_iter().map(|rule| (rule.clone(), alone(rule))).collect()
    }

    fn paused(&self) -> Option<i64> {
        self.flists.iter().filter_map(|(_, choice)| choice.paused).min()
    }

    fn is_aborted(&self) -> bool {
        self.flists.iter().any(|(_, choice)| choice.aborted)
    }
}

/// What all of this comes to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Statistics {
    /// The version of this layout. Additions do not change it.
    pub schema: u32,
    /// When they were made, in seconds since 1970.
    pub at: i64,
    /// From so many seconds on what a node says is stale.
    pub stale_after: u64,
    /// Nodes that say something; of several documents of one the newest counts.
    pub nodes: u64,
    /// Of these, what they say is stale: it counts all the same.
    pub stale: u64,
    /// Of these, no director is followed: they are in no other count.
    pub undirected: u64,
    /// Of these, nobody knows which channel they follow, because nothing is installed: they are in no other count.
    pub without_release: u64,
    /// What is chosen, by channel and version.
    pub releases: Vec<ReleaseStatistics>,
    /// Targets that do not say to which release they belong.
    pub unnamed: Vec<String>,
}

/// How it goes with a release.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReleaseStatistics {
    /// Which.
    #[serde(flatten)]
    pub of: Of,
    /// Since when its waves stand still, in seconds since 1970.
    pub paused: Option<i64>,
    /// Whether it was called off.
    pub aborted: bool,
    /// Nodes on its channel.
    pub nodes: u64,
    /// Of those for whom it is not chosen now, so many have it.
    pub kept: u64,
    /// All for whom it is chosen.
    #[serde(flatten)]
    pub all: Counts,
    /// The same for each rule by itself, whatever the others say.
    pub rules: Vec<RuleStatistics>,
}

/// How it goes with a rule.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RuleStatistics {
    /// Which.
    pub rule: Rule,
    /// How far.
    #[serde(flatten)]
    pub counts: Counts,
}

/// Numbers of nodes, and shares of all nodes on the channel, in percent.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Counts {
    /// It is for them in the end.
    pub planned: u64,
    /// It is for them now.
    pub due: u64,
    /// Of these, so many get a newer release that is chosen for them too: they are in no count below.
    pub superseded: u64,
    /// They have it.
    pub installed: u64,
    /// They are at it.
    pub installing: u64,
    /// An upgrade could not be undone completely.
    pub degraded: u64,
    /// It failed there, or is refused.
    pub failed: u64,
    /// They have done nothing about it yet.
    pub waiting: u64,
    /// Of all of these, what they say is stale.
    pub stale: u64,
    /// Those who wait, by the gate that is closed, or else by their stage.
    pub waits: BTreeMap<String, u64>,
    /// Those where it failed, by reason, the most frequent one first.
    pub failures: Vec<Failures>,
    /// Failures of other reasons.
    pub more_failures: u64,
    /// The share for which it is in the end.
    pub share_planned: f64,
    /// The share for which it is now.
    pub share_due: f64,
    /// The share that has it.
    pub share_reached: f64,
    #[serde(skip)]
    reasons: BTreeMap<String, u64>,
}

/// Nodes where it failed for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failures {
    /// Why.
    pub reason: String,
    /// How many.
    pub nodes: u64,
}

/// How a node stands to a release that is for it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Standing<'r> {
    Installed,
    Installing,
    Degraded,
    Failed(&'r str),
    Waits(&'r str),
}

impl Report {
    fn standing(&self, release: &str) -> Standing<'_> {
        let is_candidate = self.candidate.as_deref() == Some(release);
        let why = |problem: &'static str| self.problem.as_deref().unwrap_or(problem);
        match (self.stage.as_str(), self.gate.as_deref()) {
            ("Degraded", _) => Standing::Degraded,
            _ if self.installed.as_deref() == Some(release) => Standing::Installed,
            ("Fetching" | "Staging" | "Verifying" | "Swapping" | "Soaking", _) if is_candidate => {
                Standing::Installing
            }
            _ if self.failed.as_ref().is_some_and(|(failed, _)| failed == release) => {
                Standing::Failed(self.failed.as_ref().map_or("", |(_, reason)| reason))
            }
            ("RolledBack", _) if is_candidate => Standing::Failed(why("it was rolled back")),
            (_, Some("BadRelease" | "Refused")) if is_candidate => Standing::Failed(why("it is refused")),
            (stage, gate) => Standing::Waits(gate.unwrap_or(stage)),
        }
    }

    fn is_stale(&self, now: i64, stale: Duration) -> bool {
        let now = u64::try_from(now).unwrap_or(0);
        // A node whose clock is that far ahead says nothing of when it spoke.
        now.saturating_sub(self.at) > stale.as_secs() || self.at.saturating_sub(now) > A_DAY
    }
}

impl Counts {
    fn add(&mut self, report: &Report, release: &str, is_stale: bool) {
        self.stale += u64::from(is_stale);
        let count = match report.standing(release) {
            Standing::Installed => &mut self.installed,
            Standing::Installing => &mut self.installing,
            Standing::Degraded => &mut self.degraded,
            Standing::Failed(reason) => {
                *self.reasons.entry(reason.to_owned()).or_default() += 1;
                &mut self.failed
            }
            Standing::Waits(gate) => {
                *self.waits.entry(gate.to_owned()).or_default() += 1;
                &mut self.waiting
            }
        };
        *count += 1;
    }

    /// Sums up what has been counted, of so many nodes.
    fn finish(&mut self, nodes: u64) {
        let mut failures: Vec<Failures> = std::mem::take(&mut self.reasons)
            .into_iter()
            .map(|(reason, nodes)| Failures { reason, nodes })
            .collect();
        failures.sort_by_key(|failures| std::cmp::Reverse(failures.nodes));
        let rest = failures.split_off(failures.len().min(MOST_REASONS));
        self.more_failures = rest.iter().map(|failures| failures.nodes).sum();
        self.failures = failures;
        let share = |part: u64| if nodes == 0 { 0.0 } else { part as f64 * 100.0 / nodes as f64 };
        (self.share_planned, self.share_due) = (share(self.planned), share(self.due));
        self.share_reached = share(self.installed);
    }
}

/// Counts how it goes with what is chosen, at this time in seconds since 1970.
pub fn statistics(
    (campaigns, unnamed): (&[Campaign], Vec<String>),
    reports: &[Report],
    now: i64,
    stale: Duration,
) -> Statistics {
    let directed = || reports.iter().filter(|report| report.directed);
    let newest: Vec<Option<&Campaign>> = directed().map(|report| newest(campaigns, report, now)).collect();
    let of = |campaign: &Campaign| {
        let on_channel = directed()
            .zip(&newest)
            .filter(|(report, _)| report.channel.as_ref().is_some_and(|channel| campaign.is_on(channel)));
        of_release(campaign, &on_channel.collect::<Vec<_>>(), now, stale)
    };
    let count = |is: &dyn Fn(&&Report) -> bool| reports.iter().filter(|report| is(report)).count() as u64;
    Statistics {
        schema: SCHEMA,
        at: now,
        stale_after: stale.as_secs(),
        nodes: reports.len() as u64,
        stale: count(&|report| report.is_stale(now, stale)),
        undirected: count(&|report| !report.directed),
        without_release: count(&|report| report.directed && report.channel.is_none()),
        releases: campaigns.iter().map(of).collect(),
        unnamed,
    }
}

/// The newest release that is chosen for a node now: that is the one that it is offered.
fn newest<'c>(campaigns: &'c [Campaign], report: &Report, now: i64) -> Option<&'c Campaign> {
    let channel = report.channel.as_ref()?;
    let offered = campaigns
        .iter()
        .filter(|campaign| campaign.is_on(channel) && campaign.is_for(&report.who, now).is_ok());
    offered.max_by_key(|campaign| &campaign.of.version)
}

fn of_release(
    campaign: &Campaign,
    on_channel: &[(&Report, &Option<&Campaign>)],
    now: i64,
    stale: Duration,
) -> ReleaseStatistics {
    let release = campaign.of.release.to_string();
    let in_the_end = |choice: &Choice| Choice { paused: None, ..choice.clone() };
    let count = |is_planned: &dyn Fn(&Who) -> bool, is_due: &dyn Fn(&Who) -> bool| {
        let mut counts = Counts::default();
        for (report, newest) in on_channel {
            counts.planned += u64::from(is_planned(&report.who));
            if !is_due(&report.who) {
                continue;
            }
            counts.due += 1;
            match newest.filter(|newest| *newest != campaign) {
                Some(newer) if newer.of.version > campaign.of.version => counts.superseded += 1,
                _ => counts.add(report, &release, report.is_stale(now, stale)),
            }
        }
        counts.finish(on_channel.len() as u64);
        counts
    };
    let all = count(
        &|who| campaign.flists.iter().all(|(_, choice)| in_the_end(choice).is_for(who, i64::MAX).is_ok()),
        &|who| campaign.is_for(who, now).is_ok(),
    );
    let rules = campaign.rules().into_iter().map(|(rule, choice)| RuleStatistics {
        rule,
        counts: count(&|who| in_the_end(&choice).is_for(who, i64::MAX).is_ok(), &|who| {
            !campaign.is_aborted() && choice.is_for(who, now).is_ok()
        }),
    });
    let kept = on_channel.iter().filter(|(report, _)| {
        report.installed.as_ref() == Some(&release) && campaign.is_for(&report.who, now).is_err()
    });
    ReleaseStatistics {
        of: campaign.of.clone(),
        paused: campaign.paused(),
        aborted: campaign.is_aborted(),
        nodes: on_channel.len() as u64,
        kept: kept.count() as u64,
        all,
        rules: rules.collect(),
    }
}

#[cfg(test)]
mod tests;
