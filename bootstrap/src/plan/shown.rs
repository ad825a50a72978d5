//! The plan for people.

use std::fmt::{self, Display, Formatter};

use super::{FileChange, HookCall, Plan, ServiceNote, ServicePlan, Space, StateChange, Verdict};

impl Display for Plan {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return writeln!(f, "nothing to do");
        }
        show_files(self, f)?;
        for Space { at, need, have, in_ram } in self.space.iter().filter(|space| space.need > 0) {
            let have = have.map_or_else(|| "no limit".to_owned(), |have| format!("{have} free"));
            let ram = if *in_ram { ", in RAM" } else { "" };
            writeln!(f, "space: {need} bytes in {at} ({have}{ram})")?;
        }
        show_packages(self, f)?;
        show_services(&self.services, f)
    }
}

fn show_files(plan: &Plan, f: &mut Formatter<'_>) -> fmt::Result {
    let count = |wanted: fn(&FileChange) -> bool| plan.files.changes.iter().filter(|c| wanted(c)).count();
    let added = count(|c| matches!(c, FileChange::Add { .. } | FileChange::MakeDirectory { .. }));
    let replaced = count(|c| matches!(c, FileChange::Replace { .. }));
    let removed = count(|c| matches!(c, FileChange::Remove { .. } | FileChange::RemoveDirectory { .. }));
    let staged = plan.staged_bytes();
    writeln!(f, "files: +{added} ~{replaced} -{removed}; {staged} bytes of new content")?;
    for change in &plan.files.changes {
        let sign = match change {
            FileChange::Add { .. } | FileChange::MakeDirectory { .. } => '+',
            FileChange::Replace { .. } => '~',
            FileChange::Remove { .. } | FileChange::RemoveDirectory { .. } => '-',
        };
        writeln!(f, "  {sign} /{}", change.path())?;
    }
    for path in &plan.files.kept {
        match plan.files.conflicts.iter().find(|conflict| conflict.path == *path) {
            Some(conflict) => writeln!(f, "  = {conflict}")?,
            None => writeln!(f, "  = /{path} (changed on this node, kept)")?,
        }
    }
    Ok(())
}

fn show_packages(plan: &Plan, f: &mut Formatter<'_>) -> fmt::Result {
    for HookCall { package, name, moment, run, .. } in &plan.packages.hooks {
        writeln!(f, "hook: {name} of package {package}, {}: {run}", moment.as_str())?;
    }
    for StateChange { package, steps, bytes, limit, .. } in &plan.packages.states {
        let numbers: Vec<_> = steps.iter().map(|step| step.number.to_string()).collect();
        let way = if plan.packages.goes_down(package) { "back before" } else { "by" };
        let numbers = numbers.join(", ");
        writeln!(
            f,
            "state: {bytes} bytes of package {package} {way} migration {numbers}, on a copy of at most {limit} bytes"
        )?;
    }
    Ok(())
}

fn show_services(services: &ServicePlan, f: &mut Formatter<'_>) -> fmt::Result {
    let ServicePlan { notes, strangers, more_strangers, .. } = services;
    if notes.is_empty() {
        writeln!(f, "services: none is touched")?;
    } else {
        writeln!(f, "services:")?;
    }
    for ServiceNote { name, verdict, reason } in notes {
        let verb = match verdict {
            Verdict::Start => "start",
            Verdict::Restart => "restart",
            Verdict::Remove => "remove",
            Verdict::Forget => "forget",
            Verdict::Keep => "leave",
        };
        writeln!(f, "  {verb} {name}: {reason}")?;
    }
    if !strangers.is_empty() {
        writeln!(f, "of no service of zinit, run on with what was there before:")?;
    }
    for stranger in strangers {
        writeln!(f, "  {stranger}")?;
    }
    if *more_strangers > 0 {
        writeln!(f, "  and {more_strangers} more processes")?;
    }
    Ok(())
}
