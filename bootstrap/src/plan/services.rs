//! What happens to services. Pure.

use std::collections::{BTreeMap, BTreeSet};

use flist::path::FlistPath;
use serde::Serialize;
use zinit_client::{OrderError, ServiceStatus, ServiceUnit, State, Target, UnitName, order_subset};

use super::cascade::{self, Table, Unavoidable};
use crate::processes::Stranger;

/// What the supervisor is called, which is a service like no other: it is PID 1 and does not list itself.
pub const SUPERVISOR: &str = "zinit";

/// What the daemon is called that replaces itself.
const IDENTITYD: &str = "identityd";

/// Until when a service that is not restarted runs the files that it has open, for people.
pub fn runs_until(name: &UnitName) -> &'static str {
    match name.as_str() {
        SUPERVISOR => "the node reboots",
        IDENTITYD => "a release brings another identityd, or it is restarted",
        _ => "it is restarted",
    }
}

/// Everything that decides about services.
#[derive(Debug, Clone, Default)]
pub struct ServiceView {
    /// Units in the root now, whoever put them there.
    pub before: BTreeMap<UnitName, ServiceUnit>,
    /// Units in the root after the swap.
    pub after: BTreeMap<UnitName, ServiceUnit>,
    /// Units that the installed generation shipped.
    pub shipped_before: BTreeSet<UnitName>,
    /// Units that the release ships.
    pub shipped_after: BTreeSet<UnitName>,
    /// What the supervisor says of each service that it knows.
    pub status: BTreeMap<UnitName, ServiceStatus>,
    /// Units whose text changes.
    pub changed_units: BTreeSet<UnitName>,
    /// Paths that are replaced or removed.
    pub changed_files: BTreeSet<FlistPath>,
    /// The executable of each unit in `after`.
    pub executables: BTreeMap<UnitName, FlistPath>,
    /// Of `changed_files`, those that a process of a service has mapped or open.
    pub in_use: BTreeMap<UnitName, BTreeSet<FlistPath>>,
    /// Services whose state is migrated, and the package that it belongs to.
    pub migrated: BTreeMap<UnitName, String>,
    /// Processes of no service that use one of `changed_files`.
    pub strangers: Vec<Stranger>,
    /// How many more of them there are.
    pub more_strangers: usize,
    /// The table of a supervisor that takes others along when a service is stopped or loaded anew.
    pub table: Option<Table>,
    /// Services that are never stopped by a plan.
    pub protected: BTreeSet<UnitName>,
    /// Services that were shipped before and are unknown to the supervisor are started: at boot. Later
    /// they are down because the administrator made the supervisor forget them.
    pub starts_missing: bool,
}

/// What happens to one service, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServiceNote {
    /// The service.
    pub name: UnitName,
    /// What happens.
    pub verdict: Verdict,
    /// Why.
    pub reason: String,
}

/// What happens to a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It is new and started.
    Start,
    /// It is stopped before the swap and started after it.
    Restart,
    /// It is stopped and forgotten for good.
    Remove,
    /// The supervisor forgets its old unit; it stays down, as the administrator wants it.
    Forget,
    /// Something of it changed, but it runs on as it is.
    Keep,
}

impl Verdict {
    /// Whether the service is stopped.
    pub(super) fn stops(self) -> bool {
        matches!(self, Self::Restart | Self::Remove | Self::Forget)
    }
}

/// Why nothing can be decided.
#[derive(Debug, thiserror::Error)]
pub enum ServicesError {
    /// Units depend on each other in a circle.
    #[error("the services of the release cannot be ordered")]
    Order(#[source] OrderError),
    /// A service would be stopped and then wait for another one that nobody starts.
    #[error(
        "{unit} would not come up again: it is started after {needs}, which {why}; start {needs}, or take it out of the unit"
    )]
    HeldUp {
        /// The service.
        unit: UnitName,
        /// Whom it waits for.
        needs: UnitName,
        /// What is known of that one.
        why: &'static str,
    },
    /// The supervisor would do something that no plan does.
    #[error("this version of zinit cannot do it")]
    Unavoidable(#[source] Unavoidable),
}

/// The outcome for all services.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServicePlan {
    /// Stopped and forgotten before the swap, dependents first.
    pub stop: Vec<UnitName>,
    /// Monitored after the swap, dependencies first.
    pub start: Vec<UnitName>,
    /// Down already, and forgotten after the commit, because the supervisor has another unit of them: until then
    /// an undo has nothing to put back. Of a supervisor that keeps what is stopped, they are in `stop`.
    pub forget: Vec<UnitName>,
    /// What happens to whom and why; services that nothing happens to are not mentioned.
    pub notes: Vec<ServiceNote>,
    /// Processes that nobody restarts, and that go on with what was there before.
    pub strangers: Vec<Stranger>,
    /// How many more of them there are.
    pub more_strangers: usize,
}

