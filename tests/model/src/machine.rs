//! The whole machine: two file systems, services, and what goes wrong.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use flist::path::FlistPath;
use nix::errno::Errno;
use zinit_client::UnitName;

use crate::fault::{Fate, Injector, Operation, Planned};
use crate::files::{Files, Kept};
use crate::services::Services;

/// One of the machine's file systems.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Volume {
    /// The root file system.
    Root,
    /// The disk with `/var/lib/molt`.
    State,
}

/// What the engine does that says how long services are away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deed {
    /// Has a service stopped.
    Stop(UnitName),
    /// Has a service started.
    Start(UnitName),
    /// Waits until something in this file, directory or file system is on its medium.
    Sync(Volume, FlistPath),
    /// Asks for content of this file, which may have to come from afar.
    Fetch(FlistPath),
}

/// A machine in memory.
#[derive(Debug)]
pub struct Machine {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) root: Files,
    pub(crate) state: Files,
    pub(crate) services: Services,
    pub(crate) injector: Injector,
    /// What a root in RAM is at every start.
    image: Arc<Files>,
    /// Root and state as their media have them, once a power cut is near.
    media: Option<(Files, Files)>,
    deeds: Vec<Deed>,
}

impl Machine {
    /// A machine with these file systems, everything on them synced, and no services.
    pub fn new(mut root: Files, mut state: Files) -> Self {
        for files in [&mut root, &mut state] {
            // The top is always there.
            let _ = files.sync_filesystem(&FlistPath::root());
        }
        let (services, injector, image) = (Services::default(), Injector::default(), Arc::new(root.clone()));
        Self {
            inner: Mutex::new(Inner {
                root,
                state,
                services,
                injector,
                image,
                media: None,
                deeds: Vec::new(),
            }),
        }
    }

    /// A machine in the same state, without faults.
    #[must_use]
    pub fn copy(&self) -> Self {
        let inner = self.lock();
        let (root, state, services) = (inner.root.clone(), inner.state.clone(), inner.services.clone());
        let (injector, image) = (Injector::default(), inner.image.clone());
        Self {
            inner: Mutex::new(Inner {
                root,
                state,
                services,
                injector,
                image,
                media: None,
                deeds: Vec::new(),
            }),
        }
    }

    /// What goes wrong from here on; operations are counted from 0 again.
    pub fn plan(&self, planned: Option<Planned>) {
        let mut inner = self.lock();
        (inner.media, inner.deeds) = (None, Vec::new());
        inner.injector.plan(planned);
    }

    /// As [`Machine::plan`], where an operation fails once ([`FIRST_OF_TWO`]) before the other fault comes.
    ///
    /// [`FIRST_OF_TWO`]: crate::fault::FIRST_OF_TWO
    pub fn plan_after_failure(&self, number: usize, planned: Planned) {
        let mut inner = self.lock();
        (inner.media, inner.deeds) = (None, Vec::new());
        inner.injector.plan_after_failure(number, planned);
    }

    /// The operations since the last [`Machine::plan`].
    pub fn operations(&self) -> Vec<Operation> {
        self.lock().injector.seen.clone()
    }

    /// What was done since then, in its order, whether it succeeded or not.
    pub fn deeds(&self) -> Vec<Deed> {
        self.lock().deeds.clone()
    }

    pub(crate) fn note(&self, deed: Deed) {
        self.lock().deeds.push(deed);
    }

    /// Before each of these operations, how many changes of names of root and state were not synced.
    pub fn unsynced(&self) -> Vec<(usize, usize)> {
        self.lock().injector.unsynced.clone()
    }

    /// Whether the engine was killed, or the power went.
    pub fn is_dead(&self) -> bool {
        self.lock().injector.dead
    }

    /// The machine starts again after a power cut: what was not on the media is lost, a root in RAM is what the machine
    /// was booted from, and the supervisor starts every unit that it finds.
    pub fn power_on(&self) {
        let mut inner = self.lock();
        let (media, keeps) = (inner.media.take(), inner.injector.keeps());
        let (root, state) = media.unwrap_or_else(|| (inner.root.clone(), inner.state.clone()));
        let (of_root, of_state) = keeps.unwrap_or((Kept::All, Kept::All));
        inner.root = if root.in_ram { (*inner.image).clone() } else { root.after_power_cut(of_root) };
        inner.state = state.after_power_cut(of_state);
        let Inner { root, services, .. } = &mut *inner;
        *services = Services::default();
        services.boot(root);
    }

    /// Looks at the machine, or changes it, outside of any fault.
    pub fn with<T>(&self, look: impl FnOnce(&mut Files, &mut Files, &mut Services) -> T) -> T {
        let mut inner = self.lock();
        let Inner { root, state, services, .. } = &mut *inner;
        look(root, state, services)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    /// One operation on files. `half` is what is left of it when it breaks off in the middle.
    pub(crate) fn on_files<T>(
        &self,
        volume: Volume,
        operation: Operation,
        whole: impl FnOnce(&mut Files) -> Result<T, Errno>,
        half: impl FnOnce(&mut Files),
    ) -> io::Result<T> {
        let mut inner = self.lock();
        let fate = inner.fate(operation);
        let files = match volume {
            Volume::Root => &mut inner.root,
            Volume::State => &mut inner.state,
        };
        let answer = match fate {
            Fate::Happen => whole(files).map_err(io::Error::from),
            Fate::Fail(errno) => return Err(errno.into()),
            Fate::HappenAndFail(errno) => whole(files).and(Err(errno)).map_err(io::Error::from),
            Fate::Half => {
                half(files);
                return Err(Errno::ENOSPC.into());
            }
        };
        if operation == Operation::Sync && fate == Fate::Happen {
            inner.reached_the_medium(volume);
        }
        answer
    }

    /// One operation on services.
    pub(crate) fn on_services<T>(
        &self,
        operation: Operation,
        whole: impl FnOnce(&mut Services, &Files) -> T,
        failed: impl FnOnce() -> T,
    ) -> T {
        let mut inner = self.lock();
        let fate = inner.fate(operation);
        let Inner { root, services, .. } = &mut *inner;
        match fate {
            Fate::Happen | Fate::Half => whole(services, root),
            Fate::Fail(_) => failed(),
            Fate::HappenAndFail(_) => {
                whole(services, root);
                failed()
            }
        }
    }
}

impl Inner {
    fn fate(&mut self, operation: Operation) -> Fate {
        self.remember();
        self.injector.fate(operation, (self.root.unsynced(), self.state.unsynced()))
    }

    fn remember(&mut self) {
        let near = self.injector.remembers_from().is_some_and(|from| self.injector.next() >= from);
        if near && self.media.is_none() && !self.injector.dead {
            self.media = Some((self.root.clone(), self.state.clone()));
        }
    }

    /// As on a journaling file system: a sync of anything brings all earlier changes of names with it.
    fn reached_the_medium(&mut self, volume: Volume) {
        match (&mut self.media, volume) {
            (Some((root, _)), Volume::Root) => root.clone_from(&self.root),
            (Some((_, state)), Volume::State) => state.clone_from(&self.state),
            (None, _) => {}
        }
    }
}
