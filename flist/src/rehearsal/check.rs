//! The rehearsal itself.

use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

use super::closure::Start;
use super::elf::{self, Elf};

use super::finding::{Code, Finding, Subject};
use super::program::Run;
use super::root::{FutureRoot, Node, Resolved, RootError, resolve};
use super::search::{glibc_directories, musl_directories};
use super::service::{Purpose, SEARCH_PATH, Service};
use super::window::{Defect, Window};
use crate::path::{FlistPath, escape};

/// Places that are remembered.
const MAX_REMEMBERED: usize = 200_000;

/// Bytes of what is remembered.
const MAX_REMEMBERED_BYTES: usize = 64 << 20;

/// Findings that are told, and their bytes; one more says that there are others.
const MAX_FINDINGS: usize = 10_000;
const MAX_FINDINGS_BYTES: usize = 16 << 20;

/// What a rehearsal is about.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The commands of all services.
    pub services: &'a [Service],
    /// Files that are looked at for themselves: what is new or changed. Only executable ELF files, scripts
    /// and libraries matter. Without symlinks.
    pub changed: &'a [FlistPath],
    /// The processor of the node, as ELF numbers them (`e_machine`): 62 is x86_64, 183 is aarch64.
    pub machine: u16,
}

/// Everything that would keep the services and the changed files from running in `root`, sorted.
///
/// Nothing is executed. What a program loads while it runs, and what a shell that is a service's program
/// does, is not seen. `ld.so.cache` is not read: the directories that it is made from are searched.
///
/// # Errors
/// [`RootError`] when the root could not be looked at.
pub fn rehearse(root: &dyn FutureRoot, facts: &Facts<'_>) -> Result<Vec<Finding>, RootError> {
    let mut rehearsal = Rehearsal {
        root,
        machine: facts.machine,
        brought: facts.changed.iter().map(|path| path.name().to_vec()).collect(),
        findings: BTreeSet::new(),
        findings_bytes: 0,
        remembered: 0,
        elves: HashMap::new(),
        resolved: HashMap::new(),
        glibc_directories: None,
    };
    for service in facts.services {
        rehearsal.service(service)?;
    }
    for path in facts.changed {
        rehearsal.changed(path)?;
    }
    Ok(rehearsal.findings.into_iter().collect())
}

pub(super) struct Rehearsal<'r> {
    pub(super) root: &'r dyn FutureRoot,
    pub(super) machine: u16,
    /// Names of the changed files.
    brought: BTreeSet<Vec<u8>>,
    findings: BTreeSet<Finding>,
    /// Bytes of them.
    findings_bytes: usize,
    /// Bytes of the two below.
    remembered: usize,
    elves: HashMap<FlistPath, Result<Rc<Elf>, Defect>>,
    resolved: HashMap<Vec<u8>, Resolved>,
    glibc_directories: Option<Rc<[Vec<u8>]>>,
}

/// What became of the search for a program.
pub(super) enum Program {
    Found(FlistPath, u64),
    /// It is there, but cannot be executed.
    Denied(FlistPath, &'static str),
    Missing,
    Loop,
}

impl<'r> Rehearsal<'r> {
    fn service(&mut self, service: &Service) -> Result<(), RootError> {
        let key = service.purpose.key();
        let Some(name) = service.argv.first().filter(|name| !name.is_empty()) else {
            self.report(Finding::unit_invalid(&service.unit, &format!("its {key} names no program")));
            return Ok(());
        };
        let run = Run {
            needed_by: vec![service.subject()],
            must_run: true,
            directory: service.directory.as_deref().unwrap_or("/").as_bytes(),
            search_path: service.path.as_deref().unwrap_or(SEARCH_PATH),
            library_path: service.library_path.as_deref(),
            scripts: 0,
        };
        let shown = escape(name.as_bytes());
        match self.program(name.as_bytes(), &run)? {
            Program::Found(path, size) => self.run(&path, size, &run)?,
            Program::Denied(path, why) => {
                let message = format!("it is what {key} runs, but it {why}");
                self.about(&path, &run, Code::ExecNotExecutable, message);
            }
            Program::Missing => {
                let place = if name.contains('/') { "not there" } else { "in no directory of PATH" };
                let message = format!("its {key} runs {shown}, which is {place}; ship it, or correct {key}");
                let code = match service.purpose {
                    Purpose::Package => Code::MissingHook,
                    Purpose::Exec | Purpose::Test => Code::MissingExec,
                };
                self.report(Finding::about(code, service.subject(), message));
            }
            Program::Loop => {
                let message =
                    format!("its {key} runs {shown}, whose symlinks lead in a circle; correct them");
                self.report(Finding::about(Code::SymlinkLoop, service.subject(), message));
            }
        }
        Ok(())
    }

