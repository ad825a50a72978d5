//! A minimal operating system that a real kernel boots: what a base image holds, and nothing else.
//!
//! ```text
//! vmlinuz          Debian's cloud kernel
//! initramfs.gz     busybox, drivers, certificates, supervisor, bootstrap with the units `internet` and
//!                  `bootstrap`, and what starts them (assets/image)
//! molt.efi         both with a command line, in one program for firmware
//! molt.img         a disk with that, and with room for the state
//! ```

mod boot_disk;
mod cpio;
mod gpt;
mod modules;
mod programs;
mod unified;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::error::{Doing, Error};
use crate::{BaseFile, Content, base, job, payload, place, tools};

pub use boot_disk::{BootDisk, INITRAMFS_LIMIT};
use cpio::Archive;
use modules::Modules;
pub use programs::{Profile, Programs};

/// Drivers of every image: disks and network of virtual machines, FUSE, overlays.
const DRIVERS: [&str; 7] =
    ["virtio_pci", "virtio_net", "virtio_blk", "virtio_scsi", "sd_mod", "fuse", "overlay"];

/// How long compressing may take.
const COMPRESS_LIMIT: Duration = Duration::from_secs(300);

/// What goes into an image.
#[derive(Debug, Clone)]
pub struct Contents {
    /// The programs.
    pub programs: Programs,
    /// Another kernel than the newest.
    pub kernel: Option<tools::Kernel>,
    /// Another supervisor than ours.
    pub zinit: Option<PathBuf>,
    /// The root of trust.
    pub root_json: Option<PathBuf>,
    /// Text of `/etc/molt/config.yaml`; none for the defaults.
    pub config: String,
    /// Units of `assets/image` beyond those of every image.
    pub units: Vec<&'static str>,
    /// Drivers beyond those of every image.
    pub drivers: Vec<&'static str>,
    /// More files.
    pub files: Vec<BaseFile>,
}

impl Contents {
    /// What every image has.
    pub fn new(programs: Programs) -> Self {
        let (units, drivers, files) = (Vec::new(), Vec::new(), Vec::new());
        Self {
            programs,
            kernel: None,
            zinit: None,
            root_json: None,
            config: String::new(),
            units,
            drivers,
            files,
        }
    }
}

/// What a file in an image is called there, and its size in bytes.
pub type Part = (String, u64);

/// An image on disk.
#[derive(Debug, Clone)]
pub struct Image {
    /// The kernel.
    pub kernel: PathBuf,
    /// Its first root file system.
    pub initramfs: PathBuf,
    /// The kernel's release, as in `uname -r`.
    pub release: String,
    /// Everything in the image, for people.
    pub parts: Vec<Part>,
}

impl Image {
    /// Writes an image to the directory `out`. One that is compressed is smaller, and takes longer to boot.
    ///
    /// # Errors
    /// When something cannot be downloaded, read or written.
    pub fn write(contents: &Contents, out: &Path, compressed: bool) -> Result<Self, Error> {
        let kernel = contents.kernel.clone().map_or_else(tools::kernel, Ok)?;
        let files = files(contents, &kernel)?;
        fs::create_dir_all(out).doing(|| format!("make {}", out.display()))?;
        let vmlinuz = out.join("vmlinuz");
        fs::copy(&kernel.image, &vmlinuz).doing(|| format!("copy {}", kernel.image.display()))?;
        let (archive, parts) = archive(&files)?;
        let plain = out.join("initramfs");
        fs::write(&plain, archive).doing(|| format!("write {}", plain.display()))?;
        let initramfs = if compressed { compress(&plain)? } else { plain };
        Ok(Self { kernel: vmlinuz, initramfs, release: kernel.release, parts })
    }
}

