//! `flist publish`

use std::path::PathBuf;

use flist::format::Format;
use flist::hub::{FlistName, RunMode};
use flist::pack::PackSummary;
use flist::publish::{Publication, Published, ask, publish};
use flist::trust::repository::{Outcome, SignedFlist, SignedRelease, Signers, TrustDirectory};
use jiff::Timestamp;
use serde_json::json;

use super::failure::Failure;
use super::hub_access::HubAccess;
use super::lint::Gate;
use super::output::{Output, counted, counted_entries};
use super::trust::{ConditionOptions, TrustAccess, outcome_json, outcome_text, send};

/// Pack a directory and publish it on a hub: blocks first, then the versioned flist, then the link that
/// nodes follow.
///
/// Publishing the same content again changes nothing.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    #[command(flatten)]
    access: HubAccess,
    /// Repository on the hub
    #[arg(long)]
    repo: String,
    /// Name of the flist, without version and ending
    #[arg(long)]
    name: String,
    /// Version of the release, three numbers: 1.0.0
    #[arg(long, value_parser = version)]
    version: semver::Version,
    /// Give other content to a version that is on the hub already
    #[arg(long)]
    replace: bool,
    /// Move the link of this run mode (dev, test, prod, qa) to the new version
    #[arg(long, value_name = "MODE")]
    run_mode: Option<RunMode>,
    /// Address of the block store, as nodes reach it; by default /store of the hub
    #[arg(long, value_name = "URL")]
    route: Option<String>,
    /// Sign it as the release of its run mode, before the link moves
    #[arg(long, requires = "run_mode")]
    sign: bool,
    #[command(flatten)]
    trust: TrustAccess,
    #[command(flatten)]
    conditions: ConditionOptions,
    /// Format of the flist: fl or classic
    #[arg(long, value_name = "FORMAT", default_value = "fl")]
    format: Format,
    #[command(flatten)]
    gate: Gate,
    /// The directory to publish
    directory: PathBuf,
}

const EXAMPLES: &str = "Examples:
  flist publish --hub http://127.0.0.1:8080 --repo tf-zos --name zos --version 1.0.0 --run-mode dev ./app
  flist publish --hub http://127.0.0.1:8080 --repo tf-zos --name zos --version 1.0.0 --replace ./app
  flist publish --hub http://127.0.0.1:8080 --repo tf-zos --name zos --version 1.0.0 --run-mode prod --sign --dir trust ./app
  flist publish --hub https://hub.example --token-file ~/.hub-token --repo tf-zos --name zos --version 1.1.0 ./app";

fn version(text: &str) -> Result<semver::Version, String> {
    text.parse().map_err(|_| "a version has three numbers, such as 1.0.0 or 1.2.0-rc.1".to_owned())
}

pub(super) fn run(arguments: Arguments, output: &Output) -> super::Outcome {
    let Arguments { access, trust, conditions, gate, directory, run_mode, sign, .. } = arguments;
    // Found out before anything is sent: keys that are not there, a passphrase that is wrong.
    let signing = if sign { run_mode.map(|mode| Signing::open(&trust, mode)).transpose()? } else { None };
    let publication = Publication {
        token: access.token.token()?,
        hub: access.hub.clone(),
        repo: arguments.repo,
        name: arguments.name,
        version: arguments.version,
        // A link to what nobody has signed would lead nowhere.
        run_mode: run_mode.filter(|_| !sign),
        route: arguments.route,
        format: arguments.format,
        replace: arguments.replace,
    };
    // A hub that is not there is found before the directory is read, which takes its time.
    ask(&publication)?;
    gate.check(&directory, output)?;
    let progress = output.progress("publishing");
    let failed = |error| Failure::from(error).or_insist("to replace this one, use --replace");
    let mut published = publish(&publication, &directory, &progress).map_err(failed)?;
    drop(progress);
    let signed = match signing {
        Some(signing) => Some(signing.finish(&access, &publication, &conditions, &mut published)?),
        None => None,
    };
    let mut json = as_json(&published);
    if let Some((_, outcome)) = &signed {
        json["signed"] = outcome_json(outcome);
    }
    output.done(&json, || match &signed {
        Some((directory, outcome)) => {
            let sent = outcome.waiting.is_empty().then_some(outcome.versions.len());
            format!("{}\n{}", text(&published, publication.replace), outcome_text(directory, outcome, sent))
        }
        None => text(&published, publication.replace),
    })
}

/// What `--sign` needs.
struct Signing {
    directory: TrustDirectory,
    signers: Signers,
    run_mode: RunMode,
}

impl Signing {
    fn open(trust: &TrustAccess, run_mode: RunMode) -> Result<Self, Failure> {
        let directory = trust.open()?;
        Ok(Self { signers: trust.signers(&directory)?, directory, run_mode })
    }

    /// Signs what was published, sends the metadata, and moves the link; not before enough have signed.
    fn finish(
        mut self,
        access: &HubAccess,
        publication: &Publication,
        conditions: &ConditionOptions,
        published: &mut Published,
    ) -> Result<(TrustDirectory, Outcome), Failure> {
        let link = FlistName::channel_link(&publication.repo, &publication.name, self.run_mode.hub_name())?;
        let release = SignedRelease {
            run_mode: self.run_mode,
            channel: link.to_string(),
            version: publication.version.clone(),
            flists: vec![SignedFlist {
                package: published.flist.package().to_owned(),
                flist: published.flist.clone(),
                length: published.length,
                sha256: published.sha256,
            }],
            conditions: conditions.conditions(),
        };
        let outcome = self.directory.release(&release, &mut self.signers, Timestamp::now())?;
        if outcome.waiting.is_empty() {
            let (directory, flist) = (&self.directory, published.flist.clone());
            access.run(async |client| {
                send(&client, "trust", directory).await?;
                Ok(client.link_to(&link, &flist).await?)
            })?;
            published.link = Some(link);
        }
        Ok((self.directory, outcome))
    }
}

fn as_json(Published { flist, link, entries, summary, length, sha256 }: &Published) -> serde_json::Value {
    json!({
        "flist": flist.to_string(),
        "link": link.as_ref().map(ToString::to_string),
        "length": length,
        "sha256": sha256,
        "entries": entries,
        "bytes": summary.bytes,
        "blocks": summary.blocks,
        "new_blocks": summary.new_blocks,
        "new_bytes": summary.new_bytes,
    })
}

fn text(published: &Published, replaced: bool) -> String {
    let link = match &published.link {
        Some(link) => format!("{link} now points to it"),
        None if replaced => "whatever links to it leads to this content now".to_owned(),
        None => "no run mode was given, so no link leads to it yet".to_owned(),
    };
    let PackSummary { bytes, blocks, new_blocks, new_bytes } = published.summary;
    format!(
        "{}: {}, {}; {new_blocks} of {} were new ({} sent)\n{link}",
        published.flist,
        counted_entries(published.entries),
        counted(bytes, "byte"),
        counted(blocks as u64, "block"),
        counted(new_bytes, "byte")
    )
}
