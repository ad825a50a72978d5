//! The REST client of a hub.
//!
//! Source: the interface of the 0-hub. Contents are read in `download`; what changes a hub is in `publishing`.

use std::time::{Duration, Instant};

use reqwest::header::ACCEPT;
use reqwest::redirect::{Attempt, Policy};
use reqwest::{RequestBuilder, Response, StatusCode, Url};
use serde_json::{Map, Value};

use super::access::{Access, MAX_REDIRECTS};
use super::address::{hub_address, shown_address};
use super::answer::{AnswerHead, Ending, is_overridable, message_of};
use super::channel::MAX_FLIST;
use super::error::HubError;
use super::model::{
    Light, ListingEntry, ModelError, Repository, parse_light, parse_listing, parse_repositories,
    parse_taglink,
};
use super::name::{FlistName, check_component, printable};
use super::tag::{TagName, TaglinkName};
use super::token::Token;

/// Longest JSON answer that is read, in bytes.
const MAX_JSON: u64 = 8 * 1024 * 1024;

/// Longest description of one flist. Nodes keep it with every generation, and in RAM.
const MAX_LIGHT: u64 = 64 * 1024;

/// Slowest average of an answer, in bytes per second, once it has taken longer than the stall timeout. A hub that
/// sends a byte now and then never stalls, and never ends.
const SLOWEST: u64 = 1024;

/// How much of an error answer is read for its message, in bytes.
const MAX_REFUSAL: u64 = 64 * 1024;

/// How long an idle connection is kept for the next request; less than servers keep theirs.
const POOL_IDLE: Duration = Duration::from_secs(15);

/// How long the client waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection.
    pub connect: Duration,
    /// For the head of an answer, and for each next piece of it.
    pub stall: Duration,
    /// For a whole JSON answer.
    pub json: Duration,
    /// For a whole flist, in either direction.
    pub transfer: Duration,
    /// For everything that is asked to find out what a channel offers, its flists included.
    pub release: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            stall: Duration::from_secs(30),
            json: Duration::from_secs(120),
            transfer: Duration::from_secs(3600),
            release: Duration::from_secs(3600),
        }
    }
}

/// A hub's description of one flist.
#[derive(Debug, Clone, PartialEq)]
pub struct LightAnswer {
    /// What is known of it.
    pub light: Light,
    /// The answer as it was sent.
    pub raw: Map<String, Value>,
}

/// A connection pool to one hub.
#[derive(Debug, Clone)]
pub struct HubClient {
    base: Url,
    pub(crate) http: reqwest::Client,
    pub(crate) timeouts: Timeouts,
    pub(super) token: Option<Token>,
    /// Whether the hub is shown who asks.
    pub(crate) is_shown: bool,
    /// Most bytes that the flists of a release may have together.
    pub(crate) most: u64,
}

impl HubClient {
    /// A client of the hub at `url` (`http` or `https`, a path before the hub's own is allowed), with
    /// the default [`Timeouts`]. Nothing is sent yet.
    ///
    /// # Errors
    /// The address is no hub's, or the HTTP client cannot be set up.
    pub fn new(url: &str, user_agent: &str) -> Result<Self, HubError> {
        Self::with_timeouts(url, user_agent, Timeouts::default())
    }

    /// As [`HubClient::new`], with other timeouts.
    ///
    /// # Errors
    /// As [`HubClient::new`].
    pub fn with_timeouts(url: &str, user_agent: &str, timeouts: Timeouts) -> Result<Self, HubError> {
        Self::with_access(url, user_agent, timeouts, &Access::default())
    }

    /// As [`HubClient::with_timeouts`], for a hub that wants to know who asks.
    ///
    /// # Errors
    /// As [`HubClient::new`].
    pub fn with_access(
        url: &str,
        user_agent: &str,
        timeouts: Timeouts,
        access: &Access,
    ) -> Result<Self, HubError> {
        let access = access.towards(url);
        let base = hub_address(url).map_err(|reason| HubError::BadUrl { url: shown_address(url), reason })?;
        let builder = reqwest::Client::builder()
            .user_agent(user_agent)
            .connect_timeout(timeouts.connect)
            .pool_idle_timeout(POOL_IDLE)
            .default_headers(access.headers())
            .redirect(access.redirects(Policy::custom(follow)));
        let http = match access.tls() {
            Some(tls) => builder.tls_backend_preconfigured(tls).build(),
            None => builder.build(),
        };
        let http =
            http.map_err(|source| HubError::Client { url: base.to_string(), source: source.without_url() })?;
        Ok(Self { base, http, timeouts, token: None, is_shown: !access.is_empty(), most: MAX_FLIST })
    }

    /// Accepts releases whose flists have at most so many bytes together, instead of [`MAX_FLIST`].
    #[must_use]
    pub fn accepting(mut self, bytes: u64) -> Self {
        self.most = bytes;
        self
    }