    fn changed(&mut self, path: &FlistPath) -> Result<(), RootError> {
        let Resolved::Found(real, node) = self.resolve(path.as_bytes())? else { return Ok(()) };
        let Node::File { size, .. } = node else { return Ok(()) };
        let run = Run {
            needed_by: Vec::new(),
            must_run: false,
            directory: b"/",
            search_path: SEARCH_PATH,
            library_path: None,
            scripts: 0,
        };
        let library = is_library_name(path.name());
        match node.is_executable() {
            _ if library => self.library(&real, size),
            true => self.run(&real, size, &run),
            false => Ok(()),
        }
    }

    /// A program by its name, as `execvp` finds it.
    pub(super) fn program(&mut self, name: &[u8], run: &Run<'_>) -> Result<Program, RootError> {
        let candidates: Vec<Vec<u8>> = match name.contains(&b'/') {
            true if name.starts_with(b"/") => vec![name.to_vec()],
            true => vec![[run.directory, b"/", name].concat()],
            false => {
                let directories = run.search_path.split(':').filter(|directory| !directory.is_empty());
                directories.map(|directory| [directory.as_bytes(), b"/", name].concat()).collect()
            }
        };
        let mut outcome = Program::Missing;
        for candidate in candidates {
            let found = match self.resolve(&candidate)? {
                Resolved::Found(path, node) if node.is_executable() => {
                    let Node::File { size, .. } = node else { continue };
                    return Ok(Program::Found(path, size));
                }
                Resolved::Found(path, Node::File { .. }) => {
                    Program::Denied(path, "has no executable bit; set its mode to 0755")
                }
                Resolved::Found(path, Node::Directory) => {
                    Program::Denied(path, "is a directory; name a program")
                }
                Resolved::Found(path, _) => Program::Denied(path, "is no regular file; name a program"),
                Resolved::Loop => Program::Loop,
                Resolved::Missing => continue,
            };
            if matches!(outcome, Program::Missing) {
                outcome = found;
            }
        }
        Ok(outcome)
    }

    pub(super) fn about(&mut self, path: &FlistPath, run: &Run<'_>, code: Code, message: String) {
        let needed_by = run.needed_by.clone();
        self.report(Finding { code, subject: Subject::Path(path.clone()), needed_by, message });
    }

    pub(super) fn report(&mut self, finding: Finding) {
        let bytes = finding.bytes();
        if self.findings.contains(&finding) {
            return;
        }
        if self.findings.len() < MAX_FINDINGS && self.findings_bytes + bytes <= MAX_FINDINGS_BYTES {
            self.findings_bytes += bytes;
            self.findings.insert(finding);
        } else {
            let message = "more is wrong than can be told; correct the other things first";
            self.findings.insert(Finding::about_path(Code::TooLarge, FlistPath::root(), message));
        }
    }

    /// Makes room for so many bytes more: what was looked up before is looked up again.
    fn remember(&mut self, bytes: usize) {
        if self.remembered + bytes > MAX_REMEMBERED_BYTES || self.resolved.len() >= MAX_REMEMBERED {
            self.resolved.clear();
            self.elves.clear();
            self.remembered = 0;
        }
        self.remembered += bytes;
    }

