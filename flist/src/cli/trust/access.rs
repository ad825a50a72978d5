//! Which repository, with which keys, and where its metadata is sent.

use std::path::{Path, PathBuf};

use flist::causes;
use flist::exit::Exit;
use flist::hub::{Channel, HubClient, HubError, RunMode, shown_address};
use flist::regular_file;
use flist::trust::repository::{RepositoryError, RoleName, Signers, TrustDirectory};
use flist::trust::{Source, TrustClient, TrustError};
use tempfile::TempDir;

use crate::cli::failure::Failure;
use crate::cli::hub_access::{ShownToHub, TokenAccess, version};
use crate::cli::passphrase::PassphraseAccess;

/// Longest root file, in bytes.
const MAX_ROOT: u64 = 1024 * 1024;

#[derive(clap::Args)]
pub(in crate::cli) struct TrustAccess {
    /// The trust repository
    #[arg(long, value_name = "DIR", env = "FLIST_TRUST_DIR", default_value = "trust")]
    pub(in crate::cli) dir: PathBuf,
    #[command(flatten)]
    pub(super) with: KeyAccess,
}

/// Which director's repository, with which keys.
#[derive(clap::Args)]
pub(in crate::cli) struct DirectorAccess {
    /// The director's repository
    #[arg(long, value_name = "DIR", env = "FLIST_DIRECTOR_DIR", default_value = "director")]
    dir: PathBuf,
    #[command(flatten)]
    with: KeyAccess,
}

/// The keys at hand.
#[derive(clap::Args)]
pub(in crate::cli) struct KeyAccess {
    /// Where key files lie, and signers.json with the commands of those in tokens, beside the repository's own directory
    /// `keys`; may be given several times
    #[arg(long, value_name = "DIR")]
    pub(super) keys: Vec<PathBuf>,
    /// A command that signs with a key, named by how its id begins (8 digits at least), with arguments after spaces: the
    /// bytes come on its standard input, and it prints the signature in hexadecimal; may be given several times
    #[arg(long, value_name = "ID=COMMAND", value_parser = signer)]
    signer: Vec<Signer>,
    #[command(flatten)]
    pub(super) passphrase: PassphraseAccess,
}

/// A key in a token, by how its id begins, and the command that signs with it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Signer {
    id: String,
    command: Vec<String>,
}

/// Fewest digits of an id that name a key.
const SHORTEST_ID: usize = 8;

fn signer(text: &str) -> Result<Signer, String> {
    let (id, command) = text.split_once('=').unwrap_or_default();
    let command: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
    let is_id = id.len() >= SHORTEST_ID && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    match is_id && !command.is_empty() {
        true => Ok(Signer { id: id.to_ascii_lowercase(), command }),
        false => Err(format!(
            "expected <id>=<command>, with {SHORTEST_ID} or more hexadecimal digits of the id of a key"
        )),
    }
}

/// The root of trust that whoever signs holds already.
#[derive(clap::Args)]
pub(super) struct HeldRoot {
    /// A root file that you hold yourself, any version: what is in force has to follow from it, as nodes follow it.
    /// Without this option a root.json in a directory that --keys names
    #[arg(long, value_name = "FILE")]
    root: Option<PathBuf>,
}

impl HeldRoot {
    /// The file, if there is one.
    pub(super) fn of(&self, keys: &[PathBuf]) -> Option<PathBuf> {
        let beside = || keys.iter().map(|directory| directory.join("root.json")).find(|path| path.exists());
        self.root.clone().or_else(beside)
    }
}

/// Whose releases are meant.
#[derive(clap::Args)]
pub(in crate::cli) struct Followers {
    /// Which nodes (dev, test, prod, qa)
    #[arg(long, value_name = "MODE")]
    pub(in crate::cli) run_mode: RunMode,
    /// The channel that they follow: <repo>/<name>:<run mode>:latest.flist, or <repo>/<run mode>
    #[arg(long)]
    pub(in crate::cli) channel: Channel,
}

/// One release of a channel.
#[derive(clap::Args)]
pub(in crate::cli) struct NamedRelease {
    #[command(flatten)]
    pub(in crate::cli) followers: Followers,
    /// The version of the release, three numbers: 1.0.0
    #[arg(long, value_parser = version)]
    pub(in crate::cli) version: semver::Version,
}

