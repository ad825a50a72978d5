//! `flist director`

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;
use flist::exit::Exit;
use flist::hub::{Channel, RunMode};
use flist::trust::SignedOffer;
use flist::trust::clock::Clocks;
use flist::trust::director::{Choice, Of, Rule, Wave};
use flist::trust::repository::{Outcome, RoleName, TrustDirectory};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::failure::Failure;
use super::hub_access::version;
use super::output::Output;
use super::trust::{
    Destination, Followers, Initial, NamedRelease, TrustAccess, new_node, outcome_json, outcome_text,
};

/// Say which nodes get which signed release, and when: by node, by group, or in waves.
///
/// A director has a trust repository of its own, with keys that are online. It can only choose among releases that are
/// signed for a run mode; nodes that have its root file install nothing else.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  flist director init --dir director --passphrase-file secret
  flist director assign --dir director --hub http://127.0.0.1:8080 --root trust/root.json --run-mode prod --channel tf-zos/production --version 1.1.0 --group canary
  flist director wave --dir director --hub http://127.0.0.1:8080 --root trust/root.json --run-mode prod --channel tf-zos/production --version 1.1.0 --percent 10 --hours 6
  flist director pause --dir director --hub http://127.0.0.1:8080 --run-mode prod --version 1.1.0
  flist director status --dir director";

#[derive(clap::Subcommand)]
enum Command {
    /// Make a director's repository with new keys
    #[command(after_help = EXAMPLES)]
    Init(Initial),
    /// Choose a release for nodes or groups of nodes, beside those it is for; of one that was called off, for these only
    #[command(after_help = EXAMPLES)]
    Assign(Assignment),
    /// Choose a release for a part of all nodes, one after the other
    #[command(after_help = EXAMPLES)]
    Wave(WaveOrder),
    /// Let the waves of a release stand still
    #[command(after_help = EXAMPLES)]
    Pause(Named),
    /// Let them go on where they stood
    #[command(after_help = EXAMPLES)]
    Resume(Named),
    /// Call a release off: who has it keeps it, nobody else gets it
    #[command(after_help = EXAMPLES)]
    Abort(Named),
    /// Show what is chosen for whom
    #[command(after_help = EXAMPLES)]
    Status {
        #[command(flatten)]
        access: TrustAccess,
    },
}

/// A release that is signed for a run mode.
#[derive(clap::Args)]
struct Signed {
    #[command(flatten)]
    access: TrustAccess,
    #[command(flatten)]
    destination: Destination,
    /// The root file that the release keys belong to
    #[arg(long, value_name = "FILE", default_value = "trust/root.json")]
    root: PathBuf,
    #[command(flatten)]
    named: NamedRelease,
}

#[derive(clap::Args)]
struct Assignment {
    #[command(flatten)]
    release: Signed,
    /// Id of a node; may be given several times
    #[arg(long, value_name = "ID", value_parser = NonEmptyStringValueParser::new())]
    node: Vec<String>,
    /// A group, as nodes have it in their configuration; may be given several times
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    group: Vec<String>,
}

#[derive(clap::Args)]
struct WaveOrder {
    #[command(flatten)]
    release: Signed,
    /// How many of 100 nodes get it
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=100))]
    percent: u8,
    /// Over how many hours they get it
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=8760))]
    hours: u32,
    /// When the first one gets it, such as 2026-12-24T02:00:00Z; now, if nothing is said
    #[arg(long, value_name = "TIME", value_parser = time)]
    start: Option<Timestamp>,
}

