//! A server with TLS in front of a hub, which lets nobody in whom it does not know.
//!
//! ```text
//! node ──TLS, client certificate, Authorization──► proxy ──plain HTTP──► hub
//! ```
//! A request for each connection. Certificates are those of the tests, with the names `localhost` and `127.0.0.1`.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::socket;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use crate::error::{Doing, Error};
use crate::place;

/// Longest head of a request, in bytes.
const LONGEST_HEAD: usize = 64 << 10;

/// How long one side may be silent.
const PATIENCE: Duration = Duration::from_secs(60);

/// A certificate of the tests, with its key where it has one, as PEM.
///
/// # Errors
/// When it cannot be read.
pub fn certificate(name: &str) -> Result<String, Error> {
    let path = place::workspace().join(format!("flist/tests/fixtures/tls/{name}.pem"));
    std::fs::read_to_string(&path).doing(|| format!("read {}", path.display()))
}

/// The proxy. It ends when it is dropped.
pub struct TlsProxy {
    address: SocketAddr,
    listener: Arc<TcpListener>,
    thread: Option<JoinHandle<()>>,
    shared: Arc<Shared>,
}

struct Shared {
    hub: SocketAddr,
    /// What the head of a request has to have.
    authorization: String,
    strangers: AtomicUsize,
    let_in: Mutex<Vec<String>>,
}

impl TlsProxy {
    /// Starts one, on a free port of 127.0.0.1, for clients with a certificate of the tests' CA and this token.
    ///
    /// # Errors
    /// When there is no port, or the certificates are missing.
    pub fn start(hub: SocketAddr, token: &str) -> Result<Self, Error> {
        let config = Arc::new(config()?);
        let listener = TcpListener::bind("127.0.0.1:0").doing(|| "listen on 127.0.0.1".to_owned())?;
        let address = listener.local_addr().doing(|| "find the port of the proxy".to_owned())?;
        let shared = Arc::new(Shared {
            hub,
            authorization: format!("authorization: bearer {token}").to_lowercase(),
            strangers: AtomicUsize::new(0),
            let_in: Mutex::default(),
        });
        let listener = Arc::new(listener);
        let (accepting, of_thread) = (Arc::clone(&listener), Arc::clone(&shared));
        // Ends when `drop` shuts the listening socket.
        let thread = thread::spawn(move || {
            while let Ok((client, _)) = accepting.accept() {
                let (config, shared) = (Arc::clone(&config), Arc::clone(&of_thread));
                thread::spawn(move || {
                    if shared.serve(client, config).is_err() {
                        shared.strangers.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        Ok(Self { address, listener, thread: Some(thread), shared })
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// How many connections and requests were turned away, or broke off.
    pub fn turned_away(&self) -> usize {
        self.shared.strangers.load(Ordering::Relaxed)
    }

    /// The paths that were asked for by those that were let in.
    pub fn let_in(&self) -> Vec<String> {
        self.shared.let_in.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for TlsProxy {
    fn drop(&mut self) {
        // Wakes the thread out of `accept`; a socket of ours that listens can always be shut.
        let _ = socket::shutdown(self.listener.as_raw_fd(), socket::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            // It does not panic: it only accepts.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn serve(&self, client: TcpStream, config: Arc<ServerConfig>) -> std::io::Result<()> {
        client.set_read_timeout(Some(PATIENCE))?;
        client.set_write_timeout(Some(PATIENCE))?;
        let connection = ServerConnection::new(config).map_err(std::io::Error::other)?;
        let mut client = StreamOwned::new(connection, client);
        let head = head(&mut client)?;
        if !head.to_lowercase().lines().any(|line| line == self.authorization) {
            client
                .write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
            client.conn.send_close_notify();
            client.flush()?;
            return Err(std::io::ErrorKind::PermissionDenied.into());
        }
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        self.let_in.lock().unwrap_or_else(PoisonError::into_inner).push(path);
        let mut hub = TcpStream::connect(self.hub)?;
        // The token is the proxy's business; the hub ends the connection after its answer.
        let hidden = |line: &&str| {
            let line = line.to_lowercase();
            !line.starts_with("authorization:") && !line.starts_with("connection:")
        };
        for line in head.lines().filter(hidden).filter(|line| !line.is_empty()) {
            write!(hub, "{line}\r\n")?;
        }
        hub.write_all(b"Connection: close\r\n\r\n")?;
        let length = content_length(&head).ok_or(std::io::ErrorKind::InvalidData)?;
        std::io::copy(&mut (&mut client).take(length), &mut hub)?;
        std::io::copy(&mut hub, &mut client)?;
        client.conn.send_close_notify();
        client.flush()
    }
}

/// How long the body of a request is; `None` where the head does not say it so that it is understood.
fn content_length(head: &str) -> Option<u64> {
    let fields = head.lines().filter_map(|line| line.split_once(':'));
    let lengths = fields.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    lengths.map(|(_, value)| value.trim().parse().ok()).next().unwrap_or(Some(0))
}

fn head(client: &mut impl Read) -> std::io::Result<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte)?;
        head.push(byte[0]);
        if head.len() > LONGEST_HEAD {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
    }
    String::from_utf8(head).map_err(std::io::Error::other)
}

fn config() -> Result<ServerConfig, Error> {
    let bad = |what: &str, error: &dyn std::fmt::Display| Error::Unexpected(format!("{what}: {error}"));
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(certificate("ca")?.as_bytes());
    let added = ca.map_err(|error| bad("the CA", &error)).map(|ca| roots.add(ca))?;
    added.map_err(|error| bad("the CA", &error))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let known = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build();
    let known = known.map_err(|error| bad("the verifier", &error))?;
    let pem = certificate("server")?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let chain = chain.map_err(|error| bad("the certificate", &error))?;
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|error| bad("the key", &error))?;
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(|error| bad("TLS", &error))?.with_client_cert_verifier(known);
    config.with_single_cert(chain, key).map_err(|error| bad("the certificate", &error))
}
