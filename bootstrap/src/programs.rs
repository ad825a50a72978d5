//! Running programs of packages, behind one narrow trait.

mod in_root;

use std::fmt;
use std::io;
use std::time::Duration;

use async_trait::async_trait;
use flist::path::FlistPath;

pub use in_root::InRoot;

/// Bytes of output that are kept, from its end.
pub const KEPT_OUTPUT: usize = 4096;

/// Characters of it that are told in a message.
const TOLD_OUTPUT: usize = 500;

/// Runs programs with the node's root as theirs. Each run is one effect.
#[async_trait]
pub trait Programs: Send + Sync + fmt::Debug {
    /// Runs a program to its end, or ends it; nothing of it is left when this returns, unless it is [`How::Stuck`].
    ///
    /// # Errors
    /// It could not be started, or nobody knows how it ended.
    async fn run(&self, call: &Call) -> io::Result<Ended>;

    /// Ends what an earlier run with this mark has left, because whoever ran it was killed.
    ///
    /// # Errors
    /// Nobody could find out, or something cannot be ended.
    async fn end_leftovers(&self, mark: &str) -> io::Result<()>;

    /// Waits until what programs have changed is on its medium: in the root, and in whatever else lies on a disk of this
    /// machine that does not fail.
    ///
    /// # Errors
    /// The system's; nobody knows what is on the medium then.
    async fn sync(&self) -> io::Result<()>;
}

/// What is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Where the program lies.
    pub program: FlistPath,
    /// Its words; the first one is the path that it is known by.
    pub words: Vec<String>,
    /// Its environment, besides `PATH` and the mark.
    pub environment: Vec<(&'static str, String)>,
    /// Finds it again, also after whoever ran it was killed.
    pub mark: String,
    /// Directories that it sees in the place of others: what it sees, and where.
    pub instead: Vec<(FlistPath, FlistPath)>,
    /// The longest time it may take.
    pub timeout: Duration,
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// By itself, with this code.
    Exited(i32),
    /// By this signal.
    Killed(i32),
    /// It was ended because it took longer.
    TimedOut(Duration),
    /// Not at all: it was killed, and is still there after this time. It hangs in the kernel, and does nothing any more
    /// but end the one call that it is in.
    Stuck(Duration),
}

/// How a program ended, and the end of what it wrote to its standard output and error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// How.
    pub how: How,
    /// At most [`KEPT_OUTPUT`] bytes.
    pub output: Vec<u8>,
}

impl Ended {
    /// Whether it did what it was asked to.
    pub fn is_good(&self) -> bool {
        self.how == How::Exited(0)
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.how {
            How::Exited(code) => write!(f, "it ended with code {code}")?,
            How::Killed(signal) => write!(f, "it was killed by signal {signal}")?,
            How::TimedOut(limit) => write!(f, "it did not end within {limit:?} and was killed")?,
            How::Stuck(after) => write!(
                f,
                "it was killed and is still there after {after:?}: it hangs in the kernel, maybe on a file system that does not answer"
            )?,
        }
        let text = String::from_utf8_lossy(&self.output);
        let text: Vec<char> = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        if text.is_empty() {
            return f.write_str(" and said nothing");
        }
        let told: String = text[text.len().saturating_sub(TOLD_OUTPUT)..].iter().collect();
        write!(f, "; the last it said: {told}")
    }
}