/// Decides for every service.
///
/// # Errors
/// [`ServicesError`].
pub fn plan_services(view: &ServiceView) -> Result<ServicePlan, ServicesError> {
    let names: BTreeSet<_> = [&view.shipped_before, &view.shipped_after].into_iter().flatten().collect();
    let names: BTreeSet<_> =
        names.into_iter().chain(view.in_use.keys()).chain(view.migrated.keys()).collect();
    let mut notes: Vec<_> = names.into_iter().filter_map(|name| view.judge(name)).collect();
    if let Some(table) = &view.table {
        notes = cascade::extend(view, table, notes).map_err(ServicesError::Unavoidable)?;
    }
    let pick = |verdicts: &[Verdict]| -> BTreeSet<UnitName> {
        notes.iter().filter(|n| verdicts.contains(&n.verdict)).map(|n| n.name.clone()).collect()
    };
    let gone = pick(&[Verdict::Restart, Verdict::Remove, Verdict::Forget]);
    let start = pick(&[Verdict::Start, Verdict::Restart]);
    if !view.starts_missing {
        view.check_not_held_up(&gone, &start)?;
    }
    let is_down = |name: &UnitName| view.status.get(name).is_some_and(|status| status.pid.is_none());
    let waits = |name: &UnitName| view.table.is_none() && is_down(name);
    let forget: BTreeSet<_> = pick(&[Verdict::Forget]).into_iter().filter(waits).collect();
    let stop: BTreeSet<_> = gone.difference(&forget).cloned().collect();
    // A service whose unit file is gone or broken has no place in the order; it is stopped first.
    let (known, unknown): (BTreeSet<_>, BTreeSet<_>) =
        stop.into_iter().partition(|name| view.before.contains_key(name));
    let mut stop_order = order_subset(&view.before, &known).map_err(ServicesError::Order)?;
    stop_order.extend(unknown);
    stop_order.reverse();
    let start_order = order_subset(&view.after, &start).map_err(ServicesError::Order)?;
    let (strangers, more_strangers) = (view.strangers.clone(), view.more_strangers);
    let forget = forget.into_iter().collect();
    Ok(ServicePlan { stop: stop_order, start: start_order, forget, notes, strangers, more_strangers })
}

impl ServicePlan {
    /// Of the services that are stopped, those that ran because somebody wants them to: they are started
    /// again if the plan is undone.
    pub fn stopped_and_wanted(&self) -> Vec<UnitName> {
        let wanted = |name: &&UnitName| {
            let verdict = self.notes.iter().find(|note| note.name == **name).map(|note| note.verdict);
            matches!(verdict, Some(Verdict::Restart | Verdict::Remove))
        };
        self.stop.iter().filter(wanted).cloned().collect()
    }
}

impl ServiceView {
    fn judge(&self, name: &UnitName) -> Option<ServiceNote> {
        let note = |verdict, reason: String| Some(ServiceNote { name: name.clone(), verdict, reason });
        let status = self.status.get(name);
        let stays = self.shipped_after.contains(name) || !self.shipped_before.contains(name);
        if !stays {
            return match status {
                Some(_) if self.protected.contains(name) => note(
                    Verdict::Keep,
                    "it is no longer in the release, but protected: it runs on".to_owned(),
                ),
                Some(status) if status.target == Target::Down => {
                    note(Verdict::Forget, "it is no longer in the release, and stopped".to_owned())
                }
                Some(_) => note(Verdict::Remove, "it is no longer in the release".to_owned()),
                None => None,
            };
        }
        // zinit reads a unit when it begins to monitor a service, and it is not made to forget this one.
        let unit_changed = self.changed_units.contains(name);
        let executable = self.executables.get(name).filter(|path| self.changed_files.contains(*path));
        let replaces_itself = name.as_str() == IDENTITYD && executable.is_some();
        let runs_on = |reason| match unit_changed {
            _ if replaces_itself => format!("{reason}; it replaces itself before everything else"),
            true => format!("{reason}; it is protected, so zinit has the old unit until the node reboots"),
            false => format!("{reason}; it is protected and runs the old one until {}", runs_until(name)),
        };
        let Some(status) = status else {
            if self.protected.contains(name) && self.in_use.contains_key(name) {
                return note(Verdict::Keep, runs_on(self.why_affected(name)?));
            }
            let known = self.after.contains_key(name) && self.shipped_after.contains(name);
            let new = !self.shipped_before.contains(name);
            return match known && (new || self.starts_missing) {
                true if new => note(Verdict::Start, "it is new".to_owned()),
                true => note(Verdict::Start, "it is not monitored yet".to_owned()),
                false => None,
            };
        };
        let reason = self.why_affected(name)?;
        if self.protected.contains(name) {
            return note(Verdict::Keep, runs_on(reason));
        }
        if !self.after.contains_key(name) {
            return note(Verdict::Keep, format!("{reason}; it has no usable unit to start it again with"));
        }
        if status.target == Target::Down {
            let kept = "the administrator stopped it";
            return match unit_changed {
                true => note(Verdict::Forget, format!("{reason}; {kept}, so it is not started")),
                false => note(Verdict::Keep, format!("{reason}; {kept}")),
            };
        }
        if self.is_oneshot(name) && !unit_changed && status.state == State::Success {
            return note(Verdict::Keep, format!("{reason}; it has done its work and its unit is the same"));
        }
        note(Verdict::Restart, reason)
    }

