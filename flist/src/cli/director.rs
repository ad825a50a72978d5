//! `flist director`

mod named;
mod statistics;

use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;
use flist::exit::Exit;
use flist::hub::shown_address;
use flist::trust::SignedOffer;
use flist::trust::clock::Clocks;
use flist::trust::director::{Choice, Of, Rule, Wave};
use flist::trust::repository::{Outcome, RoleName, TrustDirectory};
use jiff::Timestamp;
use serde_json::{Value, json};

use named::{Named, Unassignment};

use super::failure::Failure;
use super::output::Output;
use super::trust::{
    Destination, DirectorAccess, DirectorArguments, Followers, NamedRelease, new_node, or_send, outcome_json,
    outcome_text, sign_command,
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
  flist director unassign --dir director --hub http://127.0.0.1:8080 --run-mode prod --version 1.1.0 --group canary
  flist director pause --dir director --hub http://127.0.0.1:8080 --run-mode prod --version 1.1.0
  flist director resume --dir director --hub http://127.0.0.1:8080 --run-mode prod --version 1.1.0
  flist director abort --dir director --hub http://127.0.0.1:8080 --run-mode prod --version 1.1.0
  flist director status --dir director
  flist director statistics --dir director --nodes collected.jsonl --stale 2h
  flist director statistics --dir director --nodes statuses/ --json";

#[derive(clap::Subcommand)]
enum Command {
    #[command(after_help = EXAMPLES)]
    Init(DirectorArguments),
    /// Choose a release for nodes or groups of nodes, beside those it is for; of one that was called off, for these only
    #[command(after_help = EXAMPLES)]
    Assign(Assignment),
    /// Take back for whom a release was chosen: who has it keeps it
    #[command(after_help = EXAMPLES)]
    Unassign(Unassignment),
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
        access: DirectorAccess,
    },
    #[command(after_help = EXAMPLES)]
    Statistics(statistics::Arguments),
}

/// A release that is signed for a run mode.
#[derive(clap::Args)]
struct Signed {
    #[command(flatten)]
    access: DirectorAccess,
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
    /// The share of all nodes that get it, in percent: those whose place, by a hash of their id, lies in it
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=100))]
    percent: u8,
    /// Over how many hours they get it
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=8760))]
    hours: u32,
    /// When the first one gets it, such as 2026-12-24T02:00:00Z; now, if nothing is said
    #[arg(long, value_name = "TIME", value_parser = time)]
    start: Option<Timestamp>,
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
        Command::Unassign(arguments) => named::unassign(&arguments, output),
        Command::Pause(named) => named::change(&named, |choice, now| choice.pause(now), output),
        Command::Resume(named) => named::change(&named, Choice::resume, output),
        Command::Abort(named) => named::change(&named, |choice, _| choice.aborted = true, output),
        Command::Status { access } => status(&access, output),
        Command::Statistics(arguments) => statistics::run(&arguments, output),
    }
}

/// Adds rules to what is chosen of a release, which is looked up in what the release keys have signed.
fn choose(release: &Signed, rules: &[Rule], output: &Output) -> super::Outcome {
    let directory = release.access.open()?;
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
    let (client, _state) = new_node(&release.root, &release.destination.shown.client(hub)?, "trust")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let offers = runtime.block_on(async {
        let mut fresh = client.refresh(&Clocks::read()).await?;
        Ok::<_, Failure>(fresh.releases(*run_mode).await?)
    });
    let offers = offers.map_err(|failure| or_send(failure, &release.root, hub))?;
    let is_it = |offer: &SignedOffer| offer.version == *version && offer.is_on(channel);
    offers.into_iter().find(is_it).ok_or_else(|| {
        let message = format!("nobody has signed version {version} of {channel} for run mode {run_mode}, and a director can only choose what is signed");
        let which = format!("--hub {}", shown_address(hub).trim_end_matches('/'));
        let sign = sign_command(&which, channel, Some(*run_mode), Some(version), &[]);
        Failure { remedy: Some(format!("sign it first: {sign}FLIST…")), ..Failure::new(Exit::NotFound, message) }
    })
}

fn sign(
    access: &DirectorAccess,
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

/// Says nothing of these targets any more.
fn remove(
    access: &DirectorAccess,
    destination: &Destination,
    directory: &TrustDirectory,
    paths: &[String],
    output: &Output,
) -> super::Outcome {
    let mut signers = access.signers(directory)?;
    let outcome = directory.remove_targets(RoleName::Targets, paths, &mut signers, Timestamp::now())?;
    let sent = if outcome.waiting.is_empty() { destination.send_as("director", directory)? } else { None };
    output.done(&outcome_json(&outcome), || {
        let gone: String = paths.iter().map(|path| format!("{path}: for nobody any more\n")).collect();
        format!("{gone}{}", outcome_text(directory, &outcome, sent))
    })
}

fn status(access: &DirectorAccess, output: &Output) -> super::Outcome {
    let directory = access.open()?;
    let mut chosen = serde_json::Map::new();
    for (path, target) in directory.targets(RoleName::Targets)? {
        chosen.insert(path, serde_json::to_value(choice_of(&target)?)?);
    }
    output.data(&json!({"chosen": chosen}), || match chosen.is_empty() {
        true => "nothing is chosen for anybody\n".to_owned(),
        false => chosen.iter().map(|(path, choice)| shown(path, choice)).collect(),
    })
}

/// A line for people.
fn shown(path: &str, choice: &Value) -> String {
    match serde_json::from_value(choice.clone()) {
        Ok(choice) => format!("{path}: {}\n", for_whom(&choice)),
        Err(_) => format!("{path}: {choice}\n"),
    }
}

/// For whom a release is, for people.
pub(super) fn for_whom(Choice { rules, paused, aborted, .. }: &Choice) -> String {
    let mut parts: Vec<String> = rules.iter().map(rule_text).collect();
    parts.extend(paused.map(|paused| format!("paused: waves stand still since {}", time_text(paused))));
    parts.extend(aborted.then(|| "called off: nobody else gets it, until it is chosen anew".to_owned()));
    match parts.is_empty() {
        true => "nobody".to_owned(),
        false => parts.join("; "),
    }
}

fn rule_text(rule: &Rule) -> String {
    match rule {
        Rule::Node(node) => format!("node {node}"),
        Rule::Group(group) => format!("group {group}"),
        Rule::Wave(Wave { start, seconds, percent }) => {
            let first = time_text(*start);
            let last = time_text(start.saturating_add(i64::from(*seconds)));
            // No count: of few nodes it may be none, or more.
            let wave = format!(
                "a wave of {percent} % of all nodes (those whose place, by a hash of their id, is below {percent})"
            );
            match seconds {
                0 => format!("{wave}, all of them from {first} on"),
                _ => {
                    format!("{wave}, one after the other: the first from {first} on, the last from {last} on")
                }
            }
        }
    }
}

fn time_text(second: i64) -> String {
    Timestamp::from_second(second).map_or(second.to_string(), |time| time.to_string())
}

fn choice_of(target: &Value) -> Result<Choice, Failure> {
    Ok(serde_json::from_value(target["custom"].clone())?)
}
