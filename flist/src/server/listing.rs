//! What the hub has: the listings of the 0-hub's REST interface.

use std::io;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::header::ALLOW;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};

use super::answer::{Refusal, json, on_disk};
use super::layout::{Found, Layout, Object, TAG_PREFIX};
use super::tags::Tagged;
use super::{Hub, contents};
use crate::hub::{
    FlistName, Kind, Light, ListingEntry, Repository, TagName, TaglinkName, TaglinkTarget, check_component,
};

/// `GET /api/flist`: every `repo/file`.
pub(super) async fn all(State(hub): State<Arc<Hub>>) -> Result<Response, Refusal> {
    let names = on_disk(move || every_name(&hub.layout).map_err(Refusal::failed("list the repos"))).await?;
    Ok(json(&names))
}

/// `GET /api/repositories`.
pub(super) async fn repositories(State(hub): State<Arc<Hub>>) -> Result<Response, Refusal> {
    let repos = on_disk(move || hub.layout.repos().map_err(Refusal::failed("list the repos"))).await?;
    let entry = |(name, updated)| Repository { name, official: false, updated };
    Ok(json(&repos.into_iter().map(entry).collect::<Vec<_>>()))
}

/// `GET /api/flist/<repo>`. An unknown repo gets the page for people, as on the 0-hub.
pub(super) async fn repo(State(hub): State<Arc<Hub>>, Path(repo): Path<String>) -> Result<Response, Refusal> {
    check_component(&repo).map_err(|_| Refusal::Page)?;
    let entries = on_disk(move || {
        let failed = Refusal::failed(format!("list repo {repo}"));
        describe_repo(&hub.layout, &repo).map_err(failed)
    });
    entries.await?.map(|entries| json(&entries)).ok_or(Refusal::Page)
}

/// `GET /api/flist/<repo>/<flist>/light`; the `.flist` at the end of the name may be left out.
pub(super) async fn light(
    State(hub): State<Arc<Hub>>,
    Path((repo, flist)): Path<(String, String)>,
) -> Result<Response, Refusal> {
    let light = on_disk(move || {
        let name = known_flist(&hub, &repo, &flist)?;
        let described = describe(&hub, &name).map_err(Refusal::failed(format!("describe flist {name}")))?;
        described.ok_or_else(|| not_found("source not found"))
    });
    Ok(json(&light.await?))
}

/// `GET /api/flist/<repo>/tags/<tag>`. An unknown tag gets the page for people, as on the 0-hub.
pub(super) async fn tag(
    State(hub): State<Arc<Hub>>,
    Path((repo, tag)): Path<(String, String)>,
) -> Result<Response, Refusal> {
    let tag = TagName::new(&repo, &tag).map_err(|_| Refusal::Page)?;
    let entries = on_disk(move || {
        let failed = Refusal::failed(format!("list tag {tag}"));
        hub.layout.tag_entries(&tag).map_err(failed)
    });
    let entries = entries.await?.ok_or(Refusal::Page)?;
    Ok(json(&entries.into_iter().map(tag_entry).collect::<Vec<_>>()))
}

/// `GET /api/flist/<repo>/<link>/taglink`, whether the tag exists or not.
pub(super) async fn taglink(
    State(hub): State<Arc<Hub>>,
    Path((repo, name)): Path<(String, String)>,
) -> Result<Response, Refusal> {
    let name = name.strip_suffix(".flist").unwrap_or(&name).to_owned();
    let target = on_disk(move || {
        known_repo(&hub, &repo)?;
        let link = TaglinkName::new(&repo, &name).map_err(|_| not_found("source not found"))?;
        let failed = Refusal::failed(format!("read taglink {link}"));
        match hub.layout.name(link.repo(), link.name()).map_err(failed)?.map(|found| found.object) {
            Some(Object::Link(target)) if leads_to_tag(&target) => Ok(shown(&target)),
            _ => Err(not_found("source not found")),
        }
    });
    Ok(json(&TaglinkTarget { target: target.await? }))
}

/// `INFO /api/flist/<repo>/<flist>`: the same as [`light`]; `GET`: [`contents::full`].
pub(super) async fn info(
    method: Method,
    state: State<Arc<Hub>>,
    path: Path<(String, String)>,
) -> Result<Response, Refusal> {
    match method.as_str() {
        "INFO" => light(state, path).await,
        "GET" | "HEAD" => contents::full(state, path).await,
        _ => {
            let refusal = Refusal::json(StatusCode::METHOD_NOT_ALLOWED, "use GET or INFO");
            Ok(([(ALLOW, "GET, HEAD, INFO")], refusal).into_response())
        }
    }
}

/// A flist as the REST interface names it, with or without `.flist`; refused when its repo is not there.
pub(super) fn known_flist(hub: &Hub, repo: &str, flist: &str) -> Result<FlistName, Refusal> {
    known_repo(hub, repo)?;
    let file = if flist.ends_with(".flist") { flist.to_owned() } else { format!("{flist}.flist") };
    FlistName::new(repo, &file).map_err(|_| not_found("source not found"))
}

fn known_repo(hub: &Hub, repo: &str) -> Result<(), Refusal> {
    let known = check_component(repo).is_ok()
        && hub.layout.has_repo(repo).map_err(Refusal::failed(format!("open repo {repo}")))?;
    if known { Ok(()) } else { Err(not_found("user not found")) }
}

pub(super) fn not_found(message: &str) -> Refusal {
    Refusal::json(StatusCode::NOT_FOUND, message)
}

fn every_name(layout: &Layout) -> io::Result<Vec<String>> {
    let mut all = Vec::new();
    for (repo, _) in layout.repos()? {
        let entries = layout.entries(&repo)?.unwrap_or_default();
        all.extend(entries.into_iter().map(|found| format!("{repo}/{}", found.name)));
    }
    Ok(all)
}

