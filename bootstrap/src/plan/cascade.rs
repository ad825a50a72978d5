//! What a supervisor does to other services when one is stopped or loaded anew. Pure.
//!
//! zinit 0.3 stops what depends on a service together with it. To load a changed unit it must delete the old
//! one; that deletes what depends on it, and moves the last service of its table to the free place, where it
//! is lost track of. So from the first place in the table that is deleted on, everything is restarted.

use std::collections::{BTreeMap, BTreeSet};

use zinit_client::UnitName;

use super::services::{ServiceNote, ServiceView, Verdict};

/// Why a plan cannot be carried out with this supervisor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unavoidable {
    /// It would stop a service that no plan stops.
    #[error("{reason}; but {service} is protected and runs, so this cannot be done while it does")]
    Protected {
        /// The service.
        service: UnitName,
        /// Why it would be stopped.
        reason: String,
    },
    /// It would stop a service that nobody could start again.
    #[error(
        "{reason}; but {service} has no usable unit in {}, so nobody could start it again",
        super::UNIT_DIRECTORY
    )]
    NoUnit {
        /// The service.
        service: UnitName,
        /// Why it would be stopped.
        reason: String,
    },
}

/// The services of a supervisor that keeps what is stopped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// Their names in its order.
    pub order: Vec<UnitName>,
}

/// Adds what has to be restarted besides, and says why.
///
/// # Errors
/// [`Unavoidable`].
pub(super) fn extend(
    view: &ServiceView,
    table: &Table,
    notes: Vec<ServiceNote>,
) -> Result<Vec<ServiceNote>, Unavoidable> {
    let mut notes: BTreeMap<UnitName, ServiceNote> =
        notes.into_iter().map(|note| (note.name.clone(), note)).collect();
    while let Some((name, reason)) = next(view, table, &notes) {
        let verdict = verdict(view, &name, &reason)?;
        notes.insert(name.clone(), ServiceNote { name, verdict, reason });
    }
    Ok(notes.into_values().collect())
}

/// A service that has to be stopped because of those that are, and is not yet; and why.
fn next(
    view: &ServiceView,
    table: &Table,
    notes: &BTreeMap<UnitName, ServiceNote>,
) -> Option<(UnitName, String)> {
    let stops = |name: &UnitName| notes.get(name).is_some_and(|note| note.verdict.stops());
    // Someone that cannot be hit twice: it has neither process nor place to lose.
    let open = |name: &&UnitName| view.status.contains_key(*name) && !stops(name);
    let dependant = view.status.keys().filter(open).find_map(|name| {
        let on = view.status[name].after.keys().find(|dependency| {
            UnitName::try_from(dependency.as_str()).is_ok_and(|dependency| stops(&dependency))
        })?;
        // One that has failed and waits for its next start is not stopped together with what it depends on.
        let runs = view.status[name].pid.is_some();
        let deleted = is_deleted(view, notes, on);
        match (runs, deleted) {
            (true, _) => {
                Some((name.clone(), format!("zinit 0.3 stops it together with {on}, which it depends on")))
            }
            (false, true) => {
                Some((name.clone(), format!("zinit 0.3 deletes it together with {on}, which it depends on")))
            }
            (false, false) => None,
        }
    });
    dependant.or_else(|| {
        let first = table.order.iter().position(|name| is_deleted(view, notes, name.as_str()))?;
        let mut behind = table.order[first..].iter().filter(open);
        // The same question as zinit-client's before it deletes.
        let moved = behind.find(|name| view.status[*name].is_tracked(view.is_oneshot(name)))?;
        let deleted = &table.order[first];
        Some((moved.clone(), format!("zinit 0.3 would lose track of it when it loads {deleted} anew")))
    })
}

/// Whether the supervisor has to delete this service, because of its own unit or of one that it depends on.
fn is_deleted(view: &ServiceView, notes: &BTreeMap<UnitName, ServiceNote>, name: &str) -> bool {
    let mut open = vec![name.to_owned()];
    let mut seen = BTreeSet::new();
    while let Some(name) = open.pop() {
        let Ok(name) = UnitName::try_from(name) else { continue };
        if !seen.insert(name.clone()) {
            continue;
        }
        let reloaded = view.changed_units.contains(&name);
        match notes.get(&name).map(|note| note.verdict) {
            Some(Verdict::Remove | Verdict::Forget) => return true,
            Some(Verdict::Restart) if reloaded => return true,
            _ => {}
        }
        open.extend(view.status.get(&name).into_iter().flat_map(|status| status.after.keys().cloned()));
    }
    false
}

fn verdict(view: &ServiceView, name: &UnitName, reason: &str) -> Result<Verdict, Unavoidable> {
    let (service, reason) = (name.clone(), reason.to_owned());
    if view.protected.contains(name) {
        return Err(Unavoidable::Protected { service, reason });
    }
    if !view.after.contains_key(name) {
        return Err(Unavoidable::NoUnit { service, reason });
    }
    let stopped = view.status.get(name).is_some_and(|status| status.target == zinit_client::Target::Down);
    Ok(if stopped { Verdict::Forget } else { Verdict::Restart })
}

#[cfg(test)]
mod tests {
    use zinit_client::{ServiceStatus, ServiceUnit, State, Target};

    use super::*;
    use crate::plan::plan_services;

