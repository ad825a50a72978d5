//! What makes a disk that boots by itself, and the firmware that boots it in a virtual machine: Debian's, unpacked and
//! not installed.

use std::path::PathBuf;
use std::process::Command;

use super::{VERSION_LIMIT, unpacked};
use crate::error::Error;
use crate::{job, place};

/// UEFI for virtual machines.
#[derive(Debug, Clone)]
pub struct Firmware {
    /// The program.
    pub code: PathBuf,
    /// What it remembers, as it is at first.
    pub variables: PathBuf,
}

/// OVMF; it is downloaded when it is not there yet.
///
/// # Errors
/// When it cannot be downloaded.
pub fn firmware() -> Result<Firmware, Error> {
    let _only_one = place::lock("tools")?;
    let directory = unpacked("ovmf")?.join("usr/share/OVMF");
    let firmware =
        Firmware { code: directory.join("OVMF_CODE_4M.fd"), variables: directory.join("OVMF_VARS_4M.fd") };
    is_there(&firmware.code, "ovmf")?;
    is_there(&firmware.variables, "ovmf")?;
    Ok(firmware)
}

/// systemd's program for firmware that starts the kernel which is part of it; it is downloaded when it is not there yet.
///
/// # Errors
/// When it cannot be downloaded.
pub fn efi_stub() -> Result<PathBuf, Error> {
    let _only_one = place::lock("tools")?;
    let stub = unpacked("systemd-boot-efi")?.join("usr/lib/systemd/boot/efi/linuxx64.efi.stub");
    is_there(&stub, "systemd-boot-efi")?;
    Ok(stub)
}

/// The program that writes to FAT file systems in files; it is downloaded when it is not there yet.
///
/// # Errors
/// When it cannot be downloaded, or does not run.
pub fn mtools() -> Result<PathBuf, Error> {
    let _only_one = place::lock("tools")?;
    let program = unpacked("mtools")?.join("usr/bin/mtools");
    job::run(Command::new(&program).arg("--version"), VERSION_LIMIT)?;
    Ok(program)
}

fn is_there(path: &std::path::Path, package: &str) -> Result<(), Error> {
    if path.is_file() {
        return Ok(());
    }
    Err(Error::Unexpected(format!("the package {package} came without {}", path.display())))
}
