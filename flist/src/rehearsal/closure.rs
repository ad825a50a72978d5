//! The libraries that a program needs, in the way of its loader.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::check::Rehearsal;
use super::elf::Elf;
use super::finding::{Code, Finding, Subject};
use super::root::{Node, Resolved, RootError};
use super::search::{Libc, MAX_DIRECTORIES, base, expand};
use super::window::Defect;
use crate::path::{FlistPath, escape};

/// Most files that one program may load.
const MAX_LOADED: usize = 1024;
/// Most places that are looked at for one program.
const MAX_LOOKUPS: usize = 200_000;

/// What a program is loaded with.
pub(super) struct Start<'a> {
    /// The program's path, without symlinks.
    pub(super) path: &'a FlistPath,
    /// The program.
    pub(super) elf: Rc<Elf>,
    /// Its loader; `None` for a library that is looked at by itself.
    pub(super) interpreter: Option<Interpreter>,
    /// `LD_LIBRARY_PATH`.
    pub(super) library_path: Option<&'a str>,
    /// The working directory.
    pub(super) directory: &'a [u8],
    /// Who starts the program.
    pub(super) needed_by: &'a [Subject],
}

/// The loader of a program.
pub(super) struct Interpreter {
    /// As the program names it.
    pub(super) name: Vec<u8>,
    /// Its path, without symlinks.
    pub(super) path: FlistPath,
    /// The loader.
    pub(super) elf: Rc<Elf>,
}

/// One file in memory.
struct Loaded {
    /// Where it is, without symlinks.
    path: FlistPath,
    /// The directory that it was found in, as the loader knows it.
    origin: Vec<u8>,
    elf: Rc<Elf>,
    /// Which of the files brought it.
    loader: Option<usize>,
}

/// What a search came to.
enum Search {
    Found { path: FlistPath, origin: Vec<u8>, elf: Rc<Elf> },
    Missing { elsewhere: bool },
    Bad { path: FlistPath, defect: Option<Defect> },
    GivenUp,
}

pub(super) struct Closure<'c, 'r, 'a> {
    rehearsal: &'c mut Rehearsal<'r>,
    start: &'c Start<'a>,
    libc: Libc,
    loaded: Vec<Loaded>,
    /// Which file answers to a name.
    names: BTreeMap<Vec<u8>, usize>,
    lookups: usize,
}

impl<'c, 'r, 'a> Closure<'c, 'r, 'a> {
    pub(super) fn new(rehearsal: &'c mut Rehearsal<'r>, start: &'c Start<'a>) -> Self {
        let libc = start.interpreter.as_ref().map_or(Libc::Glibc, |loader| Libc::of(&loader.name));
        let origin = directory_of(start.path);
        let program = Loaded { path: start.path.clone(), origin, elf: start.elf.clone(), loader: None };
        let mut closure =
            Self { rehearsal, start, libc, loaded: vec![program], names: BTreeMap::new(), lookups: 0 };
        if let Some(Interpreter { name, path, elf }) = &start.interpreter {
            // The loader is in memory before all others; it needs nothing.
            let loader = Loaded { path: path.clone(), origin: Vec::new(), elf: elf.clone(), loader: Some(0) };
            closure.add(base(name), loader);
        }
        closure
    }

    /// Finds everything that the program needs, breadth first as loaders do, and then the versions.
    pub(super) fn check(&mut self) -> Result<(), RootError> {
        let mut index = 0;
        while index < self.loaded.len() {
            let is_interpreter = index == 1 && self.start.interpreter.is_some();
            let needed = if is_interpreter { Vec::new() } else { self.loaded[index].elf.needed.clone() };
            for name in needed {
                if self.loaded.len() >= MAX_LOADED {
                    self.report(
                        0,
                        Code::TooLarge,
                        format!("it loads more than {MAX_LOADED} files; link it with fewer"),
                    );
                    return Ok(());
                }
                if !self.load(index, &name)? {
                    let what = format!(
                        "its libraries are looked for in more than {MAX_LOOKUPS} places; shorten its RPATH"
                    );
                    self.report(0, Code::TooLarge, what);
                    return Ok(());
                }
            }
            index += 1;
        }
        if self.libc == Libc::Glibc {
            self.versions();
        }
        Ok(())
    }

