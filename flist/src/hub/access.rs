//! What a node shows hubs that ask who it is: a token, or a client certificate.
//!
//! Both are secrets. They come from private files, go to the hubs of the node and to stores at the same address, and
//! are never printed.

use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use reqwest::Url;
use reqwest::header::{AUTHORIZATION, HeaderMap};
use reqwest::redirect::{Attempt, Policy};
use rustls::client::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::token::{Token, TokenError};
use crate::block::BlockId;
use crate::private_file::{self, NotPrivate};
use crate::tls;

/// Longest file with a certificate and its key, in bytes.
const MAX_CERTIFICATE: u64 = 256 * 1024;

/// How often an answer may lead elsewhere.
pub(super) const MAX_REDIRECTS: usize = 5;

/// Why a node has nothing to show.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The token is not usable.
    #[error("the token for the hub is not usable")]
    Token(#[source] TokenError),
    /// The file with the certificate cannot be read.
    #[error("cannot read the client certificate {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The file is not fit to hold secrets.
    #[error("the client certificate {path} {problem}")]
    Unsafe {
        /// The file.
        path: PathBuf,
        /// What is wrong, and the remedy.
        problem: String,
    },
    /// There is no certificate with its key in the file.
    #[error("{path} {problem}: expected the certificate, those that signed it, and its private key, as PEM")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

/// What a node shows hubs that ask who it is.
#[derive(Clone, Default)]
pub struct Access {
    token: Option<Token>,
    certificate: Option<Certificate>,
    /// The addresses that may see it.
    hubs: Vec<Url>,
}

/// A client certificate and its key, ready for use.
#[derive(Clone)]
struct Certificate {
    tls: ClientConfig,
    /// Tells it from another one.
    digest: BlockId,
}

/// Whether the same is shown to the same hubs.
impl PartialEq for Access {
    fn eq(&self, other: &Self) -> bool {
        let digest = |access: &Self| access.certificate.as_ref().map(|certificate| certificate.digest);
        self.token == other.token && digest(self) == digest(other) && self.hubs == other.hubs
    }
}

impl Access {
    /// Reads what these `hubs`, and nobody else, are to be shown.
    ///
    /// # Errors
    /// [`AccessError`]: a file cannot be read, can be used by others, or has something else in it.
    pub fn read(
        hubs: &[String],
        token: Option<&Path>,
        certificate: Option<&Path>,
    ) -> Result<Self, AccessError> {
        let token = token.map(Token::read).transpose().map_err(AccessError::Token)?;
        let certificate = certificate.map(client).transpose()?;
        Ok(Self { token, certificate, hubs: hubs.iter().filter_map(|hub| hub.parse().ok()).collect() })
    }

    /// Whether there is nothing to show.
    pub fn is_empty(&self) -> bool {
        self.token.is_none() && self.certificate.is_none()
    }

    /// The hubs that a token goes to without being sealed on the way.
    pub fn in_the_clear(&self) -> impl Iterator<Item = &str> {
        let open = self.hubs.iter().filter(|hub| self.token.is_some() && hub.scheme() == "http");
        open.filter(|hub| !is_own(hub)).map(Url::as_str)
    }

    /// What the server at this address is shown: everything, if one of the hubs is there, or nothing.
    pub(crate) fn towards(&self, url: &str) -> Self {
        let there = Url::parse(url).ok().map(|url| url.origin());
        match self.hubs.iter().any(|hub| Some(hub.origin()) == there) {
            true => self.clone(),
            false => Self::default(),
        }
    }

    /// What is sent with each request. An answer that leads to another address takes none of it there.
    pub(crate) fn headers(&self) -> HeaderMap {
        let token = self.token.as_ref().map(|token| (AUTHORIZATION, token.authorization()));
        token.into_iter().collect()
    }

    /// How answers are followed that lead elsewhere: `usual`, unless there is a certificate. That belongs to the
    /// connection, so it would be shown wherever an answer leads; then nobody is followed to another address.
    pub(crate) fn redirects(&self, usual: Policy) -> Policy {
        match self.certificate {
            Some(_) => Policy::custom(stay),
            None => usual,
        }
    }

    /// How connections are made.
    pub(crate) fn tls(&self) -> Option<ClientConfig> {
        self.certificate.as_ref().map(|certificate| certificate.tls.clone()).or_else(tls::config)
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Access(token: {}, certificate: {})", self.token.is_some(), self.certificate.is_some())
    }
}

fn stay(attempt: Attempt<'_>) -> reqwest::redirect::Action {
    let here = attempt.previous().last().map(Url::origin);
    if attempt.previous().len() > MAX_REDIRECTS {
        attempt.error("too many redirects")
    } else if here != Some(attempt.url().origin()) {
        attempt.error("redirect to another address, which must not see the client certificate")
    } else {
        attempt.follow()
    }
}

/// Whether an address is on this machine.
fn is_own(hub: &Url) -> bool {
    hub.host_str().is_some_and(|host| {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    })
}

fn client(path: &Path) -> Result<Certificate, AccessError> {
    let (file, _) = private_file::open(path, MAX_CERTIFICATE).map_err(|error| match error {
        NotPrivate::Open(source) => AccessError::Read { path: path.to_owned(), source },
        NotPrivate::Unsafe(problem) => AccessError::Unsafe { path: path.to_owned(), problem },
    })?;
    let mut pem = Vec::new();
    let read = file.take(MAX_CERTIFICATE).read_to_end(&mut pem);
    read.map_err(|source| AccessError::Read { path: path.to_owned(), source })?;
    // Errors of the parser could repeat what they have read.
    let bad = |problem: &str| AccessError::Certificate { path: path.to_owned(), problem: problem.to_owned() };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let chain = chain.map_err(|_| bad("is damaged"))?;
    if chain.is_empty() {
        return Err(bad("has no certificate"));
    }
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| bad("has no private key"))?;
    let tls = tls::config_of(chain, key);
    let tls = tls.map_err(|_| bad("has a key that does not belong to the certificate"))?;
    Ok(Certificate { tls, digest: BlockId::of(&pem) })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::hub::{HubClient, Timeouts};

    const SECRET: &str = "0123456789abcdef0123";

    fn private(directory: &Path, name: &str, text: &str) -> PathBuf {
        let path = directory.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    #[test]
    fn only_the_hubs_see_it_and_nobody_reads_it() {
        let directory = tempfile::tempdir().unwrap();
        let token = private(directory.path(), "token", SECRET);
        let hubs = ["https://hub.example/under".to_owned(), "http://127.0.0.1:8080".to_owned()];
        let access = Access::read(&hubs, Some(&token), None).unwrap();
        for theirs in ["https://hub.example/blocks", "https://hub.example:443", "http://127.0.0.1:8080/x"] {
            assert_eq!(access.towards(theirs).headers().len(), 1, "{theirs}");
        }
        for other in
            ["http://hub.example/", "https://hub.example:8443", "https://evil/https://hub.example", "x"]
        {
            assert!(access.towards(other).is_empty(), "{other}");
        }
        assert!(!format!("{access:?} {:?}", access.headers()).contains(SECRET));
        assert_eq!(access.in_the_clear().count(), 0);
        let open = Access::read(&["http://hub.example".to_owned()], Some(&token), None).unwrap();
        assert_eq!(open.in_the_clear().collect::<Vec<_>>(), ["http://hub.example/"]);
    }

    /// A server that answers each request with these bytes, and how many have come.
    fn server(answer: String) -> (String, std::sync::Arc<std::sync::atomic::AtomicUsize>) {
        use std::io::{BufRead, BufReader, Write};
        use std::sync::atomic::{AtomicUsize, Ordering};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = std::sync::Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                count.fetch_add(1, Ordering::SeqCst);
                let head = BufReader::new(&stream).lines().map_while(Result::ok);
                head.take_while(|line| !line.is_empty()).for_each(drop);
                let _ = (&stream).write_all(answer.as_bytes());
            }
        });
        (url, asked)
    }

    #[test]
    fn with_a_certificate_nobody_is_followed_to_another_address() {
        use std::sync::atomic::Ordering;

        use crate::store::{HttpStore, Store};
        let directory = tempfile::tempdir().unwrap();
        let path = private(directory.path(), "good", include_str!("../../tests/fixtures/tls/client.pem"));
        let nothing = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        let (elsewhere, asked) = server(nothing.to_owned());
        let (hub, _) = server(format!(
            "HTTP/1.1 302 Found\r\nLocation: {elsewhere}/x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        ));
        let hubs = [hub.clone()];
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        for (certificate, followed) in [(Some(path.as_path()), false), (None, true)] {
            let access = Access::read(&hubs, None, certificate).unwrap();
            let before = asked.load(Ordering::SeqCst);
            let client = HubClient::with_access(&hub, "test", Timeouts::default(), &access).unwrap();
            let hubs_answer = runtime.block_on(client.ping());
            assert_eq!(hubs_answer.is_ok(), followed, "{hubs_answer:?}");
            let store = HttpStore::with_access(&hub, std::time::Duration::from_secs(60), &access).unwrap();
            let stores_answer = store.get(&crate::block::BlockId::of(b"x"));
            assert_eq!(stores_answer.is_ok(), followed, "{stores_answer:?}");
            assert_eq!(asked.load(Ordering::SeqCst) > before, followed);
        }
    }

    #[test]
    fn files_that_others_can_use_or_that_hold_something_else_are_refused_and_not_repeated() {
        let directory = tempfile::tempdir().unwrap();
        let good = include_str!("../../tests/fixtures/tls/client.pem");
        let other = include_str!("../../tests/fixtures/tls/stranger.pem");
        let path = private(directory.path(), "good", good);
        assert!(!Access::read(&[], None, Some(&path)).unwrap().is_empty());
        for mode in [0o640, 0o604, 0o602] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = Access::read(&[], None, Some(&path)).unwrap_err();
            assert!(matches!(&error, AccessError::Unsafe { .. }), "{mode:o}: {error}");
            assert!(error.to_string().contains("chmod 600"), "{error}");
        }
        let key = |text: &str| text[text.find("-----BEGIN PRIVATE").unwrap()..].to_owned();
        let certificate = |text: &str| text[..text.find("-----BEGIN PRIVATE").unwrap()].to_owned();
        let cases = [
            (String::new(), "no certificate"),
            (key(good), "no certificate"),
            (certificate(good), "no private key"),
            (format!("{}{}", certificate(good), key(other)), "does not belong"),
            (good.replace("-----BEGIN PRIVATE KEY-----\n", "-----BEGIN PRIVATE KEY-----\n!!"), ""),
        ];
        for (text, said) in cases {
            let path = private(directory.path(), "bad", &text);
            let error = crate::report(&Access::read(&[], None, Some(&path)).unwrap_err());
            assert!(error.contains(said), "{error}");
            let line = key(good).lines().nth(1).unwrap().to_owned();
            assert!(!error.contains(&line), "{error}");
        }
        assert!(matches!(
            Access::read(&[], None, Some(&directory.path().join("none"))),
            Err(AccessError::Read { .. })
        ));
    }
}
