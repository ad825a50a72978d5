//! What can go wrong at one effect.

use std::fmt;

use nix::errno::Errno;

use crate::files::Kept;

/// What an operation does, as far as faults care.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Reads or lists.
    Read,
    /// Takes space: creates or appends.
    Allocate,
    /// Changes something without taking space to speak of.
    Change,
    /// Waits for the medium.
    Sync,
    /// Asks the supervisor.
    Ask,
    /// Makes the supervisor do something.
    Order,
}

/// One fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fault {
    /// The device fails, or the supervisor hangs up without having done anything.
    Eio,
    /// The disk is full.
    Enospc,
    /// The file system is read-only.
    Erofs,
    /// A signal interrupts it.
    Eintr,
    /// Half of the bytes are written, then the disk is full.
    ShortWrite,
    /// It is done, but the answer is lost.
    AnswerLost,
    /// The engine is killed right before it.
    KillBefore,
    /// The engine is killed right after it.
    KillAfter,
    /// The power goes right before it, and the last so many changes that were not synced are lost: a file system with a
    /// journal.
    PowerCut(u8),
    /// The power goes right before it, and the root and the disk with the state keep these names that were not synced:
    /// file systems that promise no order.
    Disorder(Kept, Kept),
}

/// All of them.
pub const FAULTS: [Fault; 19] = [
    Fault::Eio,
    Fault::Enospc,
    Fault::Erofs,
    Fault::Eintr,
    Fault::ShortWrite,
    Fault::AnswerLost,
    Fault::KillBefore,
    Fault::KillAfter,
    Fault::PowerCut(0),
    Fault::PowerCut(1),
    Fault::PowerCut(4),
    Fault::PowerCut(16),
    Fault::PowerCut(64),
    Fault::PowerCut(u8::MAX),
    Fault::Disorder(Kept::Nothing, Kept::Nothing),
    Fault::Disorder(Kept::Nothing, Kept::All),
    Fault::Disorder(Kept::All, Kept::Nothing),
    Fault::Disorder(Kept::Last, Kept::Last),
    Fault::Disorder(Kept::ButFirst, Kept::ButFirst),
];

/// Faults that can last.
pub(crate) const LASTING: [Fault; 3] = [Fault::Eio, Fault::Enospc, Fault::Erofs];

/// First faults of pairs, and what can then hit the recovery.
pub(crate) const KILLS: [Fault; 6] = [
    Fault::KillBefore,
    Fault::KillAfter,
    Fault::PowerCut(0),
    Fault::PowerCut(16),
    Fault::PowerCut(u8::MAX),
    Fault::Disorder(Kept::Nothing, Kept::Nothing),
];
pub(crate) const IN_RECOVERY: [Fault; 14] = [
    Fault::Eio,
    Fault::Enospc,
    Fault::Erofs,
    Fault::Eintr,
    Fault::ShortWrite,
    Fault::AnswerLost,
    Fault::KillBefore,
    Fault::KillAfter,
    Fault::PowerCut(0),
    Fault::PowerCut(16),
    Fault::PowerCut(u8::MAX),
    Fault::Disorder(Kept::Nothing, Kept::Nothing),
    Fault::Disorder(Kept::Nothing, Kept::All),
    Fault::Disorder(Kept::All, Kept::Nothing),
];

/// What can hit an act that deals with [`FIRST_OF_TWO`] already: undoes what it has done.
pub(crate) const IN_UNDO: [Fault; 3] = [Fault::Eio, Fault::KillBefore, Fault::PowerCut(0)];

/// What fails where a second fault hits whoever deals with the first one.
pub const FIRST_OF_TWO: Fault = Fault::Eio;

impl Fault {
    /// Whether this can happen to such an operation.
    pub fn applies_to(self, operation: Operation) -> bool {
        use Operation as O;
        match self {
            Self::Eio | Self::KillBefore | Self::KillAfter | Self::PowerCut(_) => true,
            Self::Eintr => !matches!(operation, O::Ask | O::Order),
            Self::Enospc | Self::ShortWrite => operation == O::Allocate,
            Self::Erofs => matches!(operation, O::Allocate | O::Change),
            // Right before one that changes nothing, it is as right before the next one that does.
            Self::Disorder(..) => !matches!(operation, O::Read | O::Ask),
            Self::AnswerLost => operation == O::Order,
        }
    }

    /// Whether the engine does not live on.
    pub fn kills(self) -> bool {
        self.cuts_power() || matches!(self, Self::KillBefore | Self::KillAfter)
    }

    /// Whether the whole machine starts again.
    pub fn cuts_power(self) -> bool {
        matches!(self, Self::PowerCut(_) | Self::Disorder(..))
    }

