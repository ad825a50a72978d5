//! The state directory on a real disk that fails: read-only, immutable, full, broken.

#![allow(unsafe_code, reason = "one system call of the kernel's for breaking a file system")]

mod moves;
mod returns;

use std::fs::{self, File};
use std::ops::Deref;
use std::os::fd::AsRawFd;
use std::path::Path;

use bootstrap::engine::ReleaseTree;
use bootstrap::generation::RootIdentity;
use bootstrap::plan::Purpose;
use bootstrap::releases::Releases;
use bootstrap::root::Root;
use bootstrap::state_place::{Notice, StatePlaceError};
use nix::mount::umount;

use crate::place::{Place, make_ext4, mount_empty, mount_image, own_mounts, run, wait_for};

/// A place with a root and a run directory in RAM, and a state disk of its own: an ext4 image.
struct Node {
    place: Place,
}

impl Deref for Node {
    type Target = Place;

    fn deref(&self) -> &Place {
        &self.place
    }
}

impl Node {
    fn new() -> Self {
        own_mounts();
        let mut place = Place::new();
        place.state = place.at("disk/molt");
        for name in ["root", "run"] {
            mount_empty("tmpfs", &place.at(name), Some("size=64m"));
        }
        fs::create_dir(place.at("disk")).unwrap();
        make_ext4(&place.at("image"), 16 << 20);
        let node = Self { place };
        node.attach();
        node
    }

    fn attach(&self) {
        mount_image(&self.at("image"), &self.at("disk"));
    }

    fn detach(&self) {
        umount(&self.at("disk")).unwrap();
    }

    fn remount(&self, how: &str) {
        run("mount", &["-o", &format!("remount,{how}"), self.at("disk").to_str().unwrap()]);
    }

    fn settle(&self, need: u64) -> Result<Option<Notice>, StatePlaceError> {
        let identity = RootIdentity::of(&Root::open(&self.root()).unwrap()).unwrap();
        self.state_place().settle(&self.lock(), Some(&identity), need)
    }

    fn app(&self, version: &str) -> ReleaseTree {
        self.release(version, &[("bin/app", version)])
    }

    /// Installs a release the way both programs do; tells the number of its generation.
    fn install(&self, version: &str, purpose: Purpose) -> u64 {
        let release = self.app(version);
        self.settle(release.records()).unwrap();
        wait_for(async {
            self.engine().recover(&self.lock()).await.unwrap();
            self.apply(&release, purpose).await.unwrap();
        });
        assert_eq!(self.read("bin/app"), version);
        self.engine().current().unwrap().unwrap().number
    }

    /// What is recorded of this root where the state is now.
    fn versions(&self) -> Vec<(u64, String)> {
        let listed = self.engine().generations().unwrap();
        listed.into_iter().map(|listed| (listed.number, listed.version)).collect()
    }

    fn judge_bad(&self, version: &str) {
        let mut releases = Releases::load(&self.state_place());
        releases.judged_bad(self.app(version).id(), "web is not well").unwrap();
    }

    fn is_bad(&self, version: &str) -> bool {
        let releases = Releases::load(&self.state_place());
        releases.note(&self.app(version).id()).is_some_and(|note| note.is_bad())
    }
}

fn numbered(all: &[(u64, &str)]) -> Vec<(u64, String)> {
    all.iter().map(|(number, version)| (*number, (*version).to_owned())).collect()
}

/// Every read and write of an ext4 fails with EIO from here on, until it is mounted again.
fn break_ext4(top: &Path) {
    // EXT4_IOC_SHUTDOWN and EXT4_GOING_FLAGS_LOGFLUSH of the kernel's fs/ext4/ext4.h.
    let (request, flags) = (0x8004_587d_u32, 1_u32);
    run("sync", &["-f", top.to_str().unwrap()]);
    let directory = File::open(top).unwrap();
    // SAFETY: the request reads one u32 from the pointer, which outlives the call.
    let done = unsafe { nix::libc::ioctl(directory.as_raw_fd(), request as _, &raw const flags) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}
