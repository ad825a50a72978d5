//! Flists as files, with conditional requests (RFC 9110 §13) and parts (§14), and what is said about one.

use std::fs::{File, Metadata};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG,
    IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED,
};
use axum::http::{HeaderMap, HeaderName, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use tokio::io::AsyncReadExt;
use tokio_util::io::ReaderStream;

use super::answer::{Refusal, on_disk};
use super::contents::Summary;
use super::range::{self, Part};
use super::{Hub, pages};
use crate::hub::{FlistName, TagName};

/// How much of a flist is read at once, in bytes. Small, because many nodes ask for a new release at the same
/// moment, and each keeps a few of these while it is answered.
pub(super) const CHUNK: usize = 16 * 1024;

const PLAIN: [(HeaderName, &str); 1] = [(CONTENT_TYPE, "text/plain; charset=utf-8")];

/// The end of the year 9999, in seconds since 1970.
const LAST_HTTP_DATE: u64 = 253_402_300_799;

/// `GET /<repo>/<name>.flist`: the flist; with another ending behind it, something about it:
/// `.md5` its digest and a newline, `.txt` a few lines, `.md` a page for a browser.
pub(super) async fn named(
    State(hub): State<Arc<Hub>>,
    Path((repo, file)): Path<(String, String)>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let (file, about) = match file.rsplit_once(".flist") {
        Some((stem, about)) => (format!("{stem}.flist"), about),
        None => return Err(Refusal::Page),
    };
    let name = FlistName::new(&repo, &file).map_err(|_| Refusal::Page)?;
    match about {
        "" => {
            let opened = move |hub: &Hub| hub.layout.open_flist(&name);
            send(hub, opened, &method, &headers).await
        }
        ".md5" => md5(hub, name).await,
        ".txt" => text(hub, name).await,
        ".md" => pages::flist(hub, name).await,
        _ => Err(Refusal::Page),
    }
}

/// `GET /<repo>/tags/<tag>/<name>.flist`.
pub(super) async fn tagged(
    State(hub): State<Arc<Hub>>,
    Path((repo, tag, file)): Path<(String, String, String)>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let tag = TagName::new(&repo, &tag).map_err(|_| Refusal::Page)?;
    // The same rules as for flists.
    let file = FlistName::new(&repo, &file).map_err(|_| Refusal::Page)?;
    let opened = move |hub: &Hub| hub.layout.open_tagged(&tag, file.file());
    send(hub, opened, &method, &headers).await
}

/// A body of `length` bytes of a file from where it stands, read as they are sent, `chunk` bytes at once.
pub(super) fn stream(file: File, length: u64, chunk: usize) -> Body {
    let mut file = tokio::fs::File::from_std(file);
    file.set_max_buf_size(chunk);
    Body::from_stream(ReaderStream::with_capacity(file.take(length), chunk))
}

async fn send(
    hub: Arc<Hub>,
    open: impl FnOnce(&Hub) -> io::Result<Option<File>> + Send + 'static,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Response, Refusal> {
    let (mut file, metadata, etag) = on_disk(move || {
        let failed = || Refusal::failed("read a flist");
        let file = open(&hub).map_err(failed())?.ok_or(Refusal::Page)?;
        let metadata = file.metadata().map_err(failed())?;
        let digests = hub.digests.of(&file, &metadata).map_err(failed())?;
        Ok((file, metadata, digests.etag()))
    })
    .await?;
    let (modified, length) = (whole_seconds(&metadata), metadata.len());
    let known = [
        (ETAG, etag.clone()),
        (LAST_MODIFIED, httpdate::fmt_http_date(modified)),
        (CACHE_CONTROL, "no-cache".to_owned()),
    ];
    if is_known(headers, &etag, modified) {
        return Ok((StatusCode::NOT_MODIFIED, known).into_response());
    }
    let content = |length: u64| {
        [
            (CONTENT_DISPOSITION, "inline".to_owned()),
            (CONTENT_TYPE, "application/octet-stream".to_owned()),
            (CONTENT_LENGTH, length.to_string()),
        ]
    };
    // Ranges are defined for GET only.
    let part =
        if *method == Method::GET { range::requested(headers, length, &etag, modified) } else { Part::Whole };
    match part {
        Part::Whole => Ok((known, content(length), stream(file, length, CHUNK)).into_response()),
        Part::Bytes { first, last } => {
            file.seek(SeekFrom::Start(first)).map_err(Refusal::failed("read a part of a flist"))?;
            let partial = [
                (CONTENT_RANGE, format!("bytes {first}-{last}/{length}")),
                (ACCEPT_RANGES, "bytes".to_owned()),
            ];
            let length = last - first + 1;
            let body = stream(file, length, CHUNK);
            Ok((StatusCode::PARTIAL_CONTENT, known, content(length), partial, body).into_response())
        }
        Part::Beyond => {
            let whole = [(CONTENT_RANGE, format!("bytes */{length}"))];
            Ok((StatusCode::RANGE_NOT_SATISFIABLE, whole).into_response())
        }
    }
}

async fn md5(hub: Arc<Hub>, name: FlistName) -> Result<Response, Refusal> {
    let digest = on_disk(move || {
        let failed = || Refusal::failed(format!("read flist {name}"));
        let file = hub.layout.open_flist(&name).map_err(failed())?.ok_or(Refusal::Page)?;
        let metadata = file.metadata().map_err(failed())?;
        Ok(hub.digests.of(&file, &metadata).map_err(failed())?.md5)
    });
    Ok((PLAIN, hex::encode(digest.await?) + "\n").into_response())
}

async fn text(hub: Arc<Hub>, name: FlistName) -> Result<Response, Refusal> {
    let turn = hub.turn_to_parse().await;
    let text = on_disk(move || {
        let _turn = turn;
        let failed = || Refusal::failed(format!("read flist {name}"));
        let file = hub.layout.open_flist(&name).map_err(failed())?.ok_or(Refusal::Page)?;
        let metadata = file.metadata().map_err(failed())?;
        let digests = hub.digests.of(&file, &metadata).map_err(failed())?;
        let mut text = format!("File:     {}\nUploader: {}\n", name.file(), name.repo());
        if let Ok(summary) = Summary::of(&hub, &file).map_err(failed())?.as_ref() {
            summary.routes.iter().for_each(|route| text.push_str(&format!("Storage:  {route}\n")));
        }
        text.push_str(&format!("Checksum: {}\nSHA-256:  {}\n", hex::encode(digests.md5), digests.sha256));
        Ok(text)
    });
    Ok((PLAIN, text.await?).into_response())
}

/// Whether the client has this content. `If-None-Match` counts alone when it is there, because it is
/// exact where the other has a resolution of a second.
fn is_known(headers: &HeaderMap, etag: &str, modified: SystemTime) -> bool {
    if headers.contains_key(IF_NONE_MATCH) {
        let lists = headers.get_all(IF_NONE_MATCH).into_iter().filter_map(|value| value.to_str().ok());
        // Tags of this hub have no commas, so a quoted comma only splits tags that match nothing.
        return lists
            .flat_map(|list| list.split(','))
            .map(|tag| tag.trim())
            .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag);
    }
    let since = headers.get(IF_MODIFIED_SINCE).and_then(|value| value.to_str().ok());
    since.and_then(|date| httpdate::parse_http_date(date).ok()).is_some_and(|since| modified <= since)
}

