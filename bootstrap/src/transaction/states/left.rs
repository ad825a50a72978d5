//! What services wrote to migrated state before that was put back: put aside, until an upgrade is committed.

use flist::path::FlistPath;

use super::{StateSlot, digest, stamps};
use crate::disk::Rename;
use crate::root::{Root, RootError, failed};
use crate::transaction::files;
use crate::transaction::journal::Header;
use crate::transaction::staging;

/// What the name of a directory begins with that somebody has written to: `left-<generation>-<number>`, and one more
/// number where that was there already.
const LEFT: &[u8] = b"left-";

/// The generation that a directory beside the staging directories is left of; `None` for any other.
pub(crate) fn left_of(name: &[u8]) -> Option<u64> {
    let rest = std::str::from_utf8(name.strip_prefix(LEFT)?).ok()?;
    rest.split('-').next()?.parse().ok()
}

/// Puts aside what services have written to migrated state that was put back: nobody but them can read it, but it
/// may be all that there is of it. Says in words where it is. In RAM nobody can afford that.
///
/// # Errors
/// [`RootError`]; it is where it was then.
pub(in crate::transaction) fn keep_written(
    root: &Root,
    header: &Header,
    copies: &[Option<u64>],
    contents: &[String],
) -> Result<Vec<String>, RootError> {
    let (disk, mut told) = (root.disk(), Vec::new());
    for (number, (StateSlot { path, slot }, (copy, content))) in
        header.states.iter().zip(copies.iter().zip(contents)).enumerate()
    {
        let aside = files::aside(slot).map_err(failed("put aside", path))?;
        let mut copy_at = None;
        for at in [slot, &aside] {
            if copy.is_some() && root.inode(at)? == *copy {
                copy_at = Some(at);
            }
        }
        let Some(at) = copy_at else { continue };
        // What cannot be looked at may have been written to.
        if stamps(disk, at).is_ok_and(|(found, _)| at == slot && digest(&found) == *content) {
            continue;
        }
        let what = format!("what was written to /{path} since it was migrated");
        if header.root.volatile {
            told.push(format!("{what} is gone with it"));
            continue;
        }
        let top = slot.parent().unwrap_or_default().parent().unwrap_or_default();
        let left = free_place(root, &top, (header.generation, number))?;
        disk.rename(at, &left, Rename::NoReplace).map_err(failed("put aside", path))?;
        told.push(format!("{what} lies in /{left} until an upgrade succeeds"));
    }
    told.iter().for_each(|told| tracing::error!("{told}"));
    Ok(told)
}

/// A name that nothing has: what an earlier failure has left of a generation with this number stays.
fn free_place(
    root: &Root,
    top: &FlistPath,
    (generation, number): (u64, usize),
) -> Result<FlistPath, RootError> {
    let mut of_before = 0;
    loop {
        let again = if of_before == 0 { String::new() } else { format!("-{of_before}") };
        let name = [LEFT, format!("{generation}-{number}{again}").as_bytes()].concat();
        let left = staging::join(top, &name)?;
        if root.stat(&left)?.is_none() {
            return Ok(left);
        }
        of_before += 1;
    }
}
