//! The mounts of this process, from the text of `/proc/self/mountinfo` (proc_pid_mountinfo(5)). The parser is
//! pure.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountLine {
    /// Its number, which no other mount has as long as it exists.
    pub id: u64,
    /// `major:minor` of its file system.
    pub device: String,
    /// Where it is mounted, as this process sees it.
    pub at: PathBuf,
    /// Type of the file system.
    pub kind: String,
}

/// Every mount that this process sees, in the kernel's order.
///
/// # Errors
/// The system's, when /proc is not there.
pub fn mounts() -> io::Result<Vec<MountLine>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?))
}

/// The mounts in a text; lines that are none are passed over.
pub fn parse(text: &[u8]) -> Vec<MountLine> {
    text.split(|byte| *byte == b'\n').filter_map(line).collect()
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw`: between the sixth word and the dash there may be
/// any number of others.
fn line(text: &[u8]) -> Option<MountLine> {
    let mut words = text.split(|byte| *byte == b' ');
    let word = |word: Option<&[u8]>| Some(std::str::from_utf8(word?).ok()?.to_owned());
    let id = word(words.next())?.parse().ok()?;
    let device = word(words.nth(1))?;
    let at = OsString::from_vec(unescaped(words.nth(1)?)).into();
    words.by_ref().find(|word| *word == b"-")?;
    Some(MountLine { id, device, at, kind: word(words.next())? })
}

/// The kernel writes some characters as three octal digits after a backslash.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let (mut plain, mut rest) = (Vec::with_capacity(text.len()), text);
    while let Some((&first, after)) = rest.split_first() {
        let digits =
            after.get(..3).filter(|_| first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        plain.push(byte.unwrap_or(first));
        rest = if byte.is_some() { &after[3..] } else { after };
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_understood_and_what_is_none_is_passed_over() {
        let text = b"21 1 0:19 / / rw - tmpfs t rw\n123 21 0:44 /x /a\\040b\\134c rw shared:1 master:2 - fuse.flist flist ro\ngarbage\n7 1 0:1 / /cut rw\n";
        let of = |id, device: &str, at: &str, kind: &str| MountLine {
            id,
            device: device.to_owned(),
            at: at.into(),
            kind: kind.to_owned(),
        };
        let expected = [of(21, "0:19", "/", "tmpfs"), of(123, "0:44", "/a b\\c", "fuse.flist")];
        assert_eq!(parse(text), expected);
        assert_eq!(unescaped(b"a\\09\\1"), b"a\\09\\1");
        assert!(mounts().unwrap().iter().any(|mount| mount.at == std::path::Path::new("/proc")));
    }
}
