//! Blocks over HTTP: `GET <url>/<first two hex digits>/<id>`, then `<url>/<id>`, as
//! rfs lays them out. Our hub also takes `PUT`.

use std::fmt;
use std::io::{self, ErrorKind, Read};
use std::time::{Duration, Instant};

use reqwest::blocking::{Client, Response};
use reqwest::header::AUTHORIZATION;
use reqwest::redirect::Policy;
use reqwest::{StatusCode, Url};

use super::redis::without_password;
use super::{Store, StoreError, one_by_one};
use crate::block::{self, BlockId, MAX_STORED};
use crate::hub::{Access, Token, message_of, printable, shown_address};

const CONNECT: Duration = Duration::from_secs(10);

/// A block has at most 600 KiB: one that takes longer comes at less than 10 KiB/s.
pub(crate) const WHOLE_REQUEST: Duration = Duration::from_secs(60);

/// A web server with blocks.
///
/// The client is the blocking one on purpose: it brings a thread of its own, so a mount that reads from
/// this store never depends on the runtime of those who read from the mount.
pub struct HttpStore {
    /// With the password, if it has one.
    url: String,
    /// As it may be shown.
    shown: String,
    client: Client,
    /// Longest time from a request to the end of its answer.
    patience: Duration,
    /// For writing.
    token: Option<Token>,
}

impl fmt::Debug for HttpStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HttpStore({}, {:?})", self.shown, self.patience)
    }
}

impl HttpStore {
    /// Uses the blocks under `url`. Must not be called from within an async runtime's worker.
    ///
    /// # Errors
    /// [`StoreError::Client`].
    pub fn new(url: &str) -> Result<Self, StoreError> {
        Self::with_patience(url, WHOLE_REQUEST)
    }

    /// As [`HttpStore::new`], but gives up an answer that is not complete after `patience`.
    ///
    /// # Errors
    /// [`StoreError::Client`].
    pub fn with_patience(url: &str, patience: Duration) -> Result<Self, StoreError> {
        Self::with_access(url, patience, &Access::default())
    }

    /// As [`HttpStore::with_patience`], for a store that may be a hub's which wants to know who reads.
    ///
    /// # Errors
    /// [`StoreError::Client`].
    pub fn with_access(url: &str, patience: Duration, access: &Access) -> Result<Self, StoreError> {
        let access = access.towards(url);
        let url = url.trim_end_matches('/').to_owned();
        let builder = Client::builder().connect_timeout(CONNECT.min(patience)).timeout(patience);
        let builder = builder.default_headers(access.headers()).redirect(access.redirects(Policy::default()));
        let client = match access.tls() {
            Some(tls) => builder.tls_backend_preconfigured(tls).build(),
            None => builder.build(),
        };
        // What is no address is refused when it is asked, and has no password then.
        let parsed = Url::parse(&url).map(|url| without_password(&url).trim_end_matches('/').to_owned());
        let shown = parsed.unwrap_or_else(|_| shown_address(&url));
        let client = client.map_err(|source| StoreError::Client { url: shown.clone(), source })?;
        Ok(Self { url, shown, client, patience, token: None })
    }

    /// Writes with this token, as a hub may ask for. It is not sent with reads.
    #[must_use]
    pub fn with_token(mut self, token: Option<Token>) -> Self {
        self.token = token;
        self
    }

    /// Where a block may be.
    fn places(id: &BlockId) -> [String; 2] {
        let name = id.to_string();
        [format!("/{}/{name}", &name[..2]), format!("/{name}")]
    }

    /// The first of the two addresses that does not answer "not found".
    fn first_found(
        &self,
        id: &BlockId,
        ask: impl Fn(&str) -> reqwest::Result<Response>,
    ) -> Result<Option<(Response, String)>, StoreError> {
        for place in Self::places(id) {
            let url = format!("{}{place}", self.shown);
            let response =
                ask(&format!("{}{place}", self.url)).map_err(|source| request_failed(&url, source))?;
            match response.status() {
                StatusCode::OK => return Ok(Some((response, url))),
                StatusCode::NOT_FOUND | StatusCode::GONE => {}
                status => return Err(StoreError::Status { url, status: status.as_u16() }),
            }
        }
        Ok(None)
    }
}

impl Store for HttpStore {
    fn get(&self, id: &BlockId) -> Result<Option<Vec<u8>>, StoreError> {
        let deadline = Instant::now() + self.patience;
        let Some((response, url)) = self.first_found(id, |url| self.client.get(url).send())? else {
            return Ok(None);
        };
        let stored = read_body(response, deadline)
            .map_err(|source| StoreError::Answer { url: url.clone(), source })?;
        if stored.len() > MAX_STORED {
            return Err(StoreError::TooLong { url });
        }
        block::verify(id, &stored).map_err(|source| StoreError::Corrupt { url, source })?;
        Ok(Some(stored))
    }

    fn get_each(&self, ids: &[BlockId], buffers: &mut [Vec<u8>]) -> Vec<Result<bool, StoreError>> {
        one_by_one(self, ids, buffers)
    }

    fn at_once(&self, _: &[BlockId]) -> usize {
        1
    }

    fn has(&self, id: &BlockId) -> Result<bool, StoreError> {
        Ok(self.first_found(id, |url| self.client.head(url).send())?.is_some())
    }

    fn put(&self, id: &BlockId, stored: &[u8]) -> Result<(), StoreError> {
        let [place, _] = Self::places(id);
        let url = format!("{}{place}", self.shown);
        let request = self.client.put(format!("{}{place}", self.url)).body(stored.to_vec());
        let request = match &self.token {
            Some(token) => request.header(AUTHORIZATION, token.authorization()),
            None => request,
        };
        let answer = request.send().map_err(|source| request_failed(&url, source))?;
        match answer.status() {
            status if status.is_success() => Ok(()),
            StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED | StatusCode::NOT_FOUND => {
                Err(StoreError::ReadOnly {
                    url: self.shown.clone(),
                    remedy: "pack into a dir:// store and copy its files to the web server",
                })
            }
            status => {
                let message = reason(answer, Instant::now() + self.patience);
                Err(StoreError::Refused { url, status: status.as_u16(), message })
            }
        }
    }

    fn url(&self) -> String {
        self.shown.clone()
    }
}

/// The body, at most one byte more than a block can have. The client's own timeout is for each read, so a
/// server that sends a byte now and then would keep us for days.
fn read_body(response: Response, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut body = Vec::with_capacity(16 * 1024);
    let mut rest = response.take(MAX_STORED as u64 + 1);
    let mut buffer = [0; 16 * 1024];
    loop {
        match rest.read(&mut buffer)? {
            0 => return Ok(body),
            read => body.extend_from_slice(&buffer[..read]),
        }
        if Instant::now() >= deadline {
            return Err(io::Error::new(ErrorKind::TimedOut, "it takes too long"));
        }
    }
}

/// Why a hub refused, in its own words; may be empty.
fn reason(answer: Response, deadline: Instant) -> String {
    // The status is what counts; a reason that cannot be read is left out.
    let body = read_body(answer, deadline).unwrap_or_default();
    message_of(&body).unwrap_or_else(|| {
        let line = body.split(|byte| *byte == b'\n').next().unwrap_or_default();
        printable(&String::from_utf8_lossy(line))
    })
}

fn request_failed(url: &str, source: reqwest::Error) -> StoreError {
    // The address is in our message already.
    StoreError::Request { url: url.to_owned(), source: source.without_url() }
}
