//! Running what packages declare, and taking it back.

use std::time::Duration;

use flist::package::Command;
use flist::path::FlistPath;

use super::journal::{Header, Journal, JournalPlace, Record, Swap};
use super::run::Run;
use super::{Context, TransactionError, files};
use crate::plan::{HookCall, Moment, Purpose};
use crate::programs::{Call, Programs};
use crate::root::{Root, RootError};

/// How often an inverse, or a hook of a first boot, is run that fails, before the node goes on without it.
const ATTEMPTS: u32 = 3;

/// Which program a path means while files are exchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// That of the release which is installed.
    New,
    /// That of the release which is left.
    Old,
}

impl Moment {
    fn side(self) -> Side {
        match self {
            Self::Leave => Side::Old,
            _ => Side::New,
        }
    }
}

/// Marks everything that one transaction runs.
pub(super) fn mark(header: &Header) -> String {
    format!("{}-{}", header.root.marker.as_deref().unwrap_or_default(), header.generation)
}

/// Where a program lies now: at its path, or in the slot that it is exchanged with.
pub(super) fn locate(
    root: &Root,
    swaps: &[Swap],
    program: &FlistPath,
    side: Side,
) -> Result<FlistPath, RootError> {
    let path = root.canonical(program)?;
    let Some(swap) = swaps.iter().find(|swap| *swap.change.path() == path) else { return Ok(path) };
    match &swap.slot {
        Some(slot)
            if !swap.change.is_of_a_directory()
                && files::has_happened(root, swap)? != (side == Side::New) =>
        {
            // What is in the slot may be a symlink, which means something at its own place only.
            let is_file = root.stat(slot)?.is_some_and(|stat| stat.kind == crate::disk::Kind::File);
            Ok(if is_file { slot.clone() } else { path })
        }
        _ => Ok(path),
    }
}

/// A hook or its inverse as a call.
fn call(
    root: &Root,
    (header, swaps): (&Header, &[Swap]),
    hook: &HookCall,
    command: &Command,
    action: &str,
) -> Result<Call, RootError> {
    Ok(Call {
        program: locate(root, swaps, command.program(), hook.moment.side())?,
        words: command.words(),
        environment: vec![
            ("MOLT_PACKAGE", hook.package.to_string()),
            ("MOLT_HOOK", hook.name.to_string()),
            ("MOLT_ACTION", action.to_owned()),
        ],
        mark: mark(header),
        instead: Vec::new(),
        timeout: Duration::from_secs(hook.timeout),
    })
}

impl Run<'_> {
    /// Runs a hook. On a first boot there is nothing better to go back to: a failure is told, and the boot goes on.
    pub(super) async fn hook(&mut self, number: usize) -> Result<(), TransactionError> {
        // What comes after the commit is run again by recovery, announced or not.
        if !self.committed {
            let announced = self.journal.append(&Record::Hook { hook: number });
            announced.map_err(TransactionError::Journal)?;
        }
        self.hooks.push(number);
        let hook = &self.header.hooks[number];
        let what = format!("the hook {} of package {}", hook.name, hook.package);
        let Context { root, programs, .. } = self.context;
        let at = (&self.header, self.swaps.as_slice());
        if self.plan.purpose == Purpose::Boot {
            run_somehow(root, *programs, at, hook, &what).await;
            return Ok(());
        }
        let limit = self.time_for(Duration::from_secs(hook.timeout));
        run_hook(root, *programs, at, (hook, limit), &what).await
    }

    /// Takes back, in reverse order, what hooks of this moment did; gives what could not be done, and what is
    /// given up.
    pub(super) async fn take_back(&mut self, moments: &[Moment], not_undone: &mut Vec<String>) {
        let Context { root, programs, .. } = self.context;
        for number in self.hooks.iter().rev() {
            let hook = &self.header.hooks[*number];
            if !moments.contains(&hook.moment) {
                continue;
            }
            match take_back(root, *programs, (&self.header, &self.swaps), hook).await {
                Ok(left) => {
                    self.left.extend(left);
                    let noted = self.journal.append(&Record::TakenBack { hook: *number });
                    not_undone.extend(noted.err().map(|error| flist::report(&error)));
                }
                Err(error) => not_undone.push(flist::report(&error)),
            }
        }
    }
}

async fn run_hook(
    root: &Root,
    programs: &dyn Programs,
    at: (&Header, &[Swap]),
    (hook, limit): (&HookCall, Duration),
    what: &str,
) -> Result<(), TransactionError> {
    let action = if hook.moment == Moment::Leave { "undo" } else { "run" };
    let call = call(root, at, hook, &hook.run, action).map_err(TransactionError::Root)?;
    let call = Call { timeout: call.timeout.min(limit), ..call };
    tracing::info!(hook = %hook.name, package = %hook.package, moment = hook.moment.as_str(), "running");
    run(programs, &call, what).await
}

