//! Publishing: flists, and the links that channels are.
//!
//! A publisher uploads blocks first, then the flist under a versioned name, then moves the link: a
//! reader sees the old release or the new one, both complete. Names change in one step (`rename`), after
//! their content is on the disk.

use std::fs::Permissions;
use std::future::poll_fn;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::pin::Pin;
use std::sync::Arc;

use aws_lc_rs::digest;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;
use tokio::io::AsyncWriteExt;

use super::Hub;
use super::answer::{Refusal, json, on_disk};
use super::blocks::sync_directory;
use super::layout::Object;
use crate::hub::{FlistName, MAX_FLIST, ReleaseVersion, Sha256};

/// Longest body of a request to move a link, in bytes.
pub(super) const MAX_LINK_BODY: usize = 4 * 1024;

/// How a flist starts: as an SQLite database (fl) or as a gzip archive (classic).
const MAGICS: [&[u8]; 2] = [b"SQLite format 3\0", &[0x1f, 0x8b]];

/// Names that are not repos, because the hub's own addresses start with them.
const RESERVED: [&str; 2] = ["api", "store"];

/// `PUT /api/molt/flist/<repo>/<name>.flist[?replace=1]` with the flist: 201 when the name is new, 200
/// when it had the same content or was replaced, 409 when it is a version that has other content.
pub(super) async fn flist(
    State(hub): State<Arc<Hub>>,
    Path((repo, file)): Path<(String, String)>,
    uri: Uri,
    body: Body,
) -> Result<Response, Refusal> {
    let name = publishable(&repo, &file)?;
    let replace = match uri.query() {
        None | Some("") => false,
        Some("replace=1") => true,
        Some(_) => return Err(refused("the only parameter is replace=1")),
    };
    let incoming = Incoming::receive(&hub, body).await?;
    let sha256 = incoming.sha256;
    let status = on_disk(move || incoming.publish(&hub, &name, replace)).await?;
    Ok((status, json(&FlistReceipt { status: "success", sha256 })).into_response())
}

