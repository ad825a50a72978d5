//! Packages that run: nothing may be found.

use flist::rehearsal::Facts;
use flist::rehearsal::{machine, rehearse};

use crate::forge::{Elf, MUSL, RELOCATABLE, SHARED, fixed, library, program};
use crate::memory::Memory;

fn app(root: &mut Memory, elf: &Elf) {
    root.elf("usr/bin/app", elf).service("/usr/bin/app").changed("usr/bin/app");
}

fn musl(root: &mut Memory) {
    root.elf("lib/ld-musl-x86_64.so.1", &library("libc.musl-x86_64.so.1", &[]));
}

type Case = (&'static str, fn(&mut Memory));

const PROGRAMS: &[Case] = &[
    ("a static program", |root| app(root, &fixed())),
    ("a static program at any address", |root| app(root, &Elf { kind: SHARED, ..fixed() })),
    ("a program with its closure", |root| {
        root.elf("usr/lib/liba.so.1", &library("liba.so.1", &["libb.so.1", "libc.so.6"]));
        root.elf("lib/libb.so.1", &library("libb.so.1", &["liba.so.1"]));
        app(root, &program(&["liba.so.1", "libc.so.6"]));
    }),
    ("a program found in PATH", |root| {
        root.file("usr/local/bin/app", 0o644, "notes").elf("usr/sbin/app", &fixed()).service("app --now");
    }),
    ("an applet of busybox", |root| {
        root.elf("bin/busybox", &fixed()).link("usr/bin/wget", "../../bin/busybox").service("wget -q -O - x");
    }),
    ("everything in usr", |root| {
        root.elf("usr/bin/busybox", &fixed()).remove("bin/sh").remove("bin");
        root.link("bin", "usr/bin").link("usr/bin/sh", "/bin/busybox").service("/bin/sh -c x");
    }),
    ("symlinks that leave the root stay inside", |root| {
        root.elf("opt/app", &fixed()).link("usr/bin/app", "../../../../../opt/./app").service("/usr/bin/app");
    }),
    ("a program relative to its directory", |root| {
        root.elf("opt/app/run", &fixed()).service("bin/../run");
        root.directory("opt/app/bin");
        root.services[0].directory = Some("/opt/app".to_owned());
    }),
    ("a PATH of its own", |root| {
        root.elf("opt/bin/app", &fixed()).service("app");
        root.services[0].path = Some("/nowhere:/opt/bin".to_owned());
    }),
    ("a program for the 32-bit brother of the processor", |root| {
        root.elf("usr/bin/app", &Elf { machine: 3, ..program(&[]) }).changed("usr/bin/app");
    }),
    ("data and object files with an executable bit", |root| {
        root.file("usr/share/notes", 0o755, "notes").changed("usr/share/notes");
        root.elf("usr/lib/x.o", &Elf { kind: RELOCATABLE, ..fixed() }).changed("usr/lib/x.o");
        root.file("usr/share/empty", 0o755, "").changed("usr/share/empty");
    }),
];

const LIBRARIES: &[Case] = &[
    ("$ORIGIN", |root| {
        root.elf("opt/app/lib/libx.so.1", &library("libx.so.1", &[]));
        let runpath = Some("/nowhere:${ORIGIN}/../lib");
        root.elf("opt/app/bin/app", &Elf { runpath, ..program(&["libx.so.1"]) });
        root.link("usr/bin/app", "/opt/app/bin/app").service("app");
    }),
    ("$ORIGIN in the name of a library", |root| {
        root.elf("opt/app/lib/libx.so.1", &library("libx.so.1", &[]));
        root.elf("opt/app/bin/app", &program(&["$ORIGIN/../lib/libx.so.1"])).service("/opt/app/bin/app");
    }),
    ("$LIB", |root| {
        root.elf("opt/lib/x86_64-linux-gnu/libx.so.1", &library("libx.so.1", &[]));
        app(root, &Elf { runpath: Some("/opt/$LIB"), ..program(&["libx.so.1"]) });
    }),
    ("an RPATH counts for the libraries of libraries", |root| {
        root.elf("opt/lib/liba.so.1", &library("liba.so.1", &["libb.so.1"]));
        root.elf("opt/lib/libb.so.1", &library("libb.so.1", &[]));
        app(root, &Elf { rpath: Some("/opt/lib"), ..program(&["liba.so.1"]) });
    }),
    ("a library is in memory by its soname", |root| {
        root.elf("opt/a/liba.so", &library("liba.so.1", &[]));
        root.elf("usr/lib/libb.so.1", &library("libb.so.1", &["liba.so.1"]));
        app(root, &program(&["/opt/a/liba.so", "libb.so.1"]));
    }),
    ("ld.so.conf and what it includes", |root| {
        root.file("etc/ld.so.conf", 0o644, "# ours\ninclude ld.so.conf.d/*.conf\n");
        root.file("etc/ld.so.conf.d/app.conf", 0o644, "/opt/lib # here\n");
        root.elf("opt/lib/libx.so.1", &library("libx.so.1", &[]));
        app(root, &program(&["libx.so.1"]));
    }),
    ("LD_LIBRARY_PATH", |root| {
        root.elf("opt/lib/libx.so.1", &library("libx.so.1", &[]));
        root.elf("usr/bin/app", &program(&["libx.so.1"])).service("app");
        root.services[0].library_path = Some("/opt/lib".to_owned());
    }),
    ("a library of another processor is passed over", |root| {
        let other = Elf { machine: machine::AARCH64, ..library("libx.so.1", &[]) };
        root.elf("lib64/libx.so.1", &other).changed("lib64/libx.so.1");
        root.elf("usr/lib/libx.so.1", &library("libx.so.1", &[]));
        app(root, &program(&["libx.so.1"]));
    }),
    ("versions that are there", |root| {
        let requires = vec![("libc.so.6", "GLIBC_2.2.5"), ("libc.so.6", "GLIBC_2.34")];
        app(root, &Elf { requires, ..program(&["libc.so.6"]) });
    }),
    ("a library without versions", |root| {
        root.elf("usr/lib/libx.so.1", &library("libx.so.1", &[]));
        app(root, &Elf { requires: vec![("libx.so.1", "X_1")], ..program(&["libx.so.1"]) });
    }),
    ("a program of musl", |root| {
        musl(root);
        root.elf("usr/lib/libx.so.1", &library("libx.so.1", &["libc.musl-x86_64.so.1"]));
        let needed = ["libx.so.1", "libc.musl-x86_64.so.1", "libpthread.so"];
        app(root, &Elf { interpreter: Some(MUSL), ..program(&needed) });
    }),
    ("the path file of musl", |root| {
        musl(root);
        root.file("etc/ld-musl-x86_64.path", 0o644, "/opt/lib:/x\n")
            .elf("opt/lib/libx.so.1", &library("x", &[]));
        app(root, &Elf { interpreter: Some(MUSL), ..program(&["libx.so.1"]) });
    }),
    ("a plugin whose program has the library already", |root| {
        root.elf("usr/lib/app/libcore.so", &library("libcore.so", &[])).changed("usr/lib/app/libcore.so");
        root.elf("usr/lib/app/plugins/p.so", &library("p.so", &["libcore.so"]));
        root.changed("usr/lib/app/plugins/p.so");
    }),
    ("debug information, text for the linker", |root| {
        let bytes = library("libx.so.1", &[]).bytes();
        root.file("usr/lib/debug/usr/lib/libx.so.1", 0o644, &bytes[..bytes.len() - 8]);
        root.file("usr/lib/libc.so", 0o644, "GROUP(libc.so.6)");
        root.changed("usr/lib/debug/usr/lib/libx.so.1").changed("usr/lib/libc.so");
    }),
];

const SCRIPTS: &[Case] = &[
    ("a script", |root| {
        root.file("usr/bin/app", 0o755, "#! /bin/sh -e\n").service("/usr/bin/app").changed("usr/bin/app");
    }),
    ("a script by env", |root| {
        root.file("usr/bin/app", 0o755, "#!/usr/bin/env sh\n").service("app");
    }),
    ("a script by env with words", |root| {
        root.file("usr/bin/app", 0o755, "#!/usr/bin/env -S A=b sh -e\n").service("app");
    }),
    ("five scripts, as many as the kernel follows", |root| {
        root.service("/bin/1");
        for n in 1..5 {
            root.file(&format!("bin/{n}"), 0o755, format!("#!/bin/{}\n", n + 1));
        }
        root.file("bin/5", 0o755, "#!/bin/sh\n");
    }),
    ("a script of a script", |root| {
        root.file("usr/bin/run", 0o755, "#!/bin/sh\n").file("usr/bin/app", 0o755, "#!/usr/bin/run\n");
        root.service("app");
    }),
];

#[test]
fn nothing_is_found_in_what_runs() {
    let cases: Vec<_> = [PROGRAMS, LIBRARIES, SCRIPTS].into_iter().flatten().collect();
    assert!(cases.len() >= 20);
    let mut wrong = Vec::new();
    for (name, make) in cases {
        let mut root = Memory::node();
        make(&mut root);
        let findings = root.findings();
        if !findings.is_empty() {
            wrong.push(format!("{name}: {findings:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_other_processor() {
    let mut root = Memory::default();
    root.elf("bin/app", &Elf { machine: machine::AARCH64, ..fixed() }).service("/bin/app");
    let facts = Facts { services: &root.services, changed: &root.changed, machine: machine::AARCH64 };
    assert_eq!(rehearse(&root, &facts).unwrap(), []);
}