    /// Whether a text is an address that a hub may have, without asking anybody.
    ///
    /// # Errors
    /// [`HubError::BadUrl`].
    pub fn check_address(url: &str) -> Result<(), HubError> {
        match hub_address(url) {
            Ok(_) => Ok(()),
            Err(reason) => Err(HubError::BadUrl { url: shown_address(url), reason }),
        }
    }

    /// The hub's address.
    pub fn url(&self) -> &str {
        self.base.as_str()
    }

    /// Whether something answers HTTP at the hub's address, whatever it says.
    ///
    /// # Errors
    /// Nothing does.
    pub async fn ping(&self) -> Result<(), HubError> {
        let url = self.address(&["api", "repositories"]);
        self.send(&url, self.http.get(url.clone()).timeout(self.timeouts.json)).await.map(drop)
    }

    /// Describes a flist or a link to one.
    ///
    /// # Errors
    /// [`HubError::NotFound`], or the hub could not be used.
    pub async fn light(&self, name: &FlistName) -> Result<LightAnswer, HubError> {
        let url = self.address(&["api", "flist", name.repo(), name.file(), "light"]);
        let response = self.get_json(&url).await?;
        if response.status() == StatusCode::NOT_FOUND {
            // A hub says this in JSON; anything else does not know the question.
            let head = AnswerHead::of(&url, &response);
            let (body, _) = self.read(&url, response, MAX_REFUSAL).await?;
            return Err(match message_of(&body) {
                Some(_) => self.not_found(format!("flist {name}")),
                None => head.not_a_hub(),
            });
        }
        let (light, raw) = self.answer_of(&url, response, MAX_LIGHT, parse_light).await?;
        Ok(LightAnswer { light, raw })
    }

    /// Lists the repos.
    ///
    /// # Errors
    /// The hub could not be used.
    pub async fn repos(&self) -> Result<Vec<Repository>, HubError> {
        let url = self.address(&["api", "repositories"]);
        let response = self.get_json(&url).await?;
        if response.status() == StatusCode::NOT_FOUND {
            // Every hub knows this question.
            return Err(AnswerHead::of(&url, &response).not_a_hub());
        }
        self.answer(&url, response, parse_repositories).await
    }

