//! Flists as files, with conditional requests (RFC 9110 §13).

use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE, ETAG, IF_MODIFIED_SINCE, IF_NONE_MATCH,
    LAST_MODIFIED,
};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use tokio::io::AsyncReadExt;
use tokio_util::io::ReaderStream;

use super::Hub;
use super::answer::{Refusal, on_disk};
use crate::hub::FlistName;

/// How much of a file is read at once, in bytes.
const CHUNK: usize = 64 * 1024;

/// The end of the year 9999, in seconds since 1970.
const LAST_HTTP_DATE: u64 = 253_402_300_799;

/// `GET /<repo>/<name>.flist`.
pub(super) async fn flist(
    State(hub): State<Arc<Hub>>,
    Path((repo, file)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let name = FlistName::new(&repo, &file).map_err(|_| Refusal::Page)?;
    let (file, metadata, etag) = on_disk(move || {
        let failed = || Refusal::failed(format!("read flist {name}"));
        let file = hub.layout.open_flist(&name).map_err(failed())?.ok_or(Refusal::Page)?;
        let metadata = file.metadata().map_err(failed())?;
        let digests = hub.digests.of(&file, &metadata).map_err(failed())?;
        Ok((file, metadata, digests.etag()))
    })
    .await?;
    let modified = whole_seconds(&metadata);
    let known = [
        (ETAG, etag.clone()),
        (LAST_MODIFIED, httpdate::fmt_http_date(modified)),
        (CACHE_CONTROL, "no-cache".to_owned()),
    ];
    if is_known(&headers, &etag, modified) {
        return Ok((StatusCode::NOT_MODIFIED, known).into_response());
    }
    let content = [
        (CONTENT_DISPOSITION, "inline".to_owned()),
        (CONTENT_TYPE, "application/octet-stream".to_owned()),
        (CONTENT_LENGTH, metadata.len().to_string()),
    ];
    Ok((known, content, stream(file, metadata.len())).into_response())
}

/// A body of the first `length` bytes of a file, read as they are sent.
pub(super) fn stream(file: File, length: u64) -> Body {
    Body::from_stream(ReaderStream::with_capacity(tokio::fs::File::from_std(file).take(length), CHUNK))
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
