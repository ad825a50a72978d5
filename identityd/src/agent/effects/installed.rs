//! What is installed, after what a crash has left is recovered.

use bootstrap::boot_info;
use bootstrap::generation::Generation;
use bootstrap::plan::Purpose;
use bootstrap::transaction::Recovery;
use flist::report;
use tracing::warn;

use super::{Effects, local, problem};
use crate::agent::model::{Installed, Problem, ProblemKind};
use crate::handover::{self, Handover};

impl Effects {
    /// Finishes or undoes what a crash left. In a new daemon it acknowledges the handover: it commits.
    ///
    /// # Errors
    /// A [`Problem`]; may be called again.
    pub async fn recover(&mut self) -> Result<(), Problem> {
        let lock = self.lock().await?;
        self.settle_state(&lock, 0)?;
        if let Some(handover) = Handover::read(&self.settings.run_dir) {
            if handover.pid == std::process::id() {
                return self.acknowledge(&lock, &handover).await;
            }
            // Its process is gone, or another one now: what it has left is recovered as anything else.
            Handover::end(&self.settings.run_dir);
        }
        let recovery = self.engine.recover(&lock).await.map_err(|error| problem(&error))?;
        drop(lock);
        match recovery {
            Recovery::Undone { purpose: Purpose::SelfUpdate, .. } => {
                tracing::warn!("an interrupted self-update was undone; going on with what is installed");
                let arguments: Vec<String> = std::env::args().collect();
                Err(handover::exec(&self.program, &arguments))
            }
            _ => {
                self.excuse_installed();
                Ok(())
            }
        }
    }

    /// What is installed; `None`: live upgrade is disabled.
    ///
    /// What the node follows is recorded where nobody else writes. Only where nothing is recorded, flist.name tells.
    ///
    /// # Errors
    /// A [`Problem`] when nothing is recorded and flist.name cannot be accepted.
    pub async fn installed(&mut self) -> Result<Option<Installed>, Problem> {
        let Some(current) = self.current()? else { return self.named() };
        self.mend_name(&current);
        Ok(Some(Installed {
            channel: current.channel.to_string(),
            version: current.version.to_string(),
            release: current.release.to_string(),
            generation: current.number,
        }))
    }

    /// Others read flist.name; one that is damaged, missing, or says something else is written anew.
    fn mend_name(&self, Generation { channel, info, .. }: &Generation) {
        let found = match boot_info::read_name(&self.settings.root) {
            Ok(Some(named)) if named == *channel => return,
            Ok(named) => named.map_or("nothing".to_owned(), |named| named.to_string()),
            Err(error) => report(&error),
        };
        warn!(found, %channel, "flist.name does not say what this node follows; it is written anew");
        if let Err(error) = boot_info::write(self.engine.root(), channel, info) {
            warn!(error = report(&error), "flist.name stays as it is");
        }
    }

    /// The state was lost, or this root was not installed by this program: the next release is compared with what is
    /// on disk.
    fn named(&self) -> Result<Option<Installed>, Problem> {
        let named = boot_info::read_name(&self.settings.root);
        let Some(channel) = named.map_err(|error| local("live upgrade is disabled", &error))? else {
            return Ok(None);
        };
        if !self.settings.follows(&channel) {
            let known = self.settings.channel_names();
            let message = format!(
                "flist.name says {channel}, but this node is to follow {known}; nothing is followed until they agree"
            );
            return Err(Problem::new(ProblemKind::Local, message));
        }
        Ok(Some(Installed {
            channel: channel.to_string(),
            version: "unknown".to_owned(),
            release: String::new(),
            generation: 0,
        }))
    }
}
