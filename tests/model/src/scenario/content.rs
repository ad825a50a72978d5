//! The scenarios, and what is in their files.

use flist::rehearsal::machine;

use super::{Act, FileSpec, Scenario, Stopped};

/// Stands for a program that this machine can run.
const PROGRAM: &str = "(a program)";

/// What a file holds. A program is an ELF header with nothing behind it: a static program that is never run.
pub(super) fn bytes_of(text: &str) -> Vec<u8> {
    if text != PROGRAM {
        return text.as_bytes().to_vec();
    }
    let machine = if cfg!(target_arch = "aarch64") { machine::AARCH64 } else { machine::X86_64 };
    let mut header = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0".to_vec();
    header.extend(machine.to_le_bytes());
    header.extend(1_u32.to_le_bytes());
    header.resize(32, 0);
    // Where the program headers are, sizes of this header and of the tables' entries, one program header that
    // loads nothing (elf(5)).
    header.extend(64_u64.to_le_bytes());
    header.resize(52, 0);
    header.extend([64, 0, 56, 0, 1, 0, 64, 0, 0, 0, 0, 0, 1]);
    header.resize(64 + 56, 0);
    header
}

/// The scenario in which somebody has changed configuration and a unit that the release changes too.
pub const CONFLICT: &str = "/etc conflict";

const WEB: &str = "exec: /bin/web\n";
const DB: &str = "exec: /bin/db\n";

fn small() -> Vec<FileSpec> {
    vec![
        ("bin/web", 0o755, "#!/bin/sh\nweb 1"),
        ("bin/db", 0o755, "#!/bin/sh\ndb 1"),
        ("bin/helper", 0o4755, "set-uid 1"),
        ("etc/web.conf", 0o644, "port 1"),
        ("etc/zinit/web.yaml", 0o644, "exec: /bin/web\nafter: [db]\n"),
        ("etc/zinit/db.yaml", 0o644, DB),
        ("lib/libx.so", 0o644, "-> libx.so.1"),
        ("lib/libx.so.1", 0o644, "x 1"),
    ]
}

fn small_but(changes: &[FileSpec]) -> Vec<FileSpec> {
    let mut files = small();
    for change in changes {
        files.retain(|file| file.0 != change.0);
        files.push(*change);
    }
    files.sort_by_key(|file| file.0);
    files
}

fn without(mut files: Vec<FileSpec>, paths: &[&str]) -> Vec<FileSpec> {
    files.retain(|file| !paths.contains(&file.0));
    files
}

const FIRST: &str = "\
hooks:
  - {name: old, when: before-start, run: [/lib/web/old], undo: [/lib/web/old-back]}
state: {schema: 1, paths: [/srv/web], services: [web]}
";

const SECOND: &str = "\
hooks:
  - {name: before, when: before-swap, run: [/lib/web/before], undo: [/lib/web/before-back]}
  - {name: cache, when: before-start, run: [/lib/web/cache], undo: [/lib/web/cache-back]}
  - {name: after, when: after-start, run: [/lib/web/after], undo: [/lib/web/after-back]}
state:
  schema: 2
  paths: [/srv/web]
  services: [web]
  migrations: [{to: 2, run: [/lib/web/up], undo: [/lib/web/down]}]
";

const PACKAGE: &str = "usr/lib/molt/packages/web.yaml";

/// State that somebody has.
fn state() -> Vec<FileSpec> {
    vec![("srv/web/data", 0o600, "layout 1"), ("srv/web/deep/more", 0o640, "more")]
}

/// A release with a hook and state of the first layout.
fn first() -> Vec<FileSpec> {
    with(
        small(),
        &[
            (PACKAGE, 0o644, FIRST),
            ("lib/web/old", 0o755, "#!/bin/sh\nset /tmp/made-old 1\n"),
            ("lib/web/old-back", 0o755, "#!/bin/sh\ndel /tmp/made-old\n"),
        ],
    )
}