/// HTTP dates have no fractions, none before 1970 and four digits for the year.
fn whole_seconds(metadata: &Metadata) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(metadata.mtime()).unwrap_or(0).min(LAST_HTTP_DATE))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderName;

    use super::*;

    const ETAG_HERE: &str = "\"abc\"";

    fn known(headers: &[(HeaderName, &'static str)]) -> bool {
        let headers = headers.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect();
        is_known(&headers, ETAG_HERE, UNIX_EPOCH + Duration::from_secs(86_400))
    }

    #[test]
    fn tags_are_compared_weakly_and_in_lists() {
        for value in ["\"abc\"", "W/\"abc\"", "*", "\"x\", \"abc\"", "\"x\",W/\"abc\""] {
            assert!(known(&[(IF_NONE_MATCH, value)]), "{value}");
        }
        for value in ["\"abcd\"", "abc", ""] {
            assert!(!known(&[(IF_NONE_MATCH, value)]), "{value}");
        }
    }

    #[test]
    fn dates_count_only_without_tags() {
        let (same, later, earlier) = (
            "Fri, 02 Jan 1970 00:00:00 GMT",
            "Sat, 03 Jan 1970 00:00:00 GMT",
            "Thu, 01 Jan 1970 00:00:00 GMT",
        );
        assert!(known(&[(IF_MODIFIED_SINCE, same)]));
        assert!(known(&[(IF_MODIFIED_SINCE, later)]));
        assert!(!known(&[(IF_MODIFIED_SINCE, earlier)]));
        assert!(!known(&[(IF_MODIFIED_SINCE, "yesterday")]));
        assert!(!known(&[(IF_NONE_MATCH, "\"x\""), (IF_MODIFIED_SINCE, later)]));
        assert!(known(&[(IF_NONE_MATCH, "\"abc\""), (IF_MODIFIED_SINCE, earlier)]));
    }
}
