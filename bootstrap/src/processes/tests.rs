use std::process::Command;

use super::*;

#[test]
fn commands_may_hold_anything() {
    let stat = "42 (a) b (c) R 7 40 40 0 -1 4194304";
    let Stat { name, state, relations, started } = super::stat(stat).unwrap();
    assert_eq!((name.as_str(), state, started), ("a) b (c", 'R', 0));
    assert_eq!(relations, Relations { parent: 7, group: 40 });
    assert!(super::stat("42 (x").is_none() && super::stat(")(").is_none());
}

#[test]
fn mappings() {
    let line = "7f0-7f1 r-xp 00001000 08:1f 4711                       /usr/lib/libc.so.6 (deleted)";
    assert_eq!(mapping(line), Some((rustix::fs::makedev(8, 0x1f), 4711)));
    for none in ["7ff-800 rw-p 00000000 00:00 0 [stack]", "", "x y z", "1-2 r 0 zz:1 1"] {
        assert_eq!(mapping(none), None, "{none}");
    }
}

#[test]
fn strangers_are_found_also_in_other_mount_namespaces() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("program");
    std::fs::copy(std::fs::canonicalize("/bin/sleep").unwrap(), &program).unwrap();
    let wanted = HashMap::from([(inode(&program).unwrap(), "bin/program".parse::<FlistPath>().unwrap())]);
    let mut here = Command::new(&program).arg("600").spawn().unwrap();
    let mut elsewhere = Command::new("unshare").arg("--mount").arg(&program).arg("600").spawn().unwrap();
    let found = (0..500).find_map(|_| {
        let found = in_use(&wanted, &BTreeMap::new());
        std::thread::sleep(std::time::Duration::from_millis(10));
        (found.strangers.len() == 2).then_some(found)
    });
    let as_a_service = in_use(&wanted, &BTreeMap::from([("a".parse().unwrap(), here.id())]));
    let running = found.as_ref().map(|found| found.strangers.iter().all(Stranger::runs));
    for child in [&mut here, &mut elsewhere] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let found = found.unwrap().strangers;
    let of = |pid: u32| found.iter().find(|stranger| stranger.pid == pid).unwrap();
    assert!(!of(here.id()).elsewhere && of(elsewhere.id()).elsewhere, "{found:?}");
    let text = of(elsewhere.id()).to_string();
    assert!(text.ends_with("in another mount namespace uses /bin/program"), "{text}");
    assert_eq!(running, Some(true));
    assert!(!found.iter().any(Stranger::runs), "their numbers are no longer theirs");
    assert_eq!(as_a_service.services.len(), 1);
    assert!(as_a_service.strangers.iter().all(|stranger| stranger.pid != here.id()));
}

#[test]
fn what_was_replaced_and_removed_is_told_from_what_a_process_removed_itself() {
    let line = |path: &str| format!("7f00-7f01 r-xp 00000000 00:2a 42                 {path}\n").into_bytes();
    let said = |maps: &[u8]| maps_removed(maps, &mut MAX_MAPS.clone());
    assert_eq!(said(&[line("/bin/sh"), line("/.molt/3/12 (deleted)")].concat()), Removed::Something);
    for other in ["/.molt/3/12", "/tmp/x (deleted)", "/memfd:jit (deleted)", ""] {
        assert_eq!(said(&line(other)), Removed::Nothing, "{other}");
    }
    assert_eq!(said(b""), Removed::Nothing);
}

#[test]
fn of_long_and_many_mappings_no_more_is_read_than_there_is_room_for() {
    let long = format!("7f00-7f01 r-xp 00000000 00:2a 42 /{}\n", "x".repeat(10_000));
    let mut room = MAX_MAPS;
    assert_eq!(maps_removed(long.as_bytes(), &mut room), Removed::NotAllRead);
    assert_eq!(room, MAX_MAPS - MAX_MAPS_LINE);
    // It does not end.
    let many = std::io::BufReader::new(std::io::repeat(b'\n'));
    let mut room = 1000;
    assert_eq!((maps_removed(many, &mut room), room), (Removed::NotAllRead, 0));
    let mut room = 0;
    assert_eq!(maps_removed(&b"7f00-7f01 r-xp 0 00:2a 42 /bin/sh\n"[..], &mut room), Removed::NotAllRead);
}

#[test]
fn lists_that_are_shown_are_short_and_say_what_is_left_off() {
    let files = |count: usize| (0..count).map(|number| format!("f{number:03}").parse().unwrap()).collect();
    let mut room = 90;
    let (first, more) = shown(files(30), &mut room);
    assert_eq!((first.len(), more, room), (20, 10, 10));
    let (second, more) = shown(files(3), &mut room);
    assert_eq!((second.len(), more, room), (2, 1, 0));
    assert_eq!(shown(files(3), &mut room).1, 3);
}

/// A file system whose server never answers: whoever asks it waits until it is gone.
struct Hung {
    at: tempfile::TempDir,
    _server: std::fs::File,
}

impl Hung {
    fn mount() -> Self {
        use std::os::fd::AsRawFd;
        let at = tempfile::tempdir().unwrap();
        let server = std::fs::File::options().read(true).write(true).open("/dev/fuse").unwrap();
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", server.as_raw_fd());
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("hung"), at.path(), Some("fuse"), flags, Some(options.as_str())).unwrap();
        Self { at, _server: server }
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.at.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

#[test]
fn nobody_waits_for_a_file_system_that_hangs() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let hung = Hung::mount();
    // Opened without a question to the server, and only once it is mounted.
    let flags = rustix::fs::OFlags::PATH;
    let held = rustix::fs::open(hung.at.path(), flags, rustix::fs::Mode::empty()).unwrap();
    // Without the flags this would not return before the file system is gone.
    let (done, looked) = std::sync::mpsc::channel();
    let link = PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&held)));
    std::thread::spawn(move || done.send(inode(&link)));
    let found = looked.recv_timeout(std::time::Duration::from_secs(60));
    drop(hung);
    assert!(found.unwrap().is_some());
}

#[test]
fn open_mapped_and_executed_files_are_found_in_descendants() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let mut child = Command::new("sh")
        .args(["-c", "sleep 600 <\"$0\" & echo started; wait"])
        .arg(&file)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut started = [0; 8];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut started).unwrap();
    let sleep = std::fs::canonicalize("/bin/sleep").unwrap();
    let wanted: HashMap<_, _> = [(&file, "file"), (&sleep, "sleep")]
        .map(|(at, name)| (inode(at).unwrap(), name.parse::<FlistPath>().unwrap()))
        .into();
    let service: UnitName = "service".parse().unwrap();
    let leaders = BTreeMap::from([(service.clone(), child.id()), ("gone".parse().unwrap(), u32::MAX)]);
    // The shell says "started" when it has forked; the child needs a moment to open and execute.
    let found = (0..500).find_map(|_| {
        let found = in_use(&wanted, &leaders);
        std::thread::sleep(std::time::Duration::from_millis(10));
        (found.services.get(&service).map(BTreeSet::len) == Some(2)).then_some(found)
    });
    for pid in members(&process_table(), child.id()) {
        let pid = nix::unistd::Pid::from_raw(pid.cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    }
    child.wait().unwrap();
    assert_eq!(found.unwrap().services.len(), 1);
}
