//! The embedded hub: serves flists and blocks from a directory, and accepts new ones.
//!
//! It answers as the 0-hub does, from the same directories, so that either can serve what the other
//! has written:
//!
//! ```text
//! ROOT/public/users/<repo>/<name>.flist              a flist, or a relative link to one
//! ROOT/public/users/<repo>/.tag-<tag>/<name>.flist   an entry of a tag: a link to a flist
//! ROOT/public/users/<repo>/<taglink>                 a link to a tag
//! ROOT/store/<first 2 digits>/<64 or 32 hex digits>  a block
//! ROOT/trust/, ROOT/director/                        signed metadata
//! ```
//!
//! Reading is open to all. Writing is accepted from the same machine only, or from anywhere with a token.
//! Links are followed by the kernel, and never out of `public/users`. Every change is one rename or one
//! removal of a name, after what it leads to is on the disk. What a crash left unfinished has a temporary name
//! and goes at the next start.

mod access;
mod answer;
mod blocks;
mod collect;
mod completeness;
mod content_cache;
mod contents;
mod digests;
mod download;
mod file_version;
mod layout;
mod links;
mod listener;
mod listing;
mod metadata;
mod names;
mod pages;
mod python_json;
mod quota;
mod range;
mod removal;
mod root_lock;
mod routes;
mod tagging;
mod tags;
mod temporary;
mod tokens;
mod upload;

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::StatusCode;
use reqwest::Url;
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use access::Access;
use answer::Refusal;
use content_cache::ContentCache;
use contents::Summary;
use digests::Digests;
use layout::Layout;
use listener::{CappedListener, Peer};
use quota::Quota;
use root_lock::RootLock;
use tokens::TokenFile;

pub use collect::{CollectError, Collected, collect};

use crate::hub::TokenError;

/// How many flists are read at one time: a large one takes much memory while it is.
const PARSED_AT_ONCE: usize = 2;

/// Settings of a hub.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// The directory with everything; made when it is not there.
    pub root: PathBuf,
    /// Who may publish from anywhere: a file of tokens, see [`crate::hub::Token`]. Without it only programs
    /// on this machine may.
    pub token_file: Option<PathBuf>,
    /// The address that nodes know this hub by, where it is not the one that publishers use.
    pub public_url: Option<Url>,
    /// Refuse every flist that has a block which is not in this hub's store, wherever its routes lead.
    pub strict: bool,
    /// Most bytes of all blocks.
    pub quota_bytes: Option<u64>,
    /// Most names in one repo: flists, links, tags and taglinks.
    pub max_names: usize,
    /// Most connections at one time; more wait to be accepted.
    pub max_connections: usize,
    /// How long a connection may stay without a byte in either direction before it is closed.
    pub stall: Duration,
    /// How long answers that are under way may take once the hub shuts down.
    pub grace: Duration,
}

impl ServerConfig {
    /// The default settings for `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            token_file: None,
            public_url: None,
            strict: false,
            quota_bytes: None,
            max_names: 10_000,
            max_connections: 512,
            stall: Duration::from_secs(60),
            grace: Duration::from_secs(10),
        }
    }
}

