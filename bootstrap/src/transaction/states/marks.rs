//! Directories of state say themselves which layout they have: what is recorded elsewhere can be lost without them.

use flist::package::{SCHEMA_FILE, SCHEMA_MARK, mark, parse_mark};
use flist::path::FlistPath;
use flist::xattr::Xattrs;
use nix::errno::Errno;

use super::is_directory;
use crate::disk::{self, Disk, is_absent, is_no_plain_file};
use crate::generation::Generation;
use crate::root::{Root, RootError, failed};
use crate::transaction::staging;

/// Longest file of a person, in bytes.
const MAX_FILE: usize = 64;

/// The layout that a directory without symlinks says it has; `None` where it says nothing.
///
/// # Errors
/// [`RootError`].
pub(crate) fn schema_of(root: &Root, directory: &FlistPath) -> Result<Option<u32>, RootError> {
    let Some(inode) = root.inode(directory)? else { return Ok(None) };
    let xattrs = root.disk().xattrs(directory).map_err(failed("read the mark of", directory))?;
    let marked = xattrs.get(SCHEMA_MARK.as_bytes()).and_then(|said| parse_mark(said, inode));
    if marked.is_some() {
        return Ok(marked);
    }
    let by_hand = file(directory)?;
    match disk::read_small(root.disk(), &by_hand, MAX_FILE, false) {
        Err(error) if is_no_plain_file(&error) => Ok(None),
        said => {
            let said = said.map_err(failed("read", &by_hand))?;
            Ok(said.and_then(|said| parse_mark(&said, inode)))
        }
    }
}

/// Where a person says it.
fn file(directory: &FlistPath) -> Result<FlistPath, RootError> {
    staging::join(directory, SCHEMA_FILE.as_bytes())
}

/// Takes away what a person has said: it is known by now, or will not be true any more.
///
/// # Errors
/// [`RootError`].
pub(super) fn take_said(root: &Root, directory: &FlistPath) -> Result<(), RootError> {
    let file = file(directory)?;
    match root.disk().remove(&file) {
        Err(error) if !is_absent(&error) && !is_directory(&error) => Err(failed("remove", &file)(error)),
        _ => Ok(()),
    }
}

/// Has a directory say which layout it has; where the file system has no room for such a thing, it says nothing.
///
/// # Errors
/// [`RootError`].
pub(super) fn write(root: &Root, directory: &FlistPath, schema: u32) -> Result<(), RootError> {
    let Some(inode) = root.inode(directory)? else { return Ok(()) };
    let xattrs = Xattrs::from([(SCHEMA_MARK.as_bytes().to_vec(), mark(schema, inode))]);
    match root.disk().set_xattrs(directory, &xattrs) {
        Err(error) if error.raw_os_error() == Some(Errno::EOPNOTSUPP as i32) => Ok(()),
        written => written.map_err(failed("mark", directory)),
    }
}

/// Has every directory of state say what is recorded with a generation that is committed. Where that fails the record
/// is all there is, which is no reason not to go on.
pub(in crate::transaction) fn mark_all(root: &Root, generation: &Generation) {
    for (name, package) in &generation.packages {
        let schema = generation.schemas.as_ref().and_then(|schemas| schemas.get(name));
        let (Some(state), Some(schema)) = (&package.state, schema) else { continue };
        for path in &state.paths {
            if let Err(error) = mark_one(root, path.inside(), *schema) {
                tracing::warn!(
                    package = %name, error = %flist::report(&error),
                    "its state cannot be marked: if the records are lost, nobody knows its layout"
                );
            }
        }
    }
}

fn mark_one(root: &Root, path: &FlistPath, schema: u32) -> Result<(), RootError> {
    let disk: &dyn Disk = root.disk();
    let real = disk.real_directory(path).map_err(failed("find the directory", path))?;
    let Some(real) = real else { return Ok(()) };
    let said = root.stat(&file(&real)?)?.is_some();
    if !said && schema_of(root, &real)? == Some(schema) {
        return Ok(());
    }
    write(root, &real, schema)?;
    take_said(root, &real)?;
    disk.sync_directory(&real).map_err(failed("sync", &real))
}
