//! The directories in which loaders look for libraries.

use super::root::{FutureRoot, Node, Resolved, RootError, resolve};

/// Files of configuration that are read, and how deep they may include each other.
const MAX_FILES: usize = 256;
const MAX_DEPTH: usize = 8;
/// Bytes of one such file that are read.
const MAX_BYTES: usize = 64 << 10;
/// Directories that are searched for one library.
pub(super) const MAX_DIRECTORIES: usize = 512;

/// Whose loader it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Libc {
    /// The GNU C library, and every loader that is not known.
    Glibc,
    /// musl, whose loader is the C library itself.
    Musl,
}

impl Libc {
    /// Told from the name of the loader.
    pub(super) fn of(interpreter: &[u8]) -> Self {
        if base(interpreter).starts_with(b"ld-musl-") { Self::Musl } else { Self::Glibc }
    }

    /// What people call it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Glibc => "glibc",
            Self::Musl => "musl",
        }
    }

    /// Whether a library of this name belongs to the other C library.
    pub(super) fn is_foreign(self, library: &[u8]) -> bool {
        let name = base(library);
        match self {
            Self::Glibc => {
                name == b"libc.so" || name.starts_with(b"libc.musl-") || name.starts_with(b"ld-musl-")
            }
            Self::Musl => {
                let numbered = parts(name).is_some_and(|(stem, rest)| {
                    GLIBC_LIBRARIES.contains(&stem) && rest.first().is_some_and(u8::is_ascii_digit)
                });
                numbered || name.starts_with(b"ld-linux")
            }
        }
    }

    /// Whether this C library's loader brings a library of this name itself.
    pub(super) fn is_built_in(self, library: &[u8]) -> bool {
        let stem = library.strip_prefix(b"lib").and_then(|rest| rest.split(|byte| *byte == b'.').next());
        self == Self::Musl
            && stem.is_some_and(|stem| MUSL_BUILT_IN.contains(&stem))
            && library.contains(&b'.')
    }
}

const GLIBC_LIBRARIES: [&[u8]; 7] =
    [b"libc", b"libm", b"libpthread", b"librt", b"libdl", b"libutil", b"libresolv"];
const MUSL_BUILT_IN: [&[u8]; 7] = [b"c", b"pthread", b"rt", b"m", b"dl", b"util", b"xnet"];

/// `libc` and `6` of `libc.so.6`.
fn parts(name: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = name.windows(4).position(|window| window == b".so.")?;
    Some((&name[..at], &name[at + 4..]))
}

/// The last component of a path.
pub(super) fn base(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
}

/// The directories that glibc's loader searches last: what `ldconfig` would put into its cache from
/// `/etc/ld.so.conf`, then the built-in ones.
pub(super) fn glibc_directories(root: &dyn FutureRoot, machine: u16) -> Result<Vec<Vec<u8>>, RootError> {
    let mut configuration = Configuration { root, files: 0, directories: Vec::new() };
    configuration.file(b"/etc/ld.so.conf", 0)?;
    let mut directories = configuration.directories;
    let mut built_in = vec!["/lib64", "/usr/lib64", "/lib", "/usr/lib"];
    match machine {
        elf::abi::EM_X86_64 => built_in.extend(["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu"]),
        elf::abi::EM_AARCH64 => built_in.extend(["/lib/aarch64-linux-gnu", "/usr/lib/aarch64-linux-gnu"]),
        _ => {}
    }
    directories.extend(built_in.into_iter().map(|directory| directory.as_bytes().to_vec()));
    Ok(directories)
}

/// The directories that musl's loader searches last: those of `/etc/ld-musl-ARCH.path`, or built-in ones.
pub(super) fn musl_directories(root: &dyn FutureRoot, interpreter: &[u8]) -> Result<Vec<Vec<u8>>, RootError> {
    let name = base(interpreter);
    let stem = name.split(|byte| *byte == b'.').next().unwrap_or_default();
    let listed = text(root, &[b"/etc/", stem, b".path"].concat())?;
    let list = listed.as_deref().unwrap_or(b"/lib:/usr/local/lib:/usr/lib");
    let directories = list.split(|byte| matches!(byte, b':' | b'\n')).filter(|part| !part.is_empty());
    Ok(directories.take(MAX_DIRECTORIES).map(<[u8]>::to_vec).collect())
}

/// The start of a text file; `None` when it is not there.
fn text(root: &dyn FutureRoot, path: &[u8]) -> Result<Option<Vec<u8>>, RootError> {
    match resolve(root, path)? {
        Resolved::Found(path, Node::File { .. }) => root.read(&path, 0, MAX_BYTES).map(Some),
        _ => Ok(None),
    }
}

/// `/etc/ld.so.conf` and what it includes.
struct Configuration<'a> {
    root: &'a dyn FutureRoot,
    files: usize,
    directories: Vec<Vec<u8>>,
}

