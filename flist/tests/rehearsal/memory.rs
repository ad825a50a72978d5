//! Root file systems in memory.

use std::cell::Cell;
use std::collections::BTreeMap;

use flist::path::FlistPath;
use flist::rehearsal::{
    Code, Facts, Finding, FutureRoot, Node, Purpose, RootError, Service, machine, rehearse,
};

use crate::forge::Elf;

pub(crate) fn path(text: &str) -> FlistPath {
    text.parse().unwrap()
}

/// Files with their content, and the services that run in them.
#[derive(Clone, Default)]
pub(crate) struct Memory {
    entries: BTreeMap<FlistPath, (Node, Vec<u8>)>,
    pub(crate) services: Vec<Service>,
    pub(crate) changed: Vec<FlistPath>,
    /// Bytes that were read.
    pub(crate) bytes_read: Cell<usize>,
}

impl Memory {
    /// A node with a C library, its loader, and a shell.
    pub(crate) fn node() -> Self {
        let mut root = Self::default();
        let mut loader = crate::forge::library("ld-linux-x86-64.so.2", &[]);
        loader.defines = vec!["GLIBC_2.3"];
        let mut libc = crate::forge::library("libc.so.6", &["ld-linux-x86-64.so.2"]);
        libc.defines = vec!["GLIBC_2.2.5", "GLIBC_2.34"];
        libc.requires = vec![("ld-linux-x86-64.so.2", "GLIBC_2.3")];
        root.elf("lib64/ld-linux-x86-64.so.2", &loader)
            .elf("usr/lib/x86_64-linux-gnu/libc.so.6", &libc)
            .elf("bin/sh", &crate::forge::fixed())
            .elf("usr/bin/env", &crate::forge::program(&["libc.so.6"]));
        root
    }

    pub(crate) fn put(&mut self, at: &str, node: Node, content: Vec<u8>) -> &mut Self {
        let at = path(at);
        let parents = std::iter::successors(at.parent(), FlistPath::parent);
        for parent in parents {
            self.entries.entry(parent).or_insert((Node::Directory, Vec::new()));
        }
        self.entries.insert(at, (node, content));
        self
    }

    pub(crate) fn file(&mut self, at: &str, mode: u32, content: impl AsRef<[u8]>) -> &mut Self {
        let content = content.as_ref().to_vec();
        self.put(at, Node::File { size: content.len() as u64, mode }, content)
    }

    pub(crate) fn elf(&mut self, at: &str, elf: &Elf) -> &mut Self {
        self.file(at, 0o755, elf.bytes())
    }

    pub(crate) fn link(&mut self, at: &str, target: &str) -> &mut Self {
        self.put(at, Node::Symlink(target.as_bytes().to_vec()), Vec::new())
    }

    pub(crate) fn directory(&mut self, at: &str) -> &mut Self {
        self.put(at, Node::Directory, Vec::new())
    }

    pub(crate) fn remove(&mut self, at: &str) -> &mut Self {
        self.entries.remove(&path(at)).unwrap();
        self
    }

    /// A service `app` that runs `command`.
    pub(crate) fn service(&mut self, command: &str) -> &mut Self {
        self.services.push(command_of(Purpose::Exec, command));
        self
    }

    /// The test of that service.
    pub(crate) fn test(&mut self, command: &str) -> &mut Self {
        self.services.push(command_of(Purpose::Test, command));
        self
    }

    pub(crate) fn changed(&mut self, at: &str) -> &mut Self {
        self.changed.push(path(at));
        self
    }

    pub(crate) fn findings(&self) -> Vec<Finding> {
        let facts = Facts { services: &self.services, changed: &self.changed, machine: machine::X86_64 };
        rehearse(self, &facts).unwrap()
    }

    pub(crate) fn codes(&self) -> Vec<Code> {
        let mut codes: Vec<_> = self.findings().iter().map(|finding| finding.code).collect();
        codes.dedup();
        codes
    }
}

fn command_of(purpose: Purpose, command: &str) -> Service {
    Service {
        unit: "app".to_owned(),
        purpose,
        argv: command.split(' ').map(str::to_owned).collect(),
        directory: None,
        path: None,
        library_path: None,
    }
}

impl FutureRoot for Memory {
    fn look(&self, path: &FlistPath) -> Result<Option<Node>, RootError> {
        if path.is_root() {
            return Ok(Some(Node::Directory));
        }
        Ok(self.entries.get(path).map(|(node, _)| node.clone()))
    }

    fn read(&self, path: &FlistPath, offset: u64, length: usize) -> Result<Vec<u8>, RootError> {
        let Some((Node::File { .. }, content)) = self.entries.get(path) else {
            return Err(RootError { action: "read", path: path.clone(), source: "no file".into() });
        };
        let start = content.len().min(offset as usize);
        let end = content.len().min(start + length);
        self.bytes_read.set(self.bytes_read.get() + end - start);
        Ok(content[start..end].to_vec())
    }

    fn list(&self, path: &FlistPath) -> Result<Vec<Vec<u8>>, RootError> {
        let children = self.entries.keys().filter(|entry| entry.parent().as_ref() == Some(path));
        Ok(children.map(|entry| entry.name().to_vec()).collect())
    }
}
