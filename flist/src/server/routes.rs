//! Which address is answered by what.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::HeaderValue;
use axum::http::header::ACCESS_CONTROL_ALLOW_ORIGIN;
use axum::middleware;
use axum::response::Response;
use axum::routing::{any, get, put};

use super::answer::Refusal;
use super::{
    Hub, access, blocks, contents, download, links, listing, metadata, pages, removal, tagging, upload,
};
use crate::block::MAX_STORED;

pub(super) fn router(hub: Arc<Hub>) -> Router {
    reading()
        .merge(storing())
        .merge(publishing())
        .fallback(|| async { Refusal::Page })
        .layer(middleware::from_fn_with_state(Arc::clone(&hub), access::guard))
        .layer(middleware::map_response(finish))
        .with_state(hub)
}

/// The public interface of the 0-hub, and pages for people.
fn reading() -> Router<Arc<Hub>> {
    Router::new()
        .route("/api/flist", get(listing::all))
        .route("/api/repositories", get(listing::repositories))
        .route("/api/flist/{repo}", get(listing::repo))
        .route("/api/flist/{repo}/{flist}", any(listing::info))
        .route("/api/flist/{repo}/{flist}/light", get(listing::light))
        .route("/api/flist/{repo}/{flist}/metadata", get(contents::metadata))
        .route("/api/flist/{repo}/{flist}/taglink", get(listing::taglink))
        .route("/api/flist/{repo}/tags/{tag}", get(listing::tag))
        .route("/", get(pages::start))
        .route("/{repo}", get(pages::repo))
        .route("/{repo}/", get(pages::without_slash))
        .route("/trust/{file}", get(metadata::trust))
        .route("/director/{file}", get(metadata::director))
        .route("/{repo}/{file}", get(download::named))
        .route("/{repo}/tags/{tag}", get(pages::tag))
        .route("/{repo}/tags/{tag}/", get(pages::without_slash))
        .route("/{repo}/tags/{tag}/{file}", get(download::tagged))
}

/// The block store.
fn storing() -> Router<Arc<Hub>> {
    Router::new()
        .route("/store/{id}", get(blocks::get))
        .route("/store/{prefix}/{id}", get(blocks::get_under_prefix).put(blocks::put))
        .layer(DefaultBodyLimit::max(MAX_STORED))
}

/// What changes names; this hub's own interface.
fn publishing() -> Router<Arc<Hub>> {
    let tags = Router::new()
        .route("/api/molt/tag/{repo}/{tag}", put(tagging::put).delete(removal::tag))
        .layer(DefaultBodyLimit::max(tagging::MAX_TAG_BODY));
    let metadata = Router::new()
        .route("/api/molt/metadata/{repository}/{file}", put(metadata::put))
        .layer(DefaultBodyLimit::max(metadata::MAX_METADATA));
    Router::new()
        // Has a limit of its own, because it is kept while it comes in.
        .route("/api/molt/flist/{repo}/{file}", put(upload::flist).delete(removal::flist))
        .route("/api/molt/link/{repo}/{file}", put(links::link).delete(removal::link))
        .route("/api/molt/taglink/{repo}/{name}", put(links::taglink).delete(removal::taglink))
        .layer(DefaultBodyLimit::max(links::MAX_LINK_BODY))
        .merge(tags)
        .merge(metadata)
}

/// Any page may read what the hub serves, as on the 0-hub.
async fn finish(mut response: Response) -> Result<Response, Infallible> {
    response.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    Ok(response)
}
