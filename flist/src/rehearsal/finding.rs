//! What a rehearsal finds.

use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;

use crate::path::{FlistPath, escape};

/// What kind of thing is wrong. The text form is stable: other programs may rely on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// The program of a service is not there.
    MissingExec,
    /// The program of a service is no regular file, or has no executable bit.
    ExecNotExecutable,
    /// The symbolic links of a path lead in a circle.
    SymlinkLoop,
    /// The loader that an ELF program names (`PT_INTERP`) is not there.
    MissingInterpreter,
    /// The loader of an ELF program, or the interpreter of a script, cannot be executed.
    InterpreterNotExecutable,
    /// A program is for another processor than the node has.
    WrongArchitecture,
    /// An ELF file ends too early, or contradicts itself.
    TruncatedElf,
    /// What has to be executed or loaded is neither ELF nor a script.
    NotAnElf,
    /// An ELF file that has to be executed is no program but an object file, a core dump or a library.
    NotAProgram,
    /// A library that a program needs, itself or through another library, is not found.
    MissingLibrary,
    /// A library is there, but does not define a version of symbols that is needed from it.
    MissingVersion,
    /// A program of one C library needs the other one.
    LibcMix,
    /// The interpreter that the first line of a script names is not there.
    MissingShebangInterpreter,
    /// The kernel cannot use the first line of a script.
    BadShebang,
    /// Something is so large that it was not looked at completely.
    TooLarge,
    /// A unit that cannot be used.
    UnitInvalid,
    /// Units that wait for each other.
    UnitCycle,
    /// A unit that waits for one that is not there.
    UnitMissingDependency,
    /// The configuration of identityd and bootstrap is not usable by them.
    ConfigurationInvalid,
    /// Two entries of a flist are the same file of the node.
    TwoNames,
    /// An entry of a flist lies beneath something that is no directory on the node.
    BeneathNonDirectory,
    /// A flist has something else where the node has a directory, which is never replaced.
    InTheWay,
    /// An entry of a flist is where nothing of a release belongs.
    Misplaced,
    /// An entry of a flist is where a node keeps nothing from one boot to the next.
    Volatile,
    /// Everybody may write a file.
    WorldWritable,
    /// A file that runs with the rights of its owner or group.
    SetUid,
    /// A key that signs releases.
    SigningKey,
    /// A package description that is not usable.
    PackageInvalid,
    /// The program of a hook, a migration or an inverse is not there.
    MissingHook,
    /// A migration without an inverse: no node can go back before it.
    NoInverse,
    /// Between two migrations of a package one is missing, or one is missing between the last one and its schema.
    SchemaGap,
    /// An entry of a flist lies where the state of a package does.
    StateShipped,
    /// A flist with units, but without identityd: a node that boots from it is never upgraded.
    NoIdentityd,
}

impl Code {
    /// Whether something is only absent: another flist, or the base image, may bring it.
    pub fn is_absence(self) -> bool {
        matches!(
            self,
            Self::MissingExec
                | Self::MissingInterpreter
                | Self::MissingLibrary
                | Self::MissingShebangInterpreter
                | Self::UnitMissingDependency
        )
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// What a finding is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    /// A file.
    Path(FlistPath),
    /// A service unit, by its name.
    Unit(String),
    /// A package, by its name.
    Package(String),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "/{path}"),
            Self::Unit(name) => write!(f, "unit {}", escape(name.as_bytes())),
            Self::Package(name) => write!(f, "package {}", escape(name.as_bytes())),
        }
    }
}

/// One reason why the tree would not run. It says nothing that can differ between two trees with the same
/// defect, so that findings of two trees can be subtracted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Finding {
    /// What kind of thing is wrong.
    pub code: Code,
    /// With what.
    pub subject: Subject,
    /// Who needs it: first who needs it directly, last who starts it all.
    pub needed_by: Vec<Subject>,
    /// What is wrong and what helps.
    pub message: String,
}

impl Finding {
    /// Bytes of memory that it takes, about.
    pub(super) fn bytes(&self) -> usize {
        let of = |subject: &Subject| {
            size_of::<Subject>()
                + match subject {
                    Subject::Path(path) => path.as_bytes().len(),
                    Subject::Unit(name) | Subject::Package(name) => name.len(),
                }
        };
        size_of::<Self>()
            + of(&self.subject)
            + self.needed_by.iter().map(of).sum::<usize>()
            + self.message.len()
    }

    /// A finding about a file that nothing else needs.
    pub fn about_path(code: Code, path: FlistPath, message: impl Into<String>) -> Self {
        Self { code, subject: Subject::Path(path), needed_by: Vec::new(), message: message.into() }
    }

