//! `flist lint`, and the same before `flist publish`

mod entries;
mod operand;
mod packages;
mod units;

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use flist::exit::Exit;
use flist::path::FlistPath;
use flist::rehearsal::{
    Code, Facts, Finding, FutureRoot, Layered, Nothing, Subject, machine, rehearse, without_repeats,
};
use flist::tree::Route;
use serde::Serialize;
use serde_json::json;

use super::failure::Failure;
use super::output::{Output, counted};
use operand::Operand;
use packages::{Packages, description_of};
use units::Units;

/// Check that what is in a directory or a flist would run on a node: programs with their loaders, libraries
/// and versions, scripts with their interpreters, service units with their commands and their order.
///
/// What is not there but may be part of the base image is a warning; with --base it is an error.
/// The exit code is 6 when there are errors.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    #[command(flatten)]
    node: Node,
    /// Where the blocks of the flist are, instead of its own routes
    #[arg(short, long, value_name = "[00-7f=]STORE")]
    store: Vec<Route>,
    /// What to check
    #[arg(value_name = "DIR|X.fl")]
    target: PathBuf,
}

const EXAMPLES: &str = "Examples:
  flist lint ./app                        what is wrong by itself
  flist lint --base base.fl ./app         what would not run on a node with this base image
  flist lint --base / --json app.fl       on a node like this machine, as JSON";

