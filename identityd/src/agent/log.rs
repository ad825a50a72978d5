//! What the agent writes to the log.

use tracing::{error, info, warn};

use super::model::{Applied, Installed, ProblemKind};
use super::stage::{Gate, Stage};
use super::state::{Event, State};
use super::{Agent, answer};

impl Agent {
    pub(super) fn log(&mut self, before: Stage, event: &Event) {
        let State { stage, gate, candidate, attempts, .. } = &self.state;
        if *stage != before {
            let gate = gate.map(Gate::as_str);
            let version = candidate.as_ref().map(|candidate| candidate.version.as_str());
            let release = candidate.as_ref().map(|candidate| candidate.release.as_str());
            info!(%stage, from = %before, gate, version, release, "stage");
        }
        if let Some(problem) = answer::problem_of(event) {
            let kind = problem.kind.as_str();
            match problem.kind {
                ProblemKind::Degraded => error!(kind, attempts, "{problem}"),
                _ => warn!(kind, attempts, "{problem}"),
            }
        }
        match (event, gate) {
            (Event::LookedForInstalled(Ok(None)), Some(Gate::FlistName)) if !self.said_disabled => {
                warn!("{}", Gate::FlistName.explanation());
                self.said_disabled = true;
            }
            (Event::LookedForInstalled(Ok(Some(Installed { channel, version, generation, .. }))), _) => {
                info!(channel, version, generation, "installed");
                self.said_disabled = false;
            }
            (Event::Applied(Ok(Applied::Committed { generation })), _) => {
                info!(generation, "the upgrade is committed");
            }
            _ => {}
        }
    }
}
