//! Users and groups of classic flists: numbers or, in old ones, only names.

use std::cell::OnceCell;
use std::fs::File;
use std::io::Read;

use super::message::Access;
use crate::tree::Meta;

/// Who owns what nobody is known to own, as 0-fs has it.
const NOBODY_KNOWN: u32 = 1000;

/// Permission bits of what nothing is said about, as 0-fs has them.
const UNKNOWN_MODE: u32 = 0o400;

/// The number that means "look the name up".
pub(super) const BY_NAME: i64 = -1;

/// Longest list of users or groups that is looked at, in bytes.
const MAX_LIST: u64 = 1 << 20;

/// Names and numbers of the machine that reads.
#[derive(Default)]
pub(super) struct Owners {
    users: OnceCell<String>,
    groups: OnceCell<String>,
}

impl Owners {
    /// Owner, permissions, time of an entry; `None` when a number is none.
    pub(super) fn meta(&self, access: &Access, mtime: u32) -> Option<Meta> {
        let users = || self.users.get_or_init(|| list("/etc/passwd"));
        let groups = || self.groups.get_or_init(|| list("/etc/group"));
        Some(Meta {
            // 0-fs drops the bits above 0o777; a set-uid program would not be one then.
            mode: u32::from(access.mode) & 0o7777,
            uid: number(access.uid, &access.user, users)?,
            gid: number(access.gid, &access.group, groups)?,
            mtime: i64::from(mtime),
        })
    }
}

/// Of an entry of whose access nothing is said.
pub(super) fn unknown(mtime: u32) -> Meta {
    Meta { mode: UNKNOWN_MODE, uid: NOBODY_KNOWN, gid: NOBODY_KNOWN, mtime: i64::from(mtime) }
}

/// As 0-flist names them, so that the keys of what root owns are the same. Others have no name that means the same
/// everywhere.
pub(super) fn name_of(number: u32) -> Vec<u8> {
    if number == 0 { b"root".to_vec() } else { number.to_string().into_bytes() }
}

fn number<'l>(number: i64, name: &[u8], list: impl FnOnce() -> &'l String) -> Option<u32> {
    if number != BY_NAME {
        // The highest number is no owner but means "leave it" to the system.
        return u32::try_from(number).ok().filter(|number| *number != u32::MAX);
    }
    let Ok(name) = std::str::from_utf8(name) else { return Some(NOBODY_KNOWN) };
    Some(match name {
        "root" => 0,
        _ => listed(list(), name).or_else(|| name.parse().ok()).unwrap_or(NOBODY_KNOWN),
    })
    .filter(|number| *number != u32::MAX)
}

/// The number of a name in `/etc/passwd` or `/etc/group`: both begin with `name:password:number`.
fn listed(list: &str, name: &str) -> Option<u32> {
    let mut lines = list.lines().map(|line| line.split(':'));
    lines.find_map(|mut fields| (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?)
}

/// What cannot be read knows no names.
fn list(path: &str) -> String {
    let mut list = Vec::new();
    if let Ok(file) = File::open(path)
        && let Err(error) = file.take(MAX_LIST).read_to_end(&mut list)
    {
        tracing::debug!(path, %error, "names are not known");
    }
    String::from_utf8_lossy(&list).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_looked_up_only_without_a_number() {
        let list = "root:x:0:0::/:/bin/sh\nweb:x:33:33\nbad:x:many\n".to_owned();
        let found = |id, name: &str| number(id, name.as_bytes(), || &list);
        assert_eq!(found(7, "web"), Some(7));
        assert_eq!(found(BY_NAME, "web"), Some(33));
        assert_eq!(found(BY_NAME, "1234"), Some(1234));
        for unknown in ["bad", "nobody", ""] {
            assert_eq!(found(BY_NAME, unknown), Some(NOBODY_KNOWN), "{unknown}");
        }
        assert_eq!(number(BY_NAME, b"root", || panic!("root needs no list")), Some(0));
        assert_eq!(number(BY_NAME, b"\xff", || &list), Some(NOBODY_KNOWN));
        for bad in [-2, i64::from(u32::MAX), i64::MAX, i64::MIN] {
            assert_eq!(found(bad, "web"), None, "{bad}");
        }
        assert_eq!(found(BY_NAME, "4294967295"), None);
    }
}
