//! Orders about a release that the director has chosen already.

use std::collections::BTreeSet;

use clap::builder::NonEmptyStringValueParser;
use flist::exit::Exit;
use flist::hub::{Channel, RunMode};
use flist::trust::director::{Choice, Of, Rule};
use flist::trust::repository::{RoleName, TrustDirectory};
use jiff::Timestamp;

use super::{choice_of, remove, rule_text, sign};
use crate::cli::failure::Failure;
use crate::cli::hub_access::version;
use crate::cli::output::Output;
use crate::cli::trust::{Destination, DirectorAccess};

/// A release that the director has chosen already.
#[derive(clap::Args)]
pub(super) struct Named {
    #[command(flatten)]
    pub(super) access: DirectorAccess,
    #[command(flatten)]
    pub(super) destination: Destination,
    /// The run mode (dev, test, prod, qa)
    #[arg(long, value_name = "MODE")]
    run_mode: RunMode,
    /// The channel that the nodes follow; only needed where several have this version
    #[arg(long)]
    channel: Option<Channel>,
    /// The version
    #[arg(long, value_parser = version)]
    version: semver::Version,
}

impl Named {
    /// Whether a target of the director belongs to this release.
    fn is(&self, path: &str, choice: &Choice) -> bool {
        belongs((self.run_mode, self.channel.as_ref(), &self.version), path, choice.of.as_ref())
    }
}

/// Whether a target belongs to a release. What was chosen before choices said so goes by the name of its flist, because
/// an order to stop must not miss it. Pure.
fn belongs(
    (run_mode, channel, version): (RunMode, Option<&Channel>, &semver::Version),
    path: &str,
    of: Option<&Of>,
) -> bool {
    let channel = channel.map(Channel::to_string);
    let Some(name) = path.strip_prefix(&format!("{run_mode}/")) else { return false };
    match of {
        Some(of) => channel.is_none_or(|channel| of.channel == channel) && of.version == *version,
        None => {
            let repo = |text: &str| text.split('/').next().map(str::to_owned);
            let same = channel.is_none_or(|channel| repo(&channel) == repo(name));
            same && name.ends_with(&format!(":v{version}.flist"))
        }
    }
}

/// For whom a release is chosen no more.
#[derive(clap::Args)]
pub(super) struct Unassignment {
    #[command(flatten)]
    named: Named,
    /// Id of a node that it was assigned to; may be given several times
    #[arg(long, value_name = "ID", value_parser = NonEmptyStringValueParser::new())]
    node: Vec<String>,
    /// A group that it was assigned to; may be given several times
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    group: Vec<String>,
    /// All waves
    #[arg(long)]
    waves: bool,
}

/// A target of the director: its path, length, SHA-256, and for whom it is.
struct Chosen {
    path: String,
    length: u64,
    sha256: String,
    choice: Choice,
}

impl Chosen {
    fn target(self) -> Result<(String, u64, String, serde_json::Value), Failure> {
        Ok((self.path, self.length, self.sha256, serde_json::to_value(&self.choice)?))
    }
}

/// What is chosen of a release.
fn chosen(named: &Named, directory: &TrustDirectory) -> Result<Vec<Chosen>, Failure> {
    let (mut targets, mut channels) = (Vec::new(), BTreeSet::new());
    for (path, target) in directory.targets(RoleName::Targets)? {
        let choice = choice_of(&target)?;
        if named.is(&path, &choice) {
            channels.extend(choice.of.iter().map(|of| of.channel.clone()));
            let length = target["length"].as_u64().unwrap_or_default();
            let sha256 = target["hashes"]["sha256"].as_str().unwrap_or_default().to_owned();
            targets.push(Chosen { path, length, sha256, choice });
        }
    }
    if targets.is_empty() {
        let message =
            format!("the director has chosen no version {} in run mode {}", named.version, named.run_mode);
        return Err(Failure::new(Exit::NotFound, message));
    }
    if channels.len() > 1 {
        let channels: Vec<String> = channels.into_iter().collect();
        return Err(Failure::usage(format!(
            "version {} was chosen on several channels; say which with --channel: {}",
            named.version,
            channels.join(", ")
        )));
    }
    Ok(targets)
}

/// Changes what is chosen of a release.
pub(super) fn change(
    named: &Named,
    change: impl Fn(&mut Choice, i64),
    output: &Output,
) -> crate::cli::Outcome {
    let directory = named.access.open()?;
    let mut targets = chosen(named, &directory)?;
    let now = Timestamp::now().as_second();
    targets.iter_mut().for_each(|chosen| change(&mut chosen.choice, now));
    let targets: Vec<_> = targets.into_iter().map(Chosen::target).collect::<Result<_, _>>()?;
    sign(&named.access, &named.destination, &directory, &targets, output)
}

