//! The result as tables for people, in Markdown, and as JSON for programs.

use std::fmt::{self, Display, Formatter};
use std::fs;
use std::path::Path;

use molt_tests::Error;
use serde::Serialize;

use super::arena::TreeFacts;
use super::goals::Goal;
use super::machine::Machine;
use super::peers::Missing;
use super::rounds::Measured;

/// Everything that was found out.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// The goals.
    pub(super) goals: Vec<Goal>,
    /// What was measured.
    pub(super) measured: Vec<Measured>,
    /// What was not.
    pub(super) missing: Vec<Missing>,
    /// With what.
    pub(super) tree: TreeFacts,
    /// On what.
    pub(super) machine: Machine,
    /// How often.
    pub(super) rounds: usize,
}

impl Report {
    /// Writes it as JSON.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) fn write(&self, path: &Path) -> Result<(), Error> {
        let failed = |source| Error::System { action: format!("write {}", path.display()), source };
        let mut text = serde_json::to_string_pretty(self).map_err(|error| failed(error.into()))?;
        text.push('\n');
        fs::write(path, text).map_err(failed)
    }

    fn conditions(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Machine { cpu, cores, memory, kernel, commit } = &self.machine;
        let TreeFacts { files, entries, bytes } = self.tree;
        let disturbance = self.measured.iter().map(|case| case.disturbance).fold(0.0, f64::max);
        writeln!(f, "Machine: {cpu}, {cores} cores, {memory} MiB, Linux {kernel}. Commit {commit}.")?;
        let megabytes = bytes as f64 / 1e6;
        writeln!(
            f,
            "Tree: {entries} entries, {files} files, {megabytes:.1} MB. Medians of {} rounds.",
            self.rounds
        )?;
        writeln!(
            f,
            "Other programs had at most {:.0} % of the processors during a case.\n",
            disturbance * 100.0
        )
    }

    fn cases(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "| case | × cp -a | from – to | s | MB/s | CPU s | MiB |")?;
        writeln!(f, "|---|---:|---:|---:|---:|---:|---:|")?;
        for case in &self.measured {
            let (from, to) = case.ratios;
            write!(f, "| {} | {:.2} | {from:.2} – {to:.2} ", case.name, case.ratio)?;
            writeln!(f, "| {:.3} | {:.0} | {:.2} | {:.0} |", case.wall, case.rate, case.cpu, case.peak)?;
        }
        for Missing { name, reason } in &self.missing {
            writeln!(f, "| {name} | not available here: {} | | | | | |", reason.replace(['\n', '|'], " "))?;
        }
        writeln!(f)
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.conditions(f)?;
        self.cases(f)?;
        writeln!(f, "| goal | bound | measured | |")?;
        writeln!(f, "|---|---:|---:|---|")?;
        for Goal { name, value, goal, unit, reached, missed_by } in &self.goals {
            let verdict =
                if *reached { "reached".to_owned() } else { format!("**missed by {missed_by:.0} %**") };
            writeln!(f, "| {name} | {goal} {unit} | {value:.2} | {verdict} |")?;
        }
        Ok(())
    }
}