/// Runs a hook of a first boot, some times if it fails; a failure that stays is told.
async fn run_somehow(
    root: &Root,
    programs: &dyn Programs,
    at: (&Header, &[Swap]),
    hook: &HookCall,
    what: &str,
) {
    let mut last = None;
    for _ in 0..ATTEMPTS {
        match run_hook(root, programs, at, (hook, Duration::MAX), what).await {
            Ok(()) => return,
            Err(error) => last = Some(error),
        }
    }
    if let Some(error) = last {
        tracing::error!(error = %flist::report(&error), "going on without it");
    }
}

/// Runs a program that has to succeed.
pub(super) async fn run(programs: &dyn Programs, call: &Call, what: &str) -> Result<(), TransactionError> {
    let ended = programs.run(call).await;
    let ended = ended.map_err(|source| TransactionError::NotStarted { what: what.to_owned(), source })?;
    match ended.is_good() {
        true => Ok(()),
        false => Err(TransactionError::Program { what: what.to_owned(), ended: ended.to_string() }),
    }
}

/// Takes one hook back. An inverse that fails again and again is given up, in words: what it leaves behind is
/// worth less than a node that can be upgraded.
async fn take_back(
    root: &Root,
    programs: &dyn Programs,
    at: (&Header, &[Swap]),
    hook: &HookCall,
) -> Result<Option<String>, TransactionError> {
    let Some(undo) = &hook.undo else { return Ok(None) };
    let what = format!("the inverse of hook {} of package {}", hook.name, hook.package);
    let action = if hook.moment == Moment::Leave { "run" } else { "undo" };
    let call = call(root, at, hook, undo, action).map_err(TransactionError::Root)?;
    let mut last = None;
    for _ in 0..ATTEMPTS {
        match run(programs, &call, &what).await {
            // On the medium before anybody notes that it is done.
            Ok(()) => return sync(programs).await.map(|()| None),
            Err(error) => last = Some(error),
        }
    }
    match last {
        Some(error) if error.may_pass() => Err(error),
        Some(error) => {
            let error = flist::report(&error);
            tracing::error!(error, "what it did stays");
            Ok(Some(error))
        }
        None => Ok(None),
    }
}

/// Waits until what programs have done is on its medium.
pub(super) async fn sync(programs: &dyn Programs) -> Result<(), TransactionError> {
    programs.sync().await.map_err(TransactionError::NotSynced)
}

/// What recovery knows of the hooks of a transaction.
pub(super) struct Begun<'r> {
    pub(super) root: &'r Root,
    pub(super) programs: &'r dyn Programs,
    pub(super) header: &'r Header,
    pub(super) swaps: &'r [Swap],
    /// Those that were announced and not taken back, in their order.
    pub(super) hooks: Vec<usize>,
}

impl<'r> Begun<'r> {
    pub(super) fn of(
        (root, programs): (&'r Root, &'r dyn Programs),
        (header, swaps): (&'r Header, &'r [Swap]),
        records: &[Record],
    ) -> Self {
        let mut hooks = Vec::new();
        for record in records {
            match record {
                Record::Hook { hook } if *hook < header.hooks.len() => hooks.push(*hook),
                Record::TakenBack { hook } => hooks.retain(|other| other != hook),
                _ => {}
            }
        }
        Self { root, programs, header, swaps, hooks }
    }

    /// Ends what the engine that was killed has left running.
    pub(super) async fn end_leftovers(&self) -> Result<(), TransactionError> {
        if self.header.hooks.is_empty() && self.header.states.is_empty() {
            return Ok(());
        }
        let ended = self.programs.end_leftovers(&mark(self.header)).await;
        let what = "what the interrupted upgrade was running".to_owned();
        ended.map_err(|source| TransactionError::NotStarted { what, source })
    }

    /// Takes back what hooks of these moments did, in reverse order.
    pub(super) async fn take_back(
        &self,
        moments: &[Moment],
        place: &JournalPlace,
        not_undone: &mut Vec<String>,
    ) {
        for number in self.hooks.iter().rev() {
            let hook = &self.header.hooks[*number];
            if !moments.contains(&hook.moment) {
                continue;
            }
            let at = (self.header, self.swaps);
            let taken = take_back(self.root, self.programs, at, hook).await;
            let noted = match taken {
                Ok(_) => Journal::at(place.clone())
                    .append(&Record::TakenBack { hook: *number })
                    .map_err(|error| flist::report(&error)),
                Err(error) => Err(flist::report(&error)),
            };
            not_undone.extend(noted.err());
        }
    }

    /// Whether some come after the commit: on a first boot.
    pub(super) fn are_left(&self) -> bool {
        let Header { purpose, hooks, .. } = self.header;
        *purpose == Purpose::Boot && hooks.iter().any(|hook| hook.moment == Moment::AfterStart)
    }

    /// Runs those that come after the commit, again if they were. A failure is told.
    pub(super) async fn run_rest(&self) {
        for hook in self.header.hooks.iter().filter(|hook| hook.moment == Moment::AfterStart) {
            let what = format!("the hook {} of package {}", hook.name, hook.package);
            run_somehow(self.root, self.programs, (self.header, self.swaps), hook, &what).await;
        }
    }
}