/// Where the metadata is sent after a change.
#[derive(clap::Args)]
pub(in crate::cli) struct Destination {
    /// Send the metadata to this hub; without it, copy the directory `metadata` to where it is served
    #[arg(long, value_name = "URL", env = "FLIST_HUB", hide_env_values = true)]
    pub(in crate::cli) hub: Option<String>,
    #[command(flatten)]
    pub(super) token: TokenAccess,
    #[command(flatten)]
    pub(in crate::cli) shown: ShownToHub,
}

impl TrustAccess {
    /// The repository.
    pub(in crate::cli) fn open(&self) -> Result<TrustDirectory, Failure> {
        Ok(TrustDirectory::open(&self.dir)?)
    }

    /// As [`KeyAccess::signers`].
    pub(in crate::cli) fn signers(&self, directory: &TrustDirectory) -> Result<Signers, Failure> {
        self.with.signers(directory)
    }
}

impl DirectorAccess {
    /// The director's repository; the one of the releases is no place for its choices.
    pub(in crate::cli) fn open(&self) -> Result<TrustDirectory, Failure> {
        let directory = TrustDirectory::open(&self.dir).map_err(|error| match error {
            RepositoryError::None(path) => Failure::usage(format!(
                "there is no director's repository in {}; name it with --dir, or make one with: flist director init",
                path.display()
            )),
            error => error.into(),
        })?;
        match directory.is_directors()? {
            true => Ok(directory),
            false => Err(Failure::usage(format!(
                "{} is the repository of the releases, not a director's; name that one with --dir",
                directory.path().display()
            ))),
        }
    }

    /// As [`KeyAccess::signers`].
    pub(in crate::cli) fn signers(&self, directory: &TrustDirectory) -> Result<Signers, Failure> {
        self.with.signers(directory)
    }
}

impl KeyAccess {
    /// The keys at hand where the repository is kept, by whoever keeps it: also those that a command signs with which is
    /// written down beside its own keys.
    fn signers(&self, directory: &TrustDirectory) -> Result<Signers, Failure> {
        let mut signers = self.own_signers(directory)?;
        signers.add_commands_in(&directory.keys())?;
        Ok(signers)
    }

    /// The keys at hand of somebody to whom the repository may have been brought by others: nothing is run that they
    /// could have named.
    pub(super) fn own_signers(&self, directory: &TrustDirectory) -> Result<Signers, Failure> {
        if let Some(missing) = self.keys.iter().find(|path| !path.is_dir()) {
            let message =
                format!("{} is no directory, so there are no keys in it; look at --keys", missing.display());
            return Err(Failure::usage(message));
        }
        let directories: Vec<PathBuf> = self.keys.iter().cloned().chain([directory.keys()]).collect();
        let mut found = Signers::find(&directories, None)?;
        if found.needs_passphrase() {
            found = Signers::find(&directories, self.passphrase.existing()?)?;
        }
        for keys in &self.keys {
            found.add_commands_in(keys)?;
        }
        for Signer { id, command } in &self.signer {
            found.add_command(id, command);
        }
        Ok(found)
    }

    /// Where new keys of a role go. Those that are needed every day go to the repository's own, because every day looks
    /// there, and what was named may be a medium with the keys of the root; all others to the first directory that was
    /// named, if one was.
    pub(super) fn new_keys(&self, directory: &TrustDirectory, role: RoleName) -> Result<PathBuf, Failure> {
        let is_online = match role {
            RoleName::Snapshot | RoleName::Timestamp => true,
            RoleName::Targets => directory.is_directors()?,
            RoleName::Root | RoleName::Mode(_) => false,
        };
        let named = self.keys.first().filter(|_| !is_online);
        Ok(named.cloned().unwrap_or_else(|| directory.keys()))
    }
}

impl Destination {
    /// Sends what nodes need now, in an order in which they never see a part of it; says how many files were new.
    pub(in crate::cli) fn send(&self, directory: &TrustDirectory) -> Result<Option<usize>, Failure> {
        self.send_as(if directory.is_directors()? { "director" } else { "trust" }, directory)
    }

    /// As [`Destination::send`], into one of the two repositories of a hub.
    pub(in crate::cli) fn send_as(
        &self,
        repository: &str,
        directory: &TrustDirectory,
    ) -> Result<Option<usize>, Failure> {
        let Some(hub) = &self.hub else { return Ok(None) };
        let client =
            || -> Result<HubClient, Failure> { Ok(self.shown.client(hub)?.with_token(self.token.token()?)) };
        // Signed it is already, whatever keeps it from being sent.
        let client = client().map_err(|failure| unsent(hub, directory, failure))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(send(&client, repository, directory)).map(Some)
    }
}

