//! The last lines that services wrote.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::sync::broadcast;

use crate::console::Console;

/// Longest line that is kept in one piece, in bytes.
const MAX_LINE_BYTES: u64 = 4096;

/// How many lines a follower may be behind before it misses some.
const FOLLOWER_LINES: usize = 1000;

/// A ring of log lines; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Ring {
    lines: Arc<Mutex<VecDeque<Arc<str>>>>,
    capacity: usize,
    followers: broadcast::Sender<Arc<str>>,
    console: Console,
}

impl Ring {
    /// A ring of `capacity` lines, at least one.
    pub(crate) fn new(capacity: usize, console: Console) -> Self {
        let (followers, _) = broadcast::channel(FOLLOWER_LINES);
        Self { lines: Arc::default(), capacity: capacity.max(1), followers, console }
    }

    pub(crate) fn push(&self, line: &str) {
        self.console.ring_line(line);
        let line: Arc<str> = line.into();
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() >= self.capacity {
            lines.pop_front();
        }
        lines.push_back(Arc::clone(&line));
        // Sent under the lock, so that a follower sees every line once. Nobody need follow.
        let _ = self.followers.send(line);
    }

    /// The lines there are, and a receiver of those to come.
    pub(crate) fn follow(&self) -> (Vec<Arc<str>>, broadcast::Receiver<Arc<str>>) {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        (lines.iter().cloned().collect(), self.followers.subscribe())
    }
}

/// Moves the lines of `stream` to `ring`, each as `prefix: line`, until the stream ends.
pub(crate) async fn capture(stream: impl AsyncRead + Unpin, prefix: String, ring: Ring) {
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut reader).take(MAX_LINE_BYTES).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        ring.push(&format!("{prefix}: {}", String::from_utf8_lossy(text)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(ring: &Ring) -> Vec<String> {
        ring.follow().0.iter().map(|line| line.to_string()).collect()
    }

    #[test]
    fn the_oldest_line_goes_first() {
        let ring = Ring::new(2, Console::new(false));
        for line in ["one", "two", "three"] {
            ring.push(line);
        }
        assert_eq!(lines(&ring), ["two", "three"]);
    }

    #[tokio::test]
    async fn lines_are_bounded_and_any_bytes_are_taken() {
        let ring = Ring::new(10, Console::new(false));
        let mut bytes = vec![b'x'; MAX_LINE_BYTES as usize + 1];
        bytes.extend_from_slice(b"\n\xff\nlast");
        capture(bytes.as_slice(), "[+] a".to_owned(), ring.clone()).await;
        let lines = lines(&ring);
        assert_eq!(lines[0].len(), MAX_LINE_BYTES as usize + "[+] a: ".len());
        assert_eq!(lines[1..], ["[+] a: x", "[+] a: \u{fffd}", "[+] a: last"]);
    }

    #[tokio::test]
    async fn a_follower_gets_what_comes_later() {
        let ring = Ring::new(10, Console::new(false));
        ring.push("before");
        let (before, mut after) = ring.follow();
        ring.push("after");
        assert_eq!(before.len(), 1);
        assert_eq!(&*after.recv().await.unwrap(), "after");
    }
}
