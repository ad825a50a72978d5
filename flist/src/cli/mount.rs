//! `flist mount`

use std::path::{Path, PathBuf};

use flist::mount::{Purpose, detach, mount};
use flist::tree::Limits;
use flist::{format, store};
use nix::sys::signal::{SigSet, Signal};

/// Mount a flist read-only and stay until interrupted or unmounted.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The flist to read
    #[arg(short = 'm', long = "meta", value_name = "FLIST")]
    meta: PathBuf,
    /// Where the blocks are, instead of the flist's own routes
    #[arg(short, long, value_name = "STORE")]
    store: Option<String>,
    /// Keep fetched blocks in this directory
    #[arg(short, long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// The directory to mount on
    directory: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> super::Outcome {
    let tree = format::read(&arguments.meta, &Limits::default())?;
    let store =
        store::open_for_reading(&tree.routes, arguments.store.as_deref(), arguments.cache.as_deref())?;
    // Blocked before any thread starts, so that all of them leave the signals to the thread below.
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    signals.thread_block()?;
    let mounted = mount(&tree, store, &arguments.directory, Purpose::General)?;
    println!("{} is mounted on {}", arguments.meta.display(), arguments.directory.display());
    let directory = arguments.directory.clone();
    std::thread::spawn(move || unmount_on_signal(&signals, &directory));
    mounted.wait()?;
    Ok(())
}

/// The session, and with it the program, ends when the last user of the mount has left; a second signal
/// does not wait for that.
fn unmount_on_signal(signals: &SigSet, directory: &Path) {
    if signals.wait().is_ok() {
        if let Err(error) = detach(directory) {
            tracing::error!(error = flist::report(&error), "still mounted");
        }
        // The default action of a second signal ends the process.
        let _ = signals.thread_unblock();
    }
}
