//! Packages that must not be installed, each with the one reason that a node has to give.

use flist::rehearsal::{Code, Node, Subject};

use crate::forge::{Elf, GLIBC, MUSL, RELOCATABLE, SHARED, fixed, library, program};
use crate::memory::Memory;

const AARCH64: u16 = flist::rehearsal::machine::AARCH64;

struct Case {
    name: &'static str,
    make: fn(&mut Memory),
    code: Code,
}

const fn case(name: &'static str, code: Code, make: fn(&mut Memory)) -> Case {
    Case { name, make, code }
}

/// Ships `usr/bin/app` as a service.
fn app(root: &mut Memory, elf: &Elf) {
    root.elf("usr/bin/app", elf).service("/usr/bin/app");
}

fn script(root: &mut Memory, text: &str) {
    root.file("usr/bin/app", 0o755, text).service("/usr/bin/app");
}

/// The first `length` bytes of the program.
fn cut(root: &mut Memory, elf: &Elf, length: usize) {
    let bytes = elf.bytes();
    assert!(length < bytes.len());
    root.file("usr/bin/app", 0o755, &bytes[..length]).service("/usr/bin/app");
}

/// The program with some bytes changed.
fn patched(root: &mut Memory, elf: &Elf, at: usize, with: &[u8]) {
    let mut bytes = elf.bytes();
    bytes[at..at + with.len()].copy_from_slice(with);
    root.file("usr/bin/app", 0o755, bytes).service("/usr/bin/app");
}

const EXECUTABLES: &[Case] = &[
    case("the program is missing", Code::MissingExec, |root| {
        root.service("/usr/bin/app");
    }),
    case("the program is in no directory of PATH", Code::MissingExec, |root| {
        root.elf("opt/app", &fixed()).service("app -v");
    }),
    case("the oneshot is missing", Code::MissingExec, |root| {
        root.elf("usr/bin/app", &fixed()).service("/usr/bin/app").service("/usr/bin/prepare --once");
    }),
    case("the test is missing", Code::MissingExec, |root| {
        root.elf("usr/bin/app", &fixed()).service("/usr/bin/app").test("app-cli ping");
    }),
    case("the program is a dangling symlink", Code::MissingExec, |root| {
        root.link("usr/bin/app", "../lib/app/app").service("/usr/bin/app");
    }),
    case("a directory on the way is a file", Code::MissingExec, |root| {
        root.file("usr/bin/app", 0o755, "#!/bin/sh\n").service("/usr/bin/app/app");
    }),
    case("the program links to itself", Code::SymlinkLoop, |root| {
        root.link("usr/bin/app", "b").link("usr/bin/b", "app").service("/usr/bin/app");
    }),
    case("the program has no executable bit", Code::ExecNotExecutable, |root| {
        root.file("usr/bin/app", 0o644, fixed().bytes()).service("app");
    }),
    case("the program is a directory", Code::ExecNotExecutable, |root| {
        root.directory("usr/bin/app").service("/usr/bin/app");
    }),
    case("the program is a device", Code::ExecNotExecutable, |root| {
        root.put("usr/bin/app", Node::Other, Vec::new()).service("/usr/bin/app");
    }),
    case("the program is empty", Code::NotAnElf, |root| script(root, "")),
    case("the program is text without an interpreter", Code::NotAnElf, |root| script(root, "echo hi\n")),
    case("the program is an object file", Code::NotAProgram, |root| {
        app(root, &Elf { kind: RELOCATABLE, ..fixed() });
    }),
    case("the program is a library", Code::NotAProgram, |root| app(root, &library("app", &["libc.so.6"]))),
    case("the program is for another processor", Code::WrongArchitecture, |root| {
        app(root, &Elf { machine: AARCH64, ..program(&["libc.so.6"]) });
    }),
    case("a service for the 32-bit brother of the processor", Code::WrongArchitecture, |root| {
        app(root, &Elf { machine: 3, ..fixed() });
    }),
    case("a changed program is for another processor", Code::WrongArchitecture, |root| {
        root.elf("usr/bin/app", &Elf { machine: AARCH64, ..fixed() }).changed("usr/bin/app");
    }),
];

