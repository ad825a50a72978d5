//! What the subcommands that talk to a hub have in common.

use std::error::Error;
use std::path::PathBuf;

use flist::hub::{HubClient, Token};

/// The variable that a token may be in; an argument would be seen by every user of the machine.
const TOKEN_VARIABLE: &str = "FLIST_TOKEN";

#[derive(clap::Args)]
pub(super) struct HubAccess {
    /// Address of the hub
    #[arg(long, value_name = "URL", env = "FLIST_HUB")]
    pub(super) hub: String,
    /// File with the token that the hub asks publishers for, readable by its owner only; without it, the
    /// environment variable FLIST_TOKEN
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl HubAccess {
    /// The token, if one was given.
    pub(super) fn token(&self) -> Result<Option<Token>, Box<dyn Error>> {
        if let Some(path) = &self.token_file {
            return Ok(Some(Token::read(path)?));
        }
        match std::env::var(TOKEN_VARIABLE) {
            Ok(text) if text.is_empty() => Ok(None),
            Ok(text) => Ok(Some(text.trim().parse().map_err(|error| format!("{TOKEN_VARIABLE}: {error}"))?)),
            Err(std::env::VarError::NotPresent) => Ok(None),
            Err(error) => Err(format!("{TOKEN_VARIABLE}: {error}").into()),
        }
    }

    /// Does something with the hub.
    pub(super) fn run<T>(
        &self,
        work: impl AsyncFnOnce(HubClient) -> Result<T, Box<dyn Error>>,
    ) -> Result<T, Box<dyn Error>> {
        let client = HubClient::new(&self.hub, concat!("flist/", env!("CARGO_PKG_VERSION")))?;
        let client = client.with_token(self.token()?);
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work(client))
    }
}

/// What a name on a hub can mean.
#[derive(Clone)]
pub(super) enum HubName {
    /// A flist or a link to one: `<repo>/<name>.flist`.
    Flist(flist::hub::FlistName),
    /// A tag: `<repo>/tags/<tag>`.
    Tag(flist::hub::TagName),
    /// A taglink: `<repo>/<name>`.
    Taglink(flist::hub::TaglinkName),
}

impl std::str::FromStr for HubName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.ends_with(".flist") {
            text.parse().map(Self::Flist).map_err(|error: flist::hub::NameError| error.to_string())
        } else if text.contains("/tags/") {
            text.parse().map(Self::Tag).map_err(|error: flist::hub::TagNameError| error.to_string())
        } else {
            text.parse().map(Self::Taglink).map_err(|error: flist::hub::TagNameError| error.to_string())
        }
    }
}
