//! Reading parts of one file.

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::root::{FutureRoot, RootError};
use crate::path::FlistPath;

/// Bytes that are read at once.
const PAGE: u64 = 16 << 10;

/// Pages of one file that are kept; reading goes on when there are more.
const KEPT: usize = 64;

/// Why something cannot be read out of a file.
#[derive(Debug)]
pub(super) enum Stop {
    /// The file is not as it should be.
    Defect(Defect),
    /// The root could not be asked.
    Root(RootError),
}

/// What is wrong with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Defect {
    /// It does not begin like an ELF file.
    NoMagic,
    /// It ends before this part of it, or this part makes no sense.
    Cut(&'static str),
    /// There is more of this than is looked at.
    TooLarge(&'static str),
}

/// One file of a root, read page by page.
pub(super) struct Window<'a> {
    root: &'a dyn FutureRoot,
    path: &'a FlistPath,
    size: u64,
    pages: RefCell<BTreeMap<u64, Vec<u8>>>,
}

impl<'a> Window<'a> {
    /// The file at `path`, which has `size` bytes.
    pub(super) fn new(root: &'a dyn FutureRoot, path: &'a FlistPath, size: u64) -> Self {
        Self { root, path, size, pages: RefCell::default() }
    }

    /// Length of the file in bytes.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// All of `length` bytes from `offset`, or the defect that `part` is cut off.
    pub(super) fn exactly(&self, offset: u64, length: usize, part: &'static str) -> Result<Vec<u8>, Stop> {
        let bytes = self.up_to(offset, length)?;
        if bytes.len() == length { Ok(bytes) } else { Err(Stop::Defect(Defect::Cut(part))) }
    }

    /// Up to `length` bytes from `offset`; fewer at the end of the file.
    pub(super) fn up_to(&self, offset: u64, length: usize) -> Result<Vec<u8>, Stop> {
        let end = offset.saturating_add(length as u64).min(self.size);
        let mut bytes = Vec::new();
        let mut at = offset;
        while at < end {
            let start = at - at % PAGE;
            let skip = (at - start) as usize;
            let taken = self.with_page(start, |page| {
                let stop = page.len().min((end - start) as usize);
                let part = page.get(skip..stop).unwrap_or_default();
                bytes.extend_from_slice(part);
                part.len()
            })?;
            if taken == 0 {
                break;
            }
            at += taken as u64;
        }
        Ok(bytes)
    }

    fn with_page<T>(&self, start: u64, use_it: impl FnOnce(&[u8]) -> T) -> Result<T, Stop> {
        let mut pages = self.pages.borrow_mut();
        if let Some(page) = pages.get(&start) {
            return Ok(use_it(page));
        }
        let wanted = PAGE.min(self.size - start) as usize;
        let page = self.root.read(self.path, start, wanted).map_err(Stop::Root)?;
        if pages.len() == KEPT {
            pages.clear();
        }
        let used = use_it(&page);
        pages.insert(start, page);
        Ok(used)
    }
}
