//! What the client reads in the answers of a hub.

use reqwest::header::{
    CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED,
};
use reqwest::{Response, Url};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::error::HubError;
use super::name::printable;

/// Longest validator that is kept, in bytes.
const MAX_VALIDATOR: usize = 256;

/// What a hub said about a content, sent back to ask whether it has changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Validators {
    /// The `ETag` header, as it was sent.
    pub etag: Option<String>,
    /// The `Last-Modified` header, as it was sent.
    pub last_modified: Option<String>,
}

/// The answer to a conditional download.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Download {
    /// The content is still the one that the validators came with.
    NotModified,
    /// The content.
    Content {
        /// All of it.
        bytes: Vec<u8>,
        /// What to send next time.
        validators: Validators,
    },
}

impl Validators {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let text = |name: HeaderName| {
            let value = headers.get(name)?.to_str().ok()?;
            (value.len() <= MAX_VALIDATOR).then(|| value.to_owned())
        };
        Self { etag: text(ETAG), last_modified: text(LAST_MODIFIED) }
    }

    pub(super) fn to_headers(&self) -> HeaderMap {
        let values = [(IF_NONE_MATCH, &self.etag), (IF_MODIFIED_SINCE, &self.last_modified)];
        let valid = |(name, value): (HeaderName, &Option<String>)| {
            Some((name, HeaderValue::from_str(value.as_deref()?).ok()?))
        };
        values.into_iter().filter_map(valid).collect()
    }
}

/// Whether a body was read to its end.
pub(super) enum Ending {
    Whole,
    Cut,
}

/// What an error needs to know of an answer after its body has been read.
pub(super) struct AnswerHead {
    pub(super) url: String,
    status: u16,
    content_type: String,
}

impl AnswerHead {
    pub(super) fn of(url: &Url, response: &Response) -> Self {
        let content_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        Self {
            url: url.to_string(),
            status: response.status().as_u16(),
            content_type: printable(content_type.unwrap_or("no content type")),
        }
    }

    pub(super) fn is_json(&self) -> bool {
        self.content_type.contains("json")
    }

    pub(super) fn not_a_hub(self) -> HubError {
        HubError::NotAHub { url: self.url, status: self.status, content_type: self.content_type }
    }
}

/// The message of an error in the 0-hub's form, `{"status": "error", "message": …}`.
pub(crate) fn message_of(body: &[u8]) -> Option<String> {
    let answer: Map<String, Value> = serde_json::from_slice(body).ok()?;
    answer.get("message").and_then(Value::as_str).map(printable)
}

/// Whether a refusal says how to insist on what was asked for.
pub(super) fn is_overridable(body: &[u8]) -> bool {
    serde_json::from_slice::<Map<String, Value>>(body).is_ok_and(|answer| answer.contains_key("override"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn validators_that_are_no_headers_are_not_sent() {
        let bad = Validators { etag: Some("a\r\nb".into()), last_modified: None };
        assert!(bad.to_headers().is_empty());
        let good = Validators { etag: Some("\"x\"".into()), last_modified: Some("today".into()) };
        assert_eq!(good.to_headers().len(), 2);
    }

    #[test]
    fn messages_of_errors() {
        let known = br#"{"status": "error", "message": "source not found"}"#;
        assert_eq!(message_of(known).as_deref(), Some("source not found"));
        assert_eq!(message_of(b"<html>"), None);
        assert_eq!(message_of(b"[]"), None);
    }
}
