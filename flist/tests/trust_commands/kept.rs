//! What is signed stays on the hub unless that is said, what does not is seen by `trust check`, and the keys that are
//! needed every day are where every day looks for them.

use std::fs;
use std::io::{Read, Write, copy};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use super::{Rig, strs, unsigned::command};

const FLIST: &str = "tf-zos/zos:v1.0.0.flist";
const CHANNEL: &str = "tf-zos/zos:production:latest.flist";

/// A hub with one signed release of prod, to which no link leads.
fn signed() -> Rig {
    let rig = Rig::start();
    rig.says(&["trust", "init"]);
    rig.says(&strs(&rig.publish("1.0.0")));
    rig.says(&["rm", "--token-file", "token", CHANNEL]);
    rig
}

#[test]
fn what_is_signed_is_not_removed_unless_that_is_said() {
    let rig = signed();
    let remove = ["rm", "--token-file", "token", FLIST];
    let output = rig.run(&remove);
    let refused = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(5), "{refused}");
    assert!(
        refused.contains("prod") && refused.contains("1.0.0") && refused.contains("--force"),
        "{refused}"
    );
    assert!(rig.path("hub/public/users").join(FLIST).exists());
    // What it says is what helps.
    rig.follows(&command(&refused, "take it back first: ").replace("DIR", "trust"));
    rig.says(&remove);
    assert!(!rig.path("hub/public/users").join(FLIST).exists());

    let rig = signed();
    rig.says(&[&remove[..], &["--force"]].concat());
    assert!(!rig.path("hub/public/users").join(FLIST).exists());
}

#[test]
fn a_check_sees_whether_the_hub_serves_what_is_signed() {
    let rig = signed();
    let path = rig.path("hub/public/users").join(FLIST);
    let content = fs::read(&path).unwrap();
    let check = || {
        let output = rig.run(&["trust", "check", "--json"]);
        let json: Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code(), json)
    };
    let (code, json) = check();
    assert_eq!((code, &json["accepted"], &json["releases"][0]["why"]), (Some(0), &true.into(), &Value::Null));
    rig.says(&["rm", "--force", "--token-file", "token", FLIST]);
    let (code, json) = check();
    assert_eq!((code, &json["accepted"]), (Some(5), &false.into()), "{json}");
    let output = rig.run(&["trust", "check"]);
    let (said, failed) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(5), "{said}{failed}");
    assert!(said.contains("a node would not get it") && said.contains("does not exist"), "{said}");
    assert!(failed.contains("flist trust withdraw"), "{failed}");
    // Other content: longer, shorter, and of the same length.
    fs::write(rig.path("tree/file"), "other content, of another length").unwrap();
    let publish = ["publish", "--repo", "tf-zos", "--name", "zos", "--version", "1.0.0", "--no-lint"];
    rig.says(&[&publish[..], &["--unsigned", "--token-file", "token", "tree"]].concat());
    assert_eq!(check().0, Some(5));
    let mut flipped = content.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for other in [&content[1..], &flipped] {
        let put = rig.path("other.flist");
        fs::write(&put, other).unwrap();
        fs::copy(&put, &path).unwrap();
        let (code, json) = check();
        assert_eq!(code, Some(5), "{json}");
        assert!(json["releases"][0]["why"].as_str().unwrap().contains("not what was signed"), "{json}");
    }
    // Of other run modes nothing is amiss.
    assert_eq!(rig.run(&["trust", "check", "--run-mode", "qa"]).status.code(), Some(0));
}

/// Whether a node could install the whole release is one command.
#[test]
fn a_check_of_blocks_sees_one_that_is_missing_on_the_server() {
    let rig = signed();
    let check = |more: &[&str]| {
        let output = rig.run(&[&["trust", "check", "--json"], more].concat());
        let json: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (output.status.code(), json)
    };
    let (code, json) = check(&["--blocks"]);
    assert_eq!((code, &json["accepted"]), (Some(0), &true.into()), "{json}");
    let mut blocks = Vec::new();
    files_in(&rig.path("hub/store"), &mut blocks);
    assert!(!blocks.is_empty());
    let (path, content) = (&blocks[0], fs::read(&blocks[0]).unwrap());
    fs::remove_file(path).unwrap();
    // Signatures and flists are all right.
    assert_eq!(check(&[]).0, Some(0));
    let (code, json) = check(&["--blocks"]);
    assert_eq!((code, &json["accepted"]), (Some(5), &false.into()), "{json}");
    let why = json["releases"][0]["why"].as_str().unwrap();
    let id = path.file_name().unwrap().to_str().unwrap();
    assert!(why.contains("1 of ") && why.contains(id) && why.contains("is missing in"), "{why}");
    // Nor is a damaged one.
    fs::write(path, &content[1..]).unwrap();
    assert_eq!(check(&["--blocks"]).0, Some(5));
    fs::write(path, &content).unwrap();
    assert_eq!(check(&["--blocks"]).0, Some(0));
}

