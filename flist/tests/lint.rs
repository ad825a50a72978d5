//! `flist lint`, and the lint before `flist publish`, by running the command.
#![cfg(all(feature = "server", feature = "publish"))]
#![allow(clippy::unwrap_used)]

mod serving;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

/// A directory to lint.
struct Package(TempDir);

impl Package {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn file(&self, at: &str, mode: u32, content: &str) -> &Self {
        let at = self.0.path().join(at);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        fs::write(&at, content).unwrap();
        fs::set_permissions(&at, fs::Permissions::from_mode(mode)).unwrap();
        self
    }

    fn unit(&self, name: &str, text: &str) -> &Self {
        self.file(&format!("etc/zinit/{name}.yaml"), 0o644, text)
    }

    fn script(&self, at: &str) -> &Self {
        self.file(at, 0o755, "#!/bin/sh\n")
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

/// A base image with a shell that needs nothing: an ELF header and one program header.
fn base() -> Package {
    let base = Package::new();
    base.file("bin/sh", 0o755, "");
    fs::write(base.path().join("bin/sh"), static_program()).unwrap();
    base
}

fn static_program() -> Vec<u8> {
    let machine: u16 = if cfg!(target_arch = "aarch64") { 183 } else { 62 };
    let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
    bytes.resize(16, 0);
    for half in [2, machine, 1, 0] {
        bytes.extend(half.to_le_bytes());
    }
    for word in [0_u64, 64, 0] {
        bytes.extend(word.to_le_bytes());
    }
    for half in [0_u16, 0, 64, 56, 1, 64, 0, 0] {
        bytes.extend(half.to_le_bytes());
    }
    bytes.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    for word in [0_u64, 0, 0, 120, 120, 8] {
        bytes.extend(word.to_le_bytes());
    }
    bytes
}

fn flist(arguments: &[&str]) -> Output {
    let mut command = Command::new(serving::FLIST);
    command.env_remove("FLIST_TOKEN").env_remove("FLIST_HUB").env("RUST_LOG", "warn");
    command.args(arguments).output().unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// `severity code` of every finding, and the exit code.
fn lint(arguments: &[&str]) -> (Vec<String>, i32) {
    let output = flist(&[&["lint", "--json"], arguments].concat());
    let stderr = String::from_utf8_lossy(&output.stderr);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect(&stderr);
    let word = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let findings = json["findings"].as_array().unwrap();
    let found: Vec<_> = findings
        .iter()
        .map(|finding| format!("{} {}", word(&finding["severity"]), word(&finding["code"])))
        .collect();
    let errors = found.iter().filter(|line| line.starts_with("error")).count();
    assert_eq!(json["errors"], errors);
    (found, output.status.code().unwrap())
}

fn codes_of(package: &Package) -> Vec<String> {
    let base = base();
    lint(&["--base", text(base.path()), text(package.path())]).0
}

#[test]
fn a_release_that_runs_has_nothing() {
    let package = Package::new();
    package.script("usr/bin/app").script("sbin/identityd");
    package.unit("app", "exec: app --now\ntest: sh -c true\nafter: [identityd]\n");
    package.unit("identityd", "exec: /sbin/identityd run\n");
    let base = base();
    assert_eq!(lint(&["--base", text(base.path()), text(package.path())]), (Vec::new(), 0));
    let said = flist(&["lint", "--base", text(base.path()), text(package.path())]);
    assert_eq!(String::from_utf8(said.stdout).unwrap(), "0 errors, 0 warnings, 0 notes\n");
}

#[test]
fn what_is_absent_is_a_warning_until_the_base_is_named() {
    let package = Package::new();
    package.script("usr/bin/app").unit("app", "exec: app\nafter: [net]\n").unit("identityd", "exec: app\n");
    let warnings = ["warning missing-shebang-interpreter", "warning missing-shebang-interpreter"];
    let (found, code) = lint(&[text(package.path())]);
    assert_eq!(
        (&found[..2], found[2].as_str(), code),
        (&warnings.map(str::to_owned)[..], "warning unit-missing-dependency", 0)
    );
    let empty = Package::new();
    let (found, code) = lint(&["--base", text(empty.path()), text(package.path())]);
    assert!(found.iter().all(|line| line.starts_with("error")), "{found:?}");
    assert_eq!(code, 6);
    // A second base is laid over the first.
    let (base, net) = (base(), Package::new());
    net.unit("net", "exec: sh\n");
    let both = lint(&["--base", text(base.path()), "--base", text(net.path()), text(package.path())]);
    assert_eq!(both, (Vec::new(), 0));
}

#[test]
fn units_that_cannot_be_used() {
    for (expected, units) in [
        ("error unit-invalid", vec![("app", "exec: [a")]),
        ("error unit-invalid", vec![("app", "oneshot: true\n")]),
        ("error unit-invalid", vec![("app", "exec: sh -c 'a\n")]),
        ("error unit-invalid", vec![("a b", "exec: sh\n")]),
        ("error unit-cycle", vec![("a", "exec: sh\nafter: [b]\n"), ("b", "exec: sh\nafter: [a]\n")]),
        ("error unit-missing-dependency", vec![("a", "exec: sh\nafter: [net]\n")]),
        ("error missing-exec", vec![("a", "exec: /bin/sh\ntest: redis-cli ping\n")]),
        ("error missing-exec", vec![("a", "exec: once\noneshot: true\n")]),
    ] {
        let package = Package::new();
        package.unit("identityd", "exec: sh\n");
        for (name, unit) in &units {
            package.unit(name, unit);
        }
        assert_eq!(codes_of(&package), [expected], "{units:?}");
    }
}

#[test]
fn entries_that_do_not_belong() {
    for (expected, at, mode) in [
        ("note set-uid", "usr/bin/data", 0o4644),
        ("warning world-writable", "usr/share/data", 0o666),
        ("warning volatile", "tmp/data", 0o644),
        ("error misplaced", "var/lib/molt/current", 0o644),
        ("error in-the-way", "bin", 0o644),
        ("error beneath-non-directory", "bin/sh/data", 0o644),
    ] {
        let package = Package::new();
        package.file(at, mode, "data");
        assert_eq!(codes_of(&package), [expected], "{at}");
    }
    let merged = Package::new();
    fs::create_dir_all(merged.path().join("usr/bin")).unwrap();
    symlink("usr/bin", merged.path().join("bin")).unwrap();
    let twice = Package::new();
    twice.file("bin/data", 0o644, "a").file("usr/bin/data", 0o644, "b");
    let (found, code) = lint(&["--base", text(merged.path()), text(twice.path())]);
    assert_eq!((found, code), (vec!["error two-names".to_owned()], 6));
    let units = Package::new();
    units.unit("app", "exec: sh\n");
    assert_eq!(codes_of(&units), ["note no-identityd"]);
}

#[test]
fn what_a_release_breaks_of_the_base_is_found_and_what_was_broken_is_not() {
    let base = base();
    base.unit("old", "exec: gone\n").unit("web", "exec: sh\n");
    let package = Package::new();
    package.file("usr/share/data", 0o644, "");
    assert_eq!(lint(&["--base", text(base.path()), text(package.path())]), (Vec::new(), 0));
    package.file("bin/sh", 0o644, "");
    let (found, code) = lint(&["--base", text(base.path()), text(package.path())]);
    assert_eq!((found, code), (vec!["error exec-not-executable".to_owned()], 6));
}

#[test]
fn a_flist_is_linted_without_its_whole_content() {
    let (package, base, out) = (base(), Package::new(), TempDir::new().unwrap());
    package.unit("app", "exec: /bin/sh\n").unit("identityd", "exec: missing\n");
    let (store, file) = (out.path().join("store"), out.path().join("app.fl"));
    let packed = flist(&["pack", "-m", text(&file), "-s", text(&store), text(package.path())]);
    assert!(packed.status.success(), "{packed:?}");
    assert_eq!(lint(&["--base", text(base.path()), text(&file)]).0, ["error missing-exec"]);
    assert_eq!(lint(&["--base", text(&file), text(base.path())]), (Vec::new(), 0));
    let moved = out.path().join("moved");
    fs::rename(&store, &moved).unwrap();
    let lost = flist(&["lint", text(&file)]);
    assert_eq!(lost.status.code(), Some(4), "a store that is not there is no finding");
    assert_eq!(lint(&["-s", text(&moved), text(&file)]).0, ["warning missing-exec"]);
    let other = if cfg!(target_arch = "aarch64") { "x86_64" } else { "aarch64" };
    let (found, _) = lint(&["-s", text(&moved), "--arch", other, text(&file)]);
    assert_eq!(found, ["error wrong-architecture", "warning missing-exec"]);
}

#[test]
fn lines_for_people_name_everything_once() {
    let package = Package::new();
    for n in 0..6 {
        package.script(&format!("usr/bin/app{n}"));
    }
    package.unit("app", "exec: app0\n").unit("identityd", "exec: app1\n");
    let said = String::from_utf8(flist(&["lint", text(package.path())]).stdout).unwrap();
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines.len(), 2, "{said}");
    assert!(
        lines[0].starts_with("warning: missing-shebang-interpreter: ") && lines[0].contains("and 2 more"),
        "{said}"
    );
    assert_eq!(lines[1], "0 errors, 6 warnings, 0 notes");
}

#[test]
fn publishing_is_refused_before_anything_is_sent() {
    let hub = TempDir::new().unwrap();
    let serving = serving::Serving::start(hub.path(), &[]);
    let package = Package::new();
    package.unit("app", "exec: [a").unit("identityd", "exec: sh\n");
    let publish = |more: &[&str]| {
        let names = ["publish", "--hub", &serving.url, "--repo", "r", "--name", "n", "--version", "1.0.0"];
        flist(&[&names, more, &[text(package.path())]].concat())
    };
    let refused = publish(&[]);
    let stderr = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(6), "{stderr}");
    assert!(stderr.contains("error: unit-invalid: unit app:"), "{stderr}");
    let blocks = || fs::read_dir(hub.path().join("store")).map_or(0, Iterator::count);
    assert_eq!(blocks(), 0, "something was sent");
    let forced = publish(&["--no-lint"]);
    let stderr = String::from_utf8_lossy(&forced.stderr).into_owned();
    assert!(forced.status.success() && stderr.contains("WARNING: --no-lint"), "{stderr}");
    assert_ne!(blocks(), 0);
    assert!(serving.stop());
}

const DESCRIPTION: &str = "usr/lib/molt/packages/app.yaml";

#[test]
fn package_descriptions_are_checked_with_the_programs_that_they_name() {
    let whole = "hooks: [{name: cache, when: before-start, run: [/usr/lib/app/hook], undo: [/usr/lib/app/hook, back]}]
state:
  schema: 2
  paths: [/var/lib/app]
  services: [app]
  migrations: [{to: 2, run: [/usr/lib/app/migrate, up], undo: [/usr/lib/app/migrate, down]}]
";
    let package = Package::new();
    package.script("usr/bin/app").unit("app", "exec: app\n").unit("identityd", "exec: app\n");
    package.script("usr/lib/app/hook").script("usr/lib/app/migrate").file(DESCRIPTION, 0o644, whole);
    assert_eq!(codes_of(&package), [""; 0]);
    for (from, to, expected) in [
        ("/usr/lib/app/hook]", "/usr/lib/app/gone]", "error missing-hook"),
        ("/usr/lib/app/migrate, down", "/etc/zinit/app.yaml", "error exec-not-executable"),
        (", undo: [/usr/lib/app/migrate, down]", "", "error no-inverse"),
        ("schema: 2", "schema: 3", "error schema-gap"),
        ("[app]", "[web]", "error unit-missing-dependency"),
        ("paths:", "path:", "error package-invalid"),
        ("/var/lib/app", "/usr/lib/app", "error state-shipped"),
    ] {
        let changed = whole.replacen(from, to, 1);
        assert_ne!(changed, whole);
        let found = codes_of(package.file(DESCRIPTION, 0o644, &changed));
        assert!(!found.is_empty() && found.iter().all(|found| found == expected), "{to}: {found:?}");
    }
    let refused = flist(&["lint", text(package.file(DESCRIPTION, 0o644, "requires: {}\nhook: []\n").path())]);
    let said = String::from_utf8(refused.stdout).unwrap();
    assert!(said.contains("unknown field `hook`") && said.contains("line 2 column 1"), "{said}");
    assert_eq!(refused.status.code(), Some(6));
    package.file(DESCRIPTION, 0o644, whole).script("usr/lib/molt/packages/app.yml");
    assert_eq!(codes_of(&package), ["error package-invalid"]);
}

#[test]
fn a_release_whose_hook_is_not_there_is_not_published_also_without_a_base() {
    let package = Package::new();
    let text_of = "hooks: [{name: x, when: after-start, run: [/usr/bin/gone], undo: []}]";
    package.file(DESCRIPTION, 0o644, text_of);
    let (found, code) = lint(&[text(package.path())]);
    assert_eq!((found, code), (vec!["error missing-hook".to_owned()], 6));
}