    fn add(&mut self, name: &[u8], file: Loaded) {
        let same = self.loaded.iter().position(|loaded| loaded.path == file.path);
        let index = same.unwrap_or(self.loaded.len());
        if let Some(soname) = &file.elf.soname {
            self.names.entry(soname.clone()).or_insert(index);
        }
        self.names.insert(name.to_vec(), index);
        if same.is_none() {
            self.loaded.push(file);
        }
    }

    /// Loads the library `name` for the file at `index`; `false` when the search was given up.
    fn load(&mut self, index: usize, name: &[u8]) -> Result<bool, RootError> {
        let shown = escape(name);
        if self.start.interpreter.is_some() && self.libc.is_foreign(name) {
            let other = if self.libc == Libc::Musl { Libc::Glibc } else { Libc::Musl };
            let (is, not) = (other.word(), self.libc.word());
            let message = format!(
                "it needs {shown} of {is}, but the loader of the program is {not}'s; build both for one C library"
            );
            self.report(index, Code::LibcMix, message);
            return Ok(true);
        }
        if self.libc.is_built_in(name) || self.names.contains_key(name) {
            return Ok(true);
        }
        match self.search(index, name)? {
            Search::Found { path, origin, elf } => {
                self.add(name, Loaded { path, origin, elf, loader: Some(index) });
            }
            Search::Missing { .. } if self.rehearsal.is_brought(self.start, name) => {}
            Search::Missing { elsewhere } => {
                let hint = if elsewhere { " for this architecture" } else { "" };
                let message = format!(
                    "it needs {shown}, which is in none of the directories that its loader searches{hint}; \
                     ship that library, or correct the RUNPATH"
                );
                self.report(index, Code::MissingLibrary, message);
            }
            Search::Bad { path, defect } => self.report_bad(index, path, defect),
            Search::GivenUp => return Ok(false),
        }
        Ok(true)
    }

    fn search(&mut self, index: usize, name: &[u8]) -> Result<Search, RootError> {
        let candidates = match name.contains(&b'/') {
            true => expand(name, &self.loaded[index].origin, self.start.elf.machine),
            false => {
                let directories = self.directories(index)?.into_iter();
                directories.map(|directory| [&directory, &b"/"[..], name].concat()).collect()
            }
        };
        let mut elsewhere = false;
        for mut candidate in candidates {
            self.lookups += 1;
            if self.lookups > MAX_LOOKUPS {
                return Ok(Search::GivenUp);
            }
            if !candidate.starts_with(b"/") {
                candidate = [self.start.directory, b"/", &candidate].concat();
            }
            let Resolved::Found(path, Node::File { size, .. }) = self.rehearsal.resolve(&candidate)? else {
                continue;
            };
            match self.rehearsal.elf(&path, size)? {
                Ok(elf) if self.fits(&elf) => {
                    candidate.truncate(candidate.len() - base(&candidate).len());
                    return Ok(Search::Found { path, origin: candidate, elf });
                }
                // glibc's loader looks further, musl's takes the first file there is.
                Ok(_) if self.libc == Libc::Glibc => elsewhere = true,
                Ok(_) => return Ok(Search::Bad { path, defect: None }),
                Err(defect) => return Ok(Search::Bad { path, defect: Some(defect) }),
            }
        }
        Ok(Search::Missing { elsewhere })
    }

    fn fits(&self, elf: &Elf) -> bool {
        let program = &self.loaded[0].elf;
        (elf.machine, elf.wide) == (program.machine, program.wide)
    }

