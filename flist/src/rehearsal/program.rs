//! What the kernel, the loader and the interpreters do with one file.

use std::rc::Rc;

use super::check::{Program, Rehearsal};
use super::closure::{Closure, Interpreter, Start};
use super::elf::{Elf, Kind};
use super::finding::{Code, Finding, Subject};
use super::root::RootError;
use super::script::{self, env_program, shebang};
use super::search::base;
use super::window::Defect;
use crate::path::{FlistPath, escape};

/// Scripts that interpret each other; the kernel gives up after as many.
const MAX_SCRIPTS: usize = 5;

/// How something is started.
pub(super) struct Run<'a> {
    /// Who needs it, the nearest first.
    pub(super) needed_by: Vec<Subject>,
    /// Whether it has to be a program; a changed file need not.
    pub(super) must_run: bool,
    pub(super) directory: &'a [u8],
    pub(super) search_path: &'a str,
    pub(super) library_path: Option<&'a str>,
    /// How many scripts were on the way.
    pub(super) scripts: usize,
}

impl<'a> Run<'a> {
    /// What `path` starts in turn.
    fn next(&self, path: &FlistPath) -> Run<'a> {
        let mut needed_by = vec![Subject::Path(path.clone())];
        needed_by.extend(self.needed_by.iter().cloned());
        Run { needed_by, must_run: true, scripts: self.scripts + 1, ..*self }
    }
}

impl Rehearsal<'_> {
    /// Whether the kernel, and then the loader or the interpreter, could run a file.
    pub(super) fn run(&mut self, path: &FlistPath, size: u64, run: &Run<'_>) -> Result<(), RootError> {
        let head = self.root.read(path, 0, size.min(script::HEAD as u64) as usize)?;
        if head.starts_with(b"#!") {
            return self.script(path, &head, run);
        }
        match self.elf(path, size)? {
            Ok(elf) => self.elf_program(path, &elf, run),
            Err(Defect::NoMagic) if !run.must_run => Ok(()),
            Err(defect) => {
                let (code, message) = damaged(defect);
                let message = if size == 0 { "it is empty; ship it again".to_owned() } else { message };
                self.about(path, run, code, message);
                Ok(())
            }
        }
    }

    fn script(&mut self, path: &FlistPath, head: &[u8], run: &Run<'_>) -> Result<(), RootError> {
        let line = match shebang(head) {
            Ok(Some(line)) => line,
            Ok(None) => return Ok(()),
            Err(why) => {
                self.about(path, run, Code::BadShebang, why.to_owned());
                return Ok(());
            }
        };
        if run.scripts >= MAX_SCRIPTS {
            let why = format!("more than {MAX_SCRIPTS} scripts interpret each other; name a program");
            self.about(path, run, Code::BadShebang, why);
            return Ok(());
        }
        let started = self.start_from_script(path, &line.interpreter, run)?;
        if !started || base(&line.interpreter) != b"env" {
            return Ok(());
        }
        match line.argument.as_deref().and_then(env_program) {
            Some(name) => self.start_from_script(path, &name, run).map(drop),
            None => Ok(()),
        }
    }

    /// An interpreter with a directory in its name is found there, one that `env` looks for in `PATH`.
    fn start_from_script(&mut self, path: &FlistPath, name: &[u8], run: &Run<'_>) -> Result<bool, RootError> {
        let shown = escape(name);
        match self.program(name, run)? {
            Program::Found(found, size) => {
                self.run(&found, size, &run.next(path))?;
                return Ok(true);
            }
            Program::Denied(_, why) => {
                let message = format!("its first line asks for {shown}, which {why}");
                self.about(path, run, Code::InterpreterNotExecutable, message);
            }
            Program::Missing => {
                let help = match name.contains(&b' ') {
                    true => "`env` gets all words as one; write `env -S`",
                    false => "ship it, or correct the line",
                };
                let message = format!("its first line asks for {shown}, which is not there; {help}");
                self.about(path, run, Code::MissingShebangInterpreter, message);
            }
            Program::Loop => {
                let message = format!("its first line asks for {shown}, whose symlinks lead in a circle");
                self.about(path, run, Code::SymlinkLoop, message);
            }
        }
        Ok(false)
    }

    fn elf_program(&mut self, path: &FlistPath, elf: &Rc<Elf>, run: &Run<'_>) -> Result<(), RootError> {
        // Object files, and libraries that carry an executable bit, are no programs, and need not be.
        let library = elf.kind == Kind::Shared && elf.interpreter.is_none() && !elf.needed.is_empty();
        if elf.kind == Kind::Other || library {
            if run.must_run {
                let what = "it has to be executed, but is an object file or a library; name a program";
                self.about(path, run, Code::NotAProgram, what.to_owned());
            }
            return Ok(());
        }
        if !run.must_run && is_compatible(elf.machine, self.machine) {
            return Ok(());
        }
        if elf.machine != self.machine {
            self.about(path, run, Code::WrongArchitecture, self.machines(elf.machine));
            return Ok(());
        }
        let Some(name) = &elf.interpreter else { return Ok(()) };
        let Some(interpreter) = self.interpreter(path, name, run)? else { return Ok(()) };
        let start = Start {
            path,
            elf: elf.clone(),
            interpreter: Some(interpreter),
            library_path: run.library_path,
            directory: run.directory,
            needed_by: &run.needed_by,
        };
        Closure::new(self, &start).check()
    }

    /// The loader of a program; `None` when it is not usable, which is reported.
    fn interpreter(
        &mut self,
        path: &FlistPath,
        name: &[u8],
        run: &Run<'_>,
    ) -> Result<Option<Interpreter>, RootError> {
        let shown = escape(name);
        let full = if name.starts_with(b"/") { name.to_vec() } else { [run.directory, b"/", name].concat() };
        let (found, size) = match self.program(&full, run)? {
            Program::Found(found, size) => (found, size),
            Program::Denied(_, why) => {
                let message = format!("its loader {shown} {why}");
                self.about(path, run, Code::InterpreterNotExecutable, message);
                return Ok(None);
            }
            Program::Missing | Program::Loop => {
                let message =
                    format!("its loader {shown} is not there; ship the C library, or link it statically");
                self.about(path, run, Code::MissingInterpreter, message);
                return Ok(None);
            }
        };
        let next = run.next(path);
        match self.elf(&found, size)? {
            Ok(elf) if elf.machine == self.machine => {
                Ok(Some(Interpreter { name: name.to_vec(), path: found, elf }))
            }
            Ok(elf) => {
                self.about(&found, &next, Code::WrongArchitecture, self.machines(elf.machine));
                Ok(None)
            }
            Err(defect) => {
                let (code, message) = damaged(defect);
                self.about(&found, &next, code, message);
                Ok(None)
            }
        }
    }

    /// A library by itself: it has to be whole, and what it needs has to be there.
    pub(super) fn library(&mut self, path: &FlistPath, size: u64) -> Result<(), RootError> {
        let debug: FlistPath = "usr/lib/debug".parse().unwrap_or_default();
        let elf = match self.elf(path, size)? {
            Ok(elf) if elf.kind == Kind::Shared && elf.machine == self.machine => elf,
            // Debug information has the headers of the library without its content.
            Err(defect @ (Defect::Cut(_) | Defect::TooLarge(_))) if !path.is_beneath(&debug) => {
                let (code, message) = damaged(defect);
                self.report(Finding::about_path(code, path.clone(), message));
                return Ok(());
            }
            // Text for the linker, and libraries of other systems, are data.
            _ => return Ok(()),
        };
        let start =
            Start { path, elf, interpreter: None, library_path: None, directory: b"/", needed_by: &[] };
        Closure::new(self, &start).check()
    }

    fn machines(&self, machine: u16) -> String {
        let (is, wants) = (machine_name(machine), machine_name(self.machine));
        format!("it is built for {is}, the node has {wants}; build it for {wants}")
    }
}

