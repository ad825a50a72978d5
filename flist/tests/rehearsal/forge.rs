//! ELF files, byte by byte, so that no compiler and no C library of this machine matters.

use flist::rehearsal::machine;

/// An object file.
pub(crate) const RELOCATABLE: u16 = 1;
/// A program at a fixed address.
pub(crate) const EXECUTABLE: u16 = 2;
/// A library, or a program at any address.
pub(crate) const SHARED: u16 = 3;

const LOAD: u32 = 1;
const DYNAMIC: u32 = 2;
const INTERP: u32 = 3;

/// What goes into a 64-bit ELF file. Addresses are offsets in the file.
#[derive(Clone, Default)]
pub(crate) struct Elf {
    pub(crate) machine: u16,
    pub(crate) kind: u16,
    pub(crate) interpreter: Option<&'static str>,
    pub(crate) needed: Vec<&'static str>,
    pub(crate) soname: Option<&'static str>,
    pub(crate) rpath: Option<&'static str>,
    pub(crate) runpath: Option<&'static str>,
    /// Library and version.
    pub(crate) requires: Vec<(&'static str, &'static str)>,
    pub(crate) defines: Vec<&'static str>,
}

pub(crate) const GLIBC: &str = "/lib64/ld-linux-x86-64.so.2";
pub(crate) const MUSL: &str = "/lib/ld-musl-x86_64.so.1";

/// A program of glibc.
pub(crate) fn program(needed: &[&'static str]) -> Elf {
    Elf {
        machine: machine::X86_64,
        kind: SHARED,
        interpreter: Some(GLIBC),
        needed: needed.to_vec(),
        ..Elf::default()
    }
}

/// A library.
pub(crate) fn library(soname: &'static str, needed: &[&'static str]) -> Elf {
    Elf {
        machine: machine::X86_64,
        kind: SHARED,
        soname: Some(soname),
        needed: needed.to_vec(),
        ..Elf::default()
    }
}

/// A program that needs nothing.
pub(crate) fn fixed() -> Elf {
    Elf { machine: machine::X86_64, kind: EXECUTABLE, ..Elf::default() }
}

impl Elf {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let dynamic = self.interpreter.is_some() || self.soname.is_some() || !self.needed.is_empty();
        let headers = 1 + usize::from(self.interpreter.is_some()) + usize::from(dynamic);
        let mut body = Body { start: 64 + 56 * headers, bytes: Vec::new(), strings: vec![0] };
        let interpreter = self.interpreter.map(|name| body.part(&[name.as_bytes(), b"\0"].concat()));
        let entries = self.dynamic(&mut body);
        let section = dynamic.then(|| {
            let entries: Vec<u8> = entries
                .iter()
                .flat_map(|(tag, value)| [tag.to_le_bytes(), value.to_le_bytes()].concat())
                .collect();
            body.part(&entries)
        });
        let end = (body.start + body.bytes.len()) as u64;

        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(16, 0);
        file.extend(self.kind.to_le_bytes());
        file.extend(self.machine.to_le_bytes());
        file.extend(1_u32.to_le_bytes());
        for word in [0_u64, 64, 0] {
            file.extend(word.to_le_bytes());
        }
        file.extend(0_u32.to_le_bytes());
        for half in [64, 56, headers as u16, 64, 0, 0] {
            file.extend(half.to_le_bytes());
        }
        file.extend(segment(LOAD, (0, end)));
        file.extend(interpreter.map(|place| segment(INTERP, place)).into_iter().flatten());
        file.extend(section.map(|place| segment(DYNAMIC, place)).into_iter().flatten());
        file.extend(body.bytes);
        file
    }

    /// The entries of the dynamic section; what they point to goes into the body.
    fn dynamic(&self, body: &mut Body) -> Vec<(u64, u64)> {
        let mut entries: Vec<(u64, u64)> = self.needed.iter().map(|name| (1, body.string(name))).collect();
        for (tag, text) in [(14, self.soname), (15, self.rpath), (29, self.runpath)] {
            entries.extend(text.map(|text| (tag, body.string(text))));
        }
        let requires: Vec<u8> = self
            .requires
            .iter()
            .enumerate()
            .flat_map(|(index, (library, version))| {
                let next = if index + 1 == self.requires.len() { 0_u32 } else { 32 };
                let mut bytes = [1_u16.to_le_bytes(), 1_u16.to_le_bytes()].concat();
                for word in [body.string(library) as u32, 16, next, 0] {
                    bytes.extend(word.to_le_bytes());
                }
                bytes.extend([0, 0, 2, 0]);
                for word in [body.string(version) as u32, 0] {
                    bytes.extend(word.to_le_bytes());
                }
                bytes
            })
            .collect();
        let defines: Vec<u8> = self
            .defines
            .iter()
            .enumerate()
            .flat_map(|(index, version)| {
                let next = if index + 1 == self.defines.len() { 0_u32 } else { 28 };
                let mut bytes: Vec<u8> =
                    [1_u16, 0, 2, 1].iter().flat_map(|half| half.to_le_bytes()).collect();
                for word in [0, 20, next, body.string(version) as u32, 0] {
                    bytes.extend(word.to_le_bytes());
                }
                bytes
            })
            .collect();
        for (bytes, count, at, number) in [
            (requires, self.requires.len(), 0x6fff_fffe_u64, 0x6fff_ffff_u64),
            (defines, self.defines.len(), 0x6fff_fffc, 0x6fff_fffd),
        ] {
            if count > 0 {
                entries.push((at, body.part(&bytes).0));
                entries.push((number, count as u64));
            }
        }
        let strings = std::mem::take(&mut body.strings);
        let (at, length) = body.part(&strings);
        entries.extend([(5, at), (10, length), (0, 0)]);
        entries
    }
}

struct Body {
    start: usize,
    bytes: Vec<u8>,
    strings: Vec<u8>,
}

impl Body {
    fn part(&mut self, bytes: &[u8]) -> (u64, u64) {
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        let at = self.start + self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        (at as u64, bytes.len() as u64)
    }

    fn string(&mut self, text: &str) -> u64 {
        let at = self.strings.len() as u64;
        self.strings.extend(text.bytes().chain([0]));
        at
    }
}

fn segment(kind: u32, (offset, length): (u64, u64)) -> Vec<u8> {
    let mut bytes = [kind.to_le_bytes(), 5_u32.to_le_bytes()].concat();
    for word in [offset, offset, offset, length, length, 8] {
        bytes.extend(word.to_le_bytes());
    }
    bytes
}
