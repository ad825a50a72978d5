//! What the kernel and the loader want to know of an ELF file, without reading all of it.

use std::collections::BTreeSet;

use elf::abi;
use elf::endian::AnyEndian;
use elf::file::{Class, FileHeader, parse_ident};
use elf::gnu_symver::{VerDefIterator, VerNeedIterator};
use elf::parse::{ParseAt, ParsingTable};
use elf::segment::ProgramHeader;

use super::root::RootError;
use super::window::{Defect, Stop, Window};

/// Largest dynamic section that is read, in bytes.
const MAX_DYNAMIC: u64 = 1 << 20;
/// Most libraries that one file may name.
const MAX_NEEDED: usize = 1024;
/// Longest string, in bytes; a path is the longest that makes sense.
const MAX_STRING: u64 = 4096;
/// Bytes of a version section that are read.
const MAX_VERSION_BYTES: usize = 32 << 10;
/// Most versions that one file may define or need.
const MAX_VERSIONS: usize = 1024;

/// What an ELF file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A program at a fixed address.
    Fixed,
    /// A program at any address, or a library.
    Shared,
    /// An object file, a core dump.
    Other,
}

/// A version of symbols that a file needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Requirement {
    /// Of which library.
    pub(super) library: Vec<u8>,
    /// Which version.
    pub(super) version: Vec<u8>,
    /// Whether the program runs without it.
    pub(super) weak: bool,
}

/// One ELF file.
#[derive(Debug)]
pub(super) struct Elf {
    /// The processor it is for.
    pub(super) machine: u16,
    /// Whether its addresses have 64 bits.
    pub(super) wide: bool,
    /// What it is for.
    pub(super) kind: Kind,
    /// The loader that it names.
    pub(super) interpreter: Option<Vec<u8>>,
    /// The libraries that it names.
    pub(super) needed: Vec<Vec<u8>>,
    /// `DT_RPATH`.
    pub(super) rpath: Option<Vec<u8>>,
    /// `DT_RUNPATH`.
    pub(super) runpath: Option<Vec<u8>>,
    /// `DT_SONAME`.
    pub(super) soname: Option<Vec<u8>>,
    /// The versions that it needs.
    pub(super) requires: Vec<Requirement>,
    /// The versions that it defines; `None` when it has no versions at all.
    pub(super) defines: Option<BTreeSet<Vec<u8>>>,
}

impl Elf {
    /// Bytes of memory that it takes, about.
    pub(super) fn bytes(&self) -> usize {
        let each = size_of::<Vec<u8>>();
        let texts = [&self.interpreter, &self.rpath, &self.runpath, &self.soname].into_iter().flatten();
        let lists = self.needed.iter().chain(self.defines.iter().flatten());
        let of = |required: &Requirement| 2 * each + required.library.len() + required.version.len();
        let required = self.requires.iter().map(of);
        let listed: usize = texts.chain(lists).map(|text| each + text.len()).sum();
        size_of::<Self>() + listed + required.sum::<usize>()
    }
}

/// Reads one file.
///
/// # Errors
/// [`RootError`]; what is wrong with the file itself is the inner error.
pub(super) fn read(file: &Window<'_>) -> Result<Result<Elf, Defect>, RootError> {
    match parse(file) {
        Ok(elf) => Ok(Ok(elf)),
        Err(Stop::Defect(defect)) => Ok(Err(defect)),
        Err(Stop::Root(error)) => Err(error),
    }
}

fn parse(file: &Window<'_>) -> Result<Elf, Stop> {
    let header = header(file)?;
    let kind = match header.e_type {
        abi::ET_EXEC => Kind::Fixed,
        abi::ET_DYN => Kind::Shared,
        _ => Kind::Other,
    };
    let mut elf = Elf {
        machine: header.e_machine,
        wide: header.class == Class::ELF64,
        kind,
        interpreter: None,
        needed: Vec::new(),
        rpath: None,
        runpath: None,
        soname: None,
        requires: Vec::new(),
        defines: None,
    };
    if kind == Kind::Other {
        return Ok(elf);
    }
    let segments = segments(file, &header)?;
    for segment in segments.iter().filter(|segment| segment.p_type == abi::PT_LOAD) {
        let end = segment.p_offset.checked_add(segment.p_filesz);
        if end.is_none_or(|end| end > file.size()) {
            return Err(cut("a segment"));
        }
    }
    let first = |kind| segments.iter().find(|segment| segment.p_type == kind);
    if let Some(segment) = first(abi::PT_INTERP) {
        elf.interpreter = Some(interpreter(file, segment)?);
    }
    if let Some(segment) = first(abi::PT_DYNAMIC) {
        let dynamic = Dynamic::read(file, &header, &segments, segment)?;
        dynamic.fill(&mut elf)?;
    }
    Ok(elf)
}

