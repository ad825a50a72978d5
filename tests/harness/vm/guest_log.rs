//! Machines that log what they write themselves: with dm-log-writes of their own kernel between the file system and
//! the disk. Debian's dmsetup sets it up before the image's first program runs.
//!
//! The kernel writes an entry when the disk has completed a write for good: one that is durable by itself at once,
//! any other with the first flush that was asked for after it had completed.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::{DiskImage, Drive, Range, VmBuilder};
use crate::BaseFile;
use crate::error::{Doing, Error};
use crate::image::Image;
use crate::{libraries, tools};

/// Runs before the image's first program.
const SCRIPT: &str = include_str!("guest_log.sh");

/// Where the script is in the image.
const SCRIPT_PATH: &str = "/sbin/guest-log";

/// Where the libraries of dmsetup are in the image; the script says so too.
const LIBRARIES: &str = "/usr/lib/dmsetup";

/// Size of the disk for the log. Only what is written takes room.
const LOG_SIZE: u64 = 2 << 30;

/// What the kernel says when the log is full and nothing is logged any more.
pub const IS_FULL: &str = "Ran out of space on the logdev";

impl Range {
    /// An image for [`VmBuilder::disk_logged_by_guest`].
    ///
    /// # Errors
    /// When dmsetup cannot be downloaded, or the image not be written.
    pub fn write_logging_image(&self) -> Result<Image, Error> {
        let package = tools::package("dmsetup")?;
        let dmsetup = package.directory.join("sbin/dmsetup");
        let needed = libraries::needed_by(&dmsetup, &package.libraries)?;
        self.write_image(false, |contents| {
            let there: Vec<_> = contents.programs.libraries().iter().filter_map(|path| name(path)).collect();
            let missing = needed.iter().filter_map(|path| Some((name(path)?, path)));
            let missing = missing.filter(|(name, _)| !there.contains(name));
            let copies = missing.map(|(name, path)| BaseFile::program(Path::new(LIBRARIES).join(name), path));
            contents.files.extend(copies);
            contents.files.push(BaseFile::program("/sbin/dmsetup", dmsetup));
            contents.files.push(BaseFile { mode: 0o755, ..BaseFile::text(SCRIPT_PATH, SCRIPT) });
            contents.drivers.push("dm_log_writes");
        })
    }
}

impl VmBuilder {
    /// Its root file system is on `disk`, and its own kernel logs in `log` what it writes there. `image` is of
    /// [`Range::write_logging_image`]; the machine has no disk before.
    ///
    /// # Errors
    /// When the log cannot be made.
    pub fn disk_logged_by_guest(self, image: &Image, disk: &DiskImage, log: &Path) -> Result<Self, Error> {
        let made = File::create(log).and_then(|file| file.set_len(LOG_SIZE));
        made.doing(|| format!("make {}", log.display()))?;
        let mut builder =
            self.image(image).append(&format!("rdinit={SCRIPT_PATH} root=/dev/dm-0")).disk(disk);
        builder.machine.disks.push(Drive { image: log.to_owned(), log: None });
        Ok(builder)
    }
}

fn name(path: &Path) -> Option<PathBuf> {
    path.file_name().map(PathBuf::from)
}