    /// The simplest fault that does the same where so many changes of names of the root and of the state are not synced.
    #[must_use]
    pub fn of(self, (root, state): (usize, usize)) -> Self {
        match self {
            Self::Disorder(of_root, of_state) => Self::Disorder(of_root.of(root), of_state.of(state)),
            other => other,
        }
    }

    pub(crate) fn errno(self) -> Errno {
        match self {
            Self::Enospc | Self::ShortWrite => Errno::ENOSPC,
            Self::Erofs => Errno::EROFS,
            Self::Eintr => Errno::EINTR,
            _ => Errno::EIO,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PowerCut(0) => f.write_str("power cut"),
            Self::PowerCut(u8::MAX) => f.write_str("power cut, all unsynced lost"),
            Self::PowerCut(lost) => write!(f, "power cut, {lost} unsynced lost"),
            Self::Disorder(root, state) => {
                write!(f, "power cut, of what was not synced kept: root {root:?}, state {state:?}")
            }
            Self::Eio => f.write_str("EIO"),
            Self::Enospc => f.write_str("ENOSPC"),
            Self::Erofs => f.write_str("EROFS"),
            Self::Eintr => f.write_str("EINTR"),
            Self::ShortWrite => f.write_str("short write"),
            Self::AnswerLost => f.write_str("answer lost"),
            Self::KillBefore => f.write_str("kill before"),
            Self::KillAfter => f.write_str("kill after"),
        }
    }
}

/// When which fault comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Planned {
    /// The number of the operation, from 0.
    pub at: usize,
    /// The fault.
    pub fault: Fault,
    /// Whether every later operation that it applies to fails in the same way.
    pub lasting: bool,
}

/// What an operation has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Happen.
    Happen,
    /// Not happen.
    Fail(Errno),
    /// Happen, and return an error.
    HappenAndFail(Errno),
    /// Happen by half.
    Half,
}

/// Counts operations and decides their fate.
#[derive(Debug, Default)]
pub(crate) struct Injector {
    planned: Option<Planned>,
    /// The number of an operation before that, which fails once.
    fails_before: Option<usize>,
    /// Every operation since the last [`Injector::plan`].
    pub(crate) seen: Vec<Operation>,
    /// Before each of them, how many changes of names of root and state were not synced.
    pub(crate) unsynced: Vec<(usize, usize)>,
    /// The engine is dead: nothing that it does happens any more.
    pub(crate) dead: bool,
}

impl Injector {
    pub(crate) fn plan(&mut self, planned: Option<Planned>) {
        self.planned = planned;
        self.fails_before = None;
        self.seen.clear();
        self.unsynced.clear();
        self.dead = false;
    }

    /// As [`Injector::plan`], and the operation with this number fails once before.
    pub(crate) fn plan_after_failure(&mut self, number: usize, planned: Planned) {
        self.plan(Some(planned));
        self.fails_before = Some(number);
    }

    /// How many changes before the power cut are lost, once it is time to remember them.
    pub(crate) fn remembers_from(&self) -> Option<usize> {
        match self.planned?.fault {
            Fault::PowerCut(lost) => Some(self.planned?.at.saturating_sub(usize::from(lost))),
            _ => None,
        }
    }

    /// The number of the operation that comes next.
    pub(crate) fn next(&self) -> usize {
        self.seen.len()
    }

    /// What names a power cut leaves that promises no order.
    pub(crate) fn keeps(&self) -> Option<(Kept, Kept)> {
        match self.planned?.fault {
            Fault::Disorder(root, state) => Some((root, state)),
            _ => None,
        }
    }

    pub(crate) fn fate(&mut self, operation: Operation, unsynced: (usize, usize)) -> Fate {
        if self.dead {
            return Fate::Fail(Errno::EIO);
        }
        let number = self.seen.len();
        self.seen.push(operation);
        self.unsynced.push(unsynced);
        if self.fails_before == Some(number) {
            return Fate::Fail(FIRST_OF_TWO.errno());
        }
        let Some(Planned { at, fault, lasting }) = self.planned else { return Fate::Happen };
        let due = number == at || (lasting && number > at);
        if !due || !fault.applies_to(operation) {
            return Fate::Happen;
        }
        match fault {
            Fault::KillBefore | Fault::PowerCut(_) | Fault::Disorder(..) => {
                self.dead = true;
                Fate::Fail(Errno::EIO)
            }
            Fault::KillAfter => {
                self.dead = true;
                Fate::HappenAndFail(Errno::EIO)
            }
            Fault::AnswerLost => Fate::HappenAndFail(Errno::EIO),
            Fault::ShortWrite => Fate::Half,
            other => Fate::Fail(other.errno()),
        }
    }
}
