//! `flist promote`

use flist::exit::Exit;
use flist::hub::{
    Channel, FlistName, HubClient, ReleaseVersion, RunMode, TagName, TaglinkName, destination, shown_address,
};
use flist::trust::repository::{SignedRelease, Signers, TrustDirectory};
use jiff::Timestamp;
use semver::Version;
use serde_json::json;

use super::failure::Failure;
use super::hub_access::HubAccess;
use super::output::Output;
use super::trust::{
    Signatures, TrustAccess, Unsigned, entries_of, in_order, not_moved, outcome_json, outcome_text, send,
    sign_command,
};

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
    #[arg(long, conflicts_with = "unsigned")]
    sign: bool,
    #[command(flatten)]
    unsigned: Unsigned,
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
    let Arguments { access, repo, name, sign, unsigned: Unsigned { unsigned }, trust, from, to } = arguments;
    if from == to {
        return Err(Failure::usage(format!("both run modes are {from}; name two")));
    }
    let signing = if sign { Some(open(&trust)?) } else { None };
    let signed = signing.is_some() || unsigned;
    let (promoted, signed) = access.run(async |client| {
        if !signed && Signatures::on(&client).await?.is_some() {
            let message = "nothing was changed: this hub has signed releases, and nodes with a root of trust do not follow links";
            let remedy = format!(
                "sign it for {to} too with --sign and --dir; or say --unsigned, to move the link for nodes without a root of trust alone"
            );
            return Err(Failure { remedy: Some(remedy), ..Failure::new(Exit::Refused, message) });
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

fn shown_hub(client: &HubClient) -> String {
    shown_address(client.url()).trim_end_matches('/').to_owned()
}

fn open(trust: &TrustAccess) -> Result<(TrustDirectory, Signers), Failure> {
    let directory = trust.open()?;
    let signers = trust.signers(&directory)?;
    Ok((directory, signers))
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
        let newest = match newest {
            Some(newest) if self.is(&newest) => newest,
            other => return Err(self.not_newest(client, &directory, other, from).await),
        };
        let release = SignedRelease { run_mode: to, channel: self.to.to_string(), ..newest };
        let outcome = directory.release(&release, &mut signers, Timestamp::now())?;
        if outcome.waiting.is_empty() {
            send(client, "trust", &directory).await?;
        }
        Ok((directory, outcome))
    }

    /// Says what has to be done before the newest signed release is what the channel points to: sign that, where it
    /// is newer, or let the channel follow.
    async fn not_newest(
        &self,
        client: &HubClient,
        directory: &TrustDirectory,
        newest: Option<SignedRelease>,
        from: RunMode,
    ) -> Failure {
        let (channel, target) = (&self.from, self.target());
        let version = self.version();
        let is_ahead =
            |newest: &SignedRelease| version.as_ref().is_some_and(|version| *version > newest.version);
        let (message, remedy) = match newest {
            Some(newest) if !is_ahead(&newest) => (
                format!(
                    "{channel} points to {target}, and version {} is the newest that is signed for it, which nodes with a root of trust install",
                    newest.version
                ),
                self.follow(client, &newest)
                    .await
                    .map(|follow| format!("let it point there first: {follow}")),
            ),
            _ => (
                format!("{channel} points to {target}, which is not signed for {from}"),
                self.sign_command(client, directory, from, version.as_ref())
                    .await
                    .map(|sign| format!("sign it first: {sign}")),
            ),
        };
        let failure = Failure::new(Exit::NotFound, format!("nothing was changed: {message}"));
        remedy.map_or_else(|failure| failure, |remedy| Failure { remedy: Some(remedy), ..failure })
    }

    /// The version of what the channel points to, by its name.
    fn version(&self) -> Option<Version> {
        match &self.target {
            Target::Flist(_, target) => ReleaseVersion::in_name(target).semver().cloned(),
            Target::Tag(_, tag) => tag.version(),
        }
    }

    /// The command that lets the first channel point to this release.
    async fn follow(&self, client: &HubClient, release: &SignedRelease) -> Result<String, Failure> {
        let (hub, channel) = (shown_hub(client), &self.from);
        let Target::Tag(_, tag) = &self.target else {
            let flist = release.flists.last().map(|last| last.flist.to_string()).unwrap_or_default();
            return Ok(format!("flist link --hub {hub} {channel} {flist}"));
        };
        for name in [release.version.to_string(), format!("v{}", release.version)] {
            let tag = TagName::new(tag.repo(), &name)?;
            match client.tag(&tag).await {
                Ok(_) => return Ok(format!("flist link --hub {hub} {channel} {tag}")),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error.into()),
            }
        }
        let flists: Vec<String> =
            release.flists.iter().map(|flist| format!("{}={}", flist.package, flist.flist)).collect();
        let (tag, flists) = (TagName::new(tag.repo(), &release.version.to_string())?, flists.join(" "));
        Ok(format!("flist tag --hub {hub} {tag} {flists} && flist link --hub {hub} {channel} {tag}"))
    }

    /// The command that signs what the first channel points to for it.
    async fn sign_command(
        &self,
        client: &HubClient,
        directory: &TrustDirectory,
        from: RunMode,
        version: Option<&Version>,
    ) -> Result<String, Failure> {
        let entries = match &self.target {
            Target::Flist(_, target) => [(target.package().to_owned(), target.clone())].into(),
            Target::Tag(_, tag) => entries_of(client, tag).await?,
        };
        let what = format!("--dir {} --hub {}", directory.path().display(), shown_hub(client));
        Ok(sign_command(&what, &self.from, Some(from), version, &in_order(&entries)))
    }

    /// Whether a signed release is what the link, or the tag, leads to.
    fn is(&self, release: &SignedRelease) -> bool {
        match &self.target {
            Target::Flist(_, target) => release.flists.last().is_some_and(|last| last.flist == *target),
            Target::Tag(_, tag) => tag.tag().trim_start_matches('v') == release.version.to_string(),
        }
    }
}
