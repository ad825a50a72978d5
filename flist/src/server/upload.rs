//! Publishing flists.
//!
//! A publisher uploads blocks first, then the flist under a versioned name, then moves the link: a
//! reader sees the old release or the new one, both complete. Names change in one step (`rename`), after
//! their content is on the disk.

use std::fs::Permissions;
use std::future::poll_fn;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::pin::Pin;
use std::sync::Arc;

use aws_lc_rs::digest;
use axum::Extension;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tempfile::NamedTempFile;
use tokio::io::AsyncWriteExt;

use super::access::Writer;
use super::answer::{Refusal, json, on_disk};
use super::blocks::sync_directory;
use super::completeness::{self, Wanted};
use super::layout::Object;
use super::{Hub, contents, names, temporary};
use crate::format::{Format, fl};
use crate::hub::{FlistName, MAX_FLIST, Sha256};

/// As many bytes of an upload tell its format.
const START: usize = fl::MAGIC.len();

/// `PUT /api/molt/flist/<repo>/<name>.flist[?replace=1]` with the flist: 201 when the name is new, 200
/// when it had the same content or was replaced, 409 when it is a version that has other content, 422 when it
/// is not a usable flist or blocks of it are missing here.
pub(super) async fn flist(
    State(hub): State<Arc<Hub>>,
    Extension(writer): Extension<Writer>,
    Path((repo, file)): Path<(String, String)>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let name = names::flist(&writer, &repo, &file)?;
    let replace = names::flag(uri.query(), "replace")?;
    let wanted = match hub.strict {
        true => Wanted::Every,
        false => Wanted::by_address(&headers, hub.public_url.as_ref()),
    };
    let incoming = Incoming::receive(&hub, body).await?;
    let turn = hub.turn_to_parse().await;
    let sha256 = incoming.sha256;
    let status = on_disk(move || {
        let _turn = turn;
        incoming.check(&hub, &wanted)?;
        incoming.publish(&hub, &name, replace)
    });
    Ok((status.await?, json(&FlistReceipt { status: "success", sha256 })).into_response())
}

/// The answer to a change that was made.
#[derive(Debug, Serialize)]
pub(super) struct Receipt {
    status: &'static str,
}

impl Default for Receipt {
    fn default() -> Self {
        Self { status: "success" }
    }
}

#[derive(Serialize)]
struct FlistReceipt {
    status: &'static str,
    sha256: Sha256,
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
            start.extend(chunk.iter().take(START - start.len()));
            sha256.update(&chunk);
            writer.write_all(&chunk).await.map_err(failed())?;
        }
        if Format::of(&start).is_none() {
            return Err(Refusal::bad_request(
                "this is no flist: it is neither an SQLite database nor a gzip archive",
            ));
        }
        // Writes of tokio's files end in the background; this waits for them, and then for the disk.
        writer.flush().await.map_err(failed())?;
        writer.sync_all().await.map_err(failed())?;
        Ok(Self { file, sha256: Sha256::finished(sha256.finish()) })
    }

    /// Refuses what nobody could read.
    fn check(&self, hub: &Hub, wanted: &Wanted) -> Result<(), Refusal> {
        let failed = || Refusal::failed("look into an upload");
        let unusable =
            |reason| Refusal::json(StatusCode::UNPROCESSABLE_ENTITY, format!("cannot use it: {reason}"));
        let tree = contents::read(self.file.as_file()).map_err(failed())?.map_err(unusable)?;
        let missing = completeness::missing(&hub.layout, &tree, wanted).map_err(failed())?;
        if missing.count == 0 { Ok(()) } else { Err(Refusal::Incomplete(missing)) }
    }

    fn publish(self, hub: &Hub, name: &FlistName, replace: bool) -> Result<StatusCode, Refusal> {
        let failed = || Refusal::failed(format!("publish flist {name}"));
        let _publishing = hub.publishing();
        let present = hub.layout.entry(name).map_err(failed())?;
        match present.as_ref().map(|found| &found.object) {
            None => hub.room_for_name(name.repo())?,
            Some(Object::File) if self.is_at(hub, name).map_err(failed())? => return Ok(StatusCode::OK),
            Some(Object::File) if replace || !names::is_versioned(name) => {}
            Some(Object::File) => {
                let message = format!("{name} exists with other content; publish a new version");
                return Err(Refusal::overridable(message, "replace=1"));
            }
            Some(_) => {
                return Err(Refusal::conflict(format!(
                    "{name} is a link; publish under another name and move the link"
                )));
            }
        }
        let directory = repo_directory(hub, name.repo()).map_err(failed())?;
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

/// The directory of a repo, made when it is not there; never one behind a link.
pub(super) fn repo_directory(hub: &Hub, repo: &str) -> io::Result<std::path::PathBuf> {
    let path = hub.layout.repo_path(repo);
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
        .prefix(temporary::UPLOAD)
        .permissions(Permissions::from_mode(0o644))
        .tempfile_in(hub.layout.users_path())
}

async fn next_chunk(body: &mut Body) -> Result<Option<Bytes>, Refusal> {
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
        let frame = frame.map_err(|error| Refusal::bad_request(format!("the upload broke off: {error}")))?;
        // The other kind of frame has trailers, which mean nothing here.
        if let Ok(chunk) = frame.into_data() {
            return Ok(Some(chunk));
        }
    }
    Ok(None)
}