    /// A finding about something that nothing else needs.
    pub fn about(code: Code, subject: Subject, message: impl Into<String>) -> Self {
        Self { code, subject, needed_by: Vec::new(), message: message.into() }
    }

    /// A finding about a unit.
    pub fn about_unit(code: Code, unit: impl Into<String>, message: impl Into<String>) -> Self {
        Self::about(code, Subject::Unit(unit.into()), message)
    }

    /// A unit that cannot be used; `reason` is one line.
    pub fn unit_invalid(unit: impl Into<String>, reason: &str) -> Self {
        Self::about_unit(Code::UnitInvalid, unit, format!("it cannot be used: {reason}"))
    }

    /// Units of which each waits for the next, and the last for the first. Where the walk around the cycle
    /// began does not matter.
    pub fn unit_cycle(cycle: &[String]) -> Self {
        let first = (0..cycle.len()).min_by_key(|index| &cycle[*index]).unwrap_or(0);
        let mut names: Vec<&str> = cycle.iter().map(String::as_str).collect();
        names.rotate_left(first);
        let unit = names.first().copied().unwrap_or_default().to_owned();
        names.push(&unit);
        let message = format!("units wait for each other: {}; take one `after` away", names.join(" after "));
        Self::about_unit(Code::UnitCycle, unit.clone(), message)
    }

    /// A unit that waits for `dependency`, which is no unit.
    pub fn unit_missing_dependency(unit: impl Into<String>, dependency: &str) -> Self {
        let message =
            format!("it waits for {dependency}, which is no unit; add that unit or correct `after`");
        Self::about_unit(Code::UnitMissingDependency, unit, message)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.code, self.subject, self.message)?;
        for (index, subject) in self.needed_by.iter().enumerate() {
            write!(f, "{}{subject}", if index == 0 { " (needed by " } else { ", " })?;
        }
        if self.needed_by.is_empty() { Ok(()) } else { f.write_str(")") }
    }
}

/// Leaves out what is said again with the name of a service: a program that is both a service's and changed
/// is found twice, so that findings of two trees can be subtracted; people want to read it once.
pub fn without_repeats(findings: Vec<Finding>) -> Vec<Finding> {
    let longer: BTreeSet<_> = findings
        .iter()
        .filter(|finding| matches!(finding.needed_by.last(), Some(Subject::Unit(_) | Subject::Package(_))))
        .map(|finding| {
            let files = finding.needed_by[..finding.needed_by.len() - 1].to_vec();
            (finding.code, finding.subject.clone(), files, finding.message.clone())
        })
        .collect();
    let said = |finding: &Finding| {
        let Finding { code, subject, needed_by, message } = finding.clone();
        longer.contains(&(code, subject, needed_by, message))
    };
    findings.into_iter().filter(|finding| !said(finding)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_one_line_with_its_chain() {
        let finding = Finding {
            code: Code::MissingLibrary,
            subject: Subject::Path("usr/lib/li\nb.so".parse().unwrap()),
            needed_by: vec![Subject::Path("bin/app".parse().unwrap()), Subject::Unit("app".to_owned())],
            message: "gone".to_owned(),
        };
        assert_eq!(
            finding.to_string(),
            "missing-library: /usr/lib/li%0Ab.so: gone (needed by /bin/app, unit app)"
        );
        let json = serde_json::to_value(&finding).unwrap();
        assert_eq!(json["code"], "missing-library");
        assert_eq!(json["subject"]["path"], "usr/lib/li%0Ab.so");
        assert_eq!(json["needed_by"][1]["unit"], "app");
    }

    #[test]
    fn a_cycle_is_the_same_wherever_one_begins() {
        let cycle = |names: [&str; 3]| Finding::unit_cycle(&names.map(str::to_owned));
        assert_eq!(cycle(["b", "c", "a"]), cycle(["a", "b", "c"]));
        assert!(cycle(["c", "a", "b"]).message.contains("a after b after c after a"));
    }

    #[test]
    fn what_a_service_needs_is_said_once() {
        let plain = Finding::about_path(Code::TruncatedElf, "a".parse().unwrap(), "cut");
        let named = Finding { needed_by: vec![Subject::Unit("u".to_owned())], ..plain.clone() };
        let other = Finding::about_path(Code::TruncatedElf, "b".parse().unwrap(), "cut");
        assert_eq!(without_repeats(vec![plain, named.clone(), other.clone()]), [named, other]);
    }
}
