//! Where metadata and targets come from: any web server.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use reqwest::{Client, Response, StatusCode, Url};
use serde::Deserialize;
use sigstore_tuf::transport::FetchFuture;
use sigstore_tuf::{Error as TufError, Repository};

use super::floors::Floors;
use super::state::{StateDir, is_top_level};
use crate::hub::{HubClient, shown_address};

/// How slow a server may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceLimits {
    /// Longest wait for an answer, and for each next piece of it.
    pub stall: Duration,
    /// How long an answer may come slower than `bytes_per_second`.
    pub grace: Duration,
    /// Slowest average after that. A server that sends a byte now and then never stalls, and never ends.
    pub bytes_per_second: u64,
}

impl Default for SourceLimits {
    fn default() -> Self {
        Self { stall: Duration::from_secs(30), grace: Duration::from_secs(30), bytes_per_second: 1024 }
    }
}

/// Why something could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The address is none.
    #[error("'{url}' is not an address of metadata: expected http://… or https://…")]
    BadUrl {
        /// What was given.
        url: String,
    },
    /// The request failed on the way, or the answer broke off.
    #[error("request to {url} failed")]
    Request {
        /// What was asked for.
        url: String,
        /// The transport's answer.
        #[source]
        source: reqwest::Error,
    },
    /// Nothing came for too long.
    #[error("{url} sent nothing for {seconds} s")]
    Stalled {
        /// What was asked for.
        url: String,
        /// How long nothing came.
        seconds: u64,
    },
    /// It came too slowly.
    #[error("{url} sends less than {bytes_per_second} bytes per second")]
    TooSlow {
        /// What was asked for.
        url: String,
        /// What is asked for at least.
        bytes_per_second: u64,
    },
    /// It is not there.
    #[error("{url} does not exist")]
    Missing {
        /// What was asked for.
        url: String,
    },
    /// The server refused or failed.
    #[error("{url} answered {status}")]
    Status {
        /// What was asked for.
        url: String,
        /// The HTTP status code.
        status: u16,
    },
    /// It is longer than it may be.
    #[error("{url} is longer than the {limit} bytes allowed")]
    TooLong {
        /// What was asked for.
        url: String,
        /// The limit in bytes.
        limit: u64,
    },
}

/// A directory on a web server.
#[derive(Debug, Clone)]
pub struct Source {
    base: Url,
    http: Client,
    limits: SourceLimits,
    /// Whether the server is shown who asks.
    is_shown: bool,
}

impl Source {
    /// Uses what lies under `url`, by way of `http`. Nothing is sent yet.
    ///
    /// # Errors
    /// [`SourceError::BadUrl`].
    pub fn new(url: &str, http: Client) -> Result<Self, SourceError> {
        let bad = || SourceError::BadUrl { url: shown_address(url) };
        let mut base = Url::parse(url).map_err(|_| bad())?;
        if !matches!(base.scheme(), "http" | "https") || base.query().is_some() || base.fragment().is_some() {
            return Err(bad());
        }
        base.path_segments_mut().map_err(|()| bad())?.pop_if_empty();
        Ok(Self { base, http, limits: SourceLimits::default(), is_shown: false })
    }

    /// The metadata that a hub carries in its repository `trust` or `director`.
    ///
    /// # Errors
    /// [`SourceError::BadUrl`].
    pub fn of_hub(hub: &HubClient, repository: &str) -> Result<Self, SourceError> {
        let source =
            Self::new(&format!("{}/{repository}", hub.url().trim_end_matches('/')), hub.http.clone())?;
        Ok(Self { is_shown: hub.is_shown, ..source })
    }

    /// Waits as long as this.
    #[must_use]
    pub fn with_limits(mut self, limits: SourceLimits) -> Self {
        self.limits = limits;
        self
    }

    /// The address.
    pub fn url(&self) -> &str {
        self.base.as_str()
    }

    /// Asks for the file at `path`, of which at most `limit` bytes will be read. `None` when the server does
    /// not have it.
    ///
    /// # Errors
    /// [`SourceError`].
    pub async fn open(&self, path: &str, limit: u64) -> Result<Option<Body>, SourceError> {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.extend(path.split('/'));
        }
        self.get(url, limit).await
    }

    async fn get(&self, url: Url, limit: u64) -> Result<Option<Body>, SourceError> {
        let name = url.to_string();
        let request = self.http.get(url).send();
        let answer = tokio::time::timeout(self.limits.stall, request).await;
        let answer = answer.map_err(|_| stalled(&name, self.limits))?;
        let response = answer.map_err(|source| failed(&name, source))?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND | StatusCode::GONE => return Ok(None),
            // Object stores that may not be listed answer so for what is not there, and the end of the chain of roots
            // is found by asking for such a file. Elsewhere it is a refusal: of whoever shows a token or a certificate,
            // or asks for what has to be there. A refusal that ended the chain would keep new keys from a node unseen.
            StatusCode::FORBIDDEN if !self.is_shown && name.ends_with(".root.json") => return Ok(None),
            status => return Err(SourceError::Status { url: name, status: status.as_u16() }),
        }
        if response.content_length().is_some_and(|length| length > limit) {
            return Err(SourceError::TooLong { url: name, limit });
        }
        let (limits, started) = (self.limits, Instant::now());
        Ok(Some(Body { response, url: name, limit, read: 0, limits, started }))
    }

    async fn metadata(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, SourceError> {
        let mut url = self.base.clone();
        // The name comes quoted, and must not be quoted again: a role `a/b` is the file `a%2Fb.json`.
        url.set_path(&format!("{}/{name}", self.base.path().trim_end_matches('/')));
        match self.get(url.clone(), limit).await? {
            Some(body) => body.all().await.map(Some),
            // The end of the chain of roots is found by asking for one that is not there.
            None if name.ends_with(".root.json") => Ok(None),
            None => Err(SourceError::Missing { url: url.to_string() }),
        }
    }
}

