//! Campaigns: many upgrades of real nodes, with something going wrong at random moments.
//!
//! `cargo xtask torture` runs them in full, a test runs a small fixed part. What is random comes from a
//! seed that is printed; the moments are those of a real machine, so the same seed repeats the same
//! faults at about the same, not exactly the same moments.

mod arena;
mod bad_release;
pub mod chaos;
mod ending;
pub mod guardian;
pub mod hub_loss;
pub(crate) mod image;
pub mod kill;
pub mod named;
pub mod neutral;
mod points;
pub mod power;
mod range;
mod roots;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill as send};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

pub use ending::{Ending, Tally};
pub use roots::{ByRoot, Roots};

use crate::error::{Doing, Error};
use crate::{Node, job, place, wait_for};

/// Longest wait for anything a node does by itself.
const LIMIT: Duration = Duration::from_secs(90);

/// How long the supervisor lets pass before it starts a service again. A service that ends again and again does so
/// many times within [`CONFIG`]'s health window then, and is away for long enough to be seen.
const RESPAWN_DELAY: Duration = Duration::from_millis(200);

/// Settings of the nodes: nobody shall wait longer than there is something to see.
const CONFIG: &str = "poll_interval: 1\nhandover_timeout: 5\nhealth_window: 1\nstart_timeout: 3\n";

/// How much of a campaign is run.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    /// Kills or upgrades in all.
    pub runs: usize,
    /// Nodes at the same time.
    pub nodes: usize,
    /// Where randomness comes from.
    pub seed: u64,
    /// Root file systems of the nodes; virtual machines have their own.
    pub roots: Roots,
}

/// Told after every run: what happened in it.
pub type Tell<'t> = dyn Fn(&str) + Sync + 't;

/// Runs `work` on as many threads as there are nodes; it gets the number of its node and a closure that
/// tells whether another run is wanted. Returns what each came to.
fn on_nodes<T: Send>(
    extent: Extent,
    work: impl Fn(u64, &dyn Fn() -> bool) -> Result<T, Error> + Sync,
) -> Result<Vec<T>, Error> {
    let begun = AtomicUsize::new(0);
    let another = || begun.fetch_add(1, Ordering::Relaxed) < extent.runs;
    let gone = |_| Error::Unexpected("a thread of the campaign died".to_owned());
    thread::scope(|scope| {
        let nodes = extent.nodes.clamp(1, extent.runs.max(1)) as u64;
        let threads: Vec<_> = (0..nodes)
            .map(|number| {
                let (work, another) = (&work, &another);
                scope.spawn(move || work(number, another))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().map_err(gone)?).collect()
    })
}

/// SIGKILL for a process of identityd; returns when the process is gone.
fn kill_identityd(node: &Node, pid: u32) -> Result<(), Error> {
    let raw = i32::try_from(pid).map_err(|_| Error::Unexpected(format!("{pid} is no pid")))?;
    send(Pid::from_raw(raw), Signal::SIGKILL).doing(|| format!("kill identityd, process {pid}"))?;
    let gone = || match Path::new(&format!("/proc/{pid}/exe")).read_link() {
        Ok(_) => Err("it is there".to_owned()),
        Err(_) => Ok(()),
    };
    wait_for("the killed identityd is gone", LIMIT, gone)?;
    node.init().map(drop)
}

/// Whether this is what the running identityd says, and not the one before.
fn is_current(node: &Node, status: &Value) -> bool {
    let running = node.service("identityd").ok().and_then(|service| service.pid);
    running.is_some() && status["identityd"]["pid"].as_u64() == running.map(u64::from)
}

/// A copy of the program that takes less of a node's memory and of everybody's time.
///
/// # Errors
/// When it cannot be made.
pub fn without_debug_information(program: &Path) -> Result<(TempDir, PathBuf), Error> {
    let aside = place::scratch("program")?;
    let to = aside.path().join("identityd");
    let limit = Duration::from_secs(60);
    job::run(Command::new("strip").args(["--strip-debug", "-o"]).arg(&to).arg(program), limit)?;
    Ok((aside, to))
}
