//! `flist trust release` and `flist trust withdraw`

use flist::exit::Exit;
use flist::hub::{Channel, Download, FlistName, HubClient, MAX_FLIST, RunMode, Sha256};
use flist::trust::repository::{Conditions, SignedFlist, SignedRelease};
use jiff::Timestamp;
use serde_json::json;

use super::access::{Destination, Followers, NamedRelease, TrustAccess};
use super::outcome::{outcome_json, outcome_text};
use crate::cli::failure::Failure;
use crate::cli::hub_access::version;
use crate::cli::output::Output;

/// On which nodes a release may be installed.
#[derive(clap::Args)]
pub(in crate::cli) struct ConditionOptions {
    /// Only nodes that have this version or a newer one may get it; older ones need a release in between
    #[arg(long, value_name = "VERSION")]
    minimum_version: Option<semver::Version>,
    /// Only nodes with this processor, as `uname -m` names it
    #[arg(long, value_name = "NAME")]
    architecture: Option<String>,
    /// Only nodes with this `hardware` in their configuration
    #[arg(long, value_name = "NAME")]
    hardware: Option<String>,
    /// Only nodes whose data has this schema or a newer one
    #[arg(long, value_name = "NUMBER")]
    schema_floor: Option<u64>,
}

impl ConditionOptions {
    pub(in crate::cli) fn conditions(&self) -> Conditions {
        Conditions {
            minimum_version: self.minimum_version.clone(),
            architecture: self.architecture.clone(),
            hardware: self.hardware.clone(),
            schema_floor: self.schema_floor,
        }
    }
}

/// Sign flists that are on a hub as a release: nodes of the run mode install it from then on.
///
/// What the hub has now is what is signed, so look at the digests that are shown. `flist publish --sign` signs what it
/// has packed itself.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    #[command(flatten)]
    access: TrustAccess,
    #[command(flatten)]
    destination: Destination,
    #[command(flatten)]
    named: NamedRelease,
    #[command(flatten)]
    conditions: ConditionOptions,
    /// The flists: <repo>/<name>.flist, or <package>=<repo>/<name>.flist; nodes boot from the last one
    #[arg(value_name = "[PACKAGE=]FLIST", required = true)]
    flists: Vec<String>,
}

const EXAMPLES: &str = "Examples:
  flist trust release --hub http://127.0.0.1:8080 --run-mode prod --channel tf-zos/zos:production:latest.flist --version 1.0.0 tf-zos/zos:v1.0.0.flist
  flist trust release --hub http://127.0.0.1:8080 --run-mode dev --channel tf-zos/development --version 1.1.0 netd=builds/net-7.flist zos=builds/zos:v1.1.0.flist";

pub(super) fn run(arguments: Arguments, output: &Output) -> crate::cli::Outcome {
    let Some(hub) = &arguments.destination.hub else {
        return Err(Failure::usage("which hub has the flists? Say it with --hub"));
    };
    let Followers { run_mode, channel } = &arguments.named.followers;
    if let Some(other) = followed_by(channel).filter(|other| other != run_mode) {
        output.note(&format!(
            "WARNING: {channel} is what nodes of run mode {other} follow; those of {run_mode} get this only where they are told to follow it"
        ));
    }
    let client = arguments.destination.shown.client(hub)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut flists = Vec::new();
    for text in &arguments.flists {
        flists.push(runtime.block_on(look_at(&client, text))?);
    }
    for flist in &flists {
        output.note(&format!("{}: {} bytes, SHA-256 {}", flist.flist, flist.length, flist.sha256));
    }
    let Arguments { access, destination, named, conditions, .. } = arguments;
    let NamedRelease { followers: Followers { run_mode, channel }, version } = named;
    let (channel, conditions) = (channel.to_string(), conditions.conditions());
    let release = SignedRelease { run_mode, channel, version, flists, conditions };
    let directory = access.open()?;
    let outcome = directory.release(&release, &mut access.signers(&directory)?, Timestamp::now())?;
    let sent = if outcome.waiting.is_empty() { destination.send(&directory)? } else { None };
    let mut json = outcome_json(&outcome);
    json["release"] = json!(release.id());
    output.done(&json, || {
        format!(
            "release {} ({})\n{}",
            release.version,
            release.id(),
            outcome_text(&directory, &outcome, sent)
        )
    })
}

/// The run mode whose nodes follow a channel by themselves, if its name says so.
pub(super) fn followed_by(channel: &Channel) -> Option<RunMode> {
    match channel {
        Channel::Flist(name) => name.stem().strip_suffix(":latest")?.rsplit(':').next()?.parse().ok(),
        Channel::Taglink(name) => name.name().parse().ok(),
        Channel::Tag(_) => None,
    }
}

async fn look_at(client: &HubClient, text: &str) -> Result<SignedFlist, Failure> {
    let (package, name) = match text.split_once('=') {
        Some((package, name)) => (Some(package.to_owned()), name),
        None => (None, text),
    };
    let flist: FlistName = name.parse()?;
    match client.download(&flist, None, MAX_FLIST).await? {
        Download::Content { bytes, .. } => Ok(SignedFlist {
            package: package.unwrap_or_else(|| flist.package().to_owned()),
            length: bytes.len() as u64,
            sha256: Sha256::of(&bytes),
            flist,
        }),
        Download::NotModified => Err(Failure::new(Exit::Failed, format!("the hub does not send {flist}"))),
    }
}

/// Take the signature for a version back. Nodes that have it keep it; no other node gets it any more.
#[derive(clap::Args)]
#[command(after_help = WITHDRAWAL_EXAMPLES)]
pub(super) struct Withdrawal {
    #[command(flatten)]
    access: TrustAccess,
    #[command(flatten)]
    destination: Destination,
    #[command(flatten)]
    followers: Followers,
    /// The version
    #[arg(value_parser = version)]
    version: semver::Version,
}

const WITHDRAWAL_EXAMPLES: &str = "Examples:
  flist trust withdraw --run-mode prod --channel tf-zos/zos:production:latest.flist 1.0.0
  flist trust withdraw --hub http://127.0.0.1:8080 --run-mode dev --channel tf-zos/development 1.1.0";

pub(super) fn withdraw(arguments: Withdrawal, output: &Output) -> crate::cli::Outcome {
    let Withdrawal { access, destination, followers: Followers { run_mode, channel }, version } = arguments;
    let directory = access.open()?;
    let mut signers = access.signers(&directory)?;
    let outcome =
        directory.withdraw(run_mode, &channel.to_string(), &version, &mut signers, Timestamp::now())?;
    let sent = if outcome.waiting.is_empty() { destination.send(&directory)? } else { None };
    output.done(&outcome_json(&outcome), || outcome_text(&directory, &outcome, sent))
}
