//! Publishing a directory on a hub.

use std::path::Path;

use semver::Version;

use crate::format::fl;
use crate::hub::{FlistName, HubClient, HubError, NameError, RunMode, Token};
use crate::pack::{PackError, PackSummary, pack};
use crate::store::{HttpStore, StoreError};
use crate::tree::Route;

/// What to publish where.
#[derive(Debug, Clone)]
pub struct Publication {
    /// Address of the hub.
    pub hub: String,
    /// Repository on it.
    pub repo: String,
    /// Name of the flist, without version and ending.
    pub name: String,
    /// Version of the release.
    pub version: Version,
    /// The run mode whose nodes get it; `None` moves no link.
    pub run_mode: Option<RunMode>,
    /// Address of the block store as nodes reach it; `None` is `/store` of the hub.
    pub route: Option<String>,
    /// What the hub asks for before it takes something; `None` where it trusts its own machine.
    pub token: Option<Token>,
}

/// What was published.
#[derive(Debug, Clone)]
pub struct Published {
    /// The versioned flist.
    pub flist: FlistName,
    /// The link that was moved.
    pub link: Option<FlistName>,
    /// Entries of the flist.
    pub entries: usize,
    /// Blocks and bytes.
    pub summary: PackSummary,
}

/// Why nothing, or not everything, was published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The names do not form the name of a flist.
    #[error("cannot publish under this name")]
    Name(#[source] NameError),
    /// The hub's block store cannot be used.
    #[error("cannot use the block store of the hub")]
    Store(#[source] StoreError),
    /// The directory could not be packed.
    #[error("cannot pack the directory")]
    Pack(#[source] PackError),
    /// The flist could not be made.
    #[error("cannot make the flist")]
    Format(#[source] fl::FlError),
    /// The hub did not take the flist.
    #[error("the hub did not take {flist}; no link was moved")]
    Upload {
        /// The flist.
        flist: FlistName,
        /// The hub's reason.
        #[source]
        source: HubError,
    },
    /// The hub did not move the link.
    #[error("{flist} is on the hub, but the link {link} was not moved")]
    Link {
        /// The flist.
        flist: FlistName,
        /// The link.
        link: FlistName,
        /// The hub's reason.
        #[source]
        source: HubError,
    },
    /// The HTTP client could not be set up.
    #[error("cannot set up the HTTP client")]
    Client(#[source] HubError),
    /// No runtime for network requests.
    #[error("cannot start the runtime")]
    Runtime(#[source] std::io::Error),
}

/// Packs a directory and publishes it: missing blocks first, then the versioned flist, then the link that
/// nodes follow. A reader of the hub never sees a link to something that is not there yet. Must not be
/// called from within an async runtime.
///
/// # Errors
/// [`PublishError`]; what it says is what was done until then.
pub fn publish(publication: &Publication, directory: &Path) -> Result<Published, PublishError> {
    let Publication { hub, repo, name, version, .. } = publication;
    let flist = FlistName::versioned(repo, name, version).map_err(PublishError::Name)?;
    let link = publication
        .run_mode
        .map(|mode| FlistName::channel_link(repo, name, mode.hub_name()))
        .transpose()
        .map_err(PublishError::Name)?;

    let store_url = format!("{}/store", hub.trim_end_matches('/'));
    let store =
        HttpStore::new(&store_url).map_err(PublishError::Store)?.with_token(publication.token.clone());
    let (mut tree, summary) = pack(directory, &store).map_err(PublishError::Pack)?;
    tree.routes = vec![Route::everything(publication.route.clone().unwrap_or(store_url))];
    tree.tags.insert("version".to_owned(), version.to_string());
    let bytes = fl::to_bytes(&tree).map_err(PublishError::Format)?;

    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(PublishError::Runtime)?;
    runtime.block_on(async {
        let client = HubClient::new(hub, concat!("flist/", env!("CARGO_PKG_VERSION")))
            .map_err(PublishError::Client)?
            .with_token(publication.token.clone());
        let upload_failed = |source| PublishError::Upload { flist: flist.clone(), source };
        client.upload(&flist, bytes).await.map_err(upload_failed)?;
        if let Some(link) = &link {
            let link_failed =
                |source| PublishError::Link { flist: flist.clone(), link: link.clone(), source };
            client.link(link, flist.file()).await.map_err(link_failed)?;
        }
        Ok(())
    })?;
    Ok(Published { flist, link, entries: tree.len(), summary })
}
