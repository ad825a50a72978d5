//! Publishing directories on a hub.

mod together;

use std::path::{Path, PathBuf};

use semver::Version;

use crate::format::{self, Format, FormatError};
use crate::hub::{
    Access, FlistName, HubClient, HubError, NameError, RunMode, Sha256, TagName, TagNameError, TaglinkName,
    Timeouts, Token, shown_address,
};
use crate::merge::MergeError;
use crate::pack::{PackError, PackSummary, pack_observed};
use crate::progress::Observer;
use crate::store::{HttpStore, StoreError, WHOLE_REQUEST};
use crate::tree::{Route, Tree};
pub use together::{PublishedTag, publish_tag};

const USER_AGENT: &str = concat!("flist/", env!("CARGO_PKG_VERSION"));

/// What to publish where.
#[derive(Debug, Clone)]
pub struct Publication {
    /// Address of the hub.
    pub hub: String,
    /// Repository on it.
    pub repo: String,
    /// Version of the release.
    pub version: Version,
    /// The run mode whose nodes get it; `None` moves no link and no taglink.
    pub run_mode: Option<RunMode>,
    /// Address of the block store as nodes reach it; `None` is `/store` of the hub.
    pub route: Option<String>,
    /// Format of the flist.
    pub format: Format,
    /// Whether a version that is there with other content gets this one.
    pub replace: bool,
    /// What the hub asks for before it takes something; `None` where it trusts its own machine.
    pub token: Option<Token>,
    /// What the hub is shown where it wants to know who asks, whatever is asked.
    pub access: Access,
}

impl Publication {
    fn client(&self) -> Result<HubClient, PublishError> {
        let client = HubClient::with_access(&self.hub, USER_AGENT, Timeouts::default(), &self.access);
        Ok(client.map_err(|source| self.unusable(source))?.with_token(self.token.clone()))
    }

    fn unusable(&self, source: HubError) -> PublishError {
        PublishError::Hub { hub: shown_address(&self.hub), source }
    }
}

/// What was published.
#[derive(Debug, Clone)]
pub struct Published {
    /// The versioned flist.
    pub flist: FlistName,
    /// The link that was moved.
    pub link: Option<FlistName>,
    /// Length of the flist in bytes.
    pub length: u64,
    /// Digest of the flist.
    pub sha256: Sha256,
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
    /// The hub does not answer as a hub does; nothing was packed.
    #[error("cannot publish on hub {hub}")]
    Hub {
        /// The hub.
        hub: String,
        /// The reason.
        #[source]
        source: HubError,
    },
    /// The hub's block store cannot be used.
    #[error("cannot use the block store of the hub")]
    Store(#[source] StoreError),
    /// The directory could not be packed.
    #[error("cannot pack the directory")]
    Pack(#[source] PackError),
    /// The hub did not take a block.
    #[error("the hub did not take a block of {path}")]
    Block {
        /// The file that the block is of.
        path: PathBuf,
        /// The reason.
        #[source]
        source: StoreError,
    },
    /// The flist could not be made.
    #[error("cannot make the flist")]
    Format(#[source] FormatError),
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
    /// The names do not form the name of a tag or a taglink.
    #[error("cannot publish a tag under this name")]
    TagName(#[source] TagNameError),
    /// The packages do not fit together.
    #[error("the packages cannot be installed together; nothing was published")]
    Merge(#[source] MergeError),
    /// The hub did not make the tag.
    #[error("all flists are on the hub, but not the tag {tag}")]
    Tag {
        /// The tag.
        tag: TagName,
        /// The hub's reason.
        #[source]
        source: HubError,
    },
    /// The hub did not move the taglink.
    #[error("{tag} is on the hub, but the taglink {link} was not moved")]
    Taglink {
        /// The tag.
        tag: TagName,
        /// The taglink.
        link: TaglinkName,
        /// The hub's reason.
        #[source]
        source: HubError,
    },
    /// No runtime for network requests.
    #[error("cannot start the runtime")]
    Runtime(#[source] std::io::Error),
}

/// Finds out whether the hub is there and is one. Must not be called from within an async runtime.
///
/// # Errors
/// [`PublishError::Hub`], [`PublishError::Runtime`].
pub fn ask(publication: &Publication) -> Result<(), PublishError> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(PublishError::Runtime)?;
    let client = publication.client()?;
    runtime.block_on(client.repos()).map_err(|source| publication.unusable(source)).map(drop)
}

/// Packs a directory and publishes it as the flist `name` (without version and ending): missing blocks first, then the versioned flist, then the link that
/// nodes follow. A reader of the hub never sees a link to something that is not there yet. The hub is asked
/// before anything is packed. Must not be called from within an async runtime.
///
/// # Errors
/// [`PublishError`]; what it says is what was done until then.
pub fn publish(
    publication: &Publication,
    name: &str,
    directory: &Path,
    observer: &dyn Observer,
) -> Result<Published, PublishError> {
    let Publication { repo, version, .. } = publication;
    let flist = FlistName::versioned(repo, name, version).map_err(PublishError::Name)?;
    let link = publication
        .run_mode
        .map(|mode| FlistName::channel_link(repo, name, mode.hub_name()))
        .transpose()
        .map_err(PublishError::Name)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(PublishError::Runtime)?;
    let client = publication.client()?;
    runtime.block_on(client.repos()).map_err(|source| publication.unusable(source))?;

    let (tree, bytes, summary) = packed(publication, directory, observer)?;
    let (length, sha256) = (bytes.len() as u64, Sha256::of(&bytes));
    runtime.block_on(async {
        let upload_failed = |source| PublishError::Upload { flist: flist.clone(), source };
        let uploaded = match publication.replace {
            true => client.replace(&flist, bytes).await,
            false => client.upload(&flist, bytes).await,
        };
        uploaded.map_err(upload_failed)?;
        if let Some(link) = &link {
            let link_failed =
                |source| PublishError::Link { flist: flist.clone(), link: link.clone(), source };
            client.link(link, flist.file()).await.map_err(link_failed)?;
        }
        Ok(())
    })?;
    Ok(Published { flist, link, length, sha256, entries: tree.len(), summary })
}

/// The flist of a directory, as a tree and in bytes, and what its blocks were; they are on the hub now.
fn packed(
    publication: &Publication,
    directory: &Path,
    observer: &dyn Observer,
) -> Result<(Tree, Vec<u8>, PackSummary), PublishError> {
    let store_url = format!("{}/store", publication.hub.trim_end_matches('/'));
    let store = HttpStore::with_access(&store_url, WHOLE_REQUEST, &publication.access);
    let store = store.map_err(PublishError::Store)?.with_token(publication.token.clone());
    let (mut tree, summary) = pack_observed(directory, &store, publication.format.codec(), observer)
        .map_err(|error| match error {
            PackError::Store { path, source } => PublishError::Block { path, source },
            error => PublishError::Pack(error),
        })?;
    tree.routes = vec![Route::everything(publication.route.clone().unwrap_or(store_url))];
    tree.tags.insert("version".to_owned(), publication.version.to_string());
    let bytes = format::to_bytes(&tree, publication.format).map_err(PublishError::Format)?;
    Ok((tree, bytes, summary))
}