/// Takes back for whom a release is. Where nobody is left, the director says nothing of it any more.
pub(super) fn unassign(
    Unassignment { named, node, group, waves }: &Unassignment,
    output: &Output,
) -> crate::cli::Outcome {
    let nodes = node.iter().cloned().map(Rule::Node);
    let back: Vec<Rule> = nodes.chain(group.iter().cloned().map(Rule::Group)).collect();
    if back.is_empty() && !waves {
        return Err(Failure::usage("for whom is it no more? Say it with --node, --group or --waves"));
    }
    let directory = named.access.open()?;
    let mut targets = chosen(named, &directory)?;
    for Chosen { choice, .. } in &mut targets {
        let left = without(&choice.rules, &back, *waves);
        choice.rules = left.map_err(|what| {
            let message = format!("version {} is not assigned to {what}; nothing was changed", named.version);
            Failure::new(Exit::NotFound, message)
        })?;
    }
    if targets.iter().all(|chosen| chosen.choice.rules.is_empty()) {
        let paths: Vec<String> = targets.into_iter().map(|chosen| chosen.path).collect();
        return remove(&named.access, &named.destination, &directory, &paths, output);
    }
    let targets: Vec<_> = targets.into_iter().map(Chosen::target).collect::<Result<_, _>>()?;
    sign(&named.access, &named.destination, &directory, &targets, output)
}

/// The rules that are left; or what is not among them that should be taken back. Pure.
fn without(rules: &[Rule], back: &[Rule], waves: bool) -> Result<Vec<Rule>, String> {
    let is_wave = |rule: &Rule| matches!(rule, Rule::Wave(_));
    if let Some(missing) = back.iter().find(|rule| !rules.contains(rule)) {
        return Err(rule_text(missing));
    }
    if waves && !rules.iter().any(is_wave) {
        return Err("a wave".to_owned());
    }
    let goes = |rule: &Rule| back.contains(rule) || (waves && is_wave(rule));
    Ok(rules.iter().filter(|rule| !goes(rule)).cloned().collect())
}

#[cfg(test)]
mod tests {
    use flist::hub::ReleaseId;
    use flist::trust::director::Wave;

    use super::*;

    #[test]
    fn a_choice_that_does_not_say_of_what_it_is_goes_by_the_name_of_the_flist() {
        let path = "prod/tf-zos/zos:v1.0.0.flist";
        let [here, elsewhere] = ["tf-zos/zos:production:latest.flist", "other/zos:production:latest.flist"]
            .map(|channel| channel.parse::<Channel>().unwrap());
        let [old, new] = ["1.0.0", "2.0.0"].map(|version| version.parse::<semver::Version>().unwrap());
        assert!(belongs((RunMode::Prod, None, &old), path, None));
        assert!(belongs((RunMode::Prod, Some(&here), &old), path, None));
        assert!(!belongs((RunMode::Prod, Some(&elsewhere), &old), path, None));
        assert!(!belongs((RunMode::Dev, None, &old), path, None));
        assert!(!belongs((RunMode::Prod, None, &new), path, None));
        // Where a choice says it, that counts.
        let of = Of { channel: here.to_string(), version: new.clone(), release: ReleaseId::of([]) };
        assert!(belongs((RunMode::Prod, Some(&here), &new), path, Some(&of)));
        assert!(!belongs((RunMode::Prod, Some(&here), &old), path, Some(&of)));
    }

    #[test]
    fn only_what_was_assigned_is_taken_back() {
        let wave = |start| Rule::Wave(Wave { start, seconds: 0, percent: 10 });
        let (node, group) = (Rule::Node("n1".to_owned()), Rule::Group("canary".to_owned()));
        let rules = [node.clone(), wave(1), group.clone(), wave(2)];
        let left = without(&rules, std::slice::from_ref(&group), false).unwrap();
        assert_eq!(left, [node.clone(), wave(1), wave(2)]);
        assert_eq!(without(&rules, &[], true).unwrap(), [node.clone(), group.clone()]);
        assert_eq!(without(&rules, &[node.clone(), group.clone()], true).unwrap(), []);
        let other = Rule::Group("n1".to_owned());
        assert_eq!(without(&rules, &[node.clone(), other], false).unwrap_err(), "group n1");
        assert_eq!(without(&[node], &[], true).unwrap_err(), "a wave");
    }
}