const DAMAGE: &[Case] = &[
    case("cut in the identification", Code::TruncatedElf, |root| cut(root, &fixed(), 10)),
    case("cut in the header", Code::TruncatedElf, |root| cut(root, &fixed(), 40)),
    case("cut in the program headers", Code::TruncatedElf, |root| cut(root, &program(&["libc.so.6"]), 150)),
    case("cut in what is loaded", Code::TruncatedElf, |root| {
        // The length in the file of the only segment.
        patched(root, &fixed(), 64 + 32, &1000_u64.to_le_bytes());
    }),
    case("cut in the dynamic section", Code::TruncatedElf, |root| {
        let length = program(&["libc.so.6"]).bytes().len();
        cut(root, &program(&["libc.so.6"]), length - 20);
    }),
    case("a changed library is cut", Code::TruncatedElf, |root| {
        let bytes = library("libx.so.1", &[]).bytes();
        root.file("usr/lib/libx.so.1", 0o644, &bytes[..bytes.len() - 8]).changed("usr/lib/libx.so.1");
    }),
    case("the library that is loaded is cut", Code::TruncatedElf, |root| {
        let bytes = library("libx.so.1", &[]).bytes();
        root.file("usr/lib/libx.so.1", 0o644, &bytes[..bytes.len() - 8]);
        app(root, &program(&["libx.so.1"]));
    }),
    case("no program headers", Code::TruncatedElf, |root| patched(root, &fixed(), 56, &[0, 0])),
    case("program headers of another size", Code::TruncatedElf, |root| patched(root, &fixed(), 54, &[7, 0])),
    case("a class that does not exist", Code::TruncatedElf, |root| patched(root, &fixed(), 4, &[9])),
    case("the name of the loader does not end", Code::TruncatedElf, |root| {
        let bytes = program(&[]).bytes();
        let end = bytes.windows(GLIBC.len()).position(|part| part == GLIBC.as_bytes()).unwrap() + GLIBC.len();
        patched(root, &program(&[]), end, b"x");
    }),
    case("the dynamic section points outside", Code::TruncatedElf, |root| {
        let elf = program(&["libc.so.6"]);
        // The first entry names a library at the end of the world.
        let at = elf.bytes().len() - 4 * 16 + 8;
        patched(root, &elf, at, &u64::MAX.to_le_bytes());
    }),
    case("the library is text for the linker", Code::NotAnElf, |root| {
        root.file("usr/lib/libx.so", 0o644, "INPUT(libx.so.1)\n");
        app(root, &program(&["libx.so"]));
    }),
];