/// `PUT /api/molt/link/<repo>/<link>.flist` with `{"target": "<name>.flist"}`: 201 when the link is new,
/// 200 when it was moved or is there already, 409 when the target is not a flist of the same repo.
pub(super) async fn link(
    State(hub): State<Arc<Hub>>,
    Path((repo, file)): Path<(String, String)>,
    body: Bytes,
) -> Result<Response, Refusal> {
    let link = publishable(&repo, &file)?;
    let order: LinkOrder =
        serde_json::from_slice(&body).map_err(|error| refused(format!("the body is no link: {error}")))?;
    let target = publishable(&repo, &order.target)?;
    let status = on_disk(move || set_link(&hub, &link, &target)).await?;
    Ok((status, json(&LinkReceipt { status: "success" })).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LinkOrder {
    target: String,
}

#[derive(Serialize)]
struct FlistReceipt {
    status: &'static str,
    sha256: Sha256,
}

#[derive(Serialize)]
struct LinkReceipt {
    status: &'static str,
}

/// A flist that was received and synced but has no name yet.
struct Incoming {
    file: NamedTempFile,
    sha256: Sha256,
}

impl Incoming {
    async fn receive(hub: &Arc<Hub>, mut body: Body) -> Result<Self, Refusal> {
        let failed = || Refusal::failed("keep an upload");
        let too_long =
            || Refusal::json(StatusCode::PAYLOAD_TOO_LARGE, format!("a flist has at most {MAX_FLIST} bytes"));
        if HttpBody::size_hint(&body).lower() > MAX_FLIST {
            return Err(too_long());
        }
        let shared = Arc::clone(hub);
        let file = on_disk(move || temporary(&shared).map_err(failed())).await?;
        let mut writer = tokio::fs::File::from_std(file.as_file().try_clone().map_err(failed())?);
        let (mut sha256, mut length) = (digest::Context::new(&digest::SHA256), 0);
        let mut start = Vec::new();
        while let Some(chunk) = next_chunk(&mut body).await? {
            length += chunk.len() as u64;
            if length > MAX_FLIST {
                return Err(too_long());
            }
            start.extend(chunk.iter().take(MAGICS[0].len() - start.len()));
            sha256.update(&chunk);
            writer.write_all(&chunk).await.map_err(failed())?;
        }
        if !MAGICS.iter().any(|magic| start.starts_with(magic)) {
            return Err(refused("this is no flist: it is neither an SQLite database nor a gzip archive"));
        }
        // Writes of tokio's files end in the background; this waits for them, and then for the disk.
        writer.flush().await.map_err(failed())?;
        writer.sync_all().await.map_err(failed())?;
        Ok(Self { file, sha256: Sha256::finished(sha256.finish()) })
    }

    fn publish(self, hub: &Hub, name: &FlistName, replace: bool) -> Result<StatusCode, Refusal> {
        let failed = || Refusal::failed(format!("publish flist {name}"));
        let _publishing = hub.publishing();
        let present = hub.layout.entry(name).map_err(failed())?;
        match present.as_ref().map(|found| &found.object) {
            None => {}
            Some(Object::File) if self.is_at(hub, name).map_err(failed())? => return Ok(StatusCode::OK),
            Some(Object::File) if replace || !is_versioned(name) => {}
            Some(Object::File) => {
                return Err(conflict(format!(
                    "{name} exists with other content; publish a new version, or replace it with replace=1"
                )));
            }
            Some(_) => {
                return Err(conflict(format!(
                    "{name} is a link; publish under another name and move the link"
                )));
            }
        }
        let directory = repo_directory(hub, name).map_err(failed())?;
        self.file.persist(directory.join(name.file())).map_err(|error| failed()(error.error))?;
        sync_directory(&directory).map_err(failed())?;
        tracing::info!(flist = %name, sha256 = %self.sha256, "published");
        Ok(if present.is_some() { StatusCode::OK } else { StatusCode::CREATED })
    }

    /// Whether the name has this content already.
    fn is_at(&self, hub: &Hub, name: &FlistName) -> io::Result<bool> {
        let Some(file) = hub.layout.open_flist(name)? else { return Ok(false) };
        Ok(hub.digests.of(&file, &file.metadata()?)?.sha256 == self.sha256)
    }
}

fn set_link(hub: &Hub, link: &FlistName, target: &FlistName) -> Result<StatusCode, Refusal> {
    let failed = || Refusal::failed(format!("move link {link}"));
    let _publishing = hub.publishing();
    if is_versioned(link) {
        return Err(conflict(format!("{link} is the name of a version, and a version does not move")));
    }
    if hub.layout.entry(target).map_err(failed())?.is_none_or(|found| found.object != Object::File) {
        return Err(conflict(format!("{target} is not a flist of this hub; publish it first")));
    }
    let present = match hub.layout.entry(link).map_err(failed())?.map(|found| found.object) {
        None => false,
        Some(Object::Link(now)) if now == target.file() => return Ok(StatusCode::OK),
        Some(Object::Link(_)) => true,
        Some(_) => return Err(conflict(format!("{link} is not a link; choose another name"))),
    };
    let directory = repo_directory(hub, link).map_err(failed())?;
    let temporary = tempfile::Builder::new()
        .prefix(".link-")
        .make_in(&directory, |path| symlink(target.file(), path))
        .map_err(failed())?;
    temporary.persist(directory.join(link.file())).map_err(|error| failed()(error.error))?;
    sync_directory(&directory).map_err(failed())?;
    tracing::info!(%link, %target, "moved");
    Ok(if present { StatusCode::OK } else { StatusCode::CREATED })
}

/// The directory of a flist's repo, made when it is not there; never one behind a link.
fn repo_directory(hub: &Hub, name: &FlistName) -> io::Result<std::path::PathBuf> {
    let path = hub.layout.repo_path(name.repo());
    match std::fs::symlink_metadata(&path) {
        Ok(metadata) if metadata.is_dir() => {}
        Ok(_) => return Err(io::Error::new(io::ErrorKind::NotADirectory, "the repo is not a directory")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            std::fs::create_dir(&path)?;
            sync_directory(hub.layout.users_path())?;
        }
        Err(error) => return Err(error),
    }
    Ok(path)
}

/// Beside the repos, so that it can be renamed into one, and that a failed upload makes no repo.
fn temporary(hub: &Hub) -> io::Result<NamedTempFile> {
    tempfile::Builder::new()
        .prefix(".upload-")
        .permissions(Permissions::from_mode(0o644))
        .tempfile_in(hub.layout.users_path())
}

async fn next_chunk(body: &mut Body) -> Result<Option<Bytes>, Refusal> {
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
        let frame = frame.map_err(|error| refused(format!("the upload broke off: {error}")))?;
        // The other kind of frame has trailers, which mean nothing here.
        if let Ok(chunk) = frame.into_data() {
            return Ok(Some(chunk));
        }
    }
    Ok(None)
}

fn publishable(repo: &str, file: &str) -> Result<FlistName, Refusal> {
    let name = FlistName::new(repo, file).map_err(|error| refused(error.to_string()))?;
    if RESERVED.contains(&name.repo()) {
        return Err(refused(format!("no repo can be called '{repo}': addresses of the hub start with it")));
    }
    Ok(name)
}

fn is_versioned(name: &FlistName) -> bool {
    ReleaseVersion::in_name(name).semver().is_some()
}

fn refused(message: impl Into<String>) -> Refusal {
    Refusal::json(StatusCode::BAD_REQUEST, message)
}

fn conflict(message: impl Into<String>) -> Refusal {
    Refusal::json(StatusCode::CONFLICT, message)
}