pub(super) fn describe_repo(layout: &Layout, repo: &str) -> io::Result<Option<Vec<ListingEntry>>> {
    let Some(found) = layout.entries(repo)? else { return Ok(None) };
    let entries = found.into_iter().map(|found| listing_entry(layout, repo, found));
    entries.filter_map(Result::transpose).collect::<io::Result<_>>().map(Some)
}

fn listing_entry(layout: &Layout, repo: &str, found: Found) -> io::Result<Option<ListingEntry>> {
    let Found { name, object, size, modified } = found;
    let regular = |name, size, updated| ListingEntry {
        name,
        size: kilobytes(size),
        updated,
        linktime: None,
        kind: Kind::Regular,
        target: None,
    };
    Ok(match object {
        Object::File => Some(regular(name, size, modified)),
        Object::Directory => name.strip_prefix(TAG_PREFIX).map(|tag| ListingEntry {
            size: "0 KB".to_owned(),
            kind: Kind::Tag,
            ..regular(tag.to_owned(), 0, modified)
        }),
        Object::Link(target) => {
            // By the target, so that it is the destination's even while the link moves.
            let (size, updated) = layout.target_destination(repo, &target)?.unwrap_or((size, modified));
            Some(ListingEntry {
                linktime: Some(modified),
                kind: if leads_to_tag(&target) { Kind::Taglink } else { Kind::Symlink },
                target: Some(shown(&target)),
                ..regular(name, size, updated)
            })
        }
    })
}

/// None for what is neither a flist nor a link to one. What is said of a link's destination is asked by the
/// link's target and not by its name, so that it never mixes two destinations while the link moves.
pub(super) fn describe(hub: &Hub, name: &FlistName) -> io::Result<Option<Light>> {
    match hub.layout.entry(name)? {
        Some(found) => describe_found(hub, name, found),
        None => Ok(None),
    }
}

fn describe_found(hub: &Hub, name: &FlistName, found: Found) -> io::Result<Option<Light>> {
    let target = match found.object {
        Object::File => None,
        Object::Link(target) if !leads_to_tag(&target) => Some(target),
        Object::Link(_) | Object::Directory => return Ok(None),
    };
    let light = Light {
        name: found.name,
        size: found.size,
        updated: found.modified,
        kind: if target.is_some() { Kind::Symlink } else { Kind::Regular },
        md5: None,
        linktime: target.is_some().then_some(found.modified),
        target,
    };
    // Length, time and digest come from one opened file, so they belong together while names move.
    let file = match &light.target {
        Some(target) => hub.layout.open_target(name.repo(), target)?,
        None => hub.layout.open_flist(name)?,
    };
    let Some(file) = file else { return Ok(Some(light)) };
    let metadata = file.metadata()?;
    let digests = hub.digests.of(&file, &metadata)?;
    Ok(Some(Light {
        size: metadata.len(),
        updated: std::os::unix::fs::MetadataExt::mtime(&metadata),
        md5: Some(hex::encode(digests.md5)),
        ..light
    }))
}

fn tag_entry(entry: Tagged) -> ListingEntry {
    let (size, updated) = entry.destination.unwrap_or((entry.link_size, entry.linked));
    ListingEntry {
        name: entry.name,
        size: kilobytes(size),
        updated,
        linktime: Some(entry.linked),
        kind: Kind::Symlink,
        target: Some(shown(&entry.target)),
    }
}

/// A link's target as listings show it: `<repo>/<name>.flist` or `<repo>/tags/<tag>`.
fn shown(target: &str) -> String {
    target.replace("../", "").replace(TAG_PREFIX, "tags/")
}

pub(super) fn leads_to_tag(target: &str) -> bool {
    target.contains("/.tag-")
}

#[expect(clippy::cast_precision_loss, reason = "two decimals for people")]
fn kilobytes(bytes: u64) -> String {
    format!("{:.2} KB", bytes as f64 / 1024.0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::super::ServerConfig;
    use super::*;

    #[test]
    fn a_description_is_of_one_destination_while_the_link_moves() {
        let root = tempfile::tempdir().unwrap();
        let hub = Hub::open(&ServerConfig::new(root.path())).unwrap();
        let repo = hub.layout.repo_path("a");
        std::fs::create_dir(&repo).unwrap();
        let targets = ["4444.flist", "333.flist"];
        for target in targets {
            std::fs::write(repo.join(target), target).unwrap();
        }
        symlink(targets[0], repo.join("link.flist")).unwrap();
        let done = AtomicBool::new(false);
        let moves = || {
            for target in targets.iter().cycle().take_while(|_| !done.load(Ordering::Relaxed)) {
                symlink(target, repo.join(".next")).unwrap();
                std::fs::rename(repo.join(".next"), repo.join("link.flist")).unwrap();
                // Leaves the link alone for the time of a few descriptions.
                std::thread::sleep(std::time::Duration::from_micros(50));
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(moves);
            let link = FlistName::new("a", "link.flist").unwrap();
            let whole = |light: &Light| light.target.as_ref().is_some_and(|to| to.len() as u64 == light.size);
            let lights = (0..10_000).map(|_| describe(&hub, &link));
            let mixed = lights.filter(|light| !matches!(light, Ok(Some(light)) if whole(light))).count();
            done.store(true, Ordering::Relaxed);
            assert_eq!(mixed, 0);
        });
    }

    #[test]
    fn lengths_are_those_of_the_public_hub() {
        assert_eq!(kilobytes(3876), "3.79 KB");
        assert_eq!(kilobytes(0), "0.00 KB");
    }
}