/// An answer, as it comes in.
#[derive(Debug)]
pub struct Body {
    response: Response,
    url: String,
    limit: u64,
    read: u64,
    limits: SourceLimits,
    started: Instant,
}

impl Body {
    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// It breaks off, stalls, comes too slowly, or is too long.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, SourceError> {
        let chunk = tokio::time::timeout(self.limits.stall, self.response.chunk()).await;
        let chunk = chunk.map_err(|_| stalled(&self.url, self.limits))?;
        let Some(chunk) = chunk.map_err(|source| failed(&self.url, source))? else { return Ok(None) };
        self.read += chunk.len() as u64;
        if self.read > self.limit {
            return Err(SourceError::TooLong { url: self.url.clone(), limit: self.limit });
        }
        let (took, slowest) = (self.started.elapsed(), self.limits.bytes_per_second);
        if took > self.limits.grace && self.read < took.as_secs().saturating_mul(slowest) {
            return Err(SourceError::TooSlow { url: self.url.clone(), bytes_per_second: slowest });
        }
        Ok(Some(chunk.to_vec()))
    }

    /// All of it, which is kept in memory.
    ///
    /// # Errors
    /// As [`Body::next`].
    pub async fn all(mut self) -> Result<Vec<u8>, SourceError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = self.next().await? {
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }
}

const SNAPSHOT: &str = "snapshot.json";

/// What the checks fetch metadata through. A delegated role that is kept in the version that is asked for is
/// not fetched again; it is checked all the same.
pub(super) struct Transport {
    pub(super) source: Source,
    pub(super) state: Arc<StateDir>,
    /// What may not fall, from before the refresh.
    pub(super) floors: Option<Floors>,
    /// Whether the last answers came from the state, which may be damaged.
    pub(super) used_state: Arc<AtomicBool>,
}

impl Transport {
    /// For whoever only looks at what is kept.
    pub(super) fn of_state(source: Source, state: Arc<StateDir>) -> Self {
        Self { source, state, floors: None, used_state: Arc::default() }
    }

    fn kept(&self, name: &str) -> Option<Vec<u8>> {
        let (version, file) = name.split_once('.')?;
        let version: u64 = version.parse().ok()?;
        if is_top_level(file) {
            return None;
        }
        let bytes = self.state.read(file).ok()??;
        let envelope: Envelope = serde_json::from_slice(&bytes).ok()?;
        (envelope.signed.version == version).then_some(bytes)
    }

    /// Refuses a snapshot that goes back behind the one before the refresh.
    fn check_snapshot(&self, name: &str, bytes: &[u8]) -> Result<(), TufError> {
        let is_snapshot = name == SNAPSHOT || name.split_once('.').is_some_and(|(_, file)| file == SNAPSHOT);
        match &self.floors {
            Some(floors) if is_snapshot => floors.check(&self.root()?, bytes),
            _ => Ok(()),
        }
    }

    /// The root that is trusted by now: it is kept before anything else is fetched.
    fn root(&self) -> Result<Vec<u8>, TufError> {
        let missing = || std::io::Error::from(std::io::ErrorKind::NotFound);
        let root = self.state.read("root.json").map_err(std::io::Error::other);
        root.and_then(|root| root.ok_or_else(missing)).map_err(|error| TufError::io("root.json", error))
    }
}

impl Repository for Transport {
    fn fetch_metadata<'a>(&'a self, name: &'a str, max_length: u64) -> FetchFuture<'a> {
        Box::pin(async move {
            if let Some(bytes) = self.kept(name) {
                self.used_state.store(true, Ordering::Relaxed);
                return Ok(Some(bytes));
            }
            let fetched = self.source.metadata(name, max_length).await;
            let fetched = fetched.map_err(|error| TufError::transport_with_source("not fetched", error))?;
            if let Some(bytes) = &fetched {
                self.check_snapshot(name, bytes)?;
            }
            Ok(fetched)
        })
    }

    /// Targets do not come through the checks, which would not say how slow a server may be: nodes ask the hub for
    /// flists, with its limits, and others stream them.
    fn fetch_target<'a>(&'a self, _: &'a str, _: u64) -> FetchFuture<'a> {
        Box::pin(async { Err(TufError::transport("targets are not fetched this way")) })
    }
}

#[derive(Deserialize)]
struct Envelope {
    signed: Versioned,
}

#[derive(Deserialize)]
struct Versioned {
    version: u64,
}

fn failed(url: &str, source: reqwest::Error) -> SourceError {
    SourceError::Request { url: url.to_owned(), source: source.without_url() }
}

fn stalled(url: &str, limits: SourceLimits) -> SourceError {
    SourceError::Stalled { url: url.to_owned(), seconds: limits.stall.as_secs() }
}
