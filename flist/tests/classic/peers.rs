//! Beside the real programs, where the environment names them: `MOLT_ZDB` (0-db), `MOLT_ZFLIST` (0-flist's zflist) and
//! `MOLT_G8UFS` (0-fs). Each way says when it is left out.

use std::ffi::OsString;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::mount::{MntFlags, umount2};

use crate::golden::{golden_store, golden_tree};
use crate::observe::{self, assert_is_golden, flist, golden_lines};

fn peer(variable: &str) -> Option<OsString> {
    let program = std::env::var_os(variable);
    if program.is_none() {
        println!("SKIPPED: {variable} does not name the real program");
    }
    program
}

/// A program that ends with its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Place {
    dir: tempfile::TempDir,
    port: u16,
    _zdb: Running,
}

impl Place {
    /// With a 0-db and the golden tree in `tree`.
    fn new(zdb: &OsString) -> Self {
        observe::require_root();
        let dir = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new(zdb);
        command.args(["--mode", "user", "--listen", "127.0.0.1", "--port", &port.to_string(), "--data"]);
        command.arg(dir.path().join("data")).arg("--index").arg(dir.path().join("index"));
        let zdb = Running(command.stdout(Stdio::null()).spawn().unwrap());
        observe::wait_until("0-db answers", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        let place = Self { dir, port, _zdb: zdb };
        flist::unpack::unpack(&golden_tree(), &golden_store(), &place.at("tree")).unwrap();
        place
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn store(&self) -> String {
        format!("zdb://127.0.0.1:{}", self.port)
    }

    /// Packs the golden tree into the 0-db.
    fn pack(&self) -> PathBuf {
        let (out, store) = (self.at("ours.flist"), self.store());
        let [pack, f, classic, m, s] = ["pack", "--format", "classic", "-m", "-s"].map(Path::new);
        flist(&[pack, f, classic, m, &out, s, store.as_ref(), &self.at("tree")]);
        out
    }
}

#[test]
fn blocks_in_a_real_0_db() {
    let Some(zdb) = peer("MOLT_ZDB") else { return };
    let place = Place::new(&zdb);
    let packed = place.pack();
    // The flist says where its blocks are.
    flist(&["verify".as_ref(), &packed]);
    flist(&["unpack".as_ref(), &packed, &place.at("out")]);
    assert_is_golden(&place.at("out"));
    fs::create_dir(place.at("mnt")).unwrap();
    let mut mount = Command::new(env!("CARGO_BIN_EXE_flist"));
    let _mount = Running(mount.arg("mount").arg(&packed).arg(place.at("mnt")).spawn().unwrap());
    observe::wait_until("it is mounted", || !observe::mounts_at(&place.at("mnt")).is_empty());
    assert_is_golden(&place.at("mnt"));
    umount2(&place.at("mnt"), MntFlags::MNT_DETACH).unwrap();
}

#[test]
fn the_real_0_fs_mounts_what_we_pack() {
    let (Some(zdb), Some(g8ufs)) = (peer("MOLT_ZDB"), peer("MOLT_G8UFS")) else { return };
    let place = Place::new(&zdb);
    let packed = place.pack();
    let at = place.at("mnt");
    fs::create_dir(&at).unwrap();
    let mut mount = Command::new(g8ufs);
    // Without it the routes of the flist are used, which is what is to be seen.
    mount.arg("--ro").arg("--meta").arg(&packed).arg("--backend").arg(place.at("backend")).arg(&at);
    let _g8ufs = Running(mount.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    observe::wait_until("it is mounted", || !observe::mounts_at(&at).is_empty());
    let digests = {
        let mut digests = observe::digests(&at);
        digests.sort();
        digests
    };
    let manifest = observe::manifest(&at);
    umount2(&at, MntFlags::MNT_DETACH).unwrap();
    assert_eq!(digests, golden_lines("tree.sha256"));
    // 0-fs drops the bits above 0o777.
    let lines = golden_lines("tree.manifest");
    let mut seen: Vec<_> = lines.iter().map(|line| line.replace("f 4755", "f 0755")).collect();
    seen.sort();
    assert_eq!(manifest, seen);
}

#[test]
fn what_the_real_zflist_packs_is_read() {
    let (Some(zdb), Some(zflist)) = (peer("MOLT_ZDB"), peer("MOLT_ZFLIST")) else { return };
    let place = Place::new(&zdb);
    fs::create_dir(place.at("work")).unwrap();
    let run = |arguments: &[&Path]| {
        let mut command = Command::new(&zflist);
        command.env("ZFLIST_MNT", place.at("work"));
        command.env("ZFLIST_BACKEND", format!("{{\"host\": \"127.0.0.1\", \"port\": {}}}", place.port));
        let output = command.args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    };
    let theirs = place.at("theirs.flist");
    run(&["init".as_ref()]);
    run(&["putdir".as_ref(), &place.at("tree"), "/".as_ref()]);
    run(&["commit".as_ref(), &theirs]);
    let store = place.store();
    flist(&["unpack".as_ref(), "-s".as_ref(), store.as_ref(), &theirs, &place.at("out")]);
    assert_is_golden(&place.at("out"));
    // zflist reads ours, and what it writes of it is the same tree.
    let again = place.at("again.flist");
    run(&["close".as_ref()]);
    run(&["open".as_ref(), &place.pack()]);
    run(&["commit".as_ref(), &again]);
    flist(&["unpack".as_ref(), "-s".as_ref(), store.as_ref(), &again, &place.at("again")]);
    assert_is_golden(&place.at("again"));
}
