//! The daemon's side of the control socket.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::{LARGEST_REQUEST, Line, patience, read_line};
use crate::agent::{Answer, Asked, Handle, Problem, ProblemKind};

/// Connections that are served at a time.
const MOST_CONNECTIONS: usize = 32;
/// How long a client may take to send its request, or to take a line.
const CLIENT_DEADLINE: Duration = Duration::from_secs(5);
/// How long accepting pauses after it failed (out of descriptors, mostly).
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// The socket cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Somebody listens there.
    #[error("another identityd already listens on {}; there can be only one", path.display())]
    AlreadyRunning {
        /// The socket.
        path: PathBuf,
    },
    /// Something else has its name.
    #[error("{} is in the way: it is not a socket; remove it and start again", path.display())]
    InTheWay {
        /// The path.
        path: PathBuf,
    },
    /// The system refused.
    #[error("could not listen on {}", path.display())]
    Listen {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A listening control socket, 0600. The file goes when this is dropped.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
    /// Tells our file from one that took its place.
    inode: u64,
    /// Users that are listened to.
    allowed: Vec<u32>,
}

impl Server {
    /// Listens at this path, in place of a socket that a killed daemon left there.
    pub async fn bind(path: &Path) -> Result<Self, ServerError> {
        Self::bind_for(path, vec![0, nix::unistd::geteuid().as_raw()]).await
    }

    pub(super) async fn bind_for(path: &Path, allowed: Vec<u32>) -> Result<Self, ServerError> {
        require_abandoned(path).await?;
        let failed = |source| ServerError::Listen { path: path.to_owned(), source };
        // Closed to others before it gets the name under which it is looked for.
        let draft = path.with_extension(format!("{}.new", std::process::id()));
        match fs::remove_file(&draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&draft).map_err(failed)?;
        fs::set_permissions(&draft, Permissions::from_mode(0o600)).map_err(failed)?;
        let inode = fs::symlink_metadata(&draft).map_err(failed)?.ino();
        fs::rename(&draft, path).map_err(failed)?;
        Ok(Self { listener, path: path.to_owned(), inode, allowed })
    }

    /// Answers for ever.
    pub async fn serve(self, handle: Handle) {
        let slots = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        loop {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    warn!("could not accept a connection on {}: {error}", self.path.display());
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let slot = Arc::clone(&slots).try_acquire_owned();
            let peer = Peer { stream: BufReader::new(stream), handle: handle.clone() };
            let allowed = self.allowed.clone();
            tokio::spawn(async move {
                let answered = match slot {
                    Ok(_held) => peer.serve(&allowed).await,
                    Err(_) => peer.refuse(ProblemKind::Busy, "identityd serves too many connections").await,
                };
                if let Err(error) = answered {
                    debug!("a client went before its answer was complete: {error}");
                }
            });
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            // A socket without a listener does no harm: the next daemon replaces it.
            let _left = fs::remove_file(&self.path);
        }
    }
}

/// Checks that nobody listens at this path.
async fn require_abandoned(path: &Path) -> Result<(), ServerError> {
    let failed = |source| ServerError::Listen { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(ServerError::InTheWay { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    match timeout(CLIENT_DEADLINE, UnixStream::connect(path)).await {
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        // Went away just now.
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // It accepts, or it is too busy to: somebody is there.
        Ok(Ok(_)) | Err(_) => Err(ServerError::AlreadyRunning { path: path.to_owned() }),
        Ok(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(ServerError::AlreadyRunning { path: path.to_owned() })
        }
        Ok(Err(error)) => Err(failed(error)),
    }
}

/// One connection.
struct Peer {
    stream: BufReader<UnixStream>,
    handle: Handle,
}

impl Peer {
    async fn serve(mut self, allowed: &[u32]) -> io::Result<()> {
        let user = self.stream.get_ref().peer_cred()?.uid();
        if !allowed.contains(&user) {
            warn!(user, "refused a request of another user");
            return self.refuse(ProblemKind::Refused, "only root may ask identityd").await;
        }
        let line = match timeout(CLIENT_DEADLINE, read_line(&mut self.stream, LARGEST_REQUEST)).await {
            Ok(Ok(Line::Whole(line))) => line,
            // Somebody only looked whether anybody listens.
            Ok(Ok(Line::BrokenOff(0))) => return Ok(()),
            Ok(Ok(Line::BrokenOff(bytes))) => {
                let message = format!("the request ended after {bytes} bytes, without a line feed");
                return self.refuse(ProblemKind::Local, &message).await;
            }
            Ok(Ok(Line::TooLong)) => {
                let message = format!("the request is longer than {LARGEST_REQUEST} bytes");
                return self.refuse(ProblemKind::Local, &message).await;
            }
            Ok(Err(error)) => return Err(error),
            Err(_) => {
                let message = format!("no request came within {CLIENT_DEADLINE:?}");
                return self.refuse(ProblemKind::Local, &message).await;
            }
        };
        match serde_json::from_slice(&line) {
            Ok(asked) => self.answer(asked, user).await,
            Err(error) => {
                let message = format!(
                    "the request is not {{\"verb\":\"status\"|\"check\"|\"plan\"|\"apply\"|…}}: {error}"
                );
                self.refuse(ProblemKind::Local, &message).await
            }
        }
    }

    async fn answer(mut self, asked: Asked, by: u32) -> io::Result<()> {
        let patience = patience(asked.verb);
        let mut answers = self.handle.ask(asked, by);
        loop {
            match timeout(patience, answers.recv()).await {
                Ok(Some(answer @ Answer::Progress(_))) => self.write(&answer).await?,
                Ok(Some(answer)) => return self.write(&answer).await,
                Ok(None) => return self.refuse(ProblemKind::Busy, "identityd ended").await,
                Err(_) => {
                    let message = format!("nothing happened within {patience:?}");
                    return self.refuse(ProblemKind::Busy, &message).await;
                }
            }
        }
    }

    async fn refuse(mut self, kind: ProblemKind, message: &str) -> io::Result<()> {
        self.write(&Answer::Error(Problem::new(kind, message))).await
    }

    async fn write(&mut self, answer: &Answer) -> io::Result<()> {
        let mut line = serde_json::to_vec(answer)?;
        line.push(b'\n');
        timeout(CLIENT_DEADLINE, self.stream.get_mut().write_all(&line)).await?
    }
}