    /// Lists a tag.
    ///
    /// # Errors
    /// [`HubError::NotFound`] for an unknown tag, or the hub could not be used.
    pub async fn tag(&self, tag: &TagName) -> Result<Vec<ListingEntry>, HubError> {
        let url = self.address(&["api", "flist", tag.repo(), "tags", tag.tag()]);
        let response = self.get_json(&url).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Err(self.not_found(format!("tag {tag}")));
        }
        self.answer(&url, response, parse_listing).await
    }

    /// The tag that a taglink points to, whether that exists or not.
    ///
    /// # Errors
    /// [`HubError::NotFound`] for what is no taglink, or the hub could not be used.
    pub async fn taglink(&self, link: &TaglinkName) -> Result<TagName, HubError> {
        let url = self.address(&["api", "flist", link.repo(), link.name(), "taglink"]);
        let response = self.get_json(&url).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Err(self.not_found(format!("taglink {link}")));
        }
        self.answer(&url, response, parse_taglink).await
    }

    /// Lists a repo.
    ///
    /// # Errors
    /// [`HubError::NotFound`] for an unknown repo, or the hub could not be used.
    pub async fn list(&self, repo: &str) -> Result<Vec<ListingEntry>, HubError> {
        if check_component(repo).is_err() {
            return Err(self.not_found(format!("repo '{}'", printable(repo))));
        }
        let url = self.address(&["api", "flist", repo]);
        let response = self.get_json(&url).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Err(self.not_found(format!("repo {repo}")));
        }
        self.answer(&url, response, parse_listing).await
    }

    async fn get_json(&self, url: &Url) -> Result<Response, HubError> {
        let request = self.http.get(url.clone()).header(ACCEPT, "application/json");
        self.send(url, request.timeout(self.timeouts.json)).await
    }

    async fn answer<T>(
        &self,
        url: &Url,
        response: Response,
        parse: impl Fn(&[u8]) -> Result<T, ModelError>,
    ) -> Result<T, HubError> {
        self.answer_of(url, response, MAX_JSON, parse).await
    }

    /// A JSON answer of at most `limit` bytes.
    async fn answer_of<T>(
        &self,
        url: &Url,
        response: Response,
        limit: u64,
        parse: impl Fn(&[u8]) -> Result<T, ModelError>,
    ) -> Result<T, HubError> {
        if response.status() != StatusCode::OK {
            return Err(self.refusal(url, response).await);
        }
        let head = AnswerHead::of(url, &response);
        match self.read(url, response, limit).await? {
            (_, Ending::Cut) => Err(HubError::TooLong { url: head.url, limit }),
            // Mirrors on plain file servers do not know the content type, so the content decides first.
            (body, Ending::Whole) => parse(&body).map_err(|source| match head.is_json() {
                true => HubError::BadAnswer { url: head.url, source },
                false => head.not_a_hub(),
            }),
        }
    }

    pub(super) async fn refusal(&self, url: &Url, response: Response) -> HubError {
        let status = response.status().as_u16();
        // The status is what counts; a message that cannot be read is left out.
        let body = self.read(url, response, MAX_REFUSAL).await.map(|(body, _)| body).unwrap_or_default();
        HubError::Status {
            url: url.to_string(),
            status,
            message: message_of(&body).unwrap_or_default(),
            overridable: is_overridable(&body),
        }
    }

    pub(super) async fn send(&self, url: &Url, request: RequestBuilder) -> Result<Response, HubError> {
        match tokio::time::timeout(self.timeouts.stall, request.send()).await {
            Ok(answer) => answer.map_err(|source| failed(url, source)),
            Err(_) => Err(self.stalled(url)),
        }
    }

    /// Reads a body up to `limit` bytes; an announced length that is not kept is an error.
    async fn read(&self, url: &Url, response: Response, limit: u64) -> Result<(Vec<u8>, Ending), HubError> {
        let mut body = Vec::new();
        let ending = self.read_into(&mut body, url, response, limit).await?;
        Ok((body, ending))
    }

    /// Appends a body, until there are `limit` bytes; what came before an error is kept.
    pub(super) async fn read_into(
        &self,
        body: &mut Vec<u8>,
        url: &Url,
        mut response: Response,
        limit: u64,
    ) -> Result<Ending, HubError> {
        let (begun, before) = (Instant::now(), body.len());
        loop {
            let next = tokio::time::timeout(self.timeouts.stall, response.chunk()).await;
            let chunk = next.map_err(|_| self.stalled(url))?.map_err(|source| failed(url, source))?;
            let Some(chunk) = chunk else { return Ok(Ending::Whole) };
            if body.len() as u64 + chunk.len() as u64 > limit {
                return Ok(Ending::Cut);
            }
            body.extend_from_slice(&chunk);
            let (taken, came) = (begun.elapsed(), (body.len() - before) as u64);
            if taken > self.timeouts.stall && came < taken.as_secs().max(1).saturating_mul(SLOWEST) {
                return Err(HubError::TooSlow { url: url.to_string(), bytes_per_second: SLOWEST });
            }
        }
    }

    pub(super) fn address(&self, segments: &[&str]) -> Url {
        let mut url = self.base.clone();
        // Always possible: `hub_address` accepts no address without a path.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }

    pub(super) fn stalled(&self, url: &Url) -> HubError {
        HubError::Stalled { url: url.to_string(), seconds: self.timeouts.stall.as_secs() }
    }

    pub(super) fn not_found(&self, what: String) -> HubError {
        HubError::NotFound { what, hub: self.base.to_string() }
    }
}

pub(super) fn failed(url: &Url, source: reqwest::Error) -> HubError {
    HubError::Request { url: url.to_string(), source: source.without_url() }
}

fn follow(attempt: Attempt<'_>) -> reqwest::redirect::Action {
    let was_private = attempt.previous().last().is_some_and(|url| url.scheme() == "https");
    if attempt.previous().len() > MAX_REDIRECTS {
        attempt.error("too many redirects")
    } else if was_private && attempt.url().scheme() != "https" {
        attempt.error("redirect from https to an address without it")
    } else {
        attempt.follow()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_keep_the_path_of_the_hub_and_quote_names() {
        let name = FlistName::new("tf-zos", "a b+c@d:v1.flist").unwrap();
        for base in ["http://hub", "http://hub/"] {
            let client = HubClient::new(base, "test").unwrap();
            let url = client.address(&[name.repo(), name.file()]);
            assert_eq!(url.as_str(), "http://hub/tf-zos/a%20b+c@d:v1.flist");
        }
        let client = HubClient::new("http://hub:8080/under/", "test").unwrap();
        assert_eq!(client.address(&["api"]).as_str(), "http://hub:8080/under/api");
    }

    #[test]
    fn addresses_of_no_hub_are_refused() {
        for url in
            ["", "hub", "ftp://hub", "http://u:p@hub", "http://hub/?a=1", "http://hub/#x", "mailto:a@b"]
        {
            assert!(HubClient::check_address(url).is_err(), "{url}");
            let error = HubClient::new(url, "test").unwrap_err();
            assert!(matches!(error, HubError::BadUrl { .. }) && !error.is_retryable(), "{url}: {error}");
        }
        for url in ["https://u:secret@hub", "ftp://u:secret@hub", "https://hub/?token=secret", "u:secret@hub"]
        {
            let error = HubClient::new(url, "test").unwrap_err().to_string();
            assert!(error.contains("hub") && !error.contains("secret"), "{error}");
        }
    }
}