/// One that drops that hook, has others, and the second layout.
fn second() -> Vec<FileSpec> {
    with(
        small(),
        &[
            (PACKAGE, 0o644, SECOND),
            ("bin/web", 0o755, "#!/bin/sh\nweb 2"),
            ("lib/web/before", 0o755, "#!/bin/sh\nset /tmp/made-before 2\n"),
            ("lib/web/before-back", 0o755, "#!/bin/sh\ndel /tmp/made-before\n"),
            ("lib/web/cache", 0o755, "#!/bin/sh\nset /tmp/made-cache 2\n"),
            ("lib/web/cache-back", 0o755, "#!/bin/sh\ndel /tmp/made-cache\n"),
            ("lib/web/after", 0o755, "#!/bin/sh\nset /tmp/made-after 2\n"),
            ("lib/web/after-back", 0o755, "#!/bin/sh\ndel /tmp/made-after\n"),
            ("lib/web/up", 0o755, "#!/bin/sh\nset /srv/web/data layout 2\nset /srv/web/new made\n"),
            ("lib/web/down", 0o755, "#!/bin/sh\nset /srv/web/data layout 1\ndel /srv/web/new\n"),
        ],
    )
}

fn with(mut files: Vec<FileSpec>, changes: &[FileSpec]) -> Vec<FileSpec> {
    for change in changes {
        files.retain(|file| file.0 != change.0);
        files.push(*change);
    }
    files.sort_by_key(|file| file.0);
    files
}

/// An upgrade from a small release to one that differs in these files.
pub fn upgrade_with(changes: &[FileSpec]) -> Scenario {
    Scenario {
        name: "upgrade",
        act: Act::Upgrade,
        base: vec![("bin/sh", 0o755, PROGRAM)],
        installed: Some(small()),
        edited: Vec::new(),
        release: small_but(changes),
        no_exchange: false,
        overlay: false,
        in_ram: false,
        stopped: None,
    }
}

/// A base image, and what is installed into it.
fn scenario(
    name: &'static str,
    act: Act,
    installed: Option<Vec<FileSpec>>,
    release: Vec<FileSpec>,
) -> Scenario {
    Scenario {
        name,
        act,
        base: base(),
        installed,
        edited: Vec::new(),
        release,
        no_exchange: false,
        overlay: false,
        in_ram: false,
        stopped: None,
    }
}

fn base() -> Vec<FileSpec> {
    vec![("bin/sh", 0o755, PROGRAM), ("etc/hosts", 0o644, "localhost"), ("tmp/keep", 0o600, "k")]
}

/// Those of packages with hooks and state.
fn with_packages() -> Vec<Scenario> {
    vec![
        Scenario {
            edited: state(),
            ..scenario("hooks and a migration", Act::Upgrade, Some(first()), second())
        },
        Scenario {
            edited: state(),
            no_exchange: true,
            ..scenario("a migration without exchange", Act::Upgrade, Some(first()), second())
        },
        Scenario { edited: state(), ..scenario("a migration back", Act::Revert, Some(first()), second()) },
        Scenario {
            edited: state(),
            ..scenario("recovery of a migration", Act::Recover, Some(first()), second())
        },
        Scenario {
            edited: state(),
            ..scenario(
                "a hook that fails",
                Act::Upgrade,
                Some(first()),
                with(second(), &[("lib/web/after", 0o755, "#!/bin/sh\nset /tmp/made-after 2\nexits\n")]),
            )
        },
        scenario("first boot with hooks", Act::Boot, None, second()),
    ]
}

/// All scenarios.
pub fn all() -> Vec<Scenario> {
    [plain(), of_services(), with_one_stopped(), of_identityd(), elsewhere(), with_packages()].concat()
}

fn upgrade(name: &'static str, release: Vec<FileSpec>) -> Scenario {
    scenario(name, Act::Upgrade, Some(small()), release)
}

/// The small release with another program and another library.
fn changed() -> Vec<FileSpec> {
    small_but(&[
        ("bin/web", 0o755, "#!/bin/sh\nweb 2"),
        ("lib/libx.so", 0o644, "-> libx.so.2"),
        ("lib/libx.so.2", 0o644, "x 2"),
    ])
}

/// What every node goes through.
fn plain() -> Vec<Scenario> {
    vec![
        scenario("first boot", Act::Boot, None, small()),
        upgrade("small upgrade", changed()),
        scenario("rollback", Act::Revert, Some(small()), changed()),
        scenario("gc", Act::Collect, Some(small()), changed()),
        scenario("recovery", Act::Recover, Some(small()), changed()),
        upgrade(
            "directories come and go",
            without(
                small_but(&[("opt/a/b/c", 0o644, "deep"), ("opt/a/d", 0o755, "-> b")]),
                &["lib/libx.so", "lib/libx.so.1"],
            ),
        ),
    ]
}

