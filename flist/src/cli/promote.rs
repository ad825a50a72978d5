//! `flist promote`

use flist::exit::Exit;
use flist::hub::{Channel, FlistName, HubClient, RunMode, TagName, TaglinkName, destination};
use flist::trust::Source;
use flist::trust::repository::{SignedRelease, Signers, TrustDirectory};
use jiff::Timestamp;
use serde_json::json;

use super::failure::Failure;
use super::hub_access::HubAccess;
use super::output::Output;
use super::trust::{TrustAccess, not_moved, outcome_json, outcome_text, send};

/// Longest timestamp of a trust repository that is looked for, in bytes.
const MAX_TIMESTAMP: u64 = 16_384;

/// Give the nodes of one run mode what those of another have.
///
/// Points the channel of the second run mode to what the channel of the first points to now. With --name the
/// channels are links, <repo>/<name>:<run mode>:latest.flist; without it taglinks, <repo>/<run mode>.
///
/// Nodes with a root of trust follow what is signed, not where links point to: for them, --sign signs the newest release
/// of the first run mode for the second one too, on the same conditions.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    #[command(flatten)]
    access: HubAccess,
    /// Repository on the hub
    #[arg(long)]
    repo: String,
    /// Name of the flist, without version and ending; not given for taglinks
    #[arg(long)]
    name: Option<String>,
    /// Sign the release for the second run mode, before the link moves
    #[arg(long)]
    sign: bool,
    /// Move the link only, on a hub with signed releases: for nodes without a root of trust
    #[arg(long, conflicts_with = "sign")]
    link_only: bool,
    #[command(flatten)]
    trust: TrustAccess,
    /// The run mode that has the release (dev, test, prod, qa)
    from: RunMode,
    /// The run mode that gets it
    to: RunMode,
}

const EXAMPLES: &str = "Examples:
  flist promote --hub http://127.0.0.1:8080 --repo tf-zos --name zos dev test
  flist promote --hub http://127.0.0.1:8080 --repo tf-zos --name zos --sign --dir trust dev test
  flist promote --hub https://hub.example --token-file ~/.hub-token --repo tf-zos qa prod";

pub(super) fn run(arguments: Arguments, output: &Output) -> super::Outcome {
    let Arguments { access, repo, name, sign, link_only, trust, from, to } = arguments;
    if from == to {
        return Err(Failure::usage(format!("both run modes are {from}; name two")));
    }
    let signing = if sign { Some(open(&trust)?) } else { None };
    let signed = signing.is_some() || link_only;
    let (promoted, signed) = access.run(async |client| {
        if !signed && has_signatures(&client).await? {
            let message = format!(
                "nothing was changed: this hub has signed releases, and nodes with a root of trust do not follow links; sign it for {to} too with --sign and --dir, or move only the link with --link-only"
            );
            return Err(Failure::new(Exit::Refused, message));
        }
        let promoted = match &name {
            Some(name) => Promoted::link(&client, &repo, name, from, to).await?,
            None => Promoted::taglink(&client, &repo, from, to).await?,
        };
        let signed = match signing {
            Some((directory, signers)) => Some(promoted.sign(&client, directory, signers, from, to).await?),
            None => None,
        };
        // A link to what nobody has signed would lead nowhere.
        if signed.as_ref().is_none_or(|(_, outcome)| outcome.waiting.is_empty()) {
            let moved = promoted.point(&client).await;
            moved.map_err(|failure| match signed {
                Some(_) => not_moved(&promoted.to.to_string(), &promoted.target(), failure),
                None => failure,
            })?;
        }
        Ok((promoted, signed))
    })?;
    let mut json = json!({"link": promoted.to.to_string(), "target": promoted.target()});
    if let Some((_, outcome)) = &signed {
        json["signed"] = outcome_json(outcome);
    }
    output.done(&json, || {
        let moved = format!("{} now points to {}", promoted.to, promoted.target());
        match &signed {
            None => moved,
            Some((directory, outcome)) if outcome.waiting.is_empty() => {
                format!("{moved}\n{}", outcome_text(directory, outcome, Some(outcome.versions.len())))
            }
            Some((directory, outcome)) => outcome_text(directory, outcome, None),
        }
    })
}