fn files(contents: &Contents, kernel: &tools::Kernel) -> Result<Vec<BaseFile>, Error> {
    let mut files = base::skeleton(&tools::busybox()?)?;
    let programs = &contents.programs;
    let zinit = contents.zinit.clone().unwrap_or_else(|| programs.supervisor());
    files.push(BaseFile::program("/sbin/zinit", zinit));
    files.push(BaseFile::program("/sbin/bootstrap", programs.bootstrap()));
    files.extend(programs.libraries().iter().map(|path| BaseFile::program(path, path)));
    files.push(BaseFile::program("/init", asset("init")));
    for script in ["image-start", "internet", "dhcp-lease"] {
        files.push(BaseFile::program(Path::new("/sbin").join(script), asset(script)));
    }
    files.push(BaseFile::directory("/sys", 0o555));
    files.push(BaseFile::text("/etc/hostname", "molt\n"));
    files.push(BaseFile::text("/etc/zinit/bootstrap.yaml", payload::asset_unit("bootstrap")?));
    for unit in ["internet"].iter().chain(&contents.units) {
        let unit = format!("{unit}.yaml");
        let copy = BaseFile::program(Path::new("/etc/zinit").join(&unit), asset(&unit));
        files.push(BaseFile { mode: 0o644, ..copy });
    }
    files.push(BaseFile::text("/etc/ssl/certs/ca-certificates.crt", tools::certificates()?));
    files.push(BaseFile::directory("/etc/molt", 0o755));
    if !contents.config.is_empty() {
        files.push(BaseFile::text("/etc/molt/config.yaml", &contents.config));
    }
    if let Some(root) = &contents.root_json {
        files.push(BaseFile { mode: 0o644, ..BaseFile::program("/etc/molt/root.json", root) });
    }
    let wanted: Vec<_> = DRIVERS.iter().chain(&contents.drivers).copied().collect();
    let drivers = Modules::beneath(&kernel.modules)?.in_order(&wanted)?;
    let order = drivers.iter().fold(String::new(), |text, (name, _)| text + name + "\n");
    files.push(BaseFile::text("/usr/lib/modules/order", order));
    for (name, path) in drivers {
        let copy = BaseFile::program(format!("/usr/lib/modules/{name}.ko"), path);
        files.push(BaseFile { mode: 0o644, ..copy });
    }
    files.extend(contents.files.iter().cloned());
    Ok(files)
}

fn asset(name: &str) -> PathBuf {
    place::workspace().join("assets/image").join(name)
}

/// The archive of these files, and what is in it.
fn archive(files: &[BaseFile]) -> Result<(Vec<u8>, Vec<Part>), Error> {
    let (mut archive, mut there, mut parts) = (Archive::default(), BTreeSet::new(), Vec::new());
    let mut links = 0;
    for file in files {
        let path = plain_path(&file.path, files)?;
        let above: Vec<_> = Path::new(&path).ancestors().skip(1).filter_map(Path::to_str).collect();
        for directory in above.into_iter().rev().filter(|directory| !directory.is_empty()) {
            if there.insert(directory.to_owned()) {
                archive.directory(directory, 0o755);
            }
        }
        match &file.content {
            Content::Directory if there.insert(path.clone()) => archive.directory(&path, file.mode),
            Content::Directory => {}
            Content::Text(text) => {
                archive.file(&path, file.mode, text.as_bytes());
                parts.push((format!("/{path}"), text.len() as u64));
            }
            Content::Copy(from) => {
                let bytes = fs::read(from).doing(|| format!("read {}", from.display()))?;
                archive.file(&path, file.mode, &bytes);
                parts.push((format!("/{path}"), bytes.len() as u64));
            }
            Content::Link(target) => {
                archive.link(&path, &target.to_string_lossy());
                links += 1;
            }
        }
    }
    parts.push((format!("{links} links, {} directories", there.len()), 0));
    Ok((archive.finish(), parts))
}

/// A path without the leading `/` and without links to directories at its beginning.
fn plain_path(path: &Path, files: &[BaseFile]) -> Result<String, Error> {
    let mut plain = PathBuf::new();
    for part in path.components().filter(|part| *part != Component::RootDir) {
        let above = Path::new("/").join(&plain);
        // The last part is what is made, a link or not.
        let link = files.iter().find_map(|file| match &file.content {
            Content::Link(target) if file.path == above && !plain.as_os_str().is_empty() => Some(target),
            _ => None,
        });
        if let Some(target) = link {
            plain = plain.parent().unwrap_or(Path::new("")).join(target);
        }
        plain.push(part);
    }
    let text = plain.to_str().map(str::to_owned);
    text.ok_or_else(|| Error::Unexpected(format!("{} is no text", path.display())))
}

fn compress(plain: &Path) -> Result<PathBuf, Error> {
    let mut gzip = Command::new("gzip");
    job::run(gzip.args(["--force", "--no-name", "-9"]).arg(plain), COMPRESS_LIMIT)?;
    Ok(plain.with_extension("gz"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_lie_where_links_lead() {
        let files = [
            BaseFile::directory("/usr/sbin", 0o755),
            BaseFile::link("/sbin", "usr/sbin"),
            BaseFile::text("/sbin/a", "1"),
        ];
        assert_eq!(plain_path(Path::new("/sbin/a"), &files).unwrap(), "usr/sbin/a");
        assert_eq!(plain_path(Path::new("/sbin"), &files).unwrap(), "sbin");
        let (_, parts) = archive(&files).unwrap();
        assert_eq!(parts[0], ("/usr/sbin/a".to_owned(), 1));
    }
}
