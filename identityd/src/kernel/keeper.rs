//! Looks after each upgrade whether the kernel that runs is the one of the release.

use std::time::Duration;

use bootstrap::engine::Engine;
use bootstrap::settings::Settings;
use tokio::sync::watch;

use super::{KernelId, KernelStatus, ShippedError, View, decide, shipped};
use crate::agent::Handle;

/// Time between two looks at what is installed.
const LOOK: Duration = Duration::from_secs(5);

/// Whoever looks.
pub struct Keeper {
    settings: Settings,
    agent: Handle,
    shown: watch::Sender<Option<KernelStatus>>,
    /// The generation that was looked at last, and what was found.
    seen: Option<(u64, Option<KernelId>)>,
}

impl Keeper {
    /// Looks at the node with these settings; what is to be shown goes to `shown`.
    pub fn new(settings: Settings, agent: Handle, shown: watch::Sender<Option<KernelStatus>>) -> Self {
        Self { settings, agent, shown, seen: None }
    }

    /// Looks until it is aborted.
    pub async fn run(mut self) {
        let Some(running) = KernelId::running() else {
            return tracing::warn!("the system does not tell which kernel runs; another one is not noticed");
        };
        loop {
            self.look(&running).await;
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn look(&mut self, running: &KernelId) {
        // Before the agent has found out, nobody knows, and what is under way is not installed.
        let Some(generation) = self.agent.status().installed.map(|installed| installed.generation) else {
            return;
        };
        let installed = self.installed(generation).await;
        let installed = installed.as_ref().map(Option::as_ref).map_err(String::as_str);
        self.show(decide(&View { installed, running }));
    }

    /// The kernel of the installed release, read once for each generation.
    async fn installed(&mut self, generation: u64) -> Result<Option<KernelId>, String> {
        if let Some((seen, kernel)) = &self.seen
            && *seen == generation
        {
            return Ok(kernel.clone());
        }
        let settings = self.settings.clone();
        let looked = tokio::task::spawn_blocking(move || {
            shipped(&Engine::open(&settings).map_err(ShippedError::Installed)?)
        });
        let kernel = looked.await.map_err(|error| error.to_string())?;
        let kernel = kernel.map_err(|error| flist::report(&error))?;
        self.seen = Some((generation, kernel.clone()));
        Ok(kernel)
    }

    fn show(&self, status: Option<KernelStatus>) {
        self.shown.send_if_modified(|shown| {
            let changes = *shown != status;
            if changes && let Some(status) = &status {
                tracing::warn!(state = ?status.state, reason = status.reason, "kernel");
            }
            *shown = status;
            changes
        });
    }
}