/// Services and their units come, go, change, and do not come up.
fn of_services() -> Vec<Scenario> {
    let edited_unit = ("etc/zinit/db.yaml", 0o644, "exec: /bin/db --mine\n");
    vec![
        upgrade(
            "service added",
            small_but(&[
                ("bin/new", 0o755, "#!/bin/sh\nnew 1"),
                ("etc/zinit/new.yaml", 0o644, "exec: /bin/new\nafter: [web]\n"),
            ]),
        ),
        upgrade("service removed", without(small(), &["bin/web", "etc/zinit/web.yaml", "etc/web.conf"])),
        upgrade(
            "unit changed",
            small_but(&[("etc/zinit/web.yaml", 0o644, "exec: /bin/web --two\nafter: [db]\n")]),
        ),
        Scenario {
            edited: vec![("etc/web.conf", 0o600, "port 9"), edited_unit],
            ..upgrade(
                CONFLICT,
                small_but(&[
                    ("etc/web.conf", 0o644, "port 2"),
                    ("bin/web", 0o755, "#!/bin/sh\nweb 2"),
                    ("etc/zinit/db.yaml", 0o644, "exec: /bin/db --two\n"),
                ]),
            )
        },
        upgrade(
            "bad release",
            small_but(&[("bin/web", 0o755, "#!/bin/sh\nexits 2"), ("bin/db", 0o755, "#!/bin/sh\ndb 2")]),
        ),
        upgrade(
            "dying release",
            small_but(&[("bin/web", 0o755, "#!/bin/sh\ndies 2"), ("etc/zinit/web.yaml", 0o644, WEB)]),
        ),
    ]
}

/// Somebody has stopped a service whose unit changes, or stops it while files are staged, or once it runs anew.
fn with_one_stopped() -> Vec<Scenario> {
    let with_db = |db| {
        small_but(&[
            ("bin/db", 0o755, db),
            ("bin/web", 0o755, "#!/bin/sh\nweb 2"),
            ("etc/zinit/web.yaml", 0o644, "exec: /bin/web --two\nafter: [db]\n"),
        ])
    };
    let (good, bad) = (with_db("#!/bin/sh\ndb 2"), with_db("#!/bin/sh\nexits 2"));
    let dropped = without(good.clone(), &["bin/web", "etc/zinit/web.yaml"]);
    let (before, meanwhile) = (Some(Stopped::Before("web")), Some(Stopped::Meanwhile("web")));
    let soaking = Some(Stopped::Soaking("web"));
    // The unit of web stays as it is.
    let same_unit =
        small_but(&[("bin/db", 0o755, "#!/bin/sh\ndies 2"), ("bin/web", 0o755, "#!/bin/sh\nweb 2")]);
    vec![
        Scenario { stopped: before, ..upgrade("a stopped service", good.clone()) },
        Scenario { stopped: before, ..upgrade("a stopped service and a bad release", bad.clone()) },
        Scenario { stopped: meanwhile, ..upgrade("a service stopped meanwhile", good.clone()) },
        Scenario {
            stopped: meanwhile,
            ..upgrade("a service stopped meanwhile and a bad release", bad.clone())
        },
        Scenario { stopped: meanwhile, ..upgrade("a dropped service stopped meanwhile", dropped) },
        Scenario { stopped: soaking, ..upgrade("a service stopped in the window", good) },
        Scenario { stopped: soaking, ..upgrade("a service stopped in the window of a bad release", bad) },
        Scenario {
            stopped: soaking,
            ..upgrade("a service stopped in the window of a dying release", same_unit)
        },
    ]
}

/// The daemon that upgrades is upgraded.
fn of_identityd() -> Vec<Scenario> {
    let unit = ("etc/zinit/identityd.yaml", 0o644, "exec: /bin/identityd\n");
    let with_identityd = |version| small_but(&[("bin/identityd", 0o755, version), unit]);
    let first = || Some(with_identityd("#!/bin/sh\nidentityd 1"));
    let second = || with_identityd("#!/bin/sh\nidentityd 2");
    vec![
        scenario("self-update", Act::SelfUpdate, first(), second()),
        scenario(
            "self-update that is gone back from",
            Act::SelfRevert,
            first(),
            with(second(), &[("lib/identityd", 0o644, "only 2 has it")]),
        ),
    ]
}

/// On other file systems.
fn elsewhere() -> Vec<Scenario> {
    vec![
        Scenario { no_exchange: true, ..upgrade("upgrade without exchange", changed()) },
        Scenario {
            base: with(base(), &small()),
            overlay: true,
            ..upgrade("upgrade on an overlay", changed())
        },
        Scenario { in_ram: true, ..upgrade("upgrade in RAM", changed()) },
    ]
}
