//! The embedded hub: serves flists and blocks from a directory, and accepts new ones.
//!
//! It answers as the 0-hub does, from the same directories, so that either can serve what the other
//! has written:
//!
//! ```text
//! ROOT/public/users/<repo>/<name>.flist              a flist, or a relative link to one
//! ROOT/public/users/<repo>/.tag-<tag>/<name>.flist   a tag (listed, not served)
//! ROOT/store/<first 2 digits>/<64 hex digits>        a block
//! ```
//!
//! Reading is open to all. Writing is accepted only from the same machine, because there are no tokens
//! yet. Links are followed by the kernel, and never out of `public/users`.

mod answer;
mod blocks;
mod digests;
mod download;
mod layout;
mod listener;
mod listing;
mod python_json;
mod upload;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Request};
use axum::http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, FORWARDED, ORIGIN};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{any, get, put};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::block::MAX_STORED;
use answer::Refusal;
use digests::DigestCache;
use layout::Layout;
use listener::{CappedListener, Peer};

/// Settings of a hub.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// The directory with everything; made when it is not there.
    pub root: PathBuf,
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
    /// Connections can no longer be accepted.
    #[error("the hub stopped serving")]
    Serve {
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

/// Serves the hub on `listener` until `shutdown` is ready; then answers that are under way get the
/// configured grace, and what is not done by then is left to the end of the runtime.
///
/// # Errors
/// A directory of the hub cannot be made or opened.
pub async fn serve(
    listener: TcpListener,
    config: ServerConfig,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServerError> {
    let app = router(Arc::new(Hub::open(&config)?));
    let listener = CappedListener::new(listener, config.max_connections, config.stall);
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
        tokio::time::sleep(config.grace).await;
    };
    tokio::select! {
        ended = serving => ended.map_err(|source| ServerError::Serve { source }),
        () = grace_is_over => Ok(()),
    }
}

/// What all requests share.
struct Hub {
    layout: Layout,
    digests: DigestCache,
    publishing: Mutex<()>,
}

impl Hub {
    fn open(config: &ServerConfig) -> Result<Self, ServerError> {
        Ok(Self {
            layout: Layout::open(&config.root)?,
            digests: DigestCache::default(),
            publishing: Mutex::new(()),
        })
    }

    /// To be held, on a thread that may wait, from looking at what a name holds to changing it.
    fn publishing(&self) -> MutexGuard<'_, ()> {
        // There is nothing behind the lock that a panic could have left half done.
        self.publishing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn router(hub: Arc<Hub>) -> Router {
    let blocks = Router::new()
        .route("/store/{id}", get(blocks::get))
        .route("/store/{prefix}/{id}", get(blocks::get_under_prefix).put(blocks::put))
        .layer(DefaultBodyLimit::max(MAX_STORED));
    let publish = Router::new()
        .route("/api/molt/flist/{repo}/{file}", put(upload::flist))
        .route("/api/molt/link/{repo}/{file}", put(upload::link))
        .layer(DefaultBodyLimit::max(upload::MAX_LINK_BODY));
    Router::new()
        .route("/api/flist", get(listing::all))
        .route("/api/repositories", get(listing::repositories))
        .route("/api/flist/{repo}", get(listing::repo))
        .route("/api/flist/{repo}/{flist}", any(listing::info))
        .route("/api/flist/{repo}/{flist}/light", get(listing::light))
        .route("/{repo}/{file}", get(download::flist))
        .merge(blocks)
        .merge(publish)
        .fallback(|| async { Refusal::Page })
        .layer(middleware::from_fn(only_local_writes))
        .layer(middleware::map_response(finish))
        .with_state(hub)
}

/// Refuses requests that change something unless they come from a program on this machine. A proxy on
/// this machine and a browser on this machine both come from a loopback address, but act for others.
async fn only_local_writes(request: Request, next: Next) -> Result<Response, Refusal> {
    let reads = [Method::GET, Method::HEAD, Method::OPTIONS];
    if reads.contains(request.method()) || request.method().as_str() == "INFO" {
        return Ok(next.run(request).await);
    }
    let peer = request.extensions().get::<ConnectInfo<Peer>>();
    let local = peer.is_some_and(|ConnectInfo(peer)| peer.is_loopback());
    if !local || acts_for_another(request.headers()) {
        return Err(Refusal::json(
            StatusCode::FORBIDDEN,
            "this hub accepts changes only from programs on its own machine; run the command there",
        ));
    }
    Ok(next.run(request).await)
}

fn acts_for_another(headers: &HeaderMap) -> bool {
    [FORWARDED.as_str(), ORIGIN.as_str(), "x-forwarded-for", "x-real-ip"]
        .into_iter()
        .any(|name| headers.contains_key(name))
}

/// Any page may read what the hub serves, as on the 0-hub.
async fn finish(mut response: Response) -> Result<Response, Infallible> {
    response.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_and_browsers_act_for_others() {
        let header = |name: &'static str| {
            HeaderMap::from_iter([(name.parse().unwrap(), HeaderValue::from_static("x"))])
        };
        for name in ["forwarded", "origin", "x-forwarded-for", "x-real-ip"] {
            assert!(acts_for_another(&header(name)), "{name}");
        }
        assert!(!acts_for_another(&header("user-agent")));
    }
}
