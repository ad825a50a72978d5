//! What an upgrade would do and cost; how long services will be down, against what their units allow.

use std::fmt::Write;
use std::sync::Arc;

use bootstrap::engine::{Cost, Prepared};
use bootstrap::plan::{Purpose, Verdict};
use flist::report;
use serde_json::json;

use super::{Effects, drop_on_blocking_thread, problem};
use crate::agent::model::{Candidate, PlanReport, Problem, ProblemKind};
use crate::agent::stage::Gate;
use crate::downtime::{self, Expected};
use crate::history::History;

impl Effects {
    /// What installing the candidate would do; touches nothing.
    ///
    /// # Errors
    /// A [`Problem`].
    pub async fn plan(&mut self, candidate: &Candidate) -> Result<PlanReport, Problem> {
        let release = self.offered(candidate)?;
        let source = self.source(&release, Arc::default()).await?;
        let prepared = self.engine.prepare(&release, Purpose::Upgrade, source.clone(), None).await;
        drop_on_blocking_thread(source);
        let prepared = prepared.map_err(|error| problem(&error))?;
        let plan = &prepared.plan;
        let Forecast { expected, unread } = self.expected(&prepared);
        let cost = self.engine.cost(&prepared).map_err(|error| problem(&error))?;
        let installed = self.current()?.map(|current| {
            json!({ "version": current.version, "release": current.release, "generation": current.number })
        });
        Ok(PlanReport {
            text: format!("{plan}{}", text((&expected, unread.as_deref()), &cost)),
            json: json!({
                "channel": candidate.channel,
                "version": candidate.version,
                "release": candidate.release,
                "installed": installed,
                "generation": prepared.generation(),
                "purpose": plan.purpose,
                "empty": plan.is_empty(),
                "files": plan.files.changes,
                "kept": plan.files.kept,
                "conflicts": plan.files.conflicts,
                "services": plan.services.notes,
                "hooks": plan.packages.hooks,
                "states": plan.packages.states,
                "strangers": plan.services.strangers,
                "more_strangers": plan.services.more_strangers,
                "steps": plan.steps,
                "bytes_at_most": cost.fetched_bytes,
                "bytes_staged": plan.staged_bytes(),
                "space": plan.space,
                "downtime": expected,
                "history_problem": unread,
                "cost": cost,
            }),
        })
    }

    /// What is to be expected of the services that a plan restarts.
    pub(super) fn expected(&self, prepared: &Prepared) -> Forecast {
        let restarts = prepared.plan.services.notes.iter().filter(|note| note.verdict == Verdict::Restart);
        let budget = |name| prepared.unit(name).and_then(|unit| unit.molt.downtime_budget);
        let services = restarts.map(|note| (note.name.to_string(), budget(&note.name)));
        let migrating = prepared.plan.packages.longest_migration().as_millis();
        let migrating = u64::try_from(migrating).unwrap_or(u64::MAX);
        let (past, unread) = match History::at(self.place.clone()).read(usize::MAX) {
            Ok(past) => (past.records, None),
            Err(error) => (Vec::new(), Some(report(&error))),
        };
        Forecast { expected: downtime::expect(services, &past, migrating), unread }
    }

    /// As [`Effects::expected`], where no unit allows less, or somebody wants the upgrade all the same. Without a
    /// history nobody knows: then the upgrade waits, too.
    ///
    /// # Errors
    /// A [`Problem`]; the upgrade is stopped.
    pub(super) fn within_budget(&self, prepared: &Prepared) -> Result<Vec<Expected>, Problem> {
        let Forecast { expected, unread } = self.expected(prepared);
        let unknown = unread.and_then(|problem| downtime::why_unknown(&expected, &problem));
        let why = downtime::why_over_budget(&expected).or(unknown);
        match why.filter(|_| self.brake.minds_downtime()) {
            None => Ok(expected),
            Some(why) => {
                // Whoever was faster has stopped it too.
                let _stopped = self.brake.stop(Gate::Downtime, why.clone());
                Err(Problem::new(ProblemKind::Local, why))
            }
        }
    }
}

/// What is to be expected, and why nobody knows more.
pub(super) struct Forecast {
    expected: Vec<Expected>,
    /// What keeps the history from being read.
    unread: Option<String>,
}

/// For people, after the plan.
pub(super) fn text((expected, unread): (&[Expected], Option<&str>), cost: &Cost) -> String {
    let mut text = String::new();
    if let Some(problem) = unread {
        let _infallible = writeln!(text, "downtime: nobody knows how long it was earlier: {problem}");
    }
    for expected in expected {
        // Writing to a String cannot fail.
        let _infallible = writeln!(text, "downtime: {expected}");
    }
    let Cost { kept_bytes, kept_in_ram, fetched_bytes, ram_bytes } = cost;
    let _infallible = writeln!(
        text,
        "to fetch: at most {fetched_bytes} bytes; the rest of the new content is on this node already"
    );
    let place = if *kept_in_ram { "in RAM" } else { "on disk" };
    let _infallible = writeln!(
        text,
        "going back: nothing to fetch, the same services restart; {kept_bytes} bytes are kept for it {place}"
    );
    let _infallible = writeln!(text, "memory: at most {ram_bytes} bytes while it is installed");
    text
}