fn cut(part: &'static str) -> Stop {
    Stop::Defect(Defect::Cut(part))
}

fn header(file: &Window<'_>) -> Result<FileHeader<AnyEndian>, Stop> {
    let bytes = file.up_to(0, 64)?;
    if !bytes.starts_with(&abi::ELFMAGIC) {
        return Err(Stop::Defect(Defect::NoMagic));
    }
    let damaged = |_| cut("its header");
    let (ident, tail) = bytes.split_at_checked(abi::EI_NIDENT).ok_or_else(|| cut("its header"))?;
    let ident = parse_ident::<AnyEndian>(ident).map_err(damaged)?;
    FileHeader::parse_tail(ident, tail).map_err(damaged)
}

fn segments(file: &Window<'_>, header: &FileHeader<AnyEndian>) -> Result<Vec<ProgramHeader>, Stop> {
    let part = "its program headers";
    let entry = ProgramHeader::size_for(header.class);
    if header.e_phnum == 0 || usize::from(header.e_phentsize) != entry {
        return Err(cut(part));
    }
    let bytes = file.exactly(header.e_phoff, entry * usize::from(header.e_phnum), part)?;
    Ok(ParsingTable::new(header.endianness, header.class, &bytes).iter().collect())
}

fn interpreter(file: &Window<'_>, segment: &ProgramHeader) -> Result<Vec<u8>, Stop> {
    let part = "the name of its loader";
    if !(2..=MAX_STRING).contains(&segment.p_filesz) {
        return Err(cut(part));
    }
    let bytes = file.exactly(segment.p_offset, segment.p_filesz as usize, part)?;
    match bytes.iter().position(|byte| *byte == 0) {
        Some(end) if end > 0 => Ok(bytes[..end].to_vec()),
        _ => Err(cut(part)),
    }
}

/// The dynamic section, and where the rest of it is.
struct Dynamic<'a> {
    file: &'a Window<'a>,
    header: &'a FileHeader<AnyEndian>,
    segments: &'a [ProgramHeader],
    entries: Vec<(i64, u64)>,
}

impl<'a> Dynamic<'a> {
    fn read(
        file: &'a Window<'a>,
        header: &'a FileHeader<AnyEndian>,
        segments: &'a [ProgramHeader],
        segment: &ProgramHeader,
    ) -> Result<Self, Stop> {
        let part = "its dynamic section";
        if segment.p_filesz > MAX_DYNAMIC {
            return Err(Stop::Defect(Defect::TooLarge("entries in its dynamic section")));
        }
        let bytes = file.exactly(segment.p_offset, segment.p_filesz as usize, part)?;
        let table = ParsingTable::<_, elf::dynamic::Dyn>::new(header.endianness, header.class, &bytes);
        let entries: Vec<_> = table
            .iter()
            .map(|entry| (entry.d_tag, entry.d_val()))
            .take_while(|(tag, _)| *tag != abi::DT_NULL)
            .collect();
        if entries.iter().filter(|(tag, _)| *tag == abi::DT_NEEDED).count() > MAX_NEEDED {
            return Err(Stop::Defect(Defect::TooLarge("libraries that it needs")));
        }
        Ok(Self { file, header, segments, entries })
    }

    fn fill(&self, elf: &mut Elf) -> Result<(), Stop> {
        for (tag, value) in &self.entries {
            match *tag {
                abi::DT_NEEDED => elf.needed.push(self.string(*value)?),
                abi::DT_SONAME => elf.soname = Some(self.string(*value)?),
                abi::DT_RPATH => elf.rpath = Some(self.string(*value)?),
                abi::DT_RUNPATH => elf.runpath = Some(self.string(*value)?),
                _ => {}
            }
        }
        elf.requires = self.requirements()?;
        elf.defines = self.definitions()?;
        Ok(())
    }