/// A release that the director has chosen already.
#[derive(clap::Args)]
struct Named {
    #[command(flatten)]
    access: TrustAccess,
    #[command(flatten)]
    destination: Destination,
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

fn time(text: &str) -> Result<Timestamp, String> {
    text.parse().map_err(|_| "expected a time with its zone, such as 2026-12-24T02:00:00Z".to_owned())
}

pub(super) fn run(arguments: Arguments, output: &Output) -> super::Outcome {
    match arguments.command {
        Command::Init(arguments) => super::trust::init_director(arguments, output),
        Command::Assign(Assignment { release, node, group }) => {
            let nodes = node.into_iter().map(Rule::Node);
            let rules: Vec<Rule> = nodes.chain(group.into_iter().map(Rule::Group)).collect();
            match rules.is_empty() {
                true => Err(Failure::usage("for whom is it? Say it with --node or --group")),
                false => choose(&release, &rules, output),
            }
        }
        Command::Wave(WaveOrder { release, percent, hours, start }) => {
            let start = start.unwrap_or_else(Timestamp::now).as_second();
            let wave = Wave { start, seconds: hours * 3600, percent };
            choose(&release, &[Rule::Wave(wave)], output)
        }
        Command::Pause(named) => change(&named, |choice, now| choice.pause(now), output),
        Command::Resume(named) => change(&named, Choice::resume, output),
        Command::Abort(named) => change(&named, |choice, _| choice.aborted = true, output),
        Command::Status { access } => status(&access, output),
    }
}

/// Adds rules to what is chosen of a release, which is looked up in what the release keys have signed.
fn choose(release: &Signed, rules: &[Rule], output: &Output) -> super::Outcome {
    let directory = open(&release.access)?;
    let offer = find(release)?;
    let known = directory.targets(RoleName::Targets)?;
    let target = |path: &str, length: u64, sha256: String| {
        // What was called off stays so for those it was for: only the new rules count.
        let known = known.get(path).and_then(|target| choice_of(target).ok()).filter(|known| !known.aborted);
        let mut choice = known.unwrap_or_default();
        for rule in rules.iter().filter(|rule| !choice.rules.contains(rule)).cloned().collect::<Vec<_>>() {
            choice.rules.push(rule);
        }
        choice.of = Some(Of {
            channel: offer.channel.clone(),
            version: offer.version.clone(),
            release: offer.release,
        });
        Ok::<_, Failure>((path.to_owned(), length, sha256, serde_json::to_value(&choice)?))
    };
    let mut targets = Vec::new();
    for (signed, _) in &offer.flists {
        let sha256 = signed.sha256().map(|sha256| sha256.to_string()).unwrap_or_default();
        targets.push(target(&signed.path, signed.length, sha256)?);
    }
    sign(&release.access, &release.destination, &directory, &targets, output)
}

fn find(release: &Signed) -> Result<SignedOffer, Failure> {
    let NamedRelease { followers: Followers { run_mode, channel }, version } = &release.named;
    let Some(hub) = &release.destination.hub else {
        return Err(Failure::usage("which hub has the signed releases? Say it with --hub"));
    };
    let (client, _state) = new_node(&release.root, hub)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let offers = runtime.block_on(async {
        let mut fresh = client.refresh(&Clocks::read()).await?;
        Ok::<_, Failure>(fresh.releases(*run_mode).await?)
    })?;
    let is_it = |offer: &SignedOffer| offer.version == *version && offer.is_on(channel);
    offers.into_iter().find(is_it).ok_or_else(|| {
        let message = format!("nobody has signed version {version} of {channel} for run mode {run_mode}; a director can only choose what is signed");
        Failure::new(Exit::NotFound, message)
    })
}

/// Changes what is chosen of a release.
fn change(named: &Named, change: impl Fn(&mut Choice, i64), output: &Output) -> super::Outcome {
    let directory = open(&named.access)?;
    let now = Timestamp::now().as_second();
    let (mut targets, mut channels) = (Vec::new(), BTreeSet::new());
    for (path, target) in directory.targets(RoleName::Targets)? {
        let mut choice = choice_of(&target)?;
        if named.is(&path, &choice) {
            change(&mut choice, now);
            channels.extend(choice.of.iter().map(|of| of.channel.clone()));
            let length = target["length"].as_u64().unwrap_or_default();
            let sha256 = target["hashes"]["sha256"].as_str().unwrap_or_default().to_owned();
            targets.push((path, length, sha256, serde_json::to_value(&choice)?));
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
    sign(&named.access, &named.destination, &directory, &targets, output)
}

fn sign(
    access: &TrustAccess,
    destination: &Destination,
    directory: &TrustDirectory,
    targets: &[(String, u64, String, Value)],
    output: &Output,
) -> super::Outcome {
    let mut signers = access.signers(directory)?;
    let outcome: Outcome =
        directory.add_targets(RoleName::Targets, targets, &mut signers, Timestamp::now())?;
    let sent = if outcome.waiting.is_empty() { destination.send_as("director", directory)? } else { None };
    output.done(&outcome_json(&outcome), || {
        let chosen: Vec<String> = targets.iter().map(|(path, .., choice)| shown(path, choice)).collect();
        format!("{}{}", chosen.concat(), outcome_text(directory, &outcome, sent))
    })
}

fn status(access: &TrustAccess, output: &Output) -> super::Outcome {
    let directory = open(access)?;
    let mut chosen = serde_json::Map::new();
    for (path, target) in directory.targets(RoleName::Targets)? {
        chosen.insert(path, serde_json::to_value(choice_of(&target)?)?);
    }
    output.data(&json!({"chosen": chosen}), || match chosen.is_empty() {
        true => "nothing is chosen for anybody\n".to_owned(),
        false => chosen.iter().map(|(path, choice)| shown(path, choice)).collect(),
    })
}

/// The director's repository; the one of the releases is no place for its choices.
fn open(access: &TrustAccess) -> Result<TrustDirectory, Failure> {
    let directory = access.open()?;
    match directory.is_directors()? {
        true => Ok(directory),
        false => Err(Failure::usage(format!(
            "{} is the repository of the releases, not a director's; name that one with --dir",
            directory.path().display()
        ))),
    }
}

/// A line for people.
fn shown(path: &str, choice: &Value) -> String {
    let Ok(Choice { rules, paused, aborted, .. }) = serde_json::from_value(choice.clone()) else {
        return format!("{path}: {choice}\n");
    };
    let time = |second| Timestamp::from_second(second).map_or(second.to_string(), |time| time.to_string());
    let rule = |rule: &Rule| match rule {
        Rule::Node(node) => format!("node {node}"),
        Rule::Group(group) => format!("group {group}"),
        Rule::Wave(Wave { start, seconds, percent }) => {
            let end = start.saturating_add(i64::from(*seconds));
            format!("{percent} of 100 nodes, from {} to {}", time(*start), time(end))
        }
    };
    let mut parts: Vec<String> = rules.iter().map(rule).collect();
    parts.extend(paused.map(|paused| format!("paused: waves stand still since {}", time(paused))));
    parts.extend(aborted.then(|| "called off: nobody else gets it, until it is chosen anew".to_owned()));
    format!("{path}: {}\n", parts.join("; "))
}

fn choice_of(target: &Value) -> Result<Choice, Failure> {
    Ok(serde_json::from_value(target["custom"].clone())?)
}

#[cfg(test)]
mod tests {
    use flist::hub::ReleaseId;

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
}
