//! What is installed, after what a crash has left is recovered.

use std::sync::atomic::Ordering;

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
        let handover = Handover::read(&self.settings.run_dir);
        let on_trial = handover.as_ref().is_some_and(Handover::is_on_trial);
        if let Some(handover) = &handover
            && handover.pid == std::process::id()
            && !on_trial
            && !self.hands_over.load(Ordering::Relaxed)
        {
            return self.acknowledge(&lock, handover).await;
        }
        let recovery = self.engine.recover(&lock).await.map_err(|error| problem(&error))?;
        // Its process is gone, another one now, or could not be replaced: what it has left was recovered as anything
        // else. Whoever does that may be no good either, so the guardians do not leave before; nor in a trial, which
        // they end.
        if handover.is_some() && !on_trial {
            Handover::end(&self.settings.run_dir);
        }
        drop(lock);
        match recovery {
            Recovery::Undone { purpose: Purpose::SelfUpdate, .. } => {
                tracing::warn!("an interrupted self-update was undone; going on with what is installed");
                let arguments: Vec<String> = std::env::args().collect();
                Err(handover::exec(&self.program, &arguments))
            }
            _ => {
                self.excuse_installed();
                self.go_on_with_trial().await;
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

#[cfg(test)]
mod tests {
    use bootstrap::settings::{Overrides, Settings};
    use clap::Parser;
    use tempfile::TempDir;

    use super::*;
    use crate::agent::brake::Brake;

    #[derive(Parser)]
    struct Arguments {
        #[command(flatten)]
        overrides: Overrides,
    }

    /// A node without a supervisor, on which this process has written down that it is handing over.
    fn handing_over() -> (TempDir, Effects, Handover) {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        for name in ["root", "cache"] {
            std::fs::create_dir(path(name)).unwrap();
        }
        std::fs::write(path("cmdline"), "").unwrap();
        std::fs::write(path("config.yaml"), "").unwrap();
        let mut words = vec!["x".to_owned()];
        for (option, name) in [
            ("--root", "root"),
            ("--config", "config.yaml"),
            ("--cmdline", "cmdline"),
            ("--zinit-socket", "zinit.sock"),
            ("--state-dir", "state"),
            ("--run-dir", "run"),
            ("--cache-dir", "cache"),
        ] {
            words.extend([option.to_owned(), path(name)]);
        }
        let settings = Settings::load(&Arguments::parse_from(words).overrides).unwrap();
        bootstrap::durable::private_directory(&settings.run_dir).unwrap();
        let release = flist::hub::ReleaseId::of([]);
        let handover = Handover::new(&settings, "identityd".parse().unwrap(), 2, release).unwrap();
        (directory, Effects::new(settings, Brake::default()).unwrap(), handover)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_handover_of_others_is_over_only_when_all_is_recovered() {
        let (directory, mut effects, mut handover) = handing_over();
        let journal = directory.path().join("state/journal");
        // It cannot be read.
        std::fs::create_dir(&journal).unwrap();
        handover.pid = 1;
        handover.write().unwrap();
        effects.recover().await.unwrap_err();
        assert!(Handover::read(&effects.settings.run_dir).is_some(), "the guardians would leave");
        std::fs::remove_dir(&journal).unwrap();
        effects.recover().await.unwrap();
        assert!(Handover::read(&effects.settings.run_dir).is_none());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn who_began_a_handover_does_not_acknowledge_it() {
        let (_directory, mut effects, handover) = handing_over();
        handover.write().unwrap();
        // The new daemon first asks for the supervisor, which is not there.
        effects.recover().await.unwrap_err();
        assert!(Handover::read(&effects.settings.run_dir).is_some());
        effects.hands_over.store(true, Ordering::Relaxed);
        effects.recover().await.unwrap();
        assert!(Handover::read(&effects.settings.run_dir).is_none());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn while_the_old_files_are_not_back_somebody_watches_and_it_is_no_matter_of_time() {
        let (_directory, mut effects, handover) = handing_over();
        handover.write().unwrap();
        effects.hands_over.store(true, Ordering::Relaxed);
        handover.give_up(false);
        let note = std::fs::read_to_string(effects.settings.run_dir.join("handover.json")).unwrap();
        assert!(note.contains(r#""given_up":true"#), "{note}");
        // Whoever has recovered ends it.
        effects.recover().await.unwrap();
        assert!(Handover::read(&effects.settings.run_dir).is_none());
        handover.write().unwrap();
        handover.give_up(true);
        assert!(Handover::read(&effects.settings.run_dir).is_none());
    }
}
