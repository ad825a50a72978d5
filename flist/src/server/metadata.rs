//! The metadata that nodes check releases against, as any web server could serve it:
//!
//! ```text
//! ROOT/trust/1.root.json … timestamp.json        GET /trust/<file>
//! ROOT/director/1.root.json … timestamp.json     GET /director/<file>
//! ```
//! The hub does not check signatures: it could not be believed anyway. It only keeps a publisher's mistake from
//! taking back what nodes have seen: a numbered file never changes, and the timestamp's version does not fall.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use super::access::Writer;
use super::answer::{Refusal, json, on_disk};
use super::blocks::sync_directory;
use super::upload::Receipt;
use super::{Hub, download, temporary};

/// Longest metadata file, in bytes.
pub(super) const MAX_METADATA: usize = 5_000_000;

/// The only file that changes.
const TIMESTAMP: &str = "timestamp.json";

/// `GET /trust/<file>.json`; other files are of a repo of this name.
pub(super) async fn trust(
    state: State<Arc<Hub>>,
    Path(file): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    get("trust", state, file, method, headers).await
}

/// `GET /director/<file>.json`; other files are of a repo of this name.
pub(super) async fn director(
    state: State<Arc<Hub>>,
    Path(file): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    get("director", state, file, method, headers).await
}

async fn get(
    repository: &'static str,
    State(hub): State<Arc<Hub>>,
    file: String,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    if !is_metadata(&file) {
        return download::named(State(hub), Path((repository.to_owned(), file)), method, headers).await;
    }
    let path = hub.metadata.join(repository).join(file);
    let bytes = on_disk(move || match std::fs::read(&path) {
        Ok(bytes) => Ok(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Refusal::Page),
        Err(error) => Err(Refusal::failed("read metadata")(error)),
    });
    let head = [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-cache")];
    Ok((head, bytes.await?).into_response())
}

/// `PUT /api/molt/metadata/<trust|director>/<file>.json`: 201 when it is new, 200 when it is there already or was
/// replaced, 409 when it would take something back.
pub(super) async fn put(
    State(hub): State<Arc<Hub>>,
    Extension(writer): Extension<Writer>,
    Path((repository, file)): Path<(String, String)>,
    body: Bytes,
) -> Result<Response, Refusal> {
    if !matches!(repository.as_str(), "trust" | "director") || !is_metadata(&file) {
        return Err(Refusal::bad_request(format!("{repository}/{file} is not the name of metadata")));
    }
    writer.may_change(&repository)?;
    let version = version(&body)
        .ok_or_else(|| Refusal::bad_request("this is no metadata: it has no signed version".to_owned()))?;
    let status = on_disk(move || keep(&hub, hub.metadata.join(repository), &file, &body, version));
    Ok((status.await?, json(&Receipt::default())).into_response())
}

fn keep(hub: &Hub, directory: PathBuf, file: &str, bytes: &[u8], new: u64) -> Result<StatusCode, Refusal> {
    let failed = || Refusal::failed(format!("keep {file}"));
    let _publishing = hub.publishing();
    let path = directory.join(file);
    let status = match std::fs::read(&path) {
        Ok(old) if old == bytes => return Ok(StatusCode::OK),
        Ok(_) if file != TIMESTAMP => {
            return Err(Refusal::conflict(format!(
                "{file} is there already, and a numbered file never changes"
            )));
        }
        Ok(old) => match version(&old) {
            Some(old) if old >= new => {
                let message = format!("the hub has version {old} of {file}, and this is version {new}");
                return Err(Refusal::conflict(message));
            }
            _ => StatusCode::OK,
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => StatusCode::CREATED,
        Err(error) => return Err(failed()(error)),
    };
    let written = || {
        use io::Write;
        if !directory.is_dir() {
            std::fs::create_dir_all(&directory)?;
            sync_directory(&hub.metadata)?;
        }
        // Any web server may serve it.
        let mut temporary = tempfile::Builder::new()
            .prefix(temporary::UPLOAD)
            .permissions(Permissions::from_mode(0o644))
            .tempfile_in(&directory)?;
        temporary.write_all(bytes)?;
        temporary.as_file().sync_all()?;
        temporary.persist(&path).map_err(|error| error.error)?;
        sync_directory(&directory)
    };
    written().map_err(failed())?;
    tracing::info!(file, version = new, "metadata");
    Ok(status)
}

fn version(bytes: &[u8]) -> Option<u64> {
    serde_json::from_slice::<Value>(bytes).ok()?["signed"]["version"].as_u64()
}

/// `<number>.<role>.json` and `timestamp.json`, where a role's odd characters are quoted.
fn is_metadata(file: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_%~".contains(&byte);
    let numbered = || {
        let number = file.split_once('.').map_or("", |(number, _)| number);
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    };
    file.len() <= 200
        && file.ends_with(".json")
        && file.bytes().all(plain)
        && (file == TIMESTAMP || numbered())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_metadata_has_names_of_metadata() {
        for good in ["timestamp.json", "1.root.json", "12.prod.json", "1.%2Fx.json"] {
            assert!(is_metadata(good), "{good}");
        }
        for bad in
            ["root.json", ".json", "../1.root.json", "1.a/b.json", "x.flist", "1.root.json.new", "x.1.json"]
        {
            assert!(!is_metadata(bad), "{bad}");
        }
    }
}