impl Configuration<'_> {
    fn file(&mut self, path: &[u8], depth: usize) -> Result<(), RootError> {
        self.files += 1;
        if depth > MAX_DEPTH || self.files > MAX_FILES {
            return Ok(());
        }
        let Some(text) = text(self.root, path)? else { return Ok(()) };
        for line in text.split(|byte| *byte == b'\n') {
            let line = line.split(|byte| *byte == b'#').next().unwrap_or_default().trim_ascii();
            match line.split_first_chunk() {
                Some((b"include", patterns)) if patterns.first().is_some_and(u8::is_ascii_whitespace) => {
                    for pattern in patterns.split(u8::is_ascii_whitespace).filter(|part| !part.is_empty()) {
                        self.include(path, pattern, depth)?;
                    }
                }
                _ => self.directories_of(line),
            }
        }
        Ok(())
    }

    fn directories_of(&mut self, line: &[u8]) {
        let separates = |byte: &u8| byte.is_ascii_whitespace() || matches!(byte, b':' | b',');
        for word in line.split(separates) {
            let directory = word.split(|byte| *byte == b'=').next().unwrap_or_default();
            if directory.starts_with(b"/") && self.directories.len() < MAX_DIRECTORIES {
                self.directories.push(directory.to_vec());
            }
        }
    }

    /// A relative pattern is meant from the including file.
    fn include(&mut self, from: &[u8], pattern: &[u8], depth: usize) -> Result<(), RootError> {
        let full = match pattern.starts_with(b"/") {
            true => pattern.to_vec(),
            false => [&from[..from.len() - base(from).len()], pattern].concat(),
        };
        let (directory, pattern) = full.split_at(full.len() - base(&full).len());
        let Resolved::Found(real, Node::Directory) = resolve(self.root, directory)? else { return Ok(()) };
        for name in self.root.list(&real)? {
            if !name.starts_with(b".") && matches(pattern, &name) {
                self.file(&[directory, &name].concat(), depth + 1)?;
            }
        }
        Ok(())
    }
}

/// Whether a name matches a pattern of `*` and `?`. Takes time in proportion to the product of the lengths.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut seen) = (0, 0);
    let mut star = None;
    while seen < name.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, seen));
                at += 1;
            }
            Some(byte) if *byte == b'?' || *byte == name[seen] => (at, seen) = (at + 1, seen + 1),
            _ => match star {
                Some((back, from)) => {
                    star = Some((back, from + 1));
                    (at, seen) = (back + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

/// The directories of a `DT_RPATH`, a `DT_RUNPATH` or an `LD_LIBRARY_PATH`, with what the loader puts in for
/// `$ORIGIN` (the directory of the file), `$LIB` and `$PLATFORM`.
pub(super) fn expand(list: &[u8], origin: &[u8], machine: u16) -> Vec<Vec<u8>> {
    let (platform, libraries): (&[u8], &[&[u8]]) = match machine {
        elf::abi::EM_X86_64 => (b"x86_64", &[b"lib64", b"lib/x86_64-linux-gnu", b"lib"]),
        elf::abi::EM_AARCH64 => (b"aarch64", &[b"lib64", b"lib/aarch64-linux-gnu", b"lib"]),
        _ => (b"", &[b"lib"]),
    };
    let mut directories = Vec::new();
    for part in list.split(|byte| *byte == b':').filter(|part| !part.is_empty()) {
        let part = replace(&replace(part, b"ORIGIN", origin), b"PLATFORM", platform);
        for library in libraries {
            let directory = replace(&part, b"LIB", library);
            // Without a $LIB all of them are the same.
            if directories.last() != Some(&directory) && directories.len() < MAX_DIRECTORIES {
                directories.push(directory);
            }
        }
    }
    directories
}

/// Puts `value` in for `$NAME` and `${NAME}`.
fn replace(text: &[u8], name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let braces = after.strip_prefix(b"{").and_then(|inner| inner.strip_prefix(name)?.strip_prefix(b"}"));
        match (*first == b'$').then(|| braces.or_else(|| after.strip_prefix(name))).flatten() {
            Some(behind) => {
                out.extend_from_slice(value);
                rest = behind;
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    // A long origin in a long list must not grow without end.
    out.truncate(crate::path::MAX_PATH + 1);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_other_c_library() {
        for name in ["libc.so.6", "libpthread.so.0", "ld-linux-x86-64.so.2", "libm.so.6"] {
            assert!(Libc::Musl.is_foreign(name.as_bytes()), "{name}");
            assert!(!Libc::Glibc.is_foreign(name.as_bytes()), "{name}");
        }
        for name in ["libc.musl-x86_64.so.1", "ld-musl-x86_64.so.1", "libc.so"] {
            assert!(Libc::Glibc.is_foreign(name.as_bytes()), "{name}");
            assert!(!Libc::Musl.is_foreign(name.as_bytes()), "{name}");
        }
        assert!(!Libc::Musl.is_foreign(b"libcrypto.so.3") && !Libc::Musl.is_built_in(b"libcrypto.so.3"));
        assert!(Libc::Musl.is_built_in(b"libc.musl-x86_64.so.1") && Libc::Musl.is_built_in(b"libc.so"));
        assert_eq!(Libc::of(b"/lib/ld-musl-x86_64.so.1"), Libc::Musl);
    }

    #[test]
    fn patterns() {
        for (pattern, name) in
            [("*.conf", "a.conf"), ("a?c", "abc"), ("*", "x"), ("*a*b*", "xaybz"), ("a", "a")]
        {
            assert!(matches(pattern.as_bytes(), name.as_bytes()), "{pattern} {name}");
        }
        for (pattern, name) in [("*.conf", "a.confx"), ("a?c", "ac"), ("", "x"), ("*a*b", "ba")] {
            assert!(!matches(pattern.as_bytes(), name.as_bytes()), "{pattern} {name}");
        }
        assert!(!matches(&b"*a".repeat(100), &b"a".repeat(90)));
    }

    #[test]
    fn what_the_loader_puts_in() {
        let expanded = |list: &str| expand(list.as_bytes(), b"/opt/app/bin", elf::abi::EM_X86_64);
        assert_eq!(expanded("$ORIGIN/../lib::/x"), [b"/opt/app/bin/../lib".to_vec(), b"/x".to_vec()]);
        assert_eq!(expanded("${ORIGIN}"), [b"/opt/app/bin".to_vec()]);
        assert_eq!(expanded("/usr/$LIB").len(), 3);
        assert_eq!(expanded("/p/$PLATFORM/$X"), [b"/p/x86_64/$X".to_vec()]);
    }
}