    pub(super) fn resolve(&mut self, path: &[u8]) -> Result<Resolved, RootError> {
        if let Some(known) = self.resolved.get(path) {
            return Ok(known.clone());
        }
        let found = resolve(self.root, path)?;
        let target = match &found {
            Resolved::Found(target, _) => target.as_bytes().len(),
            Resolved::Loop | Resolved::Missing => 0,
        };
        self.remember(size_of::<(Vec<u8>, Resolved)>() + path.len() + target);
        self.resolved.insert(path.to_vec(), found.clone());
        Ok(found)
    }

    pub(super) fn elf(&mut self, path: &FlistPath, size: u64) -> Result<Result<Rc<Elf>, Defect>, RootError> {
        if let Some(known) = self.elves.get(path) {
            return Ok(known.clone());
        }
        let read = elf::read(&Window::new(self.root, path, size))?.map(Rc::new);
        self.remember(path.as_bytes().len() + read.as_ref().map_or(0, |elf| elf.bytes()));
        self.elves.insert(path.clone(), read.clone());
        Ok(read)
    }

    pub(super) fn glibc_directories(&mut self) -> Result<Rc<[Vec<u8>]>, RootError> {
        if let Some(known) = &self.glibc_directories {
            return Ok(known.clone());
        }
        let found: Rc<[_]> = glibc_directories(self.root, self.machine)?.into();
        Ok(self.glibc_directories.insert(found).clone())
    }

    pub(super) fn musl_directories(&self, interpreter: &[u8]) -> Result<Vec<Vec<u8>>, RootError> {
        musl_directories(self.root, interpreter)
    }

    /// Whether a library that was not found may be in memory already: it is looked for by a library whose
    /// program is not known, and the same release has a file of that name.
    pub(super) fn is_brought(&self, start: &Start<'_>, name: &[u8]) -> bool {
        start.interpreter.is_none() && self.brought.contains(name)
    }
}

fn is_library_name(name: &[u8]) -> bool {
    name.ends_with(b".so") || name.windows(4).any(|window| window == b".so.")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nothing is there.
    struct Nothing;

    impl FutureRoot for Nothing {
        fn look(&self, _: &FlistPath) -> Result<Option<Node>, RootError> {
            Ok(None)
        }
        fn read(&self, _: &FlistPath, _: u64, _: usize) -> Result<Vec<u8>, RootError> {
            Ok(Vec::new())
        }
        fn list(&self, _: &FlistPath) -> Result<Vec<Vec<u8>>, RootError> {
            Ok(Vec::new())
        }
    }

    #[test]
    fn of_very_many_findings_the_last_says_that_there_are_more() {
        let service = |number| Service {
            unit: format!("unit-{number}"),
            purpose: Purpose::Exec,
            argv: Vec::new(),
            directory: None,
            path: None,
            library_path: None,
        };
        for (count, told) in [(MAX_FINDINGS, MAX_FINDINGS), (MAX_FINDINGS + 5, MAX_FINDINGS + 1)] {
            let services: Vec<_> = (0..count).map(service).collect();
            let facts = Facts { services: &services, changed: &[], machine: 62 };
            let findings = rehearse(&Nothing, &facts).unwrap();
            assert_eq!(findings.len(), told);
            let more = findings.iter().filter(|finding| finding.code == Code::TooLarge).count();
            assert_eq!(more, told - MAX_FINDINGS);
        }
        // Few of them can be as much as many.
        let long = |number| Service { unit: format!("{number}-{}", "x".repeat(1 << 20)), ..service(0) };
        let services: Vec<_> = (0..40).map(long).collect();
        let findings = rehearse(&Nothing, &Facts { services: &services, changed: &[], machine: 62 }).unwrap();
        assert!(findings.iter().map(Finding::bytes).sum::<usize>() <= MAX_FINDINGS_BYTES + 1000);
        assert!(findings.iter().any(|finding| finding.code == Code::TooLarge));
    }
}
