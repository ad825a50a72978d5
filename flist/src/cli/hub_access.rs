//! What the subcommands that talk to a hub have in common.

use std::path::PathBuf;

use flist::hub::{Access, FlistName, HubClient, TagName, TaglinkName, Timeouts, Token};

use super::failure::Failure;

/// The variable that a token may be in; an argument would be seen by every user of the machine.
const TOKEN_VARIABLE: &str = "FLIST_TOKEN";

#[derive(clap::Args)]
pub(super) struct TokenAccess {
    /// File with the token that the hub asks publishers for, readable by its owner only; without it, the
    /// environment variable FLIST_TOKEN
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl TokenAccess {
    /// The token, if one was given.
    pub(super) fn token(&self) -> Result<Option<Token>, Failure> {
        let wrong = |error: String| Failure::usage(format!("{TOKEN_VARIABLE}: {error}"));
        if let Some(path) = &self.token_file {
            return Ok(Some(Token::read(path)?));
        }
        match std::env::var(TOKEN_VARIABLE) {
            Ok(text) if text.is_empty() => Ok(None),
            Ok(text) => text.trim().parse().map(Some).map_err(|error| wrong(format!("{error}"))),
            Err(std::env::VarError::NotPresent) => Ok(None),
            // Its own message repeats what it has found.
            Err(std::env::VarError::NotUnicode(_)) => Err(wrong("it is not text".to_owned())),
        }
    }
}

/// What hubs are shown that answer only those whom they know.
#[derive(clap::Args)]
pub(super) struct ShownToHub {
    /// File with the token that the hub asks readers for, as nodes have it in hub.token; readable by its owner only
    #[arg(long, value_name = "FILE", env = "FLIST_READ_TOKEN_FILE")]
    read_token_file: Option<PathBuf>,
    /// File with the client certificate that the hub asks for, those that signed it, and its key, as nodes have it in
    /// hub.pem; readable by its owner only
    #[arg(long, value_name = "FILE", env = "FLIST_CLIENT_CERTIFICATE")]
    client_certificate: Option<PathBuf>,
}

impl ShownToHub {
    /// It, for the hub at this address, and for no other.
    pub(super) fn access(&self, hub: &str) -> Result<Access, Failure> {
        let Self { read_token_file, client_certificate } = self;
        Ok(Access::read(&[hub.to_owned()], read_token_file.as_deref(), client_certificate.as_deref())?)
    }

    /// A client of the hub at this address, and of no other, that shows it.
    pub(super) fn client(&self, hub: &str) -> Result<HubClient, Failure> {
        let user_agent = concat!("flist/", env!("CARGO_PKG_VERSION"));
        Ok(HubClient::with_access(hub, user_agent, Timeouts::default(), &self.access(hub)?)?)
    }
}

/// A version on the command line.
pub(super) fn version(text: &str) -> Result<semver::Version, String> {
    text.parse().map_err(|_| "a version has three numbers, such as 1.0.0 or 1.2.0-rc.1".to_owned())
}

/// Which hub, and what it lets one change.
#[derive(clap::Args)]
pub(super) struct HubAccess {
    /// Address of the hub
    #[arg(long, value_name = "URL", env = "FLIST_HUB", hide_env_values = true)]
    pub(super) hub: String,
    #[command(flatten)]
    pub(super) token: TokenAccess,
    #[command(flatten)]
    shown: ShownToHub,
}

impl HubAccess {
    /// What the hub is shown.
    pub(super) fn shown(&self) -> Result<Access, Failure> {
        self.shown.access(&self.hub)
    }

    /// Does something with the hub.
    pub(super) fn run<T>(
        &self,
        work: impl AsyncFnOnce(HubClient) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let client = self.shown.client(&self.hub)?.with_token(self.token.token()?);
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work(client))
    }
}

/// What a name on a hub can mean.
#[derive(Clone)]
pub(super) enum HubName {
    /// A flist or a link to one: `<repo>/<name>.flist`.
    Flist(FlistName),
    /// A tag: `<repo>/tags/<tag>`.
    Tag(TagName),
    /// A taglink: `<repo>/<name>`.
    Taglink(TaglinkName),
}

impl std::str::FromStr for HubName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORMS: &str =
            "<repo>/<name>.flist (a flist or a link), <repo>/<name> (a taglink) or <repo>/tags/<tag>";
        if !text.contains('/') {
            Err(format!("it names no repo; expected {FORMS}"))
        } else if text.ends_with(".flist") {
            text.parse().map(Self::Flist).map_err(|error: flist::hub::NameError| error.to_string())
        } else if text.contains("/tags/") {
            text.parse().map(Self::Tag).map_err(|error: flist::hub::TagNameError| error.to_string())
        } else {
            text.parse()
                .map(Self::Taglink)
                .map_err(|error: flist::hub::TagNameError| format!("{}; expected {FORMS}", error.reason))
        }
    }
}
