//! `flist trust check`

use std::path::{Path, PathBuf};

use flist::exit::Exit;
use flist::hub::{Access, HubClient, RunMode, shown_address};
use flist::report;
use flist::trust::clock::Clocks;
use flist::trust::director::{Choices, choices_of};
use flist::trust::{Served, SignedOffer, Source, check_served, served_flists};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::access::new_node;
use super::blocks::Blocks;
use super::on_hub::withdraw_command;
use crate::cli::director::for_whom;
use crate::cli::failure::Failure;
use crate::cli::hub_access::ShownToHub;
use crate::cli::output::Output;

/// Tell whether a node would accept what a hub serves, and for how long.
///
/// Does what a node does on its first boot: from the root file on, with nothing remembered. Also looks whether the hub has
/// the flists of all that is signed, as they were signed: nodes get them from the hub whose metadata they go by. With
/// --blocks also looks at the blocks of these.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Address of the hub
    #[arg(long, value_name = "URL", env = "FLIST_HUB", hide_env_values = true)]
    hub: String,
    #[command(flatten)]
    shown: ShownToHub,
    /// The root file of the nodes
    #[arg(long, value_name = "FILE", default_value = "trust/root.json")]
    root: PathBuf,
    /// The director's root file of the nodes, where they have one
    #[arg(long, value_name = "FILE")]
    director: Option<PathBuf>,
    #[command(flatten)]
    blocks: Blocks,
    /// Show the releases of this run mode (dev, test, prod, qa) only
    #[arg(long, value_name = "MODE")]
    run_mode: Option<RunMode>,
}

/// A hub that is looked at, and what it is shown.
struct Looked<'a> {
    hub: &'a HubClient,
    access: &'a Access,
    blocks: &'a Blocks,
}

const EXAMPLES: &str = "Examples:
  flist trust check --hub http://127.0.0.1:8080 --root trust/root.json
  flist trust check --hub http://127.0.0.1:8080 --root trust/root.json --director director/root.json
  flist trust check --hub http://127.0.0.1:8080 --root trust/root.json --run-mode prod --blocks
  flist trust check --hub https://hub.example --root /etc/molt/root.json --run-mode prod --json";

/// Longest timestamp that is looked for, in bytes.
const MAX_TIMESTAMP: u64 = 16_384;

/// What a hub has of a director.
enum Directed {
    /// Nothing.
    No,
    /// Something that nobody asked for.
    Unseen,
    /// What it has chosen, and until when that holds.
    Chosen { until: Timestamp, choices: Choices },
}

/// A signed release, and why a node would not get it, where it would not.
struct Checked {
    release: SignedOffer,
    unserved: Option<String>,
}

impl Checked {
    /// Looks whether a hub serves this; of the blocks, in whatever stores the flists name.
    ///
    /// # Errors
    /// The hub, or a store, cannot be asked now.
    fn of(
        release: SignedOffer,
        at: &Looked<'_>,
        served: &mut Served,
        runtime: &Runtime,
    ) -> Result<Self, Failure> {
        let flists = match at.blocks.blocks {
            true => runtime.block_on(served_flists(at.hub, &release)),
            // One at a time.
            false => runtime.block_on(check_served(at.hub, &release, served)).map(|()| Vec::new()),
        };
        let unserved = match flists {
            Ok(flists) => {
                let mut named = release.flists.iter().zip(&flists);
                named.find_map(|((target, _), flist)| {
                    at.blocks.amiss(&target.path, flist, at.access).transpose()
                })
            }
            Err(error) if Exit::of(&error) == Exit::Unreachable => return Err(error.into()),
            Err(error) => Some(Ok(report(&error))),
        };
        Ok(Self { release, unserved: unserved.transpose()? })
    }
}

