//! What `flist diff` says, to the byte.
#![cfg(all(feature = "server", feature = "publish"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::{Command, Output};

use flist::block::{BlockId, BlockKey};
use flist::format::fl;
use flist::tree::{Block, Content, Entry, Kind, Meta, Tree};
use serde_json::{Value, json};

/// A flist of files with mode and content; `dir` and `-> x` are a directory and a symlink.
fn flist(path: &Path, version: Option<&str>, entries: &[(&str, u32, &str)]) {
    let meta = |mode| Meta { mode, uid: 0, gid: 0, mtime: 7 };
    let mut tree = Tree::new(meta(0o755));
    for (at, mode, text) in entries {
        let kind = match (*text, text.strip_prefix("-> ")) {
            ("dir", _) => Kind::Directory,
            (_, Some(target)) => Kind::Symlink(target.as_bytes().to_vec()),
            (content, None) => {
                let block =
                    Block { id: BlockId::of(content.as_bytes()), key: BlockKey::of(content.as_bytes()) };
                Kind::File(Content { size: content.len() as u64, blocks: vec![block] })
            }
        };
        tree.insert(at.parse().unwrap(), Entry { meta: meta(*mode), kind }).unwrap();
    }
    tree.tags.extend(version.map(|version| ("version".to_owned(), version.to_owned())));
    std::fs::write(path, fl::to_bytes(&tree).unwrap()).unwrap();
}

fn diff(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flist"));
    command.current_dir(directory).arg("diff").args(arguments).env("RUST_LOG", "warn").output().unwrap()
}

const OLD: &[(&str, u32, &str)] = &[
    ("bin", 0o755, "dir"),
    ("bin/app", 0o755, "app 1"),
    ("bin/was-a-file", 0o755, "four"),
    ("bin/gone", 0o755, "to be gone"),
    ("etc", 0o755, "dir"),
    ("etc/mode", 0o644, "the same"),
    ("etc/zinit", 0o755, "dir"),
    ("etc/zinit/app.yaml", 0o644, "exec: /bin/app\n"),
    ("etc/zinit/gone.yaml", 0o644, "exec: /bin/gone\n"),
    ("etc/zinit/mode.yaml", 0o644, "exec: /bin/app\n"),
    ("link", 0o777, "-> bin"),
];

const NEW: &[(&str, u32, &str)] = &[
    ("bin", 0o755, "dir"),
    ("bin/app", 0o755, "app 2, longer"),
    ("bin/was-a-file", 0o777, "-> app"),
    ("etc", 0o755, "dir"),
    ("etc/mode", 0o600, "the same"),
    ("etc/zinit", 0o755, "dir"),
    ("etc/zinit/app.yaml", 0o644, "exec: /bin/app\noneshot: true\n"),
    ("etc/zinit/mode.yaml", 0o600, "exec: /bin/app\n"),
    ("etc/zinit/new.yaml", 0o644, "exec: /bin/app\n"),
    ("etc/zinit/notes", 0o644, "x"),
    ("link", 0o777, "-> etc"),
    ("usr", 0o755, "dir"),
];

const TEXT: &str = "\
~ /bin/app (content; 5 -> 13 bytes)
- /bin/gone (10 bytes)
~ /bin/was-a-file (kind, mode; 4 bytes before)
~ /etc/mode (mode)
~ /etc/zinit/app.yaml (content; 15 -> 29 bytes)
- /etc/zinit/gone.yaml (16 bytes)
~ /etc/zinit/mode.yaml (mode)
+ /etc/zinit/new.yaml (15 bytes)
+ /etc/zinit/notes (1 byte)
~ /link (target)
+ /usr
# version: 1.0.0 -> 2.0.0
# services: + new, - gone, ~ app
# bytes: 73 -> 81; 16 added, 26 removed, 24 -> 42 changed
";

#[test]
fn a_diff_shows_files_with_sizes_services_versions_and_sums() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    flist(&at("old.fl"), Some("1.0.0"), OLD);
    flist(&at("new.fl"), Some("2.0.0"), NEW);
    flist(&at("same.fl"), Some("1.0.1"), OLD);
    flist(&at("unnamed.fl"), None, OLD);

    let output = diff(place.path(), &["old.fl", "new.fl"]);
    assert_eq!(output.status.code(), Some(6));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), TEXT);

    let output = diff(place.path(), &["--json", "old.fl", "new.fl"]);
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said["version"], json!({"old": "1.0.0", "new": "2.0.0"}));
    assert_eq!(said["services"], json!({"added": ["new"], "removed": ["gone"], "changed": ["app"]}));
    let bytes = json!({
        "old": 73, "new": 81, "added": 16, "removed": 26, "changed_from": 24, "changed_to": 42,
    });
    assert_eq!(said["bytes"], bytes);
    assert_eq!(
        said["differences"][0],
        json!({"path": "bin/app", "change": "changed", "what": ["content"], "old_bytes": 5, "new_bytes": 13})
    );
    assert_eq!(said["differences"][9], json!({"path": "link", "change": "changed", "what": ["target"]}));

    // Another name for the same is no difference, and is said all the same.
    let output = diff(place.path(), &["old.fl", "same.fl"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "# version: 1.0.0 -> 1.0.1\n");
    let output = diff(place.path(), &["unnamed.fl", "unnamed.fl"]);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), &b""[..]));
    let output = diff(place.path(), &["--json", "unnamed.fl", "old.fl"]);
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said["version"], json!({"old": null, "new": "1.0.0"}));
}
