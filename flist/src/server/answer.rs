//! Answers in the forms of the 0-hub: JSON, and the three kinds of refusals.

use std::io;

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::completeness::{Missing, MissingBlock};
use super::python_json;

/// Why a request gets no answer.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The 404 page for people.
    Page,
    /// A refusal of the REST interface.
    Json {
        /// The HTTP status.
        status: StatusCode,
        /// The reason, and the remedy where there is one.
        message: String,
    },
    /// A conflict that a parameter of the request overrides.
    Overridable {
        /// The reason.
        message: String,
        /// The parameter, such as `replace=1`.
        with: &'static str,
    },
    /// A flist whose blocks are not all here.
    Incomplete(Missing),
    /// A refusal of the block store.
    Text {
        /// The HTTP status.
        status: StatusCode,
        /// The reason.
        message: String,
    },
    /// The hub itself failed.
    Failed {
        /// What was tried, and on what.
        action: String,
        /// The system's answer; logged, not sent.
        source: io::Error,
    },
}

impl Refusal {
    pub(super) fn json(status: StatusCode, message: impl Into<String>) -> Self {
        Self::Json { status, message: message.into() }
    }

    pub(super) fn text(status: StatusCode, message: impl Into<String>) -> Self {
        Self::Text { status, message: message.into() }
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::json(StatusCode::BAD_REQUEST, message)
    }

    pub(super) fn conflict(message: impl Into<String>) -> Self {
        Self::json(StatusCode::CONFLICT, message)
    }

    /// A conflict that the same request with this parameter overrides.
    pub(super) fn overridable(message: impl Into<String>, with: &'static str) -> Self {
        Self::Overridable { message: message.into(), with }
    }

    /// Makes a refusal of a failed action.
    pub(super) fn failed(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        |source| Self::Failed { action, source }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::Page => {
                let html = "<!doctype html>\n<title>404 Not Found</title>\n<h1>Not Found</h1>\n";
                (StatusCode::NOT_FOUND, [(CONTENT_TYPE, "text/html; charset=utf-8")], html).into_response()
            }
            Self::Json { status, message } => (status, json(&ErrorBody::new(&message))).into_response(),
            Self::Overridable { message, with } => {
                let body = ErrorBody { overridden_by: Some(with), ..ErrorBody::new(&message) };
                (StatusCode::CONFLICT, json(&body)).into_response()
            }
            Self::Incomplete(missing) => {
                let (message, missing) = (missing.message(), &missing.first);
                let body = ErrorBody { missing, ..ErrorBody::new(&message) };
                (StatusCode::UNPROCESSABLE_ENTITY, json(&body)).into_response()
            }
            Self::Text { status, message } => (status, message + "\n").into_response(),
            Self::Failed { action, source } => {
                tracing::error!(error = %source, "cannot {action}");
                let (status, why) = match source.kind() {
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                        (StatusCode::INSUFFICIENT_STORAGE, ": its disk is full")
                    }
                    _ => (StatusCode::INTERNAL_SERVER_ERROR, ""),
                };
                Self::json(status, format!("the hub cannot {action}{why}")).into_response()
            }
        }
    }
}

/// A JSON answer in the 0-hub's style.
pub(super) fn json<T: Serialize + ?Sized>(value: &T) -> Response {
    match python_json::render(value) {
        Ok(text) => ([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "cannot write an answer as JSON");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// Runs work that waits for the disk outside of the threads that serve connections.
///
/// # Errors
/// Those of the work; or it panicked.
pub(super) async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(Refusal::failed("finish the request")(io::Error::other(error))),
    }
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    status: &'static str,
    message: &'a str,
    #[serde(rename = "override", skip_serializing_if = "Option::is_none")]
    overridden_by: Option<&'static str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    missing: &'a [MissingBlock],
}

impl<'a> ErrorBody<'a> {
    fn new(message: &'a str) -> Self {
        Self { status: "error", message, overridden_by: None, missing: &[] }
    }
}
