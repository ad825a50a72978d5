//! Whatever bytes there are: no panic, and no work without end.

use flist::rehearsal::{Code, Node};

use crate::forge::{Elf, fixed, library, program};
use crate::memory::Memory;

/// SplitMix64: the same bytes every time, and a failing seed can be run alone.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

fn sound() -> [Elf; 3] {
    let requires = vec![("libx.so.1", "X_1"), ("libc.so.6", "GLIBC_2.34")];
    let rich = Elf { requires, runpath: Some("$ORIGIN/../lib"), ..program(&["libx.so.1", "libc.so.6"]) };
    [rich, Elf { defines: vec!["X_1", "X_2"], ..library("libx.so.1", &["libc.so.6"]) }, fixed()]
}

/// Bytes that are nearly, or not at all, an ELF file or a script.
fn mutated(random: &mut Random) -> Vec<u8> {
    let mut bytes = sound()[random.below(3)].bytes();
    match random.below(8) {
        0 => bytes.truncate(random.below(bytes.len())),
        1 => bytes = (0..random.below(600)).map(|_| random.next() as u8).collect(),
        2 => bytes = [b"#!".to_vec(), (0..random.below(300)).map(|_| random.next() as u8).collect()].concat(),
        _ => {}
    }
    for _ in 0..random.below(6) {
        if bytes.len() < 8 {
            break;
        }
        let at = random.below(bytes.len() - 7);
        let word = match random.below(4) {
            0 => u64::MAX,
            1 => 1 << random.below(64),
            2 => random.below(4096) as u64,
            _ => random.next(),
        };
        let length = [1, 2, 4, 8][random.below(4)];
        bytes[at..at + length].copy_from_slice(&word.to_le_bytes()[..length]);
    }
    bytes
}

#[test]
fn any_bytes_are_looked_at_with_bounded_work() {
    for seed in 0..8_000 {
        let mut random = Random(seed);
        let mut root = Memory::node();
        root.file("usr/bin/app", 0o755, mutated(&mut random)).service("/usr/bin/app").changed("usr/bin/app");
        root.file("usr/lib/libx.so.1", 0o755, mutated(&mut random)).changed("usr/lib/libx.so.1");
        root.file("etc/ld.so.conf", 0o644, mutated(&mut random));
        let findings = root.findings();
        assert!(findings.len() < 64, "seed {seed}: {} findings", findings.len());
        assert!(root.bytes_read.get() < 1 << 20, "seed {seed}: {} bytes read", root.bytes_read.get());
        assert!(
            findings.iter().all(|finding| !finding.to_string().contains(char::is_control)),
            "seed {seed}"
        );
    }
}

#[test]
fn a_large_program_is_not_read_whole() {
    let mut root = Memory::node();
    let mut bytes = sound()[0].bytes();
    bytes.resize(64 << 20, 0);
    root.file("usr/bin/app", 0o755, bytes).service("/usr/bin/app");
    root.elf("usr/lib/libx.so.1", &sound()[1]);
    assert_eq!(root.findings(), []);
    assert!(root.bytes_read.get() < 256 << 10, "{} bytes read", root.bytes_read.get());
}

#[test]
fn too_much_is_said_and_not_done() {
    let mut many = Memory::node();
    many.elf("usr/bin/app", &program(&["libx.so.1"; 2000])).service("/usr/bin/app");
    assert_eq!(many.codes(), [Code::TooLarge]);

    // A chain of libraries that never ends.
    let mut deep = Memory::node();
    let names: Vec<&'static str> = (0..1100).map(|n| &*format!("lib{n}.so").leak()).collect();
    for pair in names.windows(2) {
        deep.elf(&format!("usr/lib/{}", pair[0]), &library(pair[0], &[pair[1]]));
    }
    deep.elf("usr/bin/app", &program(&names[..1])).service("/usr/bin/app");
    assert_eq!(deep.codes(), [Code::TooLarge]);

    // Many libraries that are looked for in many places.
    let mut wide = Memory::node();
    let paths = (0..500).map(|n| format!("/{n}")).collect::<Vec<_>>().join(":").leak();
    let needed = (0..1000).map(|n| &*format!("lib{n}").leak()).collect();
    let app = Elf { rpath: Some(paths), needed, ..program(&[]) };
    wide.elf("usr/bin/app", &app).service("/usr/bin/app");
    assert!(wide.codes().contains(&Code::TooLarge), "{:?}", wide.codes());
}

#[test]
fn configuration_that_includes_itself_ends() {
    let mut root = Memory::node();
    root.file("etc/ld.so.conf", 0o644, "include ld.so.conf\ninclude *\n".repeat(100));
    root.elf("usr/bin/app", &program(&["libc.so.6"])).service("/usr/bin/app");
    assert_eq!(root.findings(), []);
    assert!(root.bytes_read.get() < 64 << 20);
}

#[test]
fn a_root_that_cannot_be_read_is_an_error_and_no_finding() {
    let mut root = Memory::node();
    root.put("usr/bin/app", Node::File { size: 5000, mode: 0o755 }, Vec::new());
    root.service("/usr/bin/app");
    // The file ends early, as one that somebody truncates meanwhile.
    assert_eq!(root.codes(), [Code::NotAnElf]);

    struct Broken;
    impl flist::rehearsal::FutureRoot for Broken {
        fn look(&self, path: &flist::path::FlistPath) -> Result<Option<Node>, flist::rehearsal::RootError> {
            let path = path.clone();
            Err(flist::rehearsal::RootError { action: "look at", path, source: "no such disk".into() })
        }
        fn read(
            &self,
            _: &flist::path::FlistPath,
            _: u64,
            _: usize,
        ) -> Result<Vec<u8>, flist::rehearsal::RootError> {
            Ok(Vec::new())
        }
        fn list(&self, _: &flist::path::FlistPath) -> Result<Vec<Vec<u8>>, flist::rehearsal::RootError> {
            Ok(Vec::new())
        }
    }
    let services = root.services.clone();
    let facts = flist::rehearsal::Facts { services: &services, changed: &[], machine: 62 };
    let error = flist::rehearsal::rehearse(&Broken, &facts).unwrap_err();
    assert_eq!(flist::report(&error), "cannot look at 'usr' of the root that is rehearsed: no such disk");
}