/// Why the hub does not run.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A directory of the hub cannot be used.
    #[error("cannot use {path} as a directory of the hub")]
    Directory {
        /// Which one.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Another hub has the directory.
    #[error("{holder} uses {root} already, as a hub or to collect its blocks; stop it first, or take another directory", root = root.display())]
    Taken {
        /// The directory.
        root: PathBuf,
        /// The process that serves it.
        holder: String,
    },
    /// The token file cannot be used.
    #[error("cannot accept tokens")]
    Tokens(#[source] TokenError),
    /// Connections can no longer be accepted.
    #[error("the hub stopped serving")]
    Serve {
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

/// A hub that is ready to serve: its directory is its own, its settings are good.
pub struct Server {
    hub: Arc<Hub>,
    max_connections: usize,
    stall: Duration,
    grace: Duration,
    lock: RootLock,
}

impl Server {
    /// Opens the hub's directory, which is made when it is not there, and keeps others from serving it.
    ///
    /// # Errors
    /// The directory cannot be used or is served already, or the token file cannot be used.
    pub fn open(config: &ServerConfig) -> Result<Self, ServerError> {
        let lock = RootLock::take(&config.root)?;
        let ServerConfig { max_connections, stall, grace, .. } = *config;
        Ok(Self { hub: Arc::new(Hub::open(config)?), max_connections, stall, grace, lock })
    }

    /// Serves on `listener` until `shutdown` is ready; then answers that are under way get the configured
    /// grace, and what is not done by then is left to the end of the runtime.
    ///
    /// # Errors
    /// [`ServerError::Serve`].
    pub async fn serve(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), ServerError> {
        let Self { hub, max_connections, stall, grace, lock: _until_the_end } = self;
        let app = routes::router(hub);
        let listener = CappedListener::new(listener, max_connections, stall);
        let (stopping, stopped) = oneshot::channel();
        let shutdown = async move {
            shutdown.await;
            // Nobody listens any more when serving has ended by itself.
            let _ = stopping.send(());
        };
        let serving = axum::serve(listener, app.into_make_service_with_connect_info::<Peer>())
            .with_graceful_shutdown(shutdown);
        let grace_is_over = async move {
            // An error means that `shutdown` was dropped, hence that serving has ended.
            let _ = stopped.await;
            tokio::time::sleep(grace).await;
        };
        tokio::select! {
            ended = serving => ended.map_err(|source| ServerError::Serve { source }),
            () = grace_is_over => Ok(()),
        }
    }
}

/// Opens a hub and serves it, see [`Server::open`] and [`Server::serve`].
///
/// # Errors
/// As both.
pub async fn serve(
    listener: TcpListener,
    config: ServerConfig,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServerError> {
    Server::open(&config)?.serve(listener, shutdown).await
}

/// What all requests share.
struct Hub {
    layout: Layout,
    /// The directory with the directories of metadata.
    metadata: PathBuf,
    digests: ContentCache<Digests>,
    summaries: ContentCache<Arc<Result<Summary, String>>>,
    access: Access,
    quota: Quota,
    max_names: usize,
    strict: bool,
    public_url: Option<Url>,
    publishing: Mutex<()>,
    parsing: Arc<Semaphore>,
}

impl Hub {
    fn open(config: &ServerConfig) -> Result<Self, ServerError> {
        let layout = Layout::open(&config.root)?;
        temporary::sweep(&layout);
        let quota = Quota::open(layout.store_path(), config.quota_bytes);
        let quota = quota
            .map_err(|source| ServerError::Directory { path: layout.store_path().to_owned(), source })?;
        let access = match &config.token_file {
            Some(path) => Access::Tokens(TokenFile::open(path.clone()).map_err(ServerError::Tokens)?),
            None => Access::ThisMachine,
        };
        Ok(Self {
            layout,
            metadata: config.root.clone(),
            digests: ContentCache::default(),
            summaries: ContentCache::default(),
            access,
            quota,
            max_names: config.max_names,
            strict: config.strict,
            public_url: config.public_url.clone(),
            publishing: Mutex::new(()),
            parsing: Arc::new(Semaphore::new(PARSED_AT_ONCE)),
        })
    }

    /// One change of names at a time, so that what was looked at is still so when it is acted on.
    fn publishing(&self) -> MutexGuard<'_, ()> {
        // A panic elsewhere leaves at most a temporary file behind.
        self.publishing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a flist may be read into memory. The turn belongs to the work, which goes on when the
    /// client has gone.
    async fn turn_to_parse(&self) -> Option<OwnedSemaphorePermit> {
        // The semaphore is never closed, so there always is a turn in the end.
        Arc::clone(&self.parsing).acquire_owned().await.ok()
    }

    /// Refuses another name in a repo that has as many as it may. To be asked while [`Hub::publishing`].
    fn room_for_name(&self, repo: &str) -> Result<(), Refusal> {
        let entries = self.layout.entries(repo).map_err(Refusal::failed(format!("list repo {repo}")))?;
        if entries.map_or(0, |entries| entries.len()) < self.max_names {
            return Ok(());
        }
        let message = format!("repo {repo} has {} names, as many as it may; remove some", self.max_names);
        Err(Refusal::json(StatusCode::INSUFFICIENT_STORAGE, message))
    }
}
