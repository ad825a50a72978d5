//! The real `flist mount` under programs that people use every day.
#![allow(clippy::unwrap_used)]

mod packed;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use molt_tests::{Binaries, require_root, run, scratch, tools};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use packed::{installed, shell, source};
use tempfile::TempDir;

/// How long one program may take.
const LIMIT: Duration = Duration::from_secs(120);

/// A directory that was packed by `flist pack` and is mounted by `flist mount`.
struct Mounted {
    directory: TempDir,
    process: Child,
}

impl Mounted {
    /// Fills the directory that is packed by `fill`.
    fn new(fill: impl FnOnce(&Path)) -> Self {
        require_root("a mount").unwrap();
        let flist = Binaries::ensure().unwrap().flist();
        let directory = scratch("programs").unwrap();
        for name in ["source", "mnt", "copy"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        fill(&directory.path().join("source"));
        let command = |subcommand: &str| {
            let mut command = Command::new(&flist);
            command.current_dir(directory.path()).args([subcommand, "-m", "tree.fl", "-s", "store"]);
            command
        };
        run(command("pack").arg("source"), LIMIT).unwrap();
        let mut process = command("mount").arg("mnt").stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let mounted = Self { directory, process };
        assert!(line.contains("is mounted on"), "{line:?}");
        mounted
    }

    fn source(&self) -> PathBuf {
        self.directory.path().join("source")
    }

    fn at(&self) -> PathBuf {
        self.directory.path().join("mnt")
    }

    /// An empty directory.
    fn copy(&self) -> PathBuf {
        self.directory.path().join("copy")
    }

    /// Ends the mount as a person would.
    fn unmount(mut self) {
        run(Command::new("umount").arg(self.at()), LIMIT).unwrap();
        assert!(self.process.wait().unwrap().success());
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Only after a failed test is there something left to end.
        if let Ok(None) = self.process.try_wait() {
            let _ = kill(Pid::from_raw(self.process.id().cast_signed()), Signal::SIGTERM);
            let _ = self.process.wait();
        }
        while umount2(&self.at(), MntFlags::MNT_DETACH).is_ok() {}
    }
}

/// All that `find` tells of a tree, but for the size of directories, which every file system has its own of.
fn listing(at: &Path) -> String {
    shell(
        at,
        "cd \"$AT\"; find . -type d -printf '%P %m %U %G %Ts\\n' -o -printf '%P %y %m %U %G %s %Ts %l\\n' | sort",
    )
}

#[test]
fn rsync_copies_a_mount_and_then_finds_nothing_to_do() {
    let rsync = tools::rsync().unwrap();
    let mounted = Mounted::new(source);
    let sync = |options: &[&str]| {
        let mut command = Command::new(&rsync.program);
        command.env("LD_LIBRARY_PATH", &rsync.library_path).env("LC_ALL", "C").args(options);
        run(command.arg(mounted.at().join("")).arg(mounted.copy()), LIMIT).unwrap()
    };
    sync(&["-a"]);
    assert_eq!(sync(&["-ani"]), "");
    assert_eq!(sync(&["-anic", "--delete"]), "");
    shell(&mounted.source(), &format!("diff -r --no-dereference \"$AT\" '{}'", mounted.copy().display()));
    fs::write(mounted.copy().join("empty"), "no longer").unwrap();
    assert!(sync(&["-ani"]).contains("empty"), "it looks at all");
    mounted.unmount();
}

#[test]
fn tar_carries_a_mount_elsewhere() {
    let mounted = Mounted::new(source);
    let copy = mounted.copy();
    shell(&mounted.at(), &format!("tar -C \"$AT\" -cf - . | tar -C '{}' -xpf -", copy.display()));
    shell(&mounted.source(), &format!("diff -r --no-dereference \"$AT\" '{}'", copy.display()));
    assert_eq!(listing(&copy), listing(&mounted.source()));
    assert_eq!(listing(&mounted.at()), listing(&mounted.source()));
    mounted.unmount();
}

#[test]
fn git_finds_a_packed_work_tree_unchanged() {
    if !installed("git") {
        eprintln!("skipped: there is no git on this machine");
        return;
    }
    let mounted = Mounted::new(|at| {
        source(at);
        shell(
            at,
            "cd \"$AT\"; git init --quiet; git add .
             git -c user.name=a -c user.email=a@b commit --quiet --message first; git gc --quiet
             chown -R 12345:12345 .",
        );
    });
    let git = |command: &str| shell(&mounted.at(), &format!("cd \"$AT\"; git -c safe.directory=* {command}"));
    assert_eq!(git("status --porcelain"), "");
    assert_eq!(git("log --format=%s"), "first\n");
    git("fsck --full --strict");
    mounted.unmount();
}

#[test]
fn files_of_a_mount_can_be_mapped_into_memory() {
    if !installed("python3") {
        eprintln!("skipped: there is no python3 on this machine to map files with");
        return;
    }
    let mounted = Mounted::new(source);
    // Pages in no order, over the borders of blocks, and the last page, of which the file has only a part.
    let script = "
import mmap, random, sys
with open(sys.argv[1], 'rb') as plain: right = plain.read()
with open(sys.argv[2], 'rb') as file:
    mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    assert len(mapped) == len(right)
    assert mapped[-1] == right[-1]
    starts = list(range(0, len(right), 4096))
    random.Random(1).shuffle(starts)
    assert all(mapped[at:at + 5000] == right[at:at + 5000] for at in starts)
print('the same')
";
    let mut python = Command::new("python3");
    python.args(["-c", script]).arg(mounted.source().join("big")).arg(mounted.at().join("big"));
    assert_eq!(run(&mut python, LIMIT).unwrap(), "the same\n");
    mounted.unmount();
}

#[test]
fn ten_thousand_files_are_found_and_counted() {
    const FILES: u64 = 10_000;
    let mounted = Mounted::new(|at| {
        fs::create_dir(at.join("many")).unwrap();
        for number in 0..FILES {
            // A few contents only, so that packing is quick.
            fs::write(at.join(format!("many/{number}")), [b'x'; 100].repeat(number as usize % 7)).unwrap();
        }
    });
    let found = shell(&mounted.at(), "cd \"$AT\"; find many -type f -printf '%f %s\\n' | sort -n");
    let wanted: String = (0..FILES).map(|number| format!("{number} {}\n", number % 7 * 100)).collect();
    assert!(found == wanted, "{} lines", found.lines().count());
    let counted = shell(&mounted.at(), "df --output=fstype,itotal \"$AT\" | tail -n 1");
    let counted: Vec<_> = counted.split_whitespace().collect();
    assert_eq!(counted, ["fuse.flist", &(FILES + 2).to_string()], "the files and two directories");
    let bytes = shell(&mounted.at(), "df --output=used,avail --block-size=1 \"$AT\" | tail -n 1");
    let bytes: Vec<u64> = bytes.split_whitespace().map(|number| number.parse().unwrap()).collect();
    let total: u64 = (0..FILES).map(|number| number % 7 * 100).sum();
    assert!(bytes[0] >= total, "{bytes:?} for {total}");
    assert_eq!(bytes[1], 0, "nothing can be written");
    mounted.unmount();
}