/// What was signed is not where nodes find it.
#[derive(Debug, thiserror::Error)]
#[error("signed, in {}, and not, or not all of it, sent to {hub}", directory.display())]
struct Unsent {
    hub: String,
    directory: PathBuf,
    source: Box<dyn std::error::Error>,
}

/// What was signed is where nodes find it; only the link, for those without a root of trust, is where it was.
#[derive(Debug, thiserror::Error)]
#[error("signed, and sent to the hub; only the link was not moved: `flist link {link} {target}` moves it")]
struct NotMoved {
    link: String,
    target: String,
    source: Box<dyn std::error::Error>,
}

/// Says of a link that could not be moved after something was signed for it that this is all that is missing.
pub(in crate::cli) fn not_moved(link: &str, target: &str, failure: Failure) -> Failure {
    let (link, target) = (link.to_owned(), target.to_owned());
    Failure { error: Box::new(NotMoved { link, target, source: failure.error }), ..failure }
}

fn unsent(hub: &str, directory: &TrustDirectory, failure: Failure) -> Failure {
    let (hub, directory) = (shown_address(hub), directory.path().to_owned());
    let shown = directory.display();
    let conflict = causes(failure.error.as_ref()).find_map(|cause| match cause.downcast_ref() {
        Some(HubError::Status { status: 409, url, .. }) => Some(url.ends_with(".root.json")),
        _ => None,
    });
    let remedy = match conflict {
        // Sending it once more would end in the same way.
        Some(true) => format!(
            "the hub has the metadata of another repository than {shown}, whose nodes would refuse this: send this to another hub, or name the repository that belongs to this one with --dir"
        ),
        Some(false) => format!(
            "the hub has other signatures than {shown}, which were made in another copy of it: bring `metadata` of that one here, or sign there, and have one place only where the repository is changed"
        ),
        None => format!("`flist trust refresh --dir {shown} --hub {hub}` sends what is missing"),
    };
    let error = Box::new(Unsent { hub, directory, source: failure.error });
    Failure { error, remedy: Some(remedy), ..failure }
}

/// Sends the files that the hub does not have yet. What keeps them from it is told together with what is signed all the
/// same, and what sends it later.
pub(in crate::cli) async fn send(
    client: &HubClient,
    repository: &str,
    directory: &TrustDirectory,
) -> Result<usize, Failure> {
    let sent = send_missing(client, repository, directory).await;
    sent.map_err(|failure| unsent(client.url().trim_end_matches('/'), directory, failure))
}

async fn send_missing(
    client: &HubClient,
    repository: &str,
    directory: &TrustDirectory,
) -> Result<usize, Failure> {
    let source = Source::of_hub(client, repository)?;
    let mut sent = 0;
    for (name, bytes) in directory.served()? {
        let there = match source.open(&name, bytes.len() as u64).await {
            Ok(Some(body)) => body.all().await.is_ok_and(|there| there == bytes),
            // Whatever it is, sending says it better.
            Ok(None) | Err(_) => false,
        };
        if !there {
            client.put_metadata(repository, &name, bytes).await?;
            sent += 1;
        }
    }
    Ok(sent)
}

/// A client as new nodes with this root file have it, of one of the two repositories of a hub, with nothing remembered but
/// for as long as the directory is there.
pub(in crate::cli) fn new_node(
    root: &Path,
    hub: &HubClient,
    repository: &str,
) -> Result<(TrustClient, TempDir), Failure> {
    let shown = root.display();
    let unreadable = |error| Failure::new(Exit::Usage, format!("cannot read {shown}: {error}"));
    let content = regular_file::read(root, MAX_ROOT).map_err(unreadable)?;
    let state = tempfile::tempdir()?;
    let client = TrustClient::open(&content, state.path(), Source::of_hub(hub, repository)?);
    let client = client.map_err(|error| match error {
        TrustError::BadRoot(why) => Failure::new(
            Exit::Usage,
            format!("{shown} is no root of trust, such as trust/root.json is: {why}"),
        ),
        error => Failure::from(error),
    })?;
    Ok((client, state))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signer_is_a_key_and_a_command() {
        let parsed = signer("74C181c7=/usr/bin/sign --slot 2 a=b").unwrap();
        assert_eq!((parsed.id.as_str(), parsed.command.len()), ("74c181c7", 4));
        assert_eq!(parsed.command[3], "a=b");
        for bad in ["74c181c7", "74c181=sign", "74c181c7=", "74c181c7= ", "=sign", "not-an-id=sign"] {
            assert!(signer(bad).is_err(), "{bad}");
        }
    }
}