/// What a damaged file is called.
pub(super) fn damaged(defect: Defect) -> (Code, String) {
    match defect {
        Defect::NoMagic => {
            let message =
                "it is no ELF program and has no #! line; ship the program, or begin the script with #!";
            (Code::NotAnElf, message.to_owned())
        }
        Defect::Cut(part) => {
            (Code::TruncatedElf, format!("{part} is cut off or damaged; build and ship the file again"))
        }
        Defect::TooLarge(part) => (Code::TooLarge, format!("there are too many {part}; it was not checked")),
    }
}

/// Whether a kernel for `node` can have been built to run programs for `machine`, its 32-bit brother. A service
/// that relies on that is found nevertheless.
fn is_compatible(machine: u16, node: u16) -> bool {
    use ::elf::abi::{EM_386, EM_AARCH64, EM_ARM, EM_X86_64};
    matches!((machine, node), (EM_386, EM_X86_64) | (EM_ARM, EM_AARCH64))
}

fn machine_name(machine: u16) -> String {
    match machine {
        ::elf::abi::EM_X86_64 => "x86_64".to_owned(),
        ::elf::abi::EM_AARCH64 => "aarch64".to_owned(),
        ::elf::abi::EM_386 => "i386".to_owned(),
        ::elf::abi::EM_ARM => "arm".to_owned(),
        ::elf::abi::EM_RISCV => "riscv".to_owned(),
        other => format!("processor {other}"),
    }
}