    /// Where the loader looks for what the file at `index` needs.
    fn directories(&mut self, index: usize) -> Result<Vec<Vec<u8>>, RootError> {
        let machine = self.start.elf.machine;
        let paths = |file: &Loaded, list: &Option<Vec<u8>>| match list {
            Some(list) => expand(list, &file.origin, machine),
            None => Vec::new(),
        };
        let environment = expand(self.start.library_path.unwrap_or_default().as_bytes(), b"", machine);
        let needer = &self.loaded[index];
        let chain =
            || std::iter::successors(Some(needer), |file| file.loader.map(|index| &self.loaded[index]));
        let mut directories = Vec::new();
        match self.libc {
            Libc::Glibc => {
                if needer.elf.runpath.is_none() {
                    let old = chain().filter(|file| file.elf.runpath.is_none());
                    directories
                        .extend(old.flat_map(|file| paths(file, &file.elf.rpath)).take(MAX_DIRECTORIES));
                }
                directories.extend(environment);
                directories.extend(paths(needer, &needer.elf.runpath));
                directories.extend(self.rehearsal.glibc_directories()?.iter().cloned());
            }
            Libc::Musl => {
                directories.extend(environment);
                let either = |file: &Loaded| {
                    paths(file, if file.elf.runpath.is_some() { &file.elf.runpath } else { &file.elf.rpath })
                };
                directories.extend(chain().flat_map(either).take(MAX_DIRECTORIES));
                let interpreter = self.start.interpreter.as_ref().map_or(&b""[..], |loader| &loader.name);
                directories.extend(self.rehearsal.musl_directories(interpreter)?);
            }
        }
        Ok(directories)
    }

    fn versions(&mut self) {
        let mut missing = Vec::new();
        for (index, file) in self.loaded.iter().enumerate() {
            for requirement in file.elf.requires.iter().filter(|requirement| !requirement.weak) {
                let library = self.names.get(&requirement.library).map(|index| &self.loaded[*index]);
                // A library without any versions is taken with a warning.
                let defines = library.and_then(|library| library.elf.defines.as_ref());
                if defines.is_some_and(|defines| !defines.contains(&requirement.version)) {
                    let (version, library) = (escape(&requirement.version), escape(&requirement.library));
                    missing.push((
                        index,
                        format!(
                            "it needs version {version} of {library}, which the {library} there does not have; \
                             ship a newer {library}, or build against an older one"
                        ),
                    ));
                }
            }
        }
        missing.into_iter().for_each(|(index, message)| self.report(index, Code::MissingVersion, message));
    }

    /// A library that is there and cannot be loaded; `None` is one for another architecture.
    fn report_bad(&mut self, needer: usize, path: FlistPath, defect: Option<Defect>) {
        let (code, message) = match defect {
            None => (Code::WrongArchitecture, "it is a library for another architecture".to_owned()),
            Some(Defect::NoMagic) => (
                Code::NotAnElf,
                "it is loaded as a library, but is no ELF file; ship the library itself".to_owned(),
            ),
            Some(defect) => super::program::damaged(defect),
        };
        let mut needed_by = vec![Subject::Path(self.loaded[needer].path.clone())];
        needed_by.extend(self.chain(needer));
        self.rehearsal.report(Finding { code, subject: Subject::Path(path), needed_by, message });
    }

    fn report(&mut self, index: usize, code: Code, message: String) {
        let subject = Subject::Path(self.loaded[index].path.clone());
        let needed_by = self.chain(index);
        self.rehearsal.report(Finding { code, subject, needed_by, message });
    }

    /// Who needs the file at `index`.
    fn chain(&self, index: usize) -> Vec<Subject> {
        let loaders = std::iter::successors(self.loaded[index].loader, |index| self.loaded[*index].loader);
        let mut chain: Vec<_> = loaders.map(|index| Subject::Path(self.loaded[index].path.clone())).collect();
        chain.extend_from_slice(self.start.needed_by);
        chain
    }
}

fn directory_of(path: &FlistPath) -> Vec<u8> {
    [b"/", path.parent().unwrap_or_default().as_bytes()].concat()
}
