//! Which kernel a file is, and which one runs. Pure, but for asking the running one.
//!
//! A bzImage says so itself: Documentation/arch/x86/boot.rst, fields `header` and `kernel_version`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// So many bytes of a kernel are enough to tell which one it is: the text lies within 64 KiB behind the first
/// sector, and has an end.
pub const ENOUGH: usize = 0x200 + 0x1_0000 + LONGEST;

/// Longest description, in bytes.
const LONGEST: usize = 512;

/// Where a bzImage has its magic number, and where the address of its description.
const MAGIC_AT: usize = 0x202;
const MAGIC: &[u8] = b"HdrS";
const VERSION_AT: usize = 0x20e;

/// The description lies so far behind its address.
const BEHIND: usize = 0x200;

/// What tells one kernel from another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelId {
    /// As `uname -r`.
    pub release: String,
    /// As `uname -v`: number and time of the build.
    pub build: String,
}

impl fmt::Display for KernelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Linux {} ({})", self.release, self.build)
    }
}

/// A file is not a kernel that this program knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// It does not begin as one.
    #[error("it is no bzImage")]
    NotBootable,
    /// It does not say which one it is.
    #[error("it is a bzImage that does not say which Linux it is")]
    Nameless,
}

impl KernelId {
    /// The one that a file is, by its first [`ENOUGH`] bytes, or all of them if there are fewer.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn of_image(bytes: &[u8]) -> Result<Self, ImageError> {
        if bytes.get(MAGIC_AT..MAGIC_AT + MAGIC.len()) != Some(MAGIC) {
            return Err(ImageError::NotBootable);
        }
        let address = bytes.get(VERSION_AT..VERSION_AT + 2).ok_or(ImageError::Nameless)?;
        let at = usize::from(u16::from_le_bytes([address[0], address[1]])) + BEHIND;
        // Without a description the address is 0.
        let text = bytes.get(at..).filter(|_| at > BEHIND).ok_or(ImageError::Nameless)?;
        let text = text.get(..LONGEST.min(text.len())).unwrap_or_default();
        let end = text.iter().position(|byte| *byte == 0).ok_or(ImageError::Nameless)?;
        Self::described(std::str::from_utf8(&text[..end]).unwrap_or_default()).ok_or(ImageError::Nameless)
    }

    /// `6.1.0-50-cloud-amd64 (somebody@somewhere) #1 SMP PREEMPT_DYNAMIC …`
    fn described(text: &str) -> Option<Self> {
        let (release, rest) = text.trim().split_once(' ')?;
        let build = &rest[rest.find('#')?..];
        let is_text = |text: &str| !text.is_empty() && !text.chars().any(char::is_control);
        (is_text(release) && is_text(build))
            .then(|| Self { release: release.to_owned(), build: build.trim().to_owned() })
    }

    /// The one that runs; `None` where the system does not tell.
    pub fn running() -> Option<Self> {
        let names = nix::sys::utsname::uname().ok()?;
        let text = |text: &std::ffi::OsStr| text.to_str().map(|text| text.trim().to_owned());
        Some(Self { release: text(names.release())?, build: text(names.version())? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(text: &[u8], address: u16) -> Vec<u8> {
        let mut bytes = vec![0; ENOUGH];
        bytes[MAGIC_AT..MAGIC_AT + 4].copy_from_slice(MAGIC);
        bytes[VERSION_AT..VERSION_AT + 2].copy_from_slice(&address.to_le_bytes());
        let at = usize::from(address) + BEHIND;
        bytes[at..at + text.len()].copy_from_slice(text);
        bytes
    }

    #[test]
    fn a_kernel_says_which_one_it_is() {
        let text =
            b"6.1.0-50-cloud-amd64 (debian-kernel@lists.debian.org) #1 SMP Debian 6.1.176-1 (2026-05-01)\0x";
        for address in [0x3000, u16::MAX] {
            let found = KernelId::of_image(&image(text, address)).unwrap();
            assert_eq!(found.release, "6.1.0-50-cloud-amd64");
            assert_eq!(found.build, "#1 SMP Debian 6.1.176-1 (2026-05-01)");
        }
        assert!(KernelId::running().is_some_and(|kernel| kernel.build.starts_with('#')));
    }

    #[test]
    fn what_is_no_kernel_is_none() {
        let of = KernelId::of_image;
        assert_eq!(of(b""), Err(ImageError::NotBootable));
        assert_eq!(of(&[0; 4096]), Err(ImageError::NotBootable));
        let good = image(b"6.1 (x) #1\0", 0x3000);
        assert_eq!(of(&good[..0x206]), Err(ImageError::Nameless));
        assert_eq!(of(&good[..0x3000]), Err(ImageError::Nameless));
        let mut without_address = good.clone();
        without_address[VERSION_AT..VERSION_AT + 2].fill(0);
        assert_eq!(of(&without_address), Err(ImageError::Nameless));
        assert_eq!(of(&image(b"6.1\0", 0x3000)), Err(ImageError::Nameless));
        assert_eq!(of(&image(b"6.1 (x) no number\0", 0x3000)), Err(ImageError::Nameless));
        assert_eq!(of(&image(&[b'x'; LONGEST], u16::MAX)), Err(ImageError::Nameless));
        assert_eq!(of(&image(b"6\x1b[2J (x) #1\0", 0x3000)), Err(ImageError::Nameless));
    }
}
