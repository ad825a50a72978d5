//! The writing half of the client: flists, links, tags and taglinks; and taking them away.
//!
//! `/api/molt/…` is the embedded hub's own interface; other hubs do not have it.

use std::collections::BTreeMap;
use std::fmt;

use reqwest::{RequestBuilder, Url};
use serde_json::json;

use super::channel::MAX_FLIST;
use super::client::{HubClient, failed};
use super::error::HubError;
use super::name::FlistName;
use super::tag::{TagName, TaglinkName};
use super::token::Token;

/// What is taken off a hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removal {
    /// A flist; refused while links or tags point to it, unless forced.
    Flist(FlistName),
    /// A link to a flist.
    Link(FlistName),
    /// A tag; refused while taglinks point to it, unless forced.
    Tag(TagName),
    /// A taglink.
    Taglink(TaglinkName),
}

impl fmt::Display for Removal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flist(name) => write!(f, "flist {name}"),
            Self::Link(name) => write!(f, "link {name}"),
            Self::Tag(name) => write!(f, "tag {name}"),
            Self::Taglink(name) => write!(f, "taglink {name}"),
        }
    }
}

impl HubClient {
    /// Publishes with this token from now on. It is sent to the hub only, and only with changes.
    #[must_use]
    pub fn with_token(mut self, token: Option<Token>) -> Self {
        self.token = token;
        self
    }

    /// Publishes a flist. A flist of the same content that is already there is left alone; a versioned
    /// one with other content is refused, see [`HubClient::replace`].
    ///
    /// # Errors
    /// The hub refused ([`HubError::Status`] with its reason) or could not be used.
    pub async fn upload(&self, name: &FlistName, bytes: Vec<u8>) -> Result<(), HubError> {
        let url = self.address(&["api", "molt", "flist", name.repo(), name.file()]);
        self.put_flist(&url, bytes).await
    }

    /// Publishes a flist in place of a versioned one that is already there.
    ///
    /// # Errors
    /// As [`HubClient::upload`].
    pub async fn replace(&self, name: &FlistName, bytes: Vec<u8>) -> Result<(), HubError> {
        let mut url = self.address(&["api", "molt", "flist", name.repo(), name.file()]);
        url.set_query(Some("replace=1"));
        self.put_flist(&url, bytes).await
    }

    /// Lets `link` point to `target_file`, a flist of the same repo, in one step.
    ///
    /// # Errors
    /// As [`HubClient::upload`]; also when the target does not exist.
    pub async fn link(&self, link: &FlistName, target_file: &str) -> Result<(), HubError> {
        let url = self.address(&["api", "molt", "link", link.repo(), link.file()]);
        self.put_json(&url, &json!({ "target": target_file })).await
    }

    /// Lets `link` point to `target`, a flist of any repo of the hub, in one step.
    ///
    /// # Errors
    /// As [`HubClient::link`].
    pub async fn link_to(&self, link: &FlistName, target: &FlistName) -> Result<(), HubError> {
        self.link(link, &target.to_string()).await
    }

    /// Makes a tag of these links, `<name>.flist` → flist, in one step; whatever the tag had before is
    /// replaced. A tag whose name is a version keeps its entries unless `replace` is set.
    ///
    /// # Errors
    /// As [`HubClient::upload`]; also when a target does not exist.
    pub async fn put_tag(
        &self,
        tag: &TagName,
        entries: &BTreeMap<String, FlistName>,
        replace: bool,
    ) -> Result<(), HubError> {
        let mut url = self.address(&["api", "molt", "tag", tag.repo(), tag.tag()]);
        url.set_query(replace.then_some("replace=1"));
        self.put_json(&url, &json!({ "entries": entries })).await
    }

    /// Lets `link` point to `tag`, in one step.
    ///
    /// # Errors
    /// As [`HubClient::upload`]; also when the tag does not exist.
    pub async fn put_taglink(&self, link: &TaglinkName, tag: &TagName) -> Result<(), HubError> {
        let url = self.address(&["api", "molt", "taglink", link.repo(), link.name()]);
        self.put_json(&url, &json!({ "target": tag.to_string() })).await
    }

    /// Puts a file of signed metadata on the hub, into its repository `trust` or `director`.
    ///
    /// # Errors
    /// As [`HubClient::upload`]; also when it would take back what is there.
    pub async fn put_metadata(&self, repository: &str, file: &str, bytes: Vec<u8>) -> Result<(), HubError> {
        let url = self.address(&["api", "molt", "metadata", repository, file]);
        self.accepted(&url, self.http.put(url.clone()).body(bytes).timeout(self.timeouts.json)).await
    }

    /// Takes something off the hub; with `force` also what others point to.
    ///
    /// # Errors
    /// [`HubError::NotFound`], [`HubError::Status`] 409 naming what points to it, or the hub could not be
    /// used.
    pub async fn remove(&self, removal: &Removal, force: bool) -> Result<(), HubError> {
        let (kind, repo, name) = match removal {
            Removal::Flist(name) => ("flist", name.repo(), name.file()),
            Removal::Link(name) => ("link", name.repo(), name.file()),
            Removal::Tag(name) => ("tag", name.repo(), name.tag()),
            Removal::Taglink(name) => ("taglink", name.repo(), name.name()),
        };
        let mut url = self.address(&["api", "molt", kind, repo, name]);
        url.set_query(force.then_some("force=1"));
        match self.accepted(&url, self.http.delete(url.clone()).timeout(self.timeouts.json)).await {
            // A hub has words for this; anything else does not know the question.
            Err(HubError::Status { status: 404, message, .. }) if !message.is_empty() => {
                Err(self.not_found(removal.to_string()))
            }
            done => done,
        }
    }

    async fn put_flist(&self, url: &Url, bytes: Vec<u8>) -> Result<(), HubError> {
        if bytes.len() as u64 > MAX_FLIST {
            return Err(HubError::TooLong { url: url.to_string(), limit: MAX_FLIST });
        }
        self.accepted(url, self.http.put(url.clone()).body(bytes).timeout(self.timeouts.transfer)).await
    }

    async fn put_json(&self, url: &Url, body: &serde_json::Value) -> Result<(), HubError> {
        self.accepted(url, self.http.put(url.clone()).json(body).timeout(self.timeouts.json)).await
    }

    async fn accepted(&self, url: &Url, request: RequestBuilder) -> Result<(), HubError> {
        let request = match &self.token {
            Some(token) => request.header(reqwest::header::AUTHORIZATION, token.authorization()),
            None => request,
        };
        // The stall timeout watches answers; while a body is sent only the whole transfer is bounded.
        let response = request.send().await.map_err(|source| failed(url, source))?;
        if response.status().is_success() { Ok(()) } else { Err(self.refusal(url, response).await) }
    }
}
