//! Blocks by id. A block never changes under its id, so it may be kept forever by whoever has it.

use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::SystemTime;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};

use super::Hub;
use super::answer::{Refusal, on_disk};
use super::download::stream;
use super::layout::Layout;
use super::temporary;
use crate::block::{self, BlockId, MAX_STORED};
use crate::store::touch;

/// How much of a block is read at once, in bytes.
const CHUNK: usize = 64 * 1024;

/// `GET /store/<id>`.
pub(super) async fn get(
    method: Method,
    hub: State<Arc<Hub>>,
    Path(id): Path<String>,
) -> Result<Response, Refusal> {
    send(hub, parse(&id)?, method == Method::HEAD).await
}

/// `GET /store/<first 2 digits>/<id>`.
pub(super) async fn get_under_prefix(
    method: Method,
    hub: State<Arc<Hub>>,
    Path((prefix, id)): Path<(String, String)>,
) -> Result<Response, Refusal> {
    send(hub, parse_under_prefix(&prefix, &id)?, method == Method::HEAD).await
}

/// `PUT /store/<first 2 digits>/<id>` with the stored bytes: 201 when it was not there, 200 when it was, 507
/// when the store is full. Blocks are of no repo, so any token will do.
pub(super) async fn put(
    State(hub): State<Arc<Hub>>,
    Path((prefix, id)): Path<(String, String)>,
    stored: Bytes,
) -> Result<Response, Refusal> {
    let id = parse_under_prefix(&prefix, &id)?;
    block::verify(&id, &stored).map_err(|error| Refusal::text(StatusCode::BAD_REQUEST, error.to_string()))?;
    let status = on_disk(move || keep(&hub, &id, &stored));
    Ok((status.await?, format!("{id}\n")).into_response())
}

/// Who only asks whether it is there may be a publisher, who then does not send it.
async fn send(State(hub): State<Arc<Hub>>, id: BlockId, only_asks: bool) -> Result<Response, Refusal> {
    let (file, length) = on_disk(move || {
        let failed = || Refusal::failed(format!("read block {id}"));
        let file = hub.layout.open_block(&id).map_err(failed())?.ok_or_else(|| missing(&id))?;
        if only_asks {
            keep_young(&file, &id);
        }
        let length = file.metadata().map_err(failed())?.len();
        Ok((file, length))
    })
    .await?;
    let headers = [
        (CONTENT_TYPE, "application/octet-stream".to_owned()),
        (CONTENT_LENGTH, length.to_string()),
        (CACHE_CONTROL, "public, max-age=31536000, immutable".to_owned()),
    ];
    Ok((headers, stream(file, length, CHUNK)).into_response())
}

fn parse(id: &str) -> Result<BlockId, Refusal> {
    id.parse().map_err(|error: block::BlockError| Refusal::text(StatusCode::NOT_FOUND, error.to_string()))
}

fn parse_under_prefix(prefix: &str, id: &str) -> Result<BlockId, Refusal> {
    let parsed = parse(id)?;
    match id.get(..2) {
        Some(start) if start == prefix => Ok(parsed),
        _ => Err(missing(&parsed)),
    }
}

/// Blocks are collected by their age: one that a publisher counts on is as good as new.
fn keep_young(file: &File, id: &BlockId) {
    if let Err(error) = touch(file, SystemTime::now()) {
        tracing::warn!(block = %id, %error, "cannot note that a publisher needs a block");
    }
}

fn missing(id: &BlockId) -> Refusal {
    Refusal::text(StatusCode::NOT_FOUND, format!("block {id} is not here"))
}

/// Keeps a verified block. One that is there is compared, so that a damaged one is repaired.
fn keep(hub: &Hub, id: &BlockId, stored: &[u8]) -> Result<StatusCode, Refusal> {
    let failed = || Refusal::failed("keep a block");
    let present = match hub.layout.open_block(id).map_err(failed())? {
        Some(file) if holds(&file, stored).map_err(failed())? => {
            keep_young(&file, id);
            return Ok(StatusCode::OK);
        }
        present => present.is_some(),
    };
    let full = |message| Refusal::text(StatusCode::INSUFFICIENT_STORAGE, message);
    let reserved = hub.quota.reserve(stored.len() as u64).map_err(full)?;
    let is_new = write(&hub.layout, id, stored, present).map_err(failed())?;
    if is_new {
        reserved.used();
        return Ok(StatusCode::CREATED);
    }
    Ok(StatusCode::OK)
}

/// Whether it is new: another request may have written the same block meanwhile. The bytes of a damaged
/// block, which is replaced, count as those of the good one.
fn write(layout: &Layout, id: &BlockId, stored: &[u8], replace: bool) -> io::Result<bool> {
    let directory = layout.block_directory(id);
    if !directory.is_dir() {
        fs::create_dir_all(&directory)?;
        directory.parent().map_or(Ok(()), sync_directory)?;
    }
    let mut temporary = tempfile::Builder::new()
        .prefix(temporary::UPLOAD)
        .permissions(Permissions::from_mode(0o644))
        .tempfile_in(&directory)?;
    temporary.write_all(stored)?;
    temporary.as_file().sync_all()?;
    let path = directory.join(id.to_string());
    if replace {
        temporary.persist(path).map_err(|error| error.error)?;
    } else if let Err(error) = temporary.persist_noclobber(path) {
        return if error.error.kind() == io::ErrorKind::AlreadyExists { Ok(false) } else { Err(error.error) };
    }
    sync_directory(&directory)?;
    Ok(!replace)
}

fn holds(file: &File, stored: &[u8]) -> io::Result<bool> {
    let mut present = Vec::new();
    file.take(MAX_STORED as u64 + 1).read_to_end(&mut present)?;
    Ok(present == stored)
}

/// Makes the names in a directory survive a power cut.
pub(super) fn sync_directory(path: &FilePath) -> io::Result<()> {
    File::open(path)?.sync_all()
}
