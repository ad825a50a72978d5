//! The plan for people.

use super::{FileChange, HookCall, Plan, ServiceNote, ServicePlan, Space, StateChange, Verdict};

impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.is_empty() {
            return writeln!(f, "nothing to do");
        }
        let count = |wanted: fn(&FileChange) -> bool| self.files.changes.iter().filter(|c| wanted(c)).count();
        let added = count(|c| matches!(c, FileChange::Add { .. } | FileChange::MakeDirectory { .. }));
        let replaced = count(|c| matches!(c, FileChange::Replace { .. }));
        let removed = count(|c| matches!(c, FileChange::Remove { .. } | FileChange::RemoveDirectory { .. }));
        writeln!(
            f,
            "files: +{added} ~{replaced} -{removed}; at most {} bytes to fetch",
            self.staged_bytes()
        )?;
        for change in &self.files.changes {
            let sign = match change {
                FileChange::Add { .. } | FileChange::MakeDirectory { .. } => '+',
                FileChange::Replace { .. } => '~',
                FileChange::Remove { .. } | FileChange::RemoveDirectory { .. } => '-',
            };
            writeln!(f, "  {sign} /{}", change.path())?;
        }
        for path in &self.files.kept {
            let beside = if self.files.conflicts.contains(path) { "; see .new beside it" } else { "" };
            writeln!(f, "  = /{path} (changed on this node, kept{beside})")?;
        }
        for Space { at, need, have, in_ram } in self.space.iter().filter(|space| space.need > 0) {
            let have = have.map_or_else(|| "no limit".to_owned(), |have| format!("{have} free"));
            let ram = if *in_ram { ", in RAM" } else { "" };
            writeln!(f, "space: {need} bytes in {at} ({have}{ram})")?;
        }
        for HookCall { package, name, moment, run, .. } in &self.packages.hooks {
            writeln!(f, "hook: {name} of package {package}, {}: {run}", moment.as_str())?;
        }
        for StateChange { package, steps, bytes, limit, .. } in &self.packages.states {
            let numbers: Vec<_> = steps.iter().map(|step| step.number.to_string()).collect();
            let way = if self.packages.goes_down(package) { "back before" } else { "by" };
            let numbers = numbers.join(", ");
            writeln!(
                f,
                "state: {bytes} bytes of package {package} {way} migration {numbers}, on a copy of at most {limit} bytes"
            )?;
        }
        writeln!(f, "services:")?;
        for ServiceNote { name, verdict, reason } in &self.services.notes {
            let verb = match verdict {
                Verdict::Start => "start",
                Verdict::Restart => "restart",
                Verdict::Remove => "remove",
                Verdict::Forget => "forget",
                Verdict::Keep => "leave",
            };
            writeln!(f, "  {verb} {name}: {reason}")?;
        }
        let ServicePlan { strangers, more_strangers, .. } = &self.services;
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
}
