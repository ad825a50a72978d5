//! A kernel, its first root file system and its command line in one program that firmware starts: a unified kernel
//! image (<https://uapi-group.org/specifications/specs/unified_kernel_image/>), made of systemd's stub.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::Image;
use crate::error::{Doing, Error};
use crate::{job, place, tools};

/// Longest command line of Linux on x86, in bytes, without the zero at its end.
const LONGEST_LINE: usize = 2047;

/// What menus of boot loaders show.
const OS_RELEASE: &str = "ID=molt\nNAME=Molt\nPRETTY_NAME=\"Molt base image\"\n";

/// Where sections begin: at a multiple of this, as the pages of memory that they are loaded into.
const ALIGNED: u64 = 4096;

/// How long binutils may take.
const LIMIT: Duration = Duration::from_secs(120);

/// Writes one to the file `to`.
///
/// # Errors
/// When the command line cannot be one, or something cannot be downloaded, read or written.
pub(super) fn write(image: &Image, command_line: &str, to: &Path) -> Result<(), Error> {
    check_line(command_line)?;
    let stub = tools::efi_stub()?;
    let scratch = place::scratch("unified")?;
    let text = |name: &str, text: &str| {
        let path = scratch.path().join(name);
        fs::write(&path, text).doing(|| format!("write {}", path.display())).map(|()| path)
    };
    let headers = job::run(Command::new("objdump").arg("-h").arg(&stub), LIMIT)?;
    let mut next = end_of_sections(&headers)
        .ok_or_else(|| Error::Unexpected(format!("objdump finds no section in {}", stub.display())))?;
    let mut objcopy = Command::new("objcopy");
    // The kernel is the last: it may need the memory behind it while it unpacks itself.
    for (section, path) in [
        (".osrel", text("os-release", OS_RELEASE)?),
        (".cmdline", text("cmdline", command_line)?),
        (".initrd", image.initramfs.clone()),
        (".linux", image.kernel.clone()),
    ] {
        next = next.next_multiple_of(ALIGNED);
        objcopy.arg("--add-section").arg(format!("{section}={}", path.display()));
        objcopy.arg("--change-section-vma").arg(format!("{section}={next:#x}"));
        next += fs::metadata(&path).doing(|| format!("look at {}", path.display()))?.len();
    }
    job::run(objcopy.arg(&stub).arg(to), LIMIT).map(drop)
}

fn check_line(line: &str) -> Result<(), Error> {
    let wrong = match line.chars().find(|letter| !letter.is_ascii() || letter.is_ascii_control()) {
        Some(letter) => format!("has {letter:?}, expected printable ASCII"),
        None if line.len() > LONGEST_LINE => {
            format!("has {} bytes, the kernel takes {LONGEST_LINE}", line.len())
        }
        None => return Ok(()),
    };
    Err(Error::Unexpected(format!("the kernel command line {wrong}")))
}

/// The first address behind all sections, from what `objdump -h` prints: number, name, size, address and more of each.
fn end_of_sections(headers: &str) -> Option<u64> {
    let sections = headers.lines().filter_map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        let [number, _, size, address, _, _, _] = words[..] else { return None };
        number.parse::<u32>().ok()?;
        let hex = |text| u64::from_str_radix(text, 16).ok();
        hex(size)?.checked_add(hex(address)?)
    });
    sections.max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_come_behind_those_that_are_there() {
        let printed = "\nstub.efi:     file format pei-x86-64\n\nSections:\n\
            Idx Name          Size      VMA               LMA               File off  Algn\n\
            \x20 0 .text         0000b9f0  0000000000005000  0000000000005000  00000400  2**4\n\
            \x20                 CONTENTS, ALLOC, LOAD, READONLY, CODE\n\
            \x20 1 .sbat         000000e0  0000000000022000  0000000000022000  00013600  2**2\n\
            \x20                 CONTENTS, ALLOC, LOAD, READONLY, DATA\n";
        assert_eq!(end_of_sections(printed), Some(0x2_20e0));
        assert_eq!(end_of_sections("stub.efi: file format not recognized"), None);
    }

    #[test]
    fn a_command_line_is_what_the_kernel_takes() {
        check_line("console=ttyS0 runmode=dev").unwrap();
        check_line(&"x".repeat(LONGEST_LINE)).unwrap();
        for bad in [&"x".repeat(LONGEST_LINE + 1), "a\nb", "ä", "\0"] {
            let error = check_line(bad).unwrap_err().to_string();
            assert!(error.contains("the kernel command line has"), "{error}");
        }
    }
}
