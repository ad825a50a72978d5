//! The control socket: one request a connection, in lines of JSON.
//!
//! ```text
//! → {"verb":"apply"}
//! ← {"progress":{"stage":"Fetching"}}
//! ← {"progress":{"service":{"name":"web","event":"started","down_ms":12}}}
//! ← {"ok":{"apply":{"committed":true,"version":"2.0.0","generation":4}}}
//! ```
//! The last line is `ok` or `error` (`{"error":{"message":"…","kind":"Network"}}`). Root and the
//! daemon's own user are listened to, nobody else.

mod client;
mod server;

use std::io;
use std::time::Duration;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};

use crate::agent::Verb;

pub use client::{AskError, Heard, answer_of_any_version, ask, follow_rollback, follow_upgrade};
pub use server::{Server, ServerError};

/// Name of the socket in the run directory.
pub const SOCKET: &str = "control.sock";

/// Where the socket is unless the configuration says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/molt/control.sock";

/// Longest request, in bytes, its line feed included.
pub const LARGEST_REQUEST: u64 = 64 * 1024;

/// Longest line of an answer, in bytes; a plan of a whole system is the largest of them.
pub const LARGEST_ANSWER: u64 = 64 * 1024 * 1024;

/// How long an answer may take at most, from line to line.
fn patience(verb: Verb) -> Duration {
    match verb {
        Verb::Status | Verb::Why | Verb::Hold | Verb::Unhold | Verb::Pause | Verb::Resume => {
            Duration::from_secs(10)
        }
        // A store that is read is not waited for, but another engine may have the lock.
        Verb::Cancel => Duration::from_secs(2 * 60),
        // Hub and stores have deadlines of their own; this is above their sum.
        Verb::Check => Duration::from_secs(3 * 60),
        Verb::Plan => Duration::from_secs(10 * 60),
        // Between two lines there may be a large download or a health window.
        Verb::Apply | Verb::Retry | Verb::Rollback => Duration::from_secs(60 * 60),
    }
}

/// What was read where a line was expected.
#[derive(Debug)]
enum Line {
    Whole(Vec<u8>),
    /// The stream ended before a line feed, after this many bytes.
    BrokenOff(usize),
    TooLong,
}

/// Reads one line of at most `limit` bytes, its line feed included; it is cut off.
async fn read_line(reader: &mut (impl AsyncBufRead + Unpin), limit: u64) -> io::Result<Line> {
    let mut line = Vec::new();
    reader.take(limit).read_until(b'\n', &mut line).await?;
    if line.last() == Some(&b'\n') {
        line.pop();
        return Ok(Line::Whole(line));
    }
    let full = u64::try_from(line.len()).is_ok_and(|length| length >= limit);
    Ok(if full { Line::TooLong } else { Line::BrokenOff(line.len()) })
}

#[cfg(test)]
mod tests;
