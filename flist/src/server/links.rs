//! Names that move: links to flists, and taglinks. A link is made under another name and renamed over the
//! old one, so it leads to the old destination or to the new one, and is never missing.

use std::io;
use std::os::unix::fs::symlink;
use std::path::Path as FilePath;
use std::sync::Arc;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::access::Writer;
use super::answer::{Refusal, json, on_disk};
use super::blocks::sync_directory;
use super::layout::{Object, TAG_PREFIX};
use super::listing::leads_to_tag;
use super::upload::{Receipt, repo_directory};
use super::{Hub, names, temporary};
use crate::hub::{FlistName, TagName, TaglinkName, target_name};

/// Longest body of a request to move a link, in bytes.
pub(super) const MAX_LINK_BODY: usize = 4 * 1024;

/// `PUT /api/molt/link/<repo>/<link>.flist` with `{"target": "<name>.flist"}`, or with
/// `"<repo>/<name>.flist"` for a flist of another repo: 201 when the link is new, 200 when it was moved or
/// is there already, 404 when the target is not there, 409 when it is not a flist.
pub(super) async fn link(
    State(hub): State<Arc<Hub>>,
    Extension(writer): Extension<Writer>,
    Path((repo, file)): Path<(String, String)>,
    body: Bytes,
) -> Result<Response, Refusal> {
    let link = names::flist(&writer, &repo, &file)?;
    let order = LinkOrder::parse(&body)?;
    let target = target_name(link.repo(), &order.target).map_err(|error| {
        Refusal::bad_request(format!("cannot point {link} there: {}", crate::report(&error)))
    })?;
    let status = on_disk(move || set_link(&hub, &link, &target)).await?;
    Ok((status, json(&Receipt::default())).into_response())
}

/// `PUT /api/molt/taglink/<repo>/<name>` with `{"target": "<repo>/tags/<tag>"}`: 201 when the taglink is new,
/// 200 when it was moved or is there already, 404 when there is no such tag.
pub(super) async fn taglink(
    State(hub): State<Arc<Hub>>,
    Extension(writer): Extension<Writer>,
    Path((repo, name)): Path<(String, String)>,
    body: Bytes,
) -> Result<Response, Refusal> {
    let link = names::taglink(&writer, &repo, &name)?;
    let order = LinkOrder::parse(&body)?;
    let tag: TagName = order
        .target
        .parse()
        .map_err(|error| Refusal::bad_request(format!("cannot point {link} there: {error}")))?;
    let status = on_disk(move || set_taglink(&hub, &link, &tag)).await?;
    Ok((status, json(&Receipt::default())).into_response())
}

/// Where a link to `target` that lies in the directory of `repo` leads to.
fn stored_target(repo: &str, target: &FlistName) -> String {
    match target.repo() == repo {
        true => target.file().to_owned(),
        false => format!("../{target}"),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LinkOrder {
    target: String,
}

impl LinkOrder {
    fn parse(body: &[u8]) -> Result<Self, Refusal> {
        serde_json::from_slice(body)
            .map_err(|error| Refusal::bad_request(format!("the body is no link: {error}")))
    }
}

fn set_link(hub: &Hub, link: &FlistName, target: &FlistName) -> Result<StatusCode, Refusal> {
    let failed = || Refusal::failed(format!("move link {link}"));
    let _publishing = hub.publishing();
    if names::is_versioned(link) {
        let message = format!("{link} is the name of a version, and a version does not move");
        return Err(Refusal::conflict(message));
    }
    require_flist(hub, target)?;
    let stored = stored_target(link.repo(), target);
    let status = match hub.layout.entry(link).map_err(failed())?.map(|found| found.object) {
        None => StatusCode::CREATED,
        Some(Object::Link(now)) if now == stored => return Ok(StatusCode::OK),
        Some(Object::Link(_)) => StatusCode::OK,
        Some(_) => return Err(Refusal::conflict(format!("{link} is not a link; choose another name"))),
    };
    place(hub, link.repo(), link.file(), &stored, status)?;
    tracing::info!(%link, %target, "moved");
    Ok(status)
}

fn set_taglink(hub: &Hub, link: &TaglinkName, tag: &TagName) -> Result<StatusCode, Refusal> {
    let failed = || Refusal::failed(format!("move taglink {link}"));
    let _publishing = hub.publishing();
    if !hub.layout.has_tag(tag).map_err(failed())? {
        let message = format!("{tag} is not a tag of this hub; make it first");
        return Err(Refusal::json(StatusCode::NOT_FOUND, message));
    }
    let stored = format!("../{}/{TAG_PREFIX}{}", tag.repo(), tag.tag());
    let present = hub.layout.name(link.repo(), link.name()).map_err(failed())?;
    let status = match present.map(|found| found.object) {
        None => StatusCode::CREATED,
        Some(Object::Link(now)) if now == stored => return Ok(StatusCode::OK),
        Some(Object::Link(now)) if leads_to_tag(&now) => StatusCode::OK,
        Some(_) => return Err(Refusal::conflict(format!("{link} is not a taglink; choose another name"))),
    };
    place(hub, link.repo(), link.name(), &stored, status)?;
    tracing::info!(%link, %tag, "moved");
    Ok(status)
}

/// Refuses targets that are not there, and those that are links themselves and may move.
pub(super) fn require_flist(hub: &Hub, target: &FlistName) -> Result<(), Refusal> {
    let found = hub.layout.entry(target).map_err(Refusal::failed(format!("look for {target}")))?;
    match found.map(|found| found.object) {
        Some(Object::File) => Ok(()),
        Some(_) => Err(Refusal::conflict(format!("{target} is not a flist of this hub; publish it first"))),
        None => {
            let message = format!("{target} is not a flist of this hub; publish it first");
            Err(Refusal::json(StatusCode::NOT_FOUND, message))
        }
    }
}

fn place(hub: &Hub, repo: &str, name: &str, target: &str, status: StatusCode) -> Result<(), Refusal> {
    let failed = || Refusal::failed(format!("move link {repo}/{name}"));
    if status == StatusCode::CREATED {
        hub.room_for_name(repo)?;
    }
    let directory = repo_directory(hub, repo).map_err(failed())?;
    swap_link(&directory, name, target).map_err(failed())
}

fn swap_link(directory: &FilePath, name: &str, target: &str) -> io::Result<()> {
    let temporary =
        tempfile::Builder::new().prefix(temporary::LINK).make_in(directory, |path| symlink(target, path))?;
    temporary.persist(directory.join(name)).map_err(|error| error.error)?;
    sync_directory(directory)
}
