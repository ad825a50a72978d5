//! Doing what a plan says, or nothing.
//!
//! What is about to be done is in the journal before it is done; a step that fails makes the transaction
//! undo, in reverse order, everything done so far, and go on undoing when one undo fails. What could not
//! be undone is [`TransactionError::Degraded`], never hidden.

mod ahead;
mod downtime;
mod ending;
mod error;
mod files;
mod hooks;
pub mod journal;
mod left_down;
mod mounts;
mod opening;
mod recover;
mod restarts;
mod room;
mod run;
pub mod services;
pub(crate) mod staging;
pub(crate) mod states;
mod stopped_since;
mod stopping;
mod undo;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use flist::hub::ReleaseFlist;
use flist::path::FlistPath;
use flist::tree::Tree;
use zinit_client::{ServiceUnit, UnitName};

pub use error::TransactionError;
pub(crate) use mounts::sync_swapped;
pub use recover::{Recovery, recover};
pub(crate) use staging::{FETCHED_AT_ONCE, STAGING};

use crate::generation::{Generation, StateDir};
use crate::health::HealthLimits;
use crate::plan::Plan;
use crate::plan::services::Verdict;
use crate::processes::Stranger;
use crate::programs::Programs;
use crate::root::{Found, Root};
use crate::source::ContentSource;
use crate::supervisor::Supervisor;
use run::Run;

/// What happens while a transaction is under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// A file is staged.
    Staged {
        /// How many are.
        done: usize,
        /// How many there are to stage.
        total: usize,
    },
    /// Everything is staged; from here on it is rehearsed, and brought to its medium.
    Verifying,
    /// From here on services are stopped and files swapped.
    Swapping,
    /// A service has stopped.
    Stopped(UnitName),
    /// A service has been stopped by somebody else, before the plan was made or since: it stays down, and the supervisor
    /// may be made to forget it.
    LeftDown(UnitName),
    /// A service has been started, or is up again.
    Started {
        /// The service.
        unit: UnitName,
        /// Time from the request to stop until it was up again; `None` if it did not run before.
        down: Option<Duration>,
    },
    /// From here on it is watched whether the started services come up.
    Soaking,
    /// It is committed, and these processes of no service run on with what was there before.
    LeftBehind(Vec<Stranger>),
}

/// Where progress is reported to.
pub type Observer<'o> = dyn Fn(Progress) + Send + Sync + 'o;

/// Gets ready for the swap, or refuses it.
pub type BeforeSwap<'b> = dyn Fn() -> Result<(), Box<dyn std::error::Error + Send + Sync>> + Send + Sync + 'b;

/// Everything a transaction needs besides its plan.
pub struct Context<'c> {
    /// The root file system.
    pub root: Arc<Root>,
    /// Where generations and the journal are.
    pub state: &'c StateDir,
    /// The supervisor.
    pub zinit: &'c dyn Supervisor,
    /// Who runs programs of packages.
    pub programs: &'c dyn Programs,
    /// How long started services are watched.
    pub health: HealthLimits,
    /// Blocks that are fetched at the same time; 0 fetches each when it is needed.
    pub fetched_at_once: usize,
    /// The tree of the release.
    pub tree: Arc<Tree>,
    /// Its content.
    pub source: Arc<dyn ContentSource>,
    /// The generation that the transaction makes.
    pub generation: &'c Generation,
    /// The flists that the generation comes from, to be recorded with it, and several of them as one.
    pub flists: (&'c [ReleaseFlist], &'c [u8]),
    /// What was seen at the paths that change.
    pub seen: &'c BTreeMap<FlistPath, Found>,
    /// Called when everything is staged and announced, right before the first stop; an error ends the
    /// transaction there.
    pub before_swap: &'c BeforeSwap<'c>,
    /// Units before and after the swap.
    pub units: (&'c BTreeMap<UnitName, ServiceUnit>, &'c BTreeMap<UnitName, ServiceUnit>),
    /// Services that the plan leaves alone and that were up when it was made, with their processes.
    pub bystanders: &'c BTreeMap<UnitName, u32>,
    /// The longest that services may be away; who is away for longer makes the transaction fail.
    pub budgets: BTreeMap<UnitName, Duration>,
    /// Where progress is reported to.
    pub observer: &'c Observer<'c>,
}

/// Carries out a plan. When it returns an error other than [`TransactionError::Degraded`] and
/// [`TransactionError::Left`], the node is as it was before. A [`Purpose::SelfUpdate`] ends with the swap: the
/// journal stays, and whoever runs next commits or recovers.
///
/// # Errors
/// [`TransactionError`].
pub async fn execute(plan: &Plan, context: &Context<'_>) -> Result<(), TransactionError> {
    let mut run = Run::begin(plan, context)?;
    for note in plan.services.notes.iter().filter(|note| note.verdict == Verdict::Forget) {
        run.tell_left_down(note.name.clone());
    }
    for step in &plan.steps {
        let done = run.step(step).await;
        if let Err(error) = run.or_no_room(run.in_budget(done)) {
            return Err(run.undo(error).await);
        }
    }
    run.finish().await;
    Ok(())
}
