//! What a process writes, line by line, with the time at which it came.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

/// Most lines kept; older ones are dropped.
const MAX_LINES: usize = 50_000;

/// Most bytes of one line.
const MAX_LINE: u64 = 64 << 10;

/// One line of output.
#[derive(Debug, Clone)]
pub struct Line {
    /// When it was read.
    pub at: Instant,
    /// The text, without the end of the line.
    pub text: String,
}

/// The output of a process; cheap to clone, readable while it grows.
#[derive(Debug, Clone, Default)]
pub struct Log {
    lines: Arc<Mutex<VecDeque<Line>>>,
}

impl Log {
    /// All lines there are.
    pub fn lines(&self) -> Vec<Line> {
        self.guard().iter().cloned().collect()
    }

    /// The whole text there is.
    pub fn text(&self) -> String {
        self.guard().iter().fold(String::new(), |text, line| text + &line.text + "\n")
    }

    /// The last `count` lines.
    pub fn tail(&self, count: usize) -> String {
        let lines = self.guard();
        let from = lines.len().saturating_sub(count);
        lines.range(from..).fold(String::new(), |text, line| text + &line.text + "\n")
    }

    /// Whether a line contains `part`.
    pub fn contains(&self, part: &str) -> bool {
        self.guard().iter().any(|line| line.text.contains(part))
    }

    /// Reads `stream` to its end on a thread of its own.
    pub(crate) fn follow(&self, stream: impl Read + Send + 'static) -> JoinHandle<()> {
        let log = self.clone();
        std::thread::spawn(move || {
            let mut stream = BufReader::new(stream);
            let mut bytes = Vec::new();
            // An unreadable stream counts as its end: the process is gone.
            while let Ok(1..) = stream.by_ref().take(MAX_LINE).read_until(b'\n', &mut bytes) {
                log.push(String::from_utf8_lossy(&bytes).trim_end().to_owned());
                bytes.clear();
            }
        })
    }

    fn push(&self, text: String) {
        let mut lines = self.guard();
        if lines.len() == MAX_LINES {
            lines.pop_front();
        }
        lines.push_back(Line { at: Instant::now(), text });
    }

    fn guard(&self) -> MutexGuard<'_, VecDeque<Line>> {
        // A panic elsewhere leaves the lines as they are.
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_and_without_their_end() {
        let log = Log::default();
        log.follow(&b"one\r\ntwo\n\xffthree"[..]).join().unwrap();
        assert_eq!(log.text(), "one\ntwo\n\u{fffd}three\n");
        assert_eq!(log.tail(1), "\u{fffd}three\n");
        assert!(log.contains("tw") && !log.contains("four"));
    }
}