fn files_in(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files_in(&path, found),
            false => found.push(path),
        }
    }
}

#[test]
fn a_new_online_key_lies_where_the_repository_has_its_own() {
    let rig = Rig::start();
    rig.says(&["trust", "init"]);
    fs::create_dir(rig.path("usb")).unwrap();
    for entry in fs::read_dir(rig.path("trust/keys")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if !name.starts_with("timestamp-") && !name.starts_with("snapshot-") {
            fs::rename(&path, rig.path("usb").join(name)).unwrap();
        }
    }
    let said = rig.says(&["trust", "key", "rotate", "timestamp", "--keys", "usb", "--token-file", "token"]);
    assert!(said.contains(&format!("new key {}", rig.path("trust/keys/timestamp-").display())), "{said}");
    // With the medium back in its safe.
    rig.says(&["trust", "refresh", "--token-file", "token"]);
    rig.says(&["trust", "check"]);
    // The repository may have no keys of its own yet.
    fs::rename(rig.path("trust/keys"), rig.path("online")).unwrap();
    let lost = ["trust", "key", "rotate", "timestamp", "--keys", "usb", "--keys", "online"];
    rig.says(&[&lost[..], &["--token-file", "token"]].concat());
    rig.says(&["trust", "refresh", "--keys", "online", "--token-file", "token"]);
    let mut online = fs::read_dir(rig.path("online")).unwrap().map(|entry| entry.unwrap().path());
    let snapshot = online.find(|path| path.display().to_string().contains("/snapshot-")).unwrap();
    fs::rename(&snapshot, rig.path("trust/keys").join(snapshot.file_name().unwrap())).unwrap();
    // Those that sign on other media stay there.
    let said = rig.says(&["trust", "key", "rotate", "prod", "--keys", "usb", "--token-file", "token"]);
    assert!(said.contains("new key usb/prod-"), "{said}");
}

/// Passes everything on to a hub, and counts how often a path is asked for.
fn counting(hub: SocketAddr, path: &'static str) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, asked) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let counter = Arc::clone(&asked);
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let (counter, server) = (Arc::clone(&counter), TcpStream::connect(hub).unwrap());
            let mut answers = (server.try_clone().unwrap(), client.try_clone().unwrap());
            std::thread::spawn(move || copy(&mut answers.0, &mut answers.1));
            std::thread::spawn(move || {
                let (mut client, mut server, mut bytes) = (client, server, vec![0; 64 * 1024]);
                // A request that asks for something is short.
                while let Ok(count @ 1..) = client.read(&mut bytes) {
                    let text = String::from_utf8_lossy(&bytes[..count]);
                    counter.fetch_add(text.matches(path).count(), Ordering::SeqCst);
                    server.write_all(&bytes[..count]).unwrap();
                }
            });
        }
    });
    (address, asked)
}

#[test]
fn a_check_fetches_a_flist_once_for_all_run_modes() {
    let rig = signed();
    let promote = ["promote", "--repo", "tf-zos", "--name", "zos", "--sign", "--token-file", "token"];
    rig.says(&["link", "--token-file", "token", CHANNEL, FLIST]);
    rig.says(&[&promote[..], &["prod", "qa"]].concat());
    rig.says(&[&promote[..], &["prod", "test"]].concat());
    let (address, asked) = counting(rig.hub.address, "/zos:v1.0.0.flist");
    let said = rig.says(&["trust", "check", "--hub", &format!("http://{address}")]);
    for mode in ["test", "prod", "qa"] {
        assert!(said.contains(&format!("\n{mode} ")), "{said}");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1, "{said}");
}
