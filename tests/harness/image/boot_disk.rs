//! A disk that a machine with UEFI boots from by itself, and that has room for the state.
//!
//! ```text
//! 1  EFI system partition, FAT32    EFI/BOOT/BOOTX64.EFI: kernel, first root file system, command line
//! 2  MOLT, ext4                     what bootstrap and identityd remember; empty
//! ```

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::gpt::{self, BEHIND, Kind, Partition, SECTOR};
use super::{Image, unified};
use crate::error::{Doing, Error};
use crate::node::digest_of;
use crate::{job, tools};

/// Most bytes of a first root file system: firmware and boot loaders read it, some of them from a network.
pub const INITRAMFS_LIMIT: u64 = 25 << 20;

/// The size of the first partition in MiB: one program, its successor beside it, and room for what a boot loader adds.
const SYSTEM_MIB: u64 = 128;

/// Sectors of a MiB. Partitions begin at a multiple of it, whatever the disk's own blocks are.
const MIB: u64 = (1 << 20) / SECTOR;

/// How long one of the tools may take.
const LIMIT: Duration = Duration::from_secs(300);

/// The name of the second partition and of the file system on it: how an image finds its state.
const LABEL: &str = "MOLT";

/// A disk, and what it was made of.
#[derive(Debug, Clone)]
pub struct BootDisk {
    /// The raw disk.
    pub disk: PathBuf,
    /// The program that the firmware starts, also by itself.
    pub program: PathBuf,
}

impl BootDisk {
    /// Writes `molt.img` and `molt.efi` to the directory `out`: the image, started with this command line, and a
    /// partition of so many MiB for the state.
    ///
    /// # Errors
    /// When the initramfs is larger than [`INITRAMFS_LIMIT`], something else is too large or no command line, or
    /// something cannot be downloaded or written.
    pub fn write(image: &Image, command_line: &str, state_mib: u64, out: &Path) -> Result<Self, Error> {
        let made = Self { disk: out.join("molt.img"), program: out.join("molt.efi") };
        let size = |path: &Path| {
            fs::metadata(path).map(|found| found.len()).doing(|| format!("look at {}", path.display()))
        };
        within("the initramfs", size(&image.initramfs)?, INITRAMFS_LIMIT)?;
        unified::write(image, command_line, &made.program)?;
        // The tables of FAT take less than a tenth.
        within("kernel and initramfs together", size(&made.program)?, (SYSTEM_MIB << 20) / 10 * 9)?;
        let system =
            Partition { kind: Kind::EfiSystem, name: "EFI system", first: MIB, sectors: SYSTEM_MIB * MIB };
        let state = Partition {
            kind: Kind::Linux,
            name: LABEL,
            first: system.first + system.sectors,
            sectors: state_mib * MIB,
        };
        // Up to the next whole MiB, which has the second copy of the table at its end.
        let sectors = (state.first + state.sectors + BEHIND).next_multiple_of(MIB);
        let file = File::create(&made.disk).and_then(|file| file.set_len(sectors * SECTOR).map(|()| file));
        let file = file.doing(|| format!("make {}", made.disk.display()))?;
        make_state(&made.disk, &state)?;
        make_system(&made.disk, &system, &made.program)?;
        let (beginning, end) = gpt::tables(sectors, &[system, state], seed(&made.program)?);
        file.write_all_at(&beginning, 0)
            .and_then(|()| file.write_all_at(&end, (sectors - BEHIND) * SECTOR))
            .doing(|| format!("write {}", made.disk.display()))?;
        Ok(made)
    }
}

fn within(what: &str, bytes: u64, limit: u64) -> Result<(), Error> {
    if bytes <= limit {
        return Ok(());
    }
    Err(Error::Unexpected(format!("{what} has {bytes} bytes, the limit is {limit}")))
}

fn make_state(disk: &Path, partition: &Partition) -> Result<(), Error> {
    let mut format = Command::new("/sbin/mke2fs");
    // What is beside it stays.
    let place = format!("offset={},nodiscard", partition.first * SECTOR);
    format.args(["-q", "-F", "-t", "ext4", "-L", LABEL, "-E", &place]).arg(disk);
    job::run(format.arg(format!("{}k", (partition.sectors * SECTOR) >> 10)), LIMIT).map(drop)
}

fn make_system(disk: &Path, partition: &Partition, program: &Path) -> Result<(), Error> {
    let mtools = tools::mtools()?;
    let image = format!("{}@@{}", disk.display(), partition.first * SECTOR);
    let run = |name: &str, arguments: &[&str]| {
        let mut command = Command::new(&mtools);
        // The file is no floppy disk, and no drive letter of anybody's stands for it.
        command.env("MTOOLS_SKIP_CHECK", "1").env("MTOOLSRC", "/dev/null");
        job::run(command.args(["-c", name, "-i", &image]).args(arguments), LIMIT).map(drop)
    };
    let (sectors, hidden) = (partition.sectors.to_string(), partition.first.to_string());
    // Two sectors to a cluster, so that there are as many as FAT32 has to have.
    let layout =
        ["-F", "-c", "2", "-h", "255", "-s", "63", "-H", &hidden, "-T", &sectors, "-v", "MOLT-EFI", "::"];
    run("mformat", &layout)?;
    run("mmd", &["::/EFI", "::/EFI/BOOT"])?;
    run("mcopy", &[&program.display().to_string(), "::/EFI/BOOT/BOOTX64.EFI"])
}

/// What the ids of a disk come from.
fn seed(program: &Path) -> Result<[u8; 16], Error> {
    let digest = hex::decode(digest_of(program)?).ok();
    let seed = digest.and_then(|digest| digest.first_chunk().copied());
    seed.ok_or_else(|| Error::Unexpected("a digest is too short".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_initramfs_that_is_too_large_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let initramfs = dir.path().join("initramfs");
        File::create(&initramfs).unwrap().set_len(INITRAMFS_LIMIT + 1).unwrap();
        let (kernel, release) = (dir.path().join("vmlinuz"), "6.1".to_owned());
        let image = Image { kernel, initramfs, release, parts: Vec::new() };
        let error = BootDisk::write(&image, "", 64, dir.path()).unwrap_err().to_string();
        assert!(error.contains("the initramfs has 26214401 bytes, the limit is 26214400"), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing was written");
        within("it", INITRAMFS_LIMIT, INITRAMFS_LIMIT).unwrap();
    }
}
