//! Taking things off the hub. What others point to stays, unless it is forced.

use std::fs;
use std::io;
use std::path::Path as FilePath;
use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::Uri;
use axum::response::Response;

use super::access::Writer;
use super::answer::{Refusal, json, on_disk};
use super::blocks::sync_directory;
use super::layout::{Object, TAG_PREFIX};
use super::listing::{leads_to_tag, not_found};
use super::tags::tagged_flist;
use super::upload::Receipt;
use super::{Hub, names, temporary};
use crate::hub::{FlistName, TagName, TaglinkName, target_name};

/// Most names that a refusal lists.
const MAX_NAMED: usize = 20;

/// `DELETE /api/molt/flist/<repo>/<name>.flist[?force=1]`: 409 naming the links and tags that point to it.
pub(super) async fn flist(
    hub: State<Arc<Hub>>,
    writer: Extension<Writer>,
    path: Path<(String, String)>,
    uri: Uri,
) -> Result<Response, Refusal> {
    flist_or_link(hub, writer, path, uri, |name, object| match object {
        Object::File => Ok(()),
        _ => Err(Refusal::conflict(format!("{name} is not a flist but a link; remove it as a link"))),
    })
    .await
}

/// `DELETE /api/molt/link/<repo>/<link>.flist[?force=1]`.
pub(super) async fn link(
    hub: State<Arc<Hub>>,
    writer: Extension<Writer>,
    path: Path<(String, String)>,
    uri: Uri,
) -> Result<Response, Refusal> {
    flist_or_link(hub, writer, path, uri, |name, object| match object {
        Object::Link(_) => Ok(()),
        _ => Err(Refusal::conflict(format!("{name} is not a link; remove it as a flist"))),
    })
    .await
}

/// Flists and links have names of the same form; which of them it is gets checked.
async fn flist_or_link(
    State(hub): State<Arc<Hub>>,
    Extension(writer): Extension<Writer>,
    Path((repo, file)): Path<(String, String)>,
    uri: Uri,
    check: fn(&FlistName, &Object) -> Result<(), Refusal>,
) -> Result<Response, Refusal> {
    let name = names::flist(&writer, &repo, &file)?;
    let force = names::flag(uri.query(), "force")?;
    on_disk(move || {
        let _publishing = hub.publishing();
        remove_file(&hub, &name, force, check)
    })
    .await
}

/// `DELETE /api/molt/tag/<repo>/<tag>[?force=1]`: 409 naming the taglinks that point to it.
pub(super) async fn tag(
    State(hub): State<Arc<Hub>>,
    Extension(writer): Extension<Writer>,
    Path((repo, tag)): Path<(String, String)>,
    uri: Uri,
) -> Result<Response, Refusal> {
    let tag = names::tag(&writer, &repo, &tag)?;
    let force = names::flag(uri.query(), "force")?;
    on_disk(move || {
        let _publishing = hub.publishing();
        remove_tag(&hub, &tag, force)
    })
    .await
}

/// `DELETE /api/molt/taglink/<repo>/<name>`.
pub(super) async fn taglink(
    State(hub): State<Arc<Hub>>,
    Extension(writer): Extension<Writer>,
    Path((repo, name)): Path<(String, String)>,
) -> Result<Response, Refusal> {
    let link = names::taglink(&writer, &repo, &name)?;
    on_disk(move || {
        let _publishing = hub.publishing();
        remove_taglink(&hub, &link)
    })
    .await
}

fn remove_file(
    hub: &Hub,
    name: &FlistName,
    force: bool,
    check: fn(&FlistName, &Object) -> Result<(), Refusal>,
) -> Result<Response, Refusal> {
    let failed = || Refusal::failed(format!("remove {name}"));
    let found = hub.layout.entry(name).map_err(failed())?.ok_or_else(|| not_found("source not found"))?;
    check(name, &found.object)?;
    if !force {
        refuse_if_needed(&name.to_string(), &pointing_to_flist(hub, name).map_err(failed())?)?;
    }
    remove_name(&hub.layout.repo_path(name.repo()), name.file()).map_err(failed())?;
    tracing::info!(%name, "removed");
    Ok(json(&Receipt::default()))
}

