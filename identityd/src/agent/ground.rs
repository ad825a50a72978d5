//! What an agent stands on.

use std::path::PathBuf;
use std::time::Duration;

use bootstrap::maintenance::Windows;
use bootstrap::state_place::StatePlace;
use tokio::sync::watch;

use super::Brake;
use crate::kernel::KernelStatus;

/// What the agent is given to work with.
#[derive(Debug)]
pub struct Ground {
    /// Time between two polls.
    pub poll_interval: Duration,
    /// When upgrades may begin by themselves; `None`: at any time.
    pub windows: Option<Windows>,
    /// How long a release may be postponed in all.
    pub longest_postponement: Duration,
    /// Nothing is upgraded: the kernel was started so.
    pub held_by_kernel: bool,
    /// Where orders, history and failures are.
    pub state: StatePlace,
    /// Where the engine's lock is.
    pub run_dir: PathBuf,
    /// This boot's id.
    pub boot: String,
    /// Whether this process goes on with the upgrade of another one.
    pub handed_over: bool,
    /// Stops what the worker does, before the swap.
    pub brake: Brake,
    /// What is to be shown of the kernel, from whoever looks after it.
    pub kernel: watch::Receiver<Option<KernelStatus>>,
}