fn open(trust: &TrustAccess) -> Result<(TrustDirectory, Signers), Failure> {
    let directory = trust.open()?;
    let signers = trust.signers(&directory)?;
    Ok((directory, signers))
}

/// Whether nodes find signed releases on this hub.
async fn has_signatures(client: &HubClient) -> Result<bool, Failure> {
    Ok(Source::of_hub(client, "trust")?.open("timestamp.json", MAX_TIMESTAMP).await?.is_some())
}

/// Where a channel points to, and which one gets that.
struct Promoted {
    from: Channel,
    to: Channel,
    target: Target,
}

enum Target {
    Flist(FlistName, FlistName),
    Tag(TaglinkName, TagName),
}

type Signed = (TrustDirectory, flist::trust::repository::Outcome);

impl Promoted {
    async fn link(
        client: &HubClient,
        repo: &str,
        name: &str,
        from: RunMode,
        to: RunMode,
    ) -> Result<Self, Failure> {
        let (from, to) = (
            FlistName::channel_link(repo, name, from.hub_name())?,
            FlistName::channel_link(repo, name, to.hub_name())?,
        );
        let light = client.light(&from).await?.light;
        let target = destination(&from, &light)?.flist;
        if target == from {
            let message = format!("{from} is a flist, not a link; publish a version and link to it");
            return Err(Failure::usage(message));
        }
        let (to, channel) = (to.clone(), Channel::Flist(to));
        Ok(Self { from: Channel::Flist(from), to: channel, target: Target::Flist(to, target) })
    }

    async fn taglink(client: &HubClient, repo: &str, from: RunMode, to: RunMode) -> Result<Self, Failure> {
        let (from, to) = (TaglinkName::new(repo, from.hub_name())?, TaglinkName::new(repo, to.hub_name())?);
        let target = client.taglink(&from).await?;
        let (to, channel) = (to.clone(), Channel::Taglink(to));
        Ok(Self { from: Channel::Taglink(from), to: channel, target: Target::Tag(to, target) })
    }

    fn target(&self) -> String {
        match &self.target {
            Target::Flist(_, target) => target.to_string(),
            Target::Tag(_, target) => target.to_string(),
        }
    }

    async fn point(&self, client: &HubClient) -> Result<(), Failure> {
        match &self.target {
            Target::Flist(link, target) => client.link_to(link, target).await?,
            Target::Tag(link, target) => client.put_taglink(link, target).await?,
        };
        Ok(())
    }

    /// Signs what the first run mode has for the second one, and sends that to the hub.
    async fn sign(
        &self,
        client: &HubClient,
        directory: TrustDirectory,
        mut signers: Signers,
        from: RunMode,
        to: RunMode,
    ) -> Result<Signed, Failure> {
        let newest = directory.newest(from, &self.from.to_string())?;
        let newest = newest.filter(|newest| self.is(newest)).ok_or_else(|| {
            let message = format!(
                "{} points to {}, which is not the newest release that is signed for {from}; sign that first with: flist trust release",
                self.from,
                self.target()
            );
            Failure::new(Exit::NotFound, message)
        })?;
        let release = SignedRelease { run_mode: to, channel: self.to.to_string(), ..newest };
        let outcome = directory.release(&release, &mut signers, Timestamp::now())?;
        if outcome.waiting.is_empty() {
            send(client, "trust", &directory).await?;
        }
        Ok((directory, outcome))
    }

    /// Whether a signed release is what the link, or the tag, leads to.
    fn is(&self, release: &SignedRelease) -> bool {
        match &self.target {
            Target::Flist(_, target) => release.flists.last().is_some_and(|last| last.flist == *target),
            Target::Tag(_, tag) => tag.tag().trim_start_matches('v') == release.version.to_string(),
        }
    }
}
