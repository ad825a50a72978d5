//! The model's files behave like those of tmpfs and ext4, effect by effect. Needs root, to mount them.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use bootstrap::disk::{Beneath, Disk, Kind, Rename, Special};
use flist::path::FlistPath;
use flist::xattr::Xattrs;
use molt_model::{Files, Machine, ModelDisk, Volume};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Sequences of operations, and operations in each.
const SEQUENCES: u64 = 500;
const LENGTH: usize = 120;

/// Names are few, so that operations meet each other.
const NAMES: [&str; 20] = [
    "a", "b", "c", "d", "e", "f", "a", "b", "c", "d", "e", "f", "a/a", "a/b", "b/a", "b/c", "a/a/a", "d/a",
    "c/b", "a/b/c",
];

/// A pseudo-random sequence (Knuth's MMIX), so that a failure can be run again by its seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }

    fn path(&mut self) -> FlistPath {
        NAMES[self.below(NAMES.len())].parse().unwrap()
    }
}

/// One operation, as text for messages.
#[derive(Debug)]
enum Doing {
    MakeDirectory(FlistPath),
    Create(FlistPath),
    Append(FlistPath, Vec<u8>),
    Reserve(FlistPath, u64),
    Symlink(FlistPath, &'static str),
    Special(FlistPath, Special<'static>),
    SetOwner(FlistPath, u32),
    SetMode(FlistPath, u32),
    SetXattr(FlistPath, &'static str),
    SetTime(FlistPath),
    Link(FlistPath, FlistPath),
    Rename(FlistPath, FlistPath, Rename),
    Remove(FlistPath),
    RemoveDirectory(FlistPath),
    RemoveTree(FlistPath),
    Sync(FlistPath),
    SyncDirectory(FlistPath),
    SyncFilesystem(FlistPath),
    CopyUp(FlistPath),
    Filesystem(FlistPath),
    MountTop(FlistPath),
    Look(FlistPath),
}

impl Doing {
    fn any(dice: &mut Dice) -> Self {
        let path = dice.path();
        match dice.below(28) {
            0 | 1 => Self::MakeDirectory(path),
            2 | 3 => Self::Create(path),
            4 => Self::Append(path, vec![b'x'; dice.below(9000)]),
            5 => Self::Reserve(path, dice.below(10_000) as u64),
            6 | 7 => Self::Symlink(path, ["a", "/b", "../c", "a/b", "nowhere", "."][dice.below(6)]),
            8 | 24 => Self::Special(path, SPECIAL[dice.below(SPECIAL.len())]),
            9 => Self::SetOwner(path, dice.below(3) as u32),
            10 => Self::SetMode(path, [0o644, 0o4755, 0o6711, 0o2640, 0o1777][dice.below(5)]),
            11 | 25 => Self::SetXattr(path, XATTRS[dice.below(XATTRS.len())]),
            12 => Self::SetTime(path),
            13 => Self::Link(path, dice.path()),
            14..=17 => {
                let how = [Rename::NoReplace, Rename::Replace, Rename::Exchange][dice.below(3)];
                Self::Rename(path, dice.path(), how)
            }
            18 => Self::Remove(path),
            19 => Self::RemoveDirectory(path),
            20 => [Self::Sync as fn(_) -> _, Self::SyncDirectory][dice.below(2)](path),
            21 => Self::CopyUp(path),
            22 => Self::RemoveTree(path),
            23 => {
                let looks = [Self::Filesystem as fn(_) -> _, Self::MountTop, Self::SyncFilesystem];
                looks[dice.below(3)](path)
            }
            _ => Self::Look(path),
        }
    }

    /// What kind of operation it is, for counting.
    fn kind(&self) -> String {
        match self {
            Self::Special(_, special) => format!("{special:?}"),
            Self::SetXattr(_, name) => format!("SetXattr {name}"),
            other => format!("{other:?}").split('(').next().unwrap_or_default().to_owned(),
        }
    }

    /// Does it and says what came of it; errors are their numbers.
    fn on(&self, disk: &dyn Disk) -> String {
        let said = |result: std::io::Result<()>| match result {
            Ok(()) => "done".to_owned(),
            Err(error) => format!("{:?}", nix::errno::Errno::from_raw(error.raw_os_error().unwrap())),
        };
        said(match self {
            Self::MakeDirectory(path) => disk.make_directory(path),
            Self::Create(path) => disk.create(path),
            Self::Append(path, bytes) => disk.append(path, bytes),
            Self::Reserve(path, bytes) => disk.reserve(path, *bytes),
            Self::Symlink(path, target) => disk.make_special(path, Special::Symlink(target.as_bytes())),
            Self::Special(path, special) => disk.make_special(path, *special),
            Self::SetOwner(path, id) => disk.set_owner(path, *id, *id),
            Self::SetMode(path, mode) => disk.set_mode(path, *mode),
            Self::SetXattr(path, ACL) => match disk.stat(path) {
                // What else has one gets another mode by it, too, which the model does not know.
                Ok(Some(stat)) if stat.kind == Kind::Symlink => disk.set_xattrs(path, &xattr(ACL)),
                other => other.map(drop),
            },
            Self::SetXattr(path, name) => disk.set_xattrs(path, &xattr(name)),
            Self::SetTime(path) => disk.set_mtime(path, 1_600_000_000),
            Self::Link(from, to) => disk.link(from, to),
            Self::Rename(from, to, how) => disk.rename(from, to, *how),
            Self::Remove(path) => disk.remove(path),
            Self::RemoveDirectory(path) => disk.remove_directory(path),
            Self::Sync(path) => match disk.stat(path) {
                // Nobody syncs anything else.
                Ok(Some(stat)) if stat.kind == Kind::File => disk.sync_file(path),
                other => other.map(drop),
            },
            Self::RemoveTree(path) => disk.remove_tree(path),
            Self::SyncDirectory(path) => disk.sync_directory(path),
            Self::SyncFilesystem(path) => disk.sync_filesystem(path),
            // What is in no layer below stays as it is.
            Self::CopyUp(path) => disk.copy_up(path),
            Self::Look(path) => return look(disk, path),
            Self::Filesystem(path) => return filesystem(disk, path),
            Self::MountTop(path) => return format!("{:?}", disk.mount_top(path).map_err(number)),
        })
    }
}

/// A list of rights (acl(5)): one user more than the owner, the group and others.
const ACL: &str = "system.posix_acl_access";

const XATTRS: [&str; 3] = ["security.capability", "user.note", ACL];

/// What no machine has a driver for (devices.txt of the kernel: for experiments), so that opening it does nothing.
const NO_DEVICE: u64 = 60 << 8 | 7;

const SPECIAL: [Special<'static>; 4] =
    [Special::Fifo, Special::Socket, Special::CharDevice(NO_DEVICE), Special::BlockDevice(NO_DEVICE)];

fn xattr(name: &str) -> Xattrs {
    let value: Vec<u8> = match name {
        // cap_net_raw+ep, version 2 (capability.h).
        "security.capability" => vec![1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ACL => [
            &[2, 0, 0, 0][..],
            &entry(1, 6, !0),
            &entry(2, 4, 7),
            &entry(4, 4, !0),
            &entry(16, 4, !0),
            &entry(32, 4, !0),
        ]
        .concat(),
        _ => b"something".to_vec(),
    };
    Xattrs::from([(name.as_bytes().to_vec(), value)])
}

/// Of a list of rights: tag, permissions, and whose.
fn entry(tag: u8, permissions: u8, id: u32) -> [u8; 8] {
    let [a, b, c, d] = id.to_le_bytes();
    [tag, 0, permissions, 0, a, b, c, d]
}

fn number(error: std::io::Error) -> nix::errno::Errno {
    nix::errno::Errno::from_raw(error.raw_os_error().unwrap())
}

/// What is said of the file system, but for numbers that differ.
fn filesystem(disk: &dyn Disk, directory: &FlistPath) -> String {
    let own = disk.stat(&FlistPath::root()).unwrap().unwrap().inode.0;
    let said = disk.filesystem(directory).map_err(number).map(|found| {
        (found.device == own, found.in_ram, found.read_only, found.copies_up, found.available.is_some())
    });
    format!("{said:?}")
}

fn look(disk: &dyn Disk, path: &FlistPath) -> String {
    let opened = |follow| {
        disk.open(path, follow).map_err(number).map(|file| {
            let mut bytes = vec![0; 100];
            let read = file.read_at(&mut bytes, 50).unwrap();
            (read, bytes[0])
        })
    };
    format!(
        "{:?} {:?} {:?} {:?} {:?} {:?}",
        disk.xattrs(path).map_err(number),
        disk.real_directory(path).map_err(number),
        disk.read_link(path).map_err(number),
        disk.list(path).map_err(number),
        opened(false),
        opened(true),
    )
}

/// Everything on a disk in words.
fn listing(disk: &dyn Disk) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut todo = vec![FlistPath::root()];
    while let Some(directory) = todo.pop() {
        for name in disk.list(&directory).unwrap() {
            let path = directory.join(&name).unwrap();
            let stat = disk.stat(&path).unwrap().unwrap();
            let size = if stat.kind == Kind::Directory { 0 } else { stat.size };
            let xattrs = disk.xattrs(&path).unwrap();
            // Directories get new times from what happens in them, which nobody looks at.
            let set = stat.mtime == 1_600_000_000 && stat.kind != Kind::Directory;
            let time = set.then_some(stat.mtime);
            let what = (stat.kind, stat.rdev, stat.uid, stat.gid, size, xattrs, time);
            all.insert(path.to_string(), format!("{:o} {what:?}", stat.mode));
            if stat.kind == Kind::Directory {
                todo.push(path);
            }
        }
    }
    all
}

fn clear(disk: &dyn Disk) {
    let mut directories = vec![FlistPath::root()];
    let mut at = 0;
    while let Some(directory) = directories.get(at).cloned() {
        at += 1;
        for name in disk.list(&directory).unwrap() {
            let path = directory.join(&name).unwrap();
            match disk.stat(&path).unwrap().unwrap().kind {
                Kind::Directory => directories.push(path),
                _ => disk.remove(&path).unwrap(),
            }
        }
    }
    for directory in directories[1..].iter().rev() {
        disk.remove_directory(directory).unwrap();
    }
}

fn compare(mounted: &Path, in_ram: bool) {
    // ext4 has a directory of its own at the top.
    let top = mounted.join("top");
    std::fs::create_dir(&top).unwrap();
    let real = Beneath::open(&top).unwrap();
    let (mut done, mut kinds) = (0, BTreeMap::<String, usize>::new());
    for seed in 0..SEQUENCES {
        let mut files = Files::new(1);
        files.in_ram = in_ram;
        let machine = Arc::new(Machine::new(files, Files::new(2)));
        let model = ModelDisk::new(machine, Volume::Root);
        let mut dice = Dice(seed);
        let mut history = Vec::new();
        for _ in 0..LENGTH {
            let doing = Doing::any(&mut dice);
            let (there, here) = (doing.on(&real), doing.on(&model));
            history.push(format!("{doing:?}: {here}"));
            assert_eq!(there, here, "seed {seed}: {doing:?}: real and model differ\n{}", history.join("\n"));
            done += usize::from(here == "done");
            *kinds.entry(doing.kind()).or_default() += usize::from(!here.starts_with('E'));
        }
        let (there, here) = (listing(&real), listing(&model));
        assert_eq!(there, here, "seed {seed}: real and model differ\n{}", history.join("\n"));
        clear(&real);
    }
    // Otherwise it was mostly errors that were compared, or some effects were not.
    assert!(done > LENGTH * SEQUENCES as usize / 5, "only {done} operations did something");
    let rare: Vec<_> = kinds.iter().filter(|(_, worked)| **worked < SEQUENCES as usize / 25).collect();
    assert!(rare.is_empty(), "these worked only so often: {rare:?} of {kinds:?}");
}

/// Mounts of this thread are nobody else's, and go with it.
fn own_mounts() {
    assert!(nix::unistd::geteuid().is_root(), "this test needs root");
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).unwrap();
}

#[test]
fn the_model_behaves_like_tmpfs() {
    own_mounts();
    let dir = tempfile::tempdir().unwrap();
    mount(Some("tmpfs"), dir.path(), Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    compare(dir.path(), true);
    nix::mount::umount(dir.path()).unwrap();
}

#[test]
fn the_model_behaves_like_ext4() {
    own_mounts();
    let dir = tempfile::tempdir().unwrap();
    let (image, mounted) = (dir.path().join("image"), dir.path().join("mounted"));
    std::fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
    std::fs::create_dir(&mounted).unwrap();
    let run = |program: &str, arguments: &[&std::ffi::OsStr]| {
        let done = Command::new(program).args(arguments).output().unwrap();
        assert!(done.status.success(), "{program}: {}", String::from_utf8_lossy(&done.stderr));
    };
    run("mkfs.ext4", &["-q".as_ref(), image.as_os_str()]);
    run("mount", &["-o".as_ref(), "loop".as_ref(), image.as_os_str(), mounted.as_os_str()]);
    compare(&mounted, false);
    nix::mount::umount(&mounted).unwrap();
}
