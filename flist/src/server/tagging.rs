//! Making tags: a directory is prepared beside the tag and takes its place in one step.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path as FilePath;
use std::sync::Arc;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde::Deserialize;

use super::access::Writer;
use super::answer::{Refusal, json, on_disk};
use super::blocks::sync_directory;
use super::links::require_flist;
use super::tags::Tagged;
use super::upload::{Receipt, repo_directory};
use super::{Hub, names, temporary};
use crate::hub::{FlistName, TagName};

/// Longest body of a request to make a tag, in bytes.
pub(super) const MAX_TAG_BODY: usize = 512 * 1024;

/// Most entries of a tag.
const MAX_ENTRIES: usize = 1000;

/// `PUT /api/molt/tag/<repo>/<tag>[?replace=1]` with `{"entries": {"<name>.flist": "<repo>/<file>.flist"}}`: 201
/// when the tag is new, 200 when it had these entries or they were replaced, 409 when it is a version with
/// other entries or a target is not a flist of this hub.
pub(super) async fn put(
    State(hub): State<Arc<Hub>>,
    Extension(writer): Extension<Writer>,
    Path((repo, tag)): Path<(String, String)>,
    uri: Uri,
    body: Bytes,
) -> Result<Response, Refusal> {
    let tag = names::tag(&writer, &repo, &tag)?;
    let replace = names::flag(uri.query(), "replace")?;
    let entries = parse(&tag, &body)?;
    let status = on_disk(move || set_tag(&hub, &tag, &entries, replace)).await?;
    Ok((status, json(&Receipt::default())).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TagOrder {
    entries: BTreeMap<String, FlistName>,
}

/// The entries by name, with their targets as they are stored.
fn parse(tag: &TagName, body: &[u8]) -> Result<BTreeMap<FlistName, FlistName>, Refusal> {
    let order: TagOrder = serde_json::from_slice(body)
        .map_err(|error| Refusal::bad_request(format!("the body is no tag: {error}")))?;
    if order.entries.is_empty() || order.entries.len() > MAX_ENTRIES {
        return Err(Refusal::bad_request(format!("a tag has 1 to {MAX_ENTRIES} entries")));
    }
    let named = |(name, target): (String, FlistName)| match FlistName::new(tag.repo(), &name) {
        Ok(name) => Ok((name, target)),
        Err(error) => Err(Refusal::bad_request(format!("an entry of the tag: {error}"))),
    };
    order.entries.into_iter().map(named).collect()
}

fn set_tag(
    hub: &Hub,
    tag: &TagName,
    entries: &BTreeMap<FlistName, FlistName>,
    replace: bool,
) -> Result<StatusCode, Refusal> {
    let failed = || Refusal::failed(format!("make tag {tag}"));
    let _publishing = hub.publishing();
    entries.values().try_for_each(|target| require_flist(hub, target))?;
    let present = hub.layout.tag_entries(tag).map_err(failed())?;
    let links: Vec<(&str, String)> =
        entries.iter().map(|(name, target)| (name.file(), format!("../../{target}"))).collect();
    let same = |now: &Vec<Tagged>| {
        now.iter()
            .map(|entry| (entry.name.as_str(), entry.target.as_str()))
            .eq(links.iter().map(|(name, target)| (*name, target.as_str())))
    };
    match &present {
        Some(now) if same(now) => return Ok(StatusCode::OK),
        Some(_) if tag.version().is_some() && !replace => {
            let message = format!("{tag} exists with other entries; make a tag of a new version");
            return Err(Refusal::overridable(message, "replace=1"));
        }
        Some(_) => {}
        None => hub.room_for_name(tag.repo())?,
    }
    let directory = repo_directory(hub, tag.repo()).map_err(failed())?;
    swap_tag(&directory, &hub.layout.tag_path(tag), &links, present.is_some()).map_err(failed())?;
    tracing::info!(%tag, entries = entries.len(), "tagged");
    Ok(if present.is_some() { StatusCode::OK } else { StatusCode::CREATED })
}

fn swap_tag(repo: &FilePath, tag: &FilePath, links: &[(&str, String)], present: bool) -> io::Result<()> {
    // Its end removes what is under the name by then: nothing, or the tag as it was before.
    let aside = tempfile::Builder::new()
        .prefix(temporary::TAG)
        .permissions(std::fs::Permissions::from_mode(0o755))
        .tempdir_in(repo)?;
    for (name, target) in links {
        symlink(target, aside.path().join(name))?;
    }
    sync_directory(aside.path())?;
    if present {
        renameat_with(CWD, aside.path(), CWD, tag, RenameFlags::EXCHANGE)?;
    } else {
        std::fs::rename(aside.path(), tag)?;
    }
    sync_directory(repo)
}