    fn name(text: &str) -> UnitName {
        text.parse().unwrap()
    }

    /// A table in this order; what comes behind the colon is depended on.
    fn view(services: &[&str]) -> ServiceView {
        let mut view = ServiceView { table: Some(Table::default()), ..ServiceView::default() };
        for service in services {
            let (unit, after) = service.split_once(':').unwrap_or((service, ""));
            let after: Vec<_> = after.split_whitespace().collect();
            let mut text = ServiceUnit::new("x");
            text.after = after.iter().copied().map(name).collect();
            view.before.insert(name(unit), text.clone());
            view.after.insert(name(unit), text);
            view.shipped_before.insert(name(unit));
            view.shipped_after.insert(name(unit));
            let after = after.iter().map(|dependency| ((*dependency).to_owned(), State::Running)).collect();
            let status = ServiceStatus {
                name: name(unit),
                pid: Some(7),
                state: State::Running,
                target: Target::Up,
                after,
            };
            view.status.insert(name(unit), status);
            view.table.as_mut().unwrap().order.push(name(unit));
        }
        view
    }

    fn restarted(view: &ServiceView) -> Vec<String> {
        let plan = plan_services(view).unwrap();
        assert!(plan.notes.iter().all(|note| !note.reason.is_empty()));
        plan.start.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_depends_on_a_restarted_service_restarts() {
        let mut view = view(&["redis", "web:redis", "page:web", "other"]);
        view.changed_files.insert("bin/redis".parse().unwrap());
        view.executables.insert(name("redis"), "bin/redis".parse().unwrap());
        assert_eq!(restarted(&view), ["redis", "web", "page"]);
        assert_eq!(plan_services(&view).unwrap().stop, ["page", "web", "redis"].map(name));
        // Elsewhere only the service itself does.
        view.table = None;
        assert_eq!(restarted(&view), ["redis"]);
    }

    #[test]
    fn everything_behind_a_changed_unit_restarts() {
        let mut view = view(&["idle", "web", "log", "redis"]);
        view.changed_units.insert(name("web"));
        assert_eq!(restarted(&view), ["log", "redis", "web"]);
        view.changed_units = [name("redis")].into();
        assert_eq!(restarted(&view), ["redis"], "the last one takes nobody along");
        // Its place is in front of a service, on which it depends: as after a start from files.
        let mut view = self::view(&["page:web", "idle", "web"]);
        view.changed_units.insert(name("web"));
        assert_eq!(restarted(&view), ["idle", "web", "page"]);
    }

    #[test]
    fn who_does_not_run_is_not_started() {
        let mut view = view(&["web", "page:web", "done:web", "log"]);
        view.changed_units.insert(name("web"));
        view.status.get_mut(&name("page")).unwrap().target = Target::Down;
        view.status.get_mut(&name("page")).unwrap().pid = None;
        view.status.get_mut(&name("log")).unwrap().pid = None;
        assert_eq!(restarted(&view), ["web", "done"]);
        let plan = plan_services(&view).unwrap();
        let page = plan.notes.iter().find(|note| note.name == name("page")).unwrap();
        assert_eq!(page.verdict, Verdict::Forget);
        assert!(!plan.notes.iter().any(|note| note.name == name("log")));
    }

    #[test]
    fn who_waits_for_his_next_start_is_not_lost_and_who_has_done_his_work_stays() {
        let mut view = view(&["web", "crashing", "done"]);
        view.changed_units.insert(name("web"));
        for (service, state) in
            [("crashing", "Error(Exited(Pid(7), 3))"), ("done", "Error(Exited(Pid(7), 3))")]
        {
            let status = view.status.get_mut(&name(service)).unwrap();
            (status.pid, status.state) = (None, State::from(state));
        }
        view.before.get_mut(&name("done")).unwrap().oneshot = true;
        assert_eq!(restarted(&view), ["crashing", "web"]);
    }

    #[test]
    fn a_target_that_would_be_deleted_refuses_the_plan() {
        let mut view = view(&["web", "online:web"]);
        view.changed_units.insert(name("web"));
        // As zinit 0.3 shows one: it runs without a process, and has no unit.
        view.status.get_mut(&name("online")).unwrap().pid = None;
        view.before.remove(&name("online"));
        view.after.remove(&name("online"));
        let error = flist::report(&plan_services(&view).unwrap_err());
        assert!(
            error.contains("deletes it together with web") && error.contains("no usable unit"),
            "{error}"
        );
    }

    #[test]
    fn what_must_not_stop_refuses_the_plan() {
        let mut view = view(&["web", "identityd"]);
        view.protected.insert(name("identityd"));
        view.changed_units.insert(name("web"));
        let refused = |view: &ServiceView| flist::report(&plan_services(view).unwrap_err());
        let error = refused(&view);
        assert!(error.contains("identityd is protected") && error.contains("loads web anew"), "{error}");
        view.protected.clear();
        view.after.remove(&name("identityd"));
        assert!(refused(&view).contains("no usable unit"));
        // Only its program has changed, so nothing is deleted.
        view.changed_units.clear();
        view.changed_files.insert("bin/web".parse().unwrap());
        view.executables.insert(name("web"), "bin/web".parse().unwrap());
        assert_eq!(restarted(&view), ["web"]);
    }
}