pub(super) fn run(arguments: &Arguments, output: &Output) -> crate::cli::Outcome {
    let (hub, access) = (arguments.shown.client(&arguments.hub)?, arguments.shown.access(&arguments.hub)?);
    let (client, _state) = new_node(&arguments.root, &hub, "trust")?;
    let modes = arguments
        .run_mode
        .map_or(vec![RunMode::Dev, RunMode::Test, RunMode::Prod, RunMode::Qa], |mode| vec![mode]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let signed = runtime.block_on(async {
        let mut fresh = client.refresh(&Clocks::read()).await?;
        let mut releases = Vec::new();
        for mode in modes {
            releases.extend(fresh.releases(mode).await?);
        }
        Ok::<_, Failure>((fresh.expires(), releases))
    });
    let unsent = |failure| or_send(failure, &arguments.root, &arguments.hub);
    let (expires, releases) = signed.map_err(unsent)?;
    let at = Looked { hub: &hub, access: &access, blocks: &arguments.blocks };
    let mut served = Served::default();
    let checked = releases.into_iter().map(|release| Checked::of(release, &at, &mut served, &runtime));
    let releases = checked.collect::<Result<Vec<_>, _>>().map_err(unsent)?;
    let directed = runtime.block_on(directed(arguments.director.as_deref(), &hub));
    let of_director = arguments.director.as_deref().unwrap_or(Path::new("director/root.json"));
    let directed = directed.map_err(|failure| or_send(failure, of_director, &arguments.hub))?;
    let until = match &directed {
        Directed::Chosen { until, .. } => expires.min(*until),
        Directed::No | Directed::Unseen => expires,
    };
    let shown: Vec<Value> = releases.iter().map(|release| as_json(release, &directed)).collect();
    let director = match &directed {
        Directed::No => Value::Null,
        Directed::Unseen => json!({"checked": false}),
        Directed::Chosen { until, .. } => json!({"checked": true, "until": until.to_string()}),
    };
    let unserved = releases.iter().find(|checked| checked.unserved.is_some());
    let accepted = unserved.is_none();
    let json =
        json!({"accepted": accepted, "until": until.to_string(), "releases": shown, "director": director});
    let hub = shown_address(&arguments.hub);
    output.data(&json, || {
        let what = if accepted { "accepts what" } else { "accepts the signatures that" };
        text(format!("a node with this root {what} {hub} serves, until {until}\n"), &releases, &directed)
    })?;
    let Some(Checked { release, .. }) = unserved else { return Ok(Exit::Done) };
    if !output.json {
        let withdraw = withdraw_command(&hub, release.run_mode, &release.channel, &release.version);
        eprintln!(
            "flist: not all that is signed can be had from this hub; publish the same content again (a block that is there and damaged has to be removed from the store first), sign other content as another version, or take back what nobody shall install any more: {withdraw}"
        );
    }
    Ok(Exit::Refused)
}

/// Says how the metadata of the repository of this root file gets to a hub that has none.
pub(in crate::cli) fn or_send(mut failure: Failure, root: &Path, hub: &str) -> Failure {
    if failure.exit == Exit::NotFound {
        let directory = root.parent().filter(|directory| directory.join("settings.json").exists());
        let directory = directory.map_or("DIR".to_owned(), |directory| directory.display().to_string());
        let command = format!("flist trust refresh --dir {directory} --hub {}", shown_address(hub));
        failure.remedy = Some(format!("send the metadata to this hub, from where it is signed: {command}"));
    }
    failure
}

async fn directed(root: Option<&Path>, hub: &HubClient) -> Result<Directed, Failure> {
    let Some(root) = root else {
        let there = Source::of_hub(hub, "director")?.open("timestamp.json", MAX_TIMESTAMP).await?;
        return Ok(if there.is_some() { Directed::Unseen } else { Directed::No });
    };
    let (client, _state) = new_node(root, hub, "director")?;
    let mut fresh = client.refresh(&Clocks::read()).await?;
    Ok(Directed::Chosen { until: fresh.expires(), choices: fresh.choices().await? })
}

fn as_json(Checked { release, unserved }: &Checked, directed: &Directed) -> Value {
    let mut json = json!({
        "run_mode": release.run_mode.as_str(),
        "channel": release.channel,
        "version": release.version.to_string(),
        "release": release.release,
        "flists": release.flists.iter().map(|(target, _)| target.path.clone()).collect::<Vec<_>>(),
        "served": unserved.is_none(),
        "why": unserved,
    });
    if let Directed::Chosen { choices, .. } = directed {
        json["director"] = match choices_of(release, choices) {
            Ok(chosen) => json!({"chosen": chosen}),
            Err(why) => json!({"chosen": null, "why": why.to_string()}),
        };
    }
    json
}

fn text(mut text: String, releases: &[Checked], directed: &Directed) -> String {
    for Checked { release, unserved } in releases {
        let SignedOffer { run_mode, channel, version, release: id, .. } = release;
        text.push_str(&format!(
            "{:<5} {channel} {version} ({id}){}{}\n",
            run_mode.as_str(),
            chosen(release, directed),
            unserved.as_ref().map(|why| format!(": a node would not get it: {why}")).unwrap_or_default()
        ));
    }
    if releases.is_empty() {
        text.push_str(
            "there is no release yet; sign one with: flist publish --sign, or flist trust release\n",
        );
    }
    if matches!(directed, Directed::Unseen) {
        text.push_str(
            "the hub has a director, which was not looked at; nodes that have its root file install only what it has chosen: name that file with --director\n",
        );
    }
    text
}

/// For whom the director has chosen a release.
fn chosen(release: &SignedOffer, directed: &Directed) -> String {
    let Directed::Chosen { choices, .. } = directed else { return String::new() };
    match choices_of(release, choices) {
        Ok(chosen) => {
            let mut whom: Vec<String> = chosen.into_iter().map(for_whom).collect();
            whom.dedup();
            format!(", chosen for {}", whom.join(" and "))
        }
        Err(why) => format!(", for nobody: {why}"),
    }
}