    /// Each service that is stopped has to come up with the unit that it gets, and where the plan is undone with the one
    /// that it has. At a boot nothing is lost by waiting.
    ///
    /// # Errors
    /// [`ServicesError::HeldUp`].
    fn check_not_held_up(
        &self,
        gone: &BTreeSet<UnitName>,
        start: &BTreeSet<UnitName>,
    ) -> Result<(), ServicesError> {
        let is_wanted = |unit: &&UnitName| is_wanted(self.status.get(*unit));
        let back: BTreeSet<UnitName> = gone.iter().filter(is_wanted).cloned().collect();
        [(start, &self.after), (&back, &self.before)]
            .into_iter()
            .try_for_each(|starts| check_none_held_up(starts, gone, &self.status))
    }

    /// Whether a service runs once, as it was loaded, if its unit is known.
    pub(super) fn is_oneshot(&self, name: &UnitName) -> bool {
        self.before.get(name).or_else(|| self.after.get(name)).is_some_and(|unit| unit.oneshot)
    }

    /// Why a service is affected; `None` when it is not.
    fn why_affected(&self, name: &UnitName) -> Option<String> {
        if let Some(package) = self.migrated.get(name) {
            return Some(format!("the state of package {package} is migrated"));
        }
        if self.changed_units.contains(name) {
            return Some("its unit changed".to_owned());
        }
        if let Some(path) = self.executables.get(name).filter(|path| self.changed_files.contains(*path)) {
            return Some(format!("its executable /{path} changed"));
        }
        if let Some(path) = self.in_use.get(name).and_then(BTreeSet::first) {
            return Some(format!("it uses /{path}, which changed"));
        }
        let patterns = &self.after.get(name)?.molt.uses;
        let matching = |path: &&FlistPath| {
            patterns.iter().any(|pattern| glob(pattern.trim_start_matches('/').as_bytes(), path.as_bytes()))
        };
        self.changed_files
            .iter()
            .find(matching)
            .map(|path| format!("it declares to use /{path}, which changed"))
    }
}

/// Whether a service runs because somebody wants it to, by what the supervisor says of it; `None` where it does not
/// know it.
pub(crate) fn is_wanted(status: Option<&ServiceStatus>) -> bool {
    status.is_some_and(|status| status.target == Target::Up)
}

/// zinit starts no service before those that it comes after are up, or have done their work. Looks whether it would
/// start all of these, with these units, when those that are `gone` are stopped or forgotten.
///
/// # Errors
/// [`ServicesError::HeldUp`].
pub(crate) fn check_none_held_up(
    (starts, units): (&BTreeSet<UnitName>, &BTreeMap<UnitName, ServiceUnit>),
    gone: &BTreeSet<UnitName>,
    status: &BTreeMap<UnitName, ServiceStatus>,
) -> Result<(), ServicesError> {
    let why_down = |needs: &UnitName| match status.get(needs) {
        None => Some("zinit does not know"),
        Some(_) if gone.contains(needs) => Some("zinit is made to forget"),
        Some(status) if status.target == Target::Down && status.state != State::Success => Some("is stopped"),
        Some(_) => None,
    };
    for unit in starts {
        let after = units.get(unit).into_iter().flat_map(|definition| &definition.after);
        let mut missing = after.filter(|needs| !starts.contains(*needs));
        if let Some((needs, why)) = missing.find_map(|needs| Some((needs.clone(), why_down(needs)?))) {
            return Err(ServicesError::HeldUp { unit: unit.clone(), needs, why });
        }
    }
    Ok(())
}

/// Whether `text` matches a pattern in which `*` stands for any bytes and `?` for one. Linear in the
/// product of the lengths, which are both limited.
pub(super) fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&c) if c == b'?' || c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, matched)) => {
                    p = at + 1;
                    t = matched + 1;
                    star = Some((at, t));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests;
