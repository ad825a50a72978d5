//! `identityd provision`, killed at what it does.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use molt_tests::{Binaries, Hub, NetNs, Signing, tools, workspace};
use tempfile::TempDir;

/// The calls by which files are filled, made private and durable, and put into place.
const CALLS: [&str; 11] = [
    "mkdirat",
    "fchmod",
    "chmod",
    "fchmodat",
    "fchmodat2",
    "write",
    "fsync",
    "fdatasync",
    "rename",
    "renameat",
    "renameat2",
];

/// Files and their content, with their modes.
type Files = BTreeMap<String, (Vec<u8>, u32)>;

/// The directory that is given to a node; `root.json` is another one for each.
fn given(netns: &NetNs, token: &str) -> TempDir {
    let from = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &[u8], mode: u32| {
        let path = from.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    let hub = Hub::prepare(netns).unwrap();
    write("root.json", &fs::read(Signing::new(&hub).unwrap().root_path()).unwrap(), 0o644);
    write("hub.token", token.as_bytes(), 0o600);
    let pem = workspace().join("flist/tests/fixtures/tls/client.pem");
    write("hub.pem", &fs::read(pem).unwrap(), 0o600);
    write("config.yaml", format!("hub: http://hub\nnode_id: {token}\n").as_bytes(), 0o644);
    from
}

fn files(directory: &Path) -> Files {
    let Ok(entries) = fs::read_dir(directory) else { return Files::new() };
    let file = |entry: fs::DirEntry| {
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        (entry.file_name().into_string().unwrap(), (fs::read(entry.path()).unwrap(), mode))
    };
    entries.map(|entry| file(entry.unwrap())).collect()
}

struct Tried {
    strace: tools::Unpacked,
    identityd: PathBuf,
}

impl Tried {
    /// Provisions a root; killed at the so-manieth of one of the calls, where that is given.
    fn provision(&self, root: &Path, from: &Path, killed_at: Option<(&str, usize)>) -> ExitStatus {
        let mut command = match killed_at {
            Some((call, number)) => {
                let mut strace = Command::new(&self.strace.program);
                strace.env("LD_LIBRARY_PATH", &self.strace.library_path);
                strace.args(["-f", "-qq", "-o", "/dev/null", "-E", "LD_LIBRARY_PATH", "-e"]);
                strace.arg(format!("inject=?{call}:signal=KILL:when={number}")).arg(&self.identityd);
                strace
            }
            None => Command::new(&self.identityd),
        };
        command.args(["provision", "--replace", "--root"]).args([root, from]);
        command.stdout(Stdio::null()).status().unwrap()
    }
}

/// At whichever of its calls it is killed: each file is the old one or the new one, as private as it has to be, and the
/// next run makes all of them new and leaves no half of a secret behind.
#[test]
fn killed_at_any_call_it_leaves_whole_files_and_can_be_done_again() {
    let netns = NetNs::new().unwrap();
    let (before, after) = (given(&netns, "0123456789abcdef-before"), given(&netns, "0123456789abcdef-after"));
    let tried =
        Tried { strace: tools::strace().unwrap(), identityd: Binaries::ensure().unwrap().identityd() };
    let (old, new) = (files(before.path()), files(after.path()));
    for provisioned in [false, true] {
        let mut tally = Tally::default();
        for call in CALLS {
            for number in 1.. {
                let root = tempfile::tempdir().unwrap();
                if provisioned {
                    assert!(tried.provision(root.path(), before.path(), None).success());
                }
                let ended = tried.provision(root.path(), after.path(), Some((call, number)));
                let found = files(&root.path().join("etc/molt"));
                if ended.success() {
                    assert_eq!(found, new);
                    break;
                }
                assert_eq!(ended.signal(), Some(9), "{ended}");
                tally.add(found, provisioned.then_some(&old), &new);
                assert!(tried.provision(root.path(), after.path(), None).success(), "{call} {number}");
                assert_eq!(files(&root.path().join("etc/molt")), new, "{call} {number}");
            }
        }
        // It was killed while files were half, and between them.
        println!("{tally:?}");
        assert!(tally.kills > 12 && tally.halves >= 4 && tally.mixed >= 4, "{tally:?}");
    }
}

/// What was left when it was killed.
#[derive(Debug, Default)]
struct Tally {
    kills: usize,
    /// Files that were not whole yet.
    halves: usize,
    /// How often some files were new and others not.
    mixed: usize,
}

impl Tally {
    fn add(&mut self, found: Files, old: Option<&Files>, new: &Files) {
        let (halves, whole): (Files, Files) =
            found.into_iter().partition(|(name, _)| name.starts_with(".new-"));
        for (name, file) in &whole {
            assert!(old.is_some_and(|old| old[name] == *file) || new[name] == *file, "{name}");
        }
        assert!(old.is_none() || whole.len() == new.len(), "{whole:?}");
        // Nobody else reads what is not public in the end.
        let is_public =
            |bytes: &[u8]| new.values().any(|(whole, mode)| *mode == 0o644 && whole.starts_with(bytes));
        assert!(halves.values().all(|(bytes, mode)| mode & 0o077 == 0 || is_public(bytes)), "{halves:?}");
        let done = whole.iter().filter(|(name, file)| new[*name] == **file).count();
        self.kills += 1;
        self.halves += halves.len();
        self.mixed += usize::from((1..new.len()).contains(&done));
    }
}