/// What the release is checked for.
#[derive(Clone, clap::Args)]
struct Node {
    /// What is on a node before: the base image, then other flists over it
    #[arg(long, value_name = "DIR|X.fl")]
    base: Vec<PathBuf>,
    /// The processor of the node; by default that of this machine
    #[arg(long)]
    arch: Option<Arch>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Arch {
    #[value(name = "x86_64")]
    X86_64,
    #[value(name = "aarch64")]
    Aarch64,
}

impl Node {
    fn machine(&self) -> u16 {
        match self.arch {
            Some(Arch::X86_64) => machine::X86_64,
            Some(Arch::Aarch64) => machine::AARCH64,
            None if std::env::consts::ARCH == "aarch64" => machine::AARCH64,
            None => machine::X86_64,
        }
    }
}

/// The lint before publishing.
#[derive(clap::Args)]
pub(super) struct Gate {
    #[command(flatten)]
    node: Node,
    /// Publish without checking first whether the release would run
    #[arg(long, conflicts_with_all = ["base", "arch"])]
    no_lint: bool,
}

impl Gate {
    /// Refuses directories with errors, which come to a node together. Everything is said on standard error.
    pub(super) fn check(&self, directories: &[PathBuf], output: &Output) -> Result<(), Failure> {
        if self.no_lint {
            eprintln!("WARNING: --no-lint: nobody has checked whether this release runs");
            return Ok(());
        }
        let mut errors = 0;
        for directory in directories {
            let mut node = self.node.clone();
            // Without a base nobody knows what is missing, so what the others have changes nothing.
            if !node.base.is_empty() {
                node.base.extend(directories.iter().filter(|other| *other != directory).cloned());
            }
            let report = Report::of(directory, &[], &node).map_err(Failure::of)?;
            eprint!("{}", report.text(Severity::Error));
            if report.count(Severity::Warning) > 0 {
                output.note(&format!("lint: {}; `flist lint` shows all", report.summary()));
            }
            errors += report.count(Severity::Error);
        }
        match errors {
            0 => Ok(()),
            count => {
                let errors = counted(count as u64, "error");
                let message = format!("{errors} would keep the release from running; see above");
                Err(Failure::new(Exit::Differs, message))
            }
        }
    }
}

pub(super) fn run(arguments: &Arguments, output: &Output) -> super::Outcome {
    let report = Report::of(&arguments.target, &arguments.store, &arguments.node).map_err(Failure::of)?;
    output.data(&report.json(), || format!("{}{}\n", report.text(Severity::Note), report.summary()))?;
    let absent = |(severity, finding): &(Severity, Finding)| {
        *severity == Severity::Warning && finding.code.is_absence()
    };
    if report.findings.iter().any(absent) {
        output.note("name the base image with --base to see which of the missing things it has");
    }
    Ok(if report.count(Severity::Error) == 0 { Exit::Done } else { Exit::Differs })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Severity {
    Error,
    Warning,
    Note,
}

impl Severity {
    fn of(finding: &Finding, has_base: bool) -> Self {
        match finding.code {
            Code::SetUid | Code::NoIdentityd => Self::Note,
            Code::WorldWritable | Code::Volatile => Self::Warning,
            code if code.is_absence() && !has_base => Self::Warning,
            _ => Self::Error,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

/// What the lint found, the worst first.
struct Report {
    findings: Vec<(Severity, Finding)>,
}

impl Report {
    fn of(target: &Path, stores: &[Route], node: &Node) -> Result<Self, Box<dyn Error>> {
        let bases: Result<Vec<_>, _> = node.base.iter().map(|path| Operand::open(path, &[])).collect();
        let (bases, target) = (bases?, Operand::open(target, stores)?);
        let known = broken_before(lay(&bases)?.as_ref(), node.machine())?;
        let layered = Layered::new(lay(&bases)?, target.root(), BTreeSet::new())?;
        let units = Units::read(&layered)?;
        let placed: BTreeSet<FlistPath> = layered.placed().map(|(path, _)| path.clone()).collect();
        let changed: Vec<_> = placed.iter().cloned().collect();
        let packages = Packages::read(&layered)?;
        let services = [units.services.as_slice(), packages.programs.as_slice()].concat();
        let facts = Facts { services: &services, changed: &changed, machine: node.machine() };

        let mut found = rehearse(&layered, &facts)?;
        found.extend(units.findings.iter().cloned());
        found.extend(packages.findings(&units.files, &placed));
        found.retain(|finding| !known.contains(finding) || is_of(finding, &units, &placed));
        let mut found = without_repeats(found);
        found.extend(entries::findings(&layered)?);
        let ships_units = units.files.values().any(|file| placed.contains(file));
        if ships_units && !units.files.contains_key("identityd") {
            let message = "there is no unit identityd; a node that boots from this is never upgraded";
            found.push(Finding::about_unit(Code::NoIdentityd, "identityd", message));
        }
        let has_base = !bases.is_empty();
        let mut findings: Vec<_> =
            found.into_iter().map(|finding| (Severity::of(&finding, has_base), finding)).collect();
        findings.sort();
        findings.dedup();
        Ok(Self { findings })
    }

    fn count(&self, wanted: Severity) -> usize {
        self.findings.iter().filter(|(severity, _)| *severity == wanted).count()
    }

    fn summary(&self) -> String {
        let counted = |severity: Severity| counted(self.count(severity) as u64, severity.word());
        [Severity::Error, Severity::Warning, Severity::Note].map(counted).join(", ")
    }

    /// One line for each thing that is wrong down to `least`, however many files have it.
    fn text(&self, least: Severity) -> String {
        let mut groups: BTreeMap<_, Vec<&Finding>> = BTreeMap::new();
        for (severity, finding) in self.findings.iter().filter(|(severity, _)| *severity <= least) {
            groups.entry((*severity, finding.code, &finding.message)).or_default().push(finding);
        }
        let mut text = String::new();
        for ((severity, code, message), findings) in groups {
            let subjects: BTreeSet<_> = findings.iter().map(|finding| &finding.subject).collect();
            let (word, count) = (severity.word(), subjects.len());
            let line = match findings.as_slice() {
                [finding] => format!("{word}: {finding}"),
                _ => {
                    let shown: Vec<_> = subjects.iter().take(4).map(ToString::to_string).collect();
                    let more = if count > 4 { format!(" and {} more", count - 4) } else { String::new() };
                    format!("{word}: {code}: {message} ({}{more})", shown.join(", "))
                }
            };
            // Writing to a string does not fail.
            let _ = writeln!(text, "{line}");
        }
        text
    }

    fn json(&self) -> serde_json::Value {
        #[derive(Serialize)]
        struct Entry<'a> {
            severity: Severity,
            #[serde(flatten)]
            finding: &'a Finding,
        }
        let entries: Vec<_> =
            self.findings.iter().map(|(severity, finding)| Entry { severity: *severity, finding }).collect();
        json!({
            "errors": self.count(Severity::Error),
            "warnings": self.count(Severity::Warning),
            "notes": self.count(Severity::Note),
            "findings": entries,
        })
    }
}

/// The bases over each other, the first one at the bottom.
fn lay(bases: &[Operand]) -> Result<Box<dyn FutureRoot + '_>, Box<dyn Error>> {
    let Some((first, others)) = bases.split_first() else { return Ok(Box::new(Nothing)) };
    let mut root = first.root();
    for other in others {
        root = Box::new(Layered::new(root, other.root(), BTreeSet::new())?);
    }
    Ok(root)
}

/// What is wrong with the services of the bases already.
fn broken_before(base: &dyn FutureRoot, machine: u16) -> Result<BTreeSet<Finding>, Box<dyn Error>> {
    let (units, packages) = (Units::read(base)?, Packages::read(base)?);
    let services = [units.services.as_slice(), packages.programs.as_slice()].concat();
    let found = rehearse(base, &Facts { services: &services, changed: &[], machine })?;
    Ok(found.into_iter().chain(units.findings).collect())
}

/// Whether a finding is about a unit or a file of what is linted.
fn is_of(finding: &Finding, units: &Units, placed: &BTreeSet<FlistPath>) -> bool {
    std::iter::once(&finding.subject).chain(&finding.needed_by).any(|subject| match subject {
        Subject::Path(path) => placed.contains(path),
        Subject::Unit(name) => units.files.get(name).is_some_and(|file| placed.contains(file)),
        Subject::Package(name) => description_of(name).is_some_and(|file| placed.contains(&file)),
    })
}