const LIBRARIES: &[Case] = &[
    case("the loader is missing", Code::MissingInterpreter, |root| {
        root.remove("lib64/ld-linux-x86-64.so.2");
        app(root, &program(&["libc.so.6"]));
    }),
    case("the loader of musl is missing", Code::MissingInterpreter, |root| {
        app(root, &Elf { interpreter: Some(MUSL), ..program(&[]) });
    }),
    case("the loader has no executable bit", Code::InterpreterNotExecutable, |root| {
        root.file("lib64/ld-linux-x86-64.so.2", 0o644, fixed().bytes());
        app(root, &program(&[]));
    }),
    case("the loader is for another processor", Code::WrongArchitecture, |root| {
        root.elf("lib64/ld-linux-x86-64.so.2", &Elf { machine: AARCH64, ..library("l", &[]) });
        app(root, &program(&[]));
    }),
    case("a library is missing", Code::MissingLibrary, |root| {
        app(root, &program(&["libc.so.6", "librt.so.1"]));
    }),
    case("a library of a library is missing", Code::MissingLibrary, |root| {
        root.elf("usr/lib/liba.so.1", &library("liba.so.1", &["libb.so.1"]));
        root.elf("usr/lib/libb.so.1", &library("libb.so.1", &["libgone.so.1"]));
        app(root, &program(&["liba.so.1"]));
    }),
    case("a changed library needs a missing one", Code::MissingLibrary, |root| {
        root.elf("usr/lib/liba.so.1", &library("liba.so.1", &["libgone.so.1"])).changed("usr/lib/liba.so.1");
    }),
    case("a library is there for another processor only", Code::MissingLibrary, |root| {
        root.elf("usr/lib/libx.so.1", &Elf { machine: AARCH64, ..library("libx.so.1", &[]) });
        app(root, &program(&["libx.so.1"]));
    }),
    case("musl takes the first library, for whatever processor", Code::WrongArchitecture, |root| {
        root.elf("lib/ld-musl-x86_64.so.1", &library("libc.musl-x86_64.so.1", &[]));
        root.elf("lib/libx.so.1", &Elf { machine: AARCH64, ..library("libx.so.1", &[]) });
        root.elf("usr/lib/libx.so.1", &library("libx.so.1", &[]));
        app(root, &Elf { interpreter: Some(MUSL), ..program(&["libx.so.1"]) });
    }),
    case("the symlink of a library dangles", Code::MissingLibrary, |root| {
        root.link("usr/lib/libx.so.1", "libx.so.1.2.3");
        app(root, &program(&["libx.so.1"]));
    }),
    case("$ORIGIN leads elsewhere", Code::MissingLibrary, |root| {
        root.elf("opt/app/lib/libx.so.1", &library("libx.so.1", &[]));
        let runpath = Some("$ORIGIN/../libs");
        root.elf("opt/app/bin/app", &Elf { runpath, ..program(&["libx.so.1"]) }).service("/opt/app/bin/app");
    }),
    case("a RUNPATH does not count for the libraries of libraries", Code::MissingLibrary, |root| {
        root.elf("opt/lib/liba.so.1", &library("liba.so.1", &["libb.so.1"]));
        root.elf("opt/lib/libb.so.1", &library("libb.so.1", &[]));
        app(root, &Elf { runpath: Some("/opt/lib"), ..program(&["liba.so.1"]) });
    }),
    case("with a RUNPATH the RPATH does not count", Code::MissingLibrary, |root| {
        root.elf("opt/lib/liba.so.1", &library("liba.so.1", &[]));
        let elf = program(&["liba.so.1"]);
        app(root, &Elf { rpath: Some("/opt/lib"), runpath: Some("/nowhere"), ..elf });
    }),
    case(
        "for a library with a RUNPATH the RPATH of its program does not count",
        Code::MissingLibrary,
        |root| {
            let liba = library("liba.so.1", &["libb.so.1"]);
            root.elf("opt/lib/liba.so.1", &Elf { runpath: Some("/nowhere"), ..liba });
            root.elf("opt/lib/libb.so.1", &library("libb.so.1", &[]));
            app(root, &Elf { rpath: Some("/opt/lib"), ..program(&["liba.so.1"]) });
        },
    ),
    case("a directory of ld.so.conf that nothing includes", Code::MissingLibrary, |root| {
        root.file("etc/ld.so.conf", 0o644, "include /etc/ld.so.conf.d/*.conf\n");
        root.file("etc/ld.so.conf.d/app.conf.off", 0o644, "/opt/lib\n");
        root.elf("opt/lib/libx.so.1", &library("libx.so.1", &[]));
        app(root, &program(&["libx.so.1"]));
    }),
    case("the path file of musl replaces its directories", Code::MissingLibrary, |root| {
        root.elf("lib/ld-musl-x86_64.so.1", &library("libc.musl-x86_64.so.1", &[]));
        root.file("etc/ld-musl-x86_64.path", 0o644, "/opt/lib\n");
        root.elf("usr/lib/libx.so.1", &library("libx.so.1", &[]));
        app(root, &Elf { interpreter: Some(MUSL), ..program(&["libx.so.1"]) });
    }),
    case("glibc is too old", Code::MissingVersion, |root| {
        app(root, &Elf { requires: vec![("libc.so.6", "GLIBC_2.38")], ..program(&["libc.so.6"]) });
    }),
    case("a library needs a newer glibc", Code::MissingVersion, |root| {
        let requires = vec![("libc.so.6", "GLIBC_2.2.5"), ("libc.so.6", "GLIBC_2.38")];
        root.elf("usr/lib/libx.so.1", &Elf { requires, ..library("libx.so.1", &["libc.so.6"]) });
        app(root, &program(&["libx.so.1", "libc.so.6"]));
    }),
    case("a program of musl needs glibc", Code::LibcMix, |root| {
        root.elf("lib/ld-musl-x86_64.so.1", &library("libc.musl-x86_64.so.1", &[]));
        app(root, &Elf { interpreter: Some(MUSL), ..program(&["libc.so.6"]) });
    }),
    case("a library of a program of musl needs glibc", Code::LibcMix, |root| {
        root.elf("lib/ld-musl-x86_64.so.1", &library("libc.musl-x86_64.so.1", &[]));
        root.elf("usr/lib/libx.so.1", &library("libx.so.1", &["libm.so.6"]));
        app(root, &Elf { interpreter: Some(MUSL), ..program(&["libx.so.1"]) });
    }),
    case("a program of glibc needs musl", Code::LibcMix, |root| {
        app(root, &program(&["libc.musl-x86_64.so.1"]));
    }),
];