    fn value(&self, wanted: i64) -> Option<u64> {
        self.entries.iter().rev().find(|(tag, _)| *tag == wanted).map(|(_, value)| *value)
    }

    /// Where in the file an address is.
    fn offset(&self, address: u64) -> Option<u64> {
        self.segments.iter().filter(|segment| segment.p_type == abi::PT_LOAD).find_map(|segment| {
            let within = address.checked_sub(segment.p_vaddr)?;
            (within < segment.p_filesz).then(|| segment.p_offset.checked_add(within))?
        })
    }

    fn string(&self, index: u64) -> Result<Vec<u8>, Stop> {
        let part = "its string table";
        let table = self.value(abi::DT_STRTAB).and_then(|address| self.offset(address));
        let size = self.value(abi::DT_STRSZ).unwrap_or(0);
        let (Some(table), true) = (table, index < size) else { return Err(cut(part)) };
        let start = table.checked_add(index).ok_or_else(|| cut(part))?;
        let length = (size - index).min(MAX_STRING);
        let mut bytes = self.file.up_to(start, length as usize)?;
        match bytes.iter().position(|byte| *byte == 0) {
            Some(end) => {
                bytes.truncate(end);
                Ok(bytes)
            }
            None if length == MAX_STRING => {
                Err(Stop::Defect(Defect::TooLarge("bytes in one of its strings")))
            }
            None => Err(cut(part)),
        }
    }

    /// The bytes of a version section and how many entries it has; `None` when there is none.
    fn versions(&self, address: i64, count: i64) -> Result<Option<(Vec<u8>, u64)>, Stop> {
        let part = "its versions of symbols";
        let (Some(address), Some(count)) = (self.value(address), self.value(count)) else { return Ok(None) };
        if count > MAX_VERSIONS as u64 {
            return Err(Stop::Defect(Defect::TooLarge("versions of symbols")));
        }
        let offset = self.offset(address).ok_or_else(|| cut(part))?;
        Ok(Some((self.file.up_to(offset, MAX_VERSION_BYTES)?, count)))
    }

    fn requirements(&self) -> Result<Vec<Requirement>, Stop> {
        let Some((bytes, count)) = self.versions(abi::DT_VERNEED, abi::DT_VERNEEDNUM)? else {
            return Ok(Vec::new());
        };
        let (endian, class) = (self.header.endianness, self.header.class);
        let mut found = Vec::new();
        let mut libraries = 0;
        for (needed, versions) in VerNeedIterator::new(endian, class, count, 0, &bytes) {
            libraries += 1;
            let library = self.string(needed.vn_file.into())?;
            let mut seen = 0;
            for version in versions {
                seen += 1;
                if found.len() == MAX_VERSIONS {
                    return Err(Stop::Defect(Defect::TooLarge("versions of symbols")));
                }
                found.push(Requirement {
                    library: library.clone(),
                    version: self.string(version.vna_name.into())?,
                    weak: version.vna_flags & abi::VER_FLG_WEAK != 0,
                });
            }
            if seen != needed.vn_cnt {
                return Err(cut("its versions of symbols"));
            }
        }
        if libraries == count { Ok(found) } else { Err(cut("its versions of symbols")) }
    }

    fn definitions(&self) -> Result<Option<BTreeSet<Vec<u8>>>, Stop> {
        let Some((bytes, count)) = self.versions(abi::DT_VERDEF, abi::DT_VERDEFNUM)? else { return Ok(None) };
        let (endian, class) = (self.header.endianness, self.header.class);
        let mut found = BTreeSet::new();
        let mut seen = 0;
        for (_, mut names) in VerDefIterator::new(endian, class, count, 0, &bytes) {
            seen += 1;
            // Behind its own name come those of the versions that it includes.
            let name = names.next().ok_or_else(|| cut("its versions of symbols"))?;
            found.insert(self.string(name.vda_name.into())?);
        }
        if seen == count { Ok(Some(found)) } else { Err(cut("its versions of symbols")) }
    }
}
