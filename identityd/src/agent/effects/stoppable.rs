//! Content that is not read any further once the upgrade has been stopped.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use bootstrap::source::{ContentSource, SourceError};
use flist::block::BlockId;
use flist::path::FlistPath;
use flist::store::{Store, StoreError, one_by_one};
use flist::tree::Content;

use crate::agent::brake::Brake;

/// How often somebody who waits for a store looks at the brake.
const LOOK: Duration = Duration::from_millis(50);

/// A source that ends at the brake.
pub(super) struct StoppableSource {
    pub(super) inner: Arc<dyn ContentSource>,
    pub(super) brake: Brake,
}

impl ContentSource for StoppableSource {
    fn block(&self, path: &FlistPath, content: &Content, index: usize) -> Result<Vec<u8>, SourceError> {
        self.brake.check().map_err(|stopped| SourceError::Stopped(stopped.why))?;
        self.inner.block(path, content, index)
    }
}

/// A store that is not waited for once the brake is pulled: a stalled server holds up nobody.
pub(super) struct StoppableStore {
    pub(super) inner: Arc<dyn Store>,
    pub(super) brake: Brake,
}

impl Store for StoppableStore {
    fn get(&self, id: &BlockId) -> Result<Option<Vec<u8>>, StoreError> {
        let (inner, id) = (self.inner.clone(), *id);
        let (sender, receiver) = sync_channel(1);
        // A thread that nobody waits for any more ends with its request, which has a deadline.
        let fetching = thread::Builder::new().name("fetch".to_owned()).spawn(move || {
            // Nobody waits any more: the block is not needed.
            let _unwanted = sender.send(inner.get(&id));
        });
        let failed = |source| StoreError::Answer { url: self.inner.url(), source };
        fetching.map_err(failed)?;
        loop {
            match receiver.recv_timeout(LOOK) {
                Ok(answer) => return answer,
                Err(RecvTimeoutError::Timeout) => {
                    self.brake.check().map_err(|stopped| failed(io::Error::other(stopped)))?;
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(failed(io::Error::other("fetching broke off")));
                }
            }
        }
    }

    fn get_each(&self, ids: &[BlockId], buffers: &mut [Vec<u8>]) -> Vec<Result<bool, StoreError>> {
        // Whoever stops waits for none of them: each is asked for by a thread of its own.
        one_by_one(self, ids, buffers)
    }

    fn at_once(&self, _: &[BlockId]) -> usize {
        1
    }

    fn has(&self, id: &BlockId) -> Result<bool, StoreError> {
        self.inner.has(id)
    }

    fn put(&self, id: &BlockId, stored: &[u8]) -> Result<(), StoreError> {
        self.inner.put(id, stored)
    }

    fn url(&self) -> String {
        self.inner.url()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc::{Receiver, channel};

    use super::*;
    use crate::agent::Gate;

    /// Answers when it is told to.
    struct Stalled(Mutex<Receiver<()>>);

    impl Store for Stalled {
        fn get(&self, _: &BlockId) -> Result<Option<Vec<u8>>, StoreError> {
            let _over = self.0.lock().unwrap().recv();
            Ok(Some(b"block".to_vec()))
        }

        fn get_each(&self, ids: &[BlockId], buffers: &mut [Vec<u8>]) -> Vec<Result<bool, StoreError>> {
            one_by_one(self, ids, buffers)
        }

        fn at_once(&self, _: &[BlockId]) -> usize {
            1
        }

        fn has(&self, _: &BlockId) -> Result<bool, StoreError> {
            Ok(true)
        }

        fn put(&self, _: &BlockId, _: &[u8]) -> Result<(), StoreError> {
            Ok(())
        }

        fn url(&self) -> String {
            "stalled".to_owned()
        }
    }

    #[test]
    fn a_stalled_store_is_not_waited_for_after_a_cancel() {
        let (go_on, wait) = channel();
        let brake = Brake::default();
        let store = StoppableStore { inner: Arc::new(Stalled(Mutex::new(wait))), brake: brake.clone() };
        let id = BlockId::of(b"block");
        brake.release(None, false);
        go_on.send(()).unwrap();
        assert_eq!(store.get(&id).unwrap().unwrap(), b"block");

        brake.stop(Gate::Hold, "cancelled by user 0").unwrap();
        let error = store.get(&id).unwrap_err();
        assert!(flist::report(&error).contains("cancelled by user 0"), "{error:?}");
        // It never answered.
        drop(go_on);
    }
}
