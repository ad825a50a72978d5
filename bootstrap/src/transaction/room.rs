//! Whether what does not do may lack room.

use flist::path::FlistPath;

use super::TransactionError;
use super::run::Run;
use super::services::ServiceError;
use crate::disk::Filesystem;

/// A file system with less room than this is full for whoever wants to write a small file, in bytes.
const FULL: u64 = 64 << 10;

/// Where services and programs of packages write, besides what is mounted elsewhere.
const WRITTEN_TO: [&str; 4] = ["", "tmp", "var", "run"];

impl Run<'_> {
    /// A program or a service that fails while a file system is full says nothing about the release.
    ///
    /// # Errors
    /// The step's; [`TransactionError::NoRoom`].
    pub(super) fn or_no_room(&self, step: Result<(), TransactionError>) -> Result<(), TransactionError> {
        let error = match step {
            Err(
                error @ (TransactionError::Program { .. }
                | TransactionError::Service(ServiceError::NotWell { .. })),
            ) => error,
            other => return other,
        };
        match self.full() {
            Some(at) => Err(TransactionError::NoRoom { at, source: error.into() }),
            None => Err(error),
        }
    }

    /// A directory in a full file system, for people.
    fn full(&self) -> Option<String> {
        let root = &self.context.root;
        let looked_at = WRITTEN_TO.iter().filter_map(|at| {
            let at: FlistPath = at.parse().ok()?;
            Some((root.disk().filesystem(&at).ok()?, root.outer(&at).display().to_string()))
        });
        let state = self.context.state.filesystem().ok();
        let state = state.map(|filesystem| (filesystem, self.context.state.path().display().to_string()));
        looked_at.chain(state).find(|(filesystem, _)| is_full(filesystem)).map(|(_, at)| at)
    }
}

/// One that is read-only was full when it was made, and nobody writes to it.
fn is_full(filesystem: &Filesystem) -> bool {
    !filesystem.read_only && filesystem.available.is_some_and(|available| available < FULL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_written_to_can_be_full() {
        let of = |read_only, available| {
            is_full(&Filesystem {
                device: 1,
                in_ram: false,
                read_only,
                copies_up: false,
                available,
                memory: None,
            })
        };
        assert!(of(false, Some(0)) && of(false, Some(FULL - 1)));
        assert!(!of(false, Some(FULL)) && !of(false, None) && !of(true, Some(0)));
    }
}
