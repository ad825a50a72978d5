//! The unix socket: one request and one reply per connection.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{mpsc, oneshot};

use crate::console::Console;
use crate::init::Dialect;
use crate::jsonrpc;
use crate::protocol::{self, Refusal, Request};
use crate::ring::Ring;
use crate::supervisor::Message;

/// Longest request, in bytes.
const MAX_REQUEST_BYTES: u64 = 64 << 10;

/// Pause after a connection could not be accepted: the cause, such as too many open files, is not
/// gone at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A socket that cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListenError {
    #[error("another supervisor listens on {}; stop it, or take another socket", .0.display())]
    InUse(PathBuf),
    #[error("could not listen on {}", path.display())]
    Listen { path: PathBuf, source: io::Error },
}

/// Listens on `path`, in the place of a socket that a dead supervisor left.
pub(crate) async fn listen(path: &Path) -> Result<UnixListener, ListenError> {
    if UnixStream::connect(path).await.is_ok() {
        return Err(ListenError::InUse(path.to_owned()));
    }
    let error = |source| ListenError::Listen { path: path.to_owned(), source };
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(error)?;
    }
    // Whatever else may be there, only a socket is ours to remove.
    if fs::symlink_metadata(path).is_ok_and(|entry| entry.file_type().is_socket()) {
        fs::remove_file(path).map_err(error)?;
    }
    UnixListener::bind(path).map_err(error)
}

/// Serves clients for ever.
pub(crate) async fn serve(
    listener: UnixListener,
    dialect: Dialect,
    messages: mpsc::Sender<Message>,
    ring: Ring,
    console: Console,
) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // A client that hangs up early is its own affair.
                let (messages, ring) = (messages.clone(), ring.clone());
                tokio::spawn(async move {
                    drop(match dialect {
                        Dialect::Line => converse(stream, messages, ring).await,
                        Dialect::Jsonrpc => jsonrpc::converse(stream, messages, ring).await,
                    });
                });
            }
            Err(error) => {
                console.error(format_args!("could not accept a client: {error}"));
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn converse(stream: UnixStream, messages: mpsc::Sender<Message>, ring: Ring) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader).take(MAX_REQUEST_BYTES);
    let mut line = Vec::new();
    reader.read_until(b'\n', &mut line).await?;
    let request = match std::str::from_utf8(&line) {
        // zinit says two things here, and the first one is not in its own format.
        Err(_) => {
            writer.write_all(b"bad request").await?;
            Err(Refusal::NoCommand)
        }
        Ok(line) => protocol::parse(line.strip_suffix('\n').unwrap_or(line)),
    };
    match request {
        Err(refusal) => writer.write_all(protocol::reply(Err(refusal)).as_bytes()).await,
        Ok(Request::Log { follow }) => write_log(&mut writer, ring, follow).await,
        Ok(request) => {
            let ((reply, answer), (_written, written)) = (oneshot::channel(), oneshot::channel());
            let message = Message { request, reply, written };
            // A supervisor that is gone answers nothing, like a process that is gone.
            if messages.send(message).await.is_err() {
                return Ok(());
            }
            match answer.await {
                Ok(result) => writer.write_all(protocol::reply(result).as_bytes()).await,
                Err(_) => Ok(()),
            }
        }
    }
}

async fn write_log(writer: &mut (impl AsyncWrite + Unpin), ring: Ring, follow: bool) -> io::Result<()> {
    let (lines, mut coming) = ring.follow();
    for line in lines {
        writer.write_all(format!("{line}\n").as_bytes()).await?;
    }
    if !follow {
        return Ok(());
    }
    loop {
        match coming.recv().await {
            Ok(line) => writer.write_all(format!("{line}\n").as_bytes()).await?,
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return Ok(()),
        }
    }
}