const SCRIPTS: &[Case] = &[
    case("the interpreter is missing", Code::MissingShebangInterpreter, |root| {
        script(root, "#!/usr/bin/python3\n");
    }),
    case("env does not find the program", Code::MissingShebangInterpreter, |root| {
        script(root, "#!/usr/bin/env python3\n");
    }),
    case("env gets two words as one", Code::MissingShebangInterpreter, |root| {
        script(root, "#!/usr/bin/env sh -e\n");
    }),
    case("env is missing", Code::MissingShebangInterpreter, |root| {
        root.remove("usr/bin/env");
        script(root, "#!/usr/bin/env sh\n");
    }),
    case("a changed script has no interpreter", Code::MissingShebangInterpreter, |root| {
        root.file("usr/bin/x", 0o755, "#!/bin/bash\n").changed("usr/bin/x");
    }),
    case("the interpreter has no executable bit", Code::InterpreterNotExecutable, |root| {
        root.file("usr/bin/lua", 0o644, fixed().bytes());
        script(root, "#!/usr/bin/lua\n");
    }),
    case("the interpreter lacks a library", Code::MissingLibrary, |root| {
        root.elf("usr/bin/lua", &program(&["liblua.so.5"]));
        script(root, "#!/usr/bin/lua\n");
    }),
    case("lines end with CR LF", Code::BadShebang, |root| script(root, "#!/bin/sh\r\necho\r\n")),
    case("the line names nothing", Code::BadShebang, |root| script(root, "#!\n")),
    case("the line is too long", Code::BadShebang, |root| script(root, &format!("#!/{}\n", "x".repeat(300)))),
    case("scripts interpret each other", Code::BadShebang, |root| {
        root.file("usr/bin/a", 0o755, "#!/usr/bin/app\n");
        script(root, "#!/usr/bin/a\n");
    }),
    case("six scripts interpret each other", Code::BadShebang, |root| {
        script(root, "#!/bin/1\n");
        for n in 1..5 {
            root.file(&format!("bin/{n}"), 0o755, format!("#!/bin/{}\n", n + 1));
        }
        root.file("bin/5", 0o755, "#!/bin/sh\n");
    }),
    case("the interpreter links to itself", Code::SymlinkLoop, |root| {
        root.link("usr/bin/lua", "lua");
        script(root, "#!/usr/bin/lua\n");
    }),
];

#[test]
fn every_broken_package_has_its_reason() {
    let cases = [EXECUTABLES, DAMAGE, LIBRARIES, SCRIPTS].concat_all();
    assert!(cases.len() >= 50);
    let mut wrong = Vec::new();
    for Case { name, make, code } in cases {
        let mut root = Memory::node();
        make(&mut root);
        let findings = root.findings();
        if root.codes() != [*code] {
            wrong.push(format!("{name}: expected {code}, found {findings:#?}"));
        }
        for finding in findings {
            let line = finding.to_string();
            assert!(!line.contains('\n') && line.starts_with(&format!("{code}: ")), "{line}");
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

trait ConcatAll {
    fn concat_all(&self) -> Vec<&'static Case>;
}

impl ConcatAll for [&'static [Case]; 4] {
    fn concat_all(&self) -> Vec<&'static Case> {
        self.iter().flat_map(|cases| cases.iter()).collect()
    }
}

#[test]
fn the_chain_leads_from_the_library_to_the_service() {
    let mut root = Memory::node();
    root.elf("usr/lib/liba.so.1", &library("liba.so.1", &["libb.so.1"]));
    root.elf("usr/lib/libb.so.1", &library("libb.so.1", &["libgone.so.1"]));
    app(&mut root, &program(&["liba.so.1"]));
    let [finding] = &root.findings()[..] else { panic!("{:?}", root.findings()) };
    assert_eq!(finding.subject, Subject::Path("usr/lib/libb.so.1".parse().unwrap()));
    let chain: Vec<_> = finding.needed_by.iter().map(ToString::to_string).collect();
    assert_eq!(chain, ["/usr/lib/liba.so.1", "/usr/bin/app", "unit app"]);
    assert!(finding.message.contains("libgone.so.1"), "{finding}");
}

#[test]
fn what_is_broken_already_can_be_subtracted() {
    let mut before = Memory::node();
    app(&mut before, &program(&["libgone.so.1"]));
    let mut after = before.clone();
    after.elf("usr/bin/other", &program(&["libgone.so.1"])).service("/usr/bin/other");
    let known = before.findings();
    let new: Vec<_> = after.findings().into_iter().filter(|finding| !known.contains(finding)).collect();
    let [new] = &new[..] else { panic!("{new:?}") };
    assert_eq!(new.subject.to_string(), "/usr/bin/other");
    assert_eq!(after.findings(), after.clone().findings(), "the same every time");
    assert!(after.findings().is_sorted());
}

#[test]
fn a_program_of_shared_type_with_interpreter_is_no_library() {
    let mut root = Memory::node();
    root.elf("usr/lib/libapp.so", &Elf { kind: SHARED, ..program(&["libgone.so"]) })
        .changed("usr/lib/libapp.so");
    assert_eq!(root.codes(), [Code::MissingLibrary]);
}
