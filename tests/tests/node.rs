//! The harness itself: a node boots, is isolated, has FUSE, and leaves nothing behind.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::fs;
use std::path::Path;
use std::time::Duration;

use molt_tests::{BaseFile, Binaries, Hub, NetNs, Node, Payload, RootKind, wait_for};

const SOON: Duration = Duration::from_secs(60);

#[test]
fn a_node_boots_and_is_on_its_own() {
    let netns = NetNs::new().unwrap();
    let node = Node::builder(&netns)
        .command_line("console=ttyS0 runmode=dev")
        .unit("idle", "exec: sleep 100000\n")
        .boot()
        .unwrap();
    node.wait_for_services(&["idle"], SOON).unwrap();

    assert_eq!(node.read("/proc/cmdline").unwrap(), "console=ttyS0 runmode=dev\n");
    assert_eq!(node.run(&["hostname"]).unwrap(), "node\n");
    assert_eq!(node.run(&["readlink", "/proc/1/exe"]).unwrap(), "/usr/sbin/zinit\n");
    assert_eq!(node.init().unwrap().pid_inside, 1);
    assert_eq!(node.run(&["stat", "-c", "%a", "/tmp"]).unwrap(), "1777\n");
    assert!(node.run(&["ip", "route"]).unwrap().is_empty());

    let processes = node.census().unwrap().processes;
    assert!(processes.len() == 2 && processes.contains(&"sleep".to_owned()), "{processes:?}");
}

/// Files of nodes that loop devices still have although they are removed.
fn removed_images() -> Vec<String> {
    let devices = fs::read_dir("/sys/block").unwrap().flatten();
    let files = devices.filter_map(|device| fs::read_to_string(device.path().join("loop/backing_file")).ok());
    files.filter(|file| file.contains("/molt-node-") && file.trim_end().ends_with("(deleted)")).collect()
}

#[test]
fn a_node_has_the_root_that_is_asked_for_and_leaves_no_loop_device() {
    let netns = NetNs::new().unwrap();
    let node = |kind| Node::builder(&netns).root(kind).size_mib(512);
    for kind in RootKind::ALL {
        let node = node(kind).boot().unwrap();
        let mounts = node.census().unwrap().mounts;
        assert!(mounts.contains(&format!("{kind} /")), "{kind}: {mounts:?}");
        // What is of the base image can be replaced, and there is an end to the space.
        node.run(&["sh", "-c", "echo new > /etc/group.new && mv /etc/group.new /etc/group"]).unwrap();
        assert_eq!(node.run(&["cat", "/etc/group"]).unwrap(), "new\n");
        let full = node.exec(&["dd", "if=/dev/zero", "of=/filler", "bs=1M", "count=600"]).unwrap();
        assert!(String::from_utf8_lossy(&full.stderr).contains("No space left"), "{kind}: {full:?}");
    }
    // One that does not come up.
    let broken = node(RootKind::Ext4).file(BaseFile::program("/sbin/gone", "/there/is/no/such/program"));
    let error = broken.boot().err().unwrap();
    assert!(format!("{error:?}").contains("/there/is/no/such/program"), "{error:?}");
    wait_for("the loop devices are free", SOON, || match removed_images() {
        left if left.is_empty() => Ok(()),
        left => Err(format!("{left:?}")),
    })
    .unwrap();
}

#[test]
fn a_flist_is_mounted_in_a_node() {
    let netns = NetNs::new().unwrap();
    let hub = Hub::start(&netns).unwrap();
    let payload = Payload::new().unwrap();
    payload.file("greeting", 0o640, "hello\n").unwrap().link("also", "greeting").unwrap();
    hub.publish("1.0.0", payload.directory(), None).unwrap();

    let node = Node::builder(&netns)
        .file(BaseFile::program("/usr/bin/flist", Binaries::ensure().unwrap().flist()))
        .unit(
            "get",
            &format!("exec: wget -O /tmp/zos.fl {}/tf-zos/zos:v1.0.0.flist\noneshot: true\n", hub.url()),
        )
        .unit("mounted", "exec: flist mount -m /tmp/zos.fl /mnt\nafter: [get]\n")
        .boot()
        .unwrap();
    node.wait_for("the mount is there", SOON, || match node.run(&["cat", "/mnt/also"]) {
        Ok(text) if text == "hello\n" => Ok(()),
        other => Err(format!("{other:?}; {:?}", node.service_log())),
    })
    .unwrap();
    assert_eq!(node.run(&["stat", "-c", "%a %s", "/mnt/greeting"]).unwrap(), "640 6\n");
    let mounts = node.census().unwrap().mounts;
    assert!(mounts.iter().any(|mount| mount.starts_with("fuse") && mount.ends_with(" /mnt")), "{mounts:?}");
}

#[test]
fn a_node_without_fuse_has_none() {
    let netns = NetNs::new().unwrap();
    let node = Node::builder(&netns).without_fuse().boot().unwrap();
    assert!(!node.path("/dev/fuse").exists() && node.path("/dev/null").exists());
}

#[test]
fn nothing_is_left_of_a_node() {
    let netns = NetNs::new().unwrap();
    let unit = "exec: sh -c 'trap \"\" TERM; sleep 100000 & setsid sleep 100000 & wait'\n";
    let node = Node::builder(&netns).unit("stubborn", unit).boot().unwrap();
    let three = || match node.processes().unwrap() {
        processes if processes.len() == 4 => Ok(processes),
        other => Err(format!("{other:?}")),
    };
    let processes = node.wait_for("the service and its two children run", SOON, three).unwrap();
    drop(node);
    wait_for("all processes are gone", SOON, || {
        let alive = |pid: u32| Path::new(&format!("/proc/{pid}")).exists();
        match processes.iter().find(|process| alive(process.pid)) {
            Some(left) => Err(format!("{left:?} is there")),
            None => Ok(()),
        }
    })
    .unwrap();
}
