//! `flist mount`

use std::path::{Path, PathBuf};

use flist::mount::{Purpose, detach, mount};
use nix::sys::signal::{SigSet, Signal};

use super::reading::Reading;

/// Mount a flist read-only and stay until interrupted or unmounted.
#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    reading: Reading,
    /// The directory to mount on
    directory: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> super::Outcome {
    // Blocked before any thread starts (those of a store too), so that all of them leave the signals to the
    // thread below.
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    signals.thread_block()?;
    let (tree, store) = arguments.reading.open()?;
    let mounted = mount(&tree, store, &arguments.directory, Purpose::General)?;
    println!("{} is mounted on {}", arguments.reading.meta.display(), arguments.directory.display());
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
