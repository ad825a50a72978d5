//! Random trees go through everything and come back: directory → pack → fl → parse → unpack → directory.
#![cfg(all(feature = "server", feature = "publish"))]
#![allow(clippy::unwrap_used)]

mod observe;

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, FileTimes, Permissions};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use flist::block::BLOCK_SIZE;
use flist::format::{self, fl};
use flist::mount::{Purpose, mount};
use flist::pack::pack;
use flist::store::DirStore;
use flist::tree::Limits;
use flist::unpack::unpack;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

/// SplitMix64: the same trees every time, and a failing seed can be run alone.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// Starts of names that have gone wrong somewhere before.
const NAMES: [&[u8]; 14] = [
    b"plain",
    b"with space",
    b" ",
    b"new\nline",
    b"tab\t",
    b"\xff\xfe raw",
    b"caf\xc3\xa9",
    b"-rf",
    b"100%",
    b"%41",
    b"\"quoted\"",
    b"back\\slash",
    "文件".as_bytes(),
    b"...",
];

fn name(random: &mut Random, number: usize) -> OsString {
    let mut name = random.pick(&NAMES).to_vec();
    if random.below(12) == 0 {
        name.resize(250, b'n');
    }
    name.extend_from_slice(number.to_string().as_bytes());
    OsString::from_vec(name)
}

fn content(random: &mut Random) -> Vec<u8> {
    let blocks = random.below(4) * BLOCK_SIZE as u64;
    let size = random.pick(&[blocks, blocks + 1, blocks.saturating_sub(1), random.0 % 5000]) as usize;
    match random.below(3) {
        0 => vec![0; size],
        1 => b"the same line again and again\n".iter().copied().cycle().take(size).collect(),
        _ => std::iter::repeat_with(|| random.next() as u8).take(size).collect(),
    }
}

/// Makes entries of every kind in random directories beneath `root`.
fn grow(root: &Path, random: &mut Random) {
    let mut directories = vec![root.to_owned()];
    let mut made = Vec::new();
    for number in 0..40 {
        let parent = &directories[random.below(directories.len() as u64) as usize];
        let path = parent.join(name(random, number));
        match random.below(10) {
            0..3 => {
                fs::create_dir(&path).unwrap();
                directories.push(path.clone());
            }
            3..7 => fs::write(&path, content(random)).unwrap(),
            7 => {
                let targets: [&[u8]; 5] = [b"plain", b"../..", b"/abs/olute", b"\xff raw", b"dang ling\n"];
                symlink(OsStr::from_bytes(random.pick(&targets)), &path).unwrap();
            }
            8 => make_node(&path, SFlag::S_IFIFO),
            _ => make_node(&path, random.pick(&[SFlag::S_IFCHR, SFlag::S_IFBLK, SFlag::S_IFSOCK])),
        }
        made.push(path);
    }
    // Deepest last made, so times of directories are set after they were filled.
    for path in made.iter().rev().chain([&root.to_owned()]) {
        adorn(path, random);
    }
}

fn make_node(path: &Path, kind: SFlag) {
    mknod(path, kind, Mode::S_IRUSR, makedev(7, 300)).unwrap();
}

/// A random owner, mode and time.
fn adorn(path: &Path, random: &mut Random) {
    let owners = [0, 1, 1000, 65_534, 4_000_000_000];
    lchown(path, Some(random.pick(&owners)), Some(random.pick(&owners))).unwrap();
    let kind = fs::symlink_metadata(path).unwrap().file_type();
    if kind.is_symlink() {
        return;
    }
    let modes = [0o755, 0o644, 0, 0o4755, 0o2755, 0o1777, 0o6711, 0o7777, 0o400];
    fs::set_permissions(path, Permissions::from_mode(random.pick(&modes))).unwrap();
    if kind.is_dir() || kind.is_file() {
        let seconds = random.pick(&[0, 1, 1_600_000_000, 4_102_444_800]);
        let times = FileTimes::new().set_modified(UNIX_EPOCH + Duration::from_secs(seconds));
        File::open(path).unwrap().set_times(times).unwrap();
    }
}

/// What can be seen of a directory, contents included.
fn everything(root: &Path) -> (Vec<String>, Vec<String>) {
    (observe::manifest(root), observe::digests(root))
}

fn go_around(seed: u64) {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| -> PathBuf { dir.path().join(name) };
    fs::create_dir(at("source")).unwrap();
    grow(&at("source"), &mut Random(seed));
    let store = DirStore::new(at("store"));

    let (tree, _) = pack(&at("source"), &store).unwrap();
    let bytes = fl::to_bytes(&tree).unwrap();
    let parsed = format::parse(&bytes, &Limits::default()).unwrap();
    assert!(parsed == tree, "seed {seed}: writing and reading changed the tree");
    unpack(&parsed, &store, &at("unpacked")).unwrap();
    assert_eq!(everything(&at("unpacked")), everything(&at("source")), "seed {seed}: unpacked");
    let (again, summary) = pack(&at("unpacked"), &store).unwrap();
    assert!(again == tree, "seed {seed}: packing what was unpacked gives another tree");
    assert_eq!(summary.new_blocks, 0);

    fs::create_dir(at("mounted")).unwrap();
    let mounted = mount(&parsed, Arc::new(store.clone()), &at("mounted"), Purpose::Install).unwrap();
    assert_eq!(everything(&at("mounted")), everything(&at("source")), "seed {seed}: mounted");
    assert!(archive(&at("mounted")) == archive(&at("source")), "seed {seed}: tar sees a difference");
    let (again, _) = pack(&at("mounted"), &store).unwrap();
    mounted.unmount().unwrap();
    assert!(again == tree, "seed {seed}: packing the mount gives another tree");

    fs::write(at("tree.fl"), &bytes).unwrap();
    inspect(&at("tree.fl"), tree.len(), seed);
}

/// What tar(1) makes of a directory. It has no sockets, and says so on standard error.
fn archive(root: &Path) -> Vec<u8> {
    let output = Command::new("tar")
        .args(["--sort=name", "--numeric-owner", "-cf", "-", "-C"])
        .args([root.as_os_str(), ".".as_ref()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// `flist inspect` takes any tree: one line an entry, and sound JSON.
fn inspect(flist: &Path, entries: usize, seed: u64) {
    let run = |arguments: &[&OsStr]| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_flist")).arg("inspect").args(arguments).output().unwrap();
        assert!(output.status.success(), "seed {seed}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let shown = run(&[flist.as_os_str()]);
    assert_eq!(shown.lines().filter(|line| !line.starts_with('#')).count(), entries, "seed {seed}");
    let json: serde_json::Value =
        serde_json::from_str(&run(&["--json".as_ref(), flist.as_os_str()])).unwrap();
    assert_eq!(json["entries"].as_array().unwrap().len(), entries, "seed {seed}");
}

#[test]
fn random_trees_come_back_unchanged() {
    observe::require_root();
    for seed in 0..12 {
        go_around(seed);
    }
}

#[test]
fn an_empty_directory_comes_back() {
    observe::require_root();
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("source")).unwrap();
    let store = DirStore::new(dir.path().join("store"));
    let (tree, summary) = pack(&dir.path().join("source"), &store).unwrap();
    assert!(tree.is_empty() && summary.blocks == 0);
    let parsed = format::parse(&fl::to_bytes(&tree).unwrap(), &Limits::default()).unwrap();
    unpack(&parsed, &store, &dir.path().join("out")).unwrap();
    assert!(observe::manifest(&dir.path().join("out")).is_empty());
    assert!(!dir.path().join("store").exists(), "no block, no store");
}
