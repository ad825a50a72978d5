//! `flist mount`

use std::path::{Path, PathBuf};

use flist::mount::{Purpose, detach, mount};
use nix::sys::signal::{SigSet, Signal};
use serde_json::json;

use super::failure::Failure;
use super::output::Output;
use super::reading::Reading;

/// Mount a flist read-only and stay until interrupted or unmounted.
#[derive(clap::Args)]
#[command(override_usage = USAGE, after_help = EXAMPLES)]
pub(super) struct Arguments {
    #[command(flatten)]
    reading: Reading,
    /// Mount over a directory that has something in it, which is hidden meanwhile
    #[arg(long)]
    nonempty: bool,
    /// The flist, unless -m names it, and the directory to mount on
    #[arg(value_names = ["FLIST", "DIRECTORY"], num_args = 1..=2, required = true)]
    arguments: Vec<PathBuf>,
}

const USAGE: &str = "flist mount [OPTIONS] <FLIST> <DIRECTORY>
       flist mount [OPTIONS] -m <FLIST> <DIRECTORY>";

const EXAMPLES: &str = "Examples:
  flist mount app.fl /mnt/app
  flist mount -m app.fl -s http://127.0.0.1:8080/store -c /var/cache/flist /mnt/app
  umount /mnt/app";

pub(super) fn run(arguments: &Arguments, output: &Output) -> super::Outcome {
    // Blocked before any thread starts (those of a store too), so that all of them leave the signals to the
    // thread below.
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    signals.thread_block()?;
    let (flist, directory) = arguments.reading.meta.with_directory(&arguments.arguments)?;
    let (tree, store) = arguments.reading.open(&flist)?;
    // What cannot be listed, such as a dead mount, is for the mount itself to judge.
    let occupied = std::fs::read_dir(&directory).is_ok_and(|mut entries| entries.next().is_some());
    if occupied && !arguments.nonempty {
        let directory = directory.display();
        return Err(Failure::usage(format!(
            "{directory} is not empty, and what is in it would be hidden; mount on an empty directory, or use --nonempty"
        )));
    }
    let mounted = mount(&tree, store, &directory, Purpose::General)?;
    let said = json!({"flist": flist, "directory": directory});
    output.done(&said, || format!("{} is mounted on {}", flist.display(), directory.display()))?;
    std::thread::spawn(move || unmount_on_signal(&signals, &directory));
    mounted.wait()?;
    Ok(flist::exit::Exit::Done)
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
