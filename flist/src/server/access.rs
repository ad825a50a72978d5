//! Who may change a hub.
//!
//! Without a token file: programs on the hub's own machine. With one: whoever sends a token that is in it,
//! from wherever, also through a proxy.

use std::sync::Arc;

use axum::body::HttpBody;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::header::{AUTHORIZATION, FORWARDED, HeaderValue, ORIGIN, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::Hub;
use super::answer::{Refusal, on_disk};
use super::listener::Peer;
use super::tokens::{Repos, TokenFile};
use crate::block::MAX_STORED;

/// Who may change this hub.
#[derive(Debug)]
pub(super) enum Access {
    /// Programs on this machine.
    ThisMachine,
    /// Those who have a token.
    Tokens(TokenFile),
}

/// Somebody who may change something; every request that changes the hub comes with one.
#[derive(Debug, Clone)]
pub(super) struct Writer(Repos);

impl Writer {
    /// # Errors
    /// It may not change this repo.
    pub(super) fn may_change(&self, repo: &str) -> Result<(), Refusal> {
        match &self.0 {
            Some(repos) if !repos.iter().any(|allowed| allowed == repo) => {
                Err(Refusal::json(StatusCode::FORBIDDEN, format!("this token is not for repo {repo}")))
            }
            _ => Ok(()),
        }
    }
}

/// Lets requests that change nothing pass, and others only with a [`Writer`].
pub(super) async fn guard(State(hub): State<Arc<Hub>>, mut request: Request, next: Next) -> Response {
    let reads = [Method::GET, Method::HEAD, Method::OPTIONS];
    if reads.contains(request.method()) || request.method().as_str() == "INFO" {
        return next.run(request).await;
    }
    let writer = match &hub.access {
        Access::ThisMachine => local(&request),
        Access::Tokens(_) => by_token(&hub, request.headers()).await,
    };
    match writer {
        Ok(writer) => {
            request.extensions_mut().insert(writer);
            next.run(request).await
        }
        Err(refusal) => {
            discard(request).await;
            refusal
        }
    }
}

/// A proxy on this machine and a browser on this machine both come from a loopback address, but act for
/// others.
fn local(request: &Request) -> Result<Writer, Response> {
    let peer = request.extensions().get::<ConnectInfo<Peer>>();
    let local = peer.is_some_and(|ConnectInfo(peer)| peer.is_loopback());
    if local && !acts_for_another(request.headers()) {
        return Ok(Writer(None));
    }
    let message = "this hub accepts changes only from programs on its own machine; run the command there, or start the hub with --token-file";
    Err(Refusal::json(StatusCode::FORBIDDEN, message).into_response())
}

async fn by_token(hub: &Arc<Hub>, headers: &HeaderMap) -> Result<Writer, Response> {
    let Some(token) = bearer(headers) else {
        return Err(unauthorized(
            "this hub accepts changes only with a token: use --token-file or FLIST_TOKEN",
        ));
    };
    let (hub, token) = (Arc::clone(hub), token.to_owned());
    let repos = on_disk(move || match &hub.access {
        Access::ThisMachine => Ok(None),
        Access::Tokens(file) => file.repos_of(&token).map_err(|error| {
            tracing::error!(error = crate::report(&error), "nobody can publish");
            let message = "the hub cannot use its token file; its log says why";
            Refusal::json(StatusCode::SERVICE_UNAVAILABLE, message)
        }),
    });
    match repos.await {
        Ok(Some(repos)) => Ok(Writer(repos)),
        Ok(None) => Err(unauthorized("the hub does not know this token")),
        Err(refusal) => Err(refusal.into_response()),
    }
}

/// The token of the only `Authorization` header, if it is one (RFC 6750 §2.1).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut sent = headers.get_all(AUTHORIZATION).into_iter();
    let (Some(value), None) = (sent.next(), sent.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn unauthorized(message: &str) -> Response {
    let challenge = [(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"hub\""))];
    (challenge, Refusal::json(StatusCode::UNAUTHORIZED, message)).into_response()
}

fn acts_for_another(headers: &HeaderMap) -> bool {
    [FORWARDED.as_str(), ORIGIN.as_str(), "x-forwarded-for", "x-real-ip"]
        .into_iter()
        .any(|name| headers.contains_key(name))
}

/// Takes in a body that nobody wants, if it is short: a client that is still sending when the connection
/// closes may not see the answer.
async fn discard(request: Request) {
    let body = request.into_body();
    if body.size_hint().upper().is_some_and(|length| length <= MAX_STORED as u64) {
        // What goes wrong here goes wrong for a client that has been refused anyway.
        let _ = axum::body::to_bytes(body, MAX_STORED).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_and_browsers_act_for_others() {
        let header = |name: &'static str| {
            HeaderMap::from_iter([(name.parse().unwrap(), HeaderValue::from_static("x"))])
        };
        for name in ["forwarded", "origin", "x-forwarded-for", "x-real-ip"] {
            assert!(acts_for_another(&header(name)), "{name}");
        }
        assert!(!acts_for_another(&header("user-agent")));
    }

    #[test]
    fn only_one_bearer_token_counts() {
        let headers = |values: &[&'static str]| {
            values.iter().map(|value| (AUTHORIZATION, HeaderValue::from_static(value))).collect::<HeaderMap>()
        };
        assert_eq!(bearer(&headers(&["Bearer abc"])), Some("abc"));
        assert_eq!(bearer(&headers(&["bearer  abc"])), Some("abc"));
        for none in [&[][..], &["Basic abc"], &["Bearer"], &["Bearer abc", "Bearer def"]] {
            assert_eq!(bearer(&headers(none)), None, "{none:?}");
        }
    }

    #[test]
    fn a_writer_is_held_to_its_repos() {
        let all = Writer(None);
        let some = Writer(Some(["a".to_owned(), "b".to_owned()].into()));
        assert!(all.may_change("c").is_ok() && some.may_change("b").is_ok());
        assert!(some.may_change("c").is_err() && some.may_change("").is_err());
    }
}