fn remove_tag(hub: &Hub, tag: &TagName, force: bool) -> Result<Response, Refusal> {
    let failed = || Refusal::failed(format!("remove tag {tag}"));
    if !hub.layout.has_tag(tag).map_err(failed())? {
        return Err(not_found("source not found"));
    }
    if !force {
        refuse_if_needed(&tag.to_string(), &pointing_to_tag(hub, tag).map_err(failed())?)?;
    }
    rename_away(&hub.layout.repo_path(tag.repo()), &hub.layout.tag_path(tag)).map_err(failed())?;
    tracing::info!(%tag, "removed");
    Ok(json(&Receipt::default()))
}

fn remove_taglink(hub: &Hub, link: &TaglinkName) -> Result<Response, Refusal> {
    let failed = || Refusal::failed(format!("remove taglink {link}"));
    let found = hub.layout.name(link.repo(), link.name()).map_err(failed())?;
    match found.map(|found| found.object) {
        Some(Object::Link(to)) if leads_to_tag(&to) => {}
        _ => return Err(not_found("source not found")),
    }
    remove_name(&hub.layout.repo_path(link.repo()), link.name()).map_err(failed())?;
    tracing::info!(%link, "removed");
    Ok(json(&Receipt::default()))
}

fn remove_name(directory: &FilePath, name: &str) -> io::Result<()> {
    fs::remove_file(directory.join(name))?;
    sync_directory(directory)
}

/// Takes a directory with what is in it out of sight in one step, before it is emptied.
fn rename_away(repo: &FilePath, tag: &FilePath) -> io::Result<()> {
    let grave = tempfile::Builder::new().prefix(temporary::GONE).tempdir_in(repo)?;
    fs::rename(tag, grave.path().join("tag"))?;
    sync_directory(repo)
}

fn refuse_if_needed(name: &str, by: &[String]) -> Result<(), Refusal> {
    if by.is_empty() {
        return Ok(());
    }
    let more = match by.len().checked_sub(MAX_NAMED) {
        Some(more) if more > 0 => format!(" and {more} more"),
        _ => String::new(),
    };
    let named = by.iter().take(MAX_NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    let message = format!("{name} is still needed by {named}{more}; remove or move these first");
    Err(Refusal::overridable(message, "force=1"))
}

/// The links and tags of all repos that point to a flist.
fn pointing_to_flist(hub: &Hub, flist: &FlistName) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for (repo, _) in hub.layout.repos()? {
        for entry in hub.layout.entries(&repo)?.unwrap_or_default() {
            match entry.object {
                Object::Link(to) if target_name(&repo, &to).is_ok_and(|name| name == *flist) => {
                    found.push(format!("{repo}/{}", entry.name));
                }
                Object::Directory => {
                    let tag = entry.name.strip_prefix(TAG_PREFIX).map(|tag| TagName::new(&repo, tag));
                    let Some(Ok(tag)) = tag else { continue };
                    let entries = hub.layout.tag_entries(&tag)?.unwrap_or_default();
                    if entries
                        .iter()
                        .any(|tagged| tagged_flist(&repo, &tagged.target).as_ref() == Some(flist))
                    {
                        found.push(tag.to_string());
                    }
                }
                Object::Link(_) | Object::File => {}
            }
        }
    }
    Ok(found)
}

/// The taglinks of all repos that point to a tag.
fn pointing_to_tag(hub: &Hub, tag: &TagName) -> io::Result<Vec<String>> {
    let stored = format!("../{}/{TAG_PREFIX}{}", tag.repo(), tag.tag());
    let mut found = Vec::new();
    for (repo, _) in hub.layout.repos()? {
        let entries = hub.layout.entries(&repo)?.unwrap_or_default();
        let links = entries.into_iter().filter(|entry| entry.object == Object::Link(stored.clone()));
        found.extend(links.map(|entry| format!("{repo}/{}", entry.name)));
    }
    Ok(found)
}
