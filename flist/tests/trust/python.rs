//! Our repositories and our client against the reference implementation, Python's `tuf`: each accepts what the other
//! makes, and both refuse what is broken.

use std::path::{Path, PathBuf};
use std::process::Command;

use flist::trust::repository::Plan;
use flist::trust::{Source, TrustClient};
use jiff::Timestamp;
use serde_json::json;

use crate::forge::{evil_target, file, newest, put};
use crate::rig::{Node, Repo};
use crate::web::{Answer, Web};

const TUF: &str = "tuf==7.0.0";

/// Set by whoever has no Python with `tuf` and cannot get it, and knows that these tests prove nothing then.
const WITHOUT: &str = "MOLT_WITHOUT_TUF";

/// A Python with `tuf`, in `target/tools`, where it is put if it is not there yet: that takes `python3` with `venv`, and
/// a package index. Without it these tests fail, unless [`WITHOUT`] is set.
fn python() -> Option<PathBuf> {
    if std::env::var_os(WITHOUT).is_some() {
        eprintln!("SKIPPED: {WITHOUT} is set");
        return None;
    }
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools");
    std::fs::create_dir_all(&tools).unwrap();
    // The tests are processes of their own, and one of them makes it.
    let lock = std::fs::File::create(tools.join("tuf.lock")).unwrap();
    lock.lock().unwrap();
    let venv = tools.join("tuf-7.0.0");
    let python = venv.join("bin/python");
    let works = || Command::new(&python).args(["-c", "import tuf.ngclient, cryptography"]).output();
    if works().is_ok_and(|output| output.status.success()) {
        return Some(python);
    }
    let made = Command::new("python3").args(["-m", "venv"]).arg(&venv).output();
    let pip = |_| {
        Command::new(&python)
            .args(["-m", "pip", "install", "-q", TUF, "securesystemslib[crypto]==1.4.0"])
            .output()
    };
    match made.and_then(pip) {
        Ok(output) if output.status.success() => Some(python),
        other => panic!(
            "no Python with {TUF} can be had here, so nothing is compared with the reference: {other:?}; install \
             python3 with venv, or set {WITHOUT}=1 to do without"
        ),
    }
}

fn run(python: &Path, arguments: &[&str]) -> Result<(), String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/trust/differential.py");
    let output = Command::new(python).arg(script).args(arguments).output().unwrap();
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// What is broken: a name, and what is done to the files that are served.
type Breakage = (&'static str, fn(&Web));

const BREAKAGES: [Breakage; 8] = [
    ("a signature is gone", |web| edit(web, "prod", |role| role["signatures"] = json!([]))),
    ("a digit of a signature", |web| {
        edit(web, "timestamp", |role| {
            let text = role["signatures"][0]["sig"].as_str().unwrap();
            let first = if text.starts_with('0') { "1" } else { "0" };
            role["signatures"][0]["sig"] = format!("{first}{}", &text[1..]).into();
        });
    }),
    ("a version", |web| edit(web, "snapshot", |role| role["signed"]["version"] = 77.into())),
    ("an expiry", |web| {
        edit(web, "timestamp", |role| role["signed"]["expires"] = "2000-01-01T00:00:00Z".into())
    }),
    ("another type", |web| edit(web, "targets", |role| role["signed"]["_type"] = "root".into())),
    ("a target more", |web| {
        edit(web, "prod", |role| {
            let (path, target) = evil_target(b"evil");
            role["signed"]["targets"][path] = target;
        });
    }),
    ("half a file", |web| {
        let name = newest(web, "prod");
        let bytes = web.bytes(&name).unwrap();
        web.put(&name, Answer::Bytes(bytes[..bytes.len() / 2].to_vec()));
    }),
    ("a file that is not there", |web| web.remove(&newest(web, "snapshot"))),
];

fn edit(web: &Web, role: &str, change: impl FnOnce(&mut serde_json::Value)) {
    let name = newest(web, role);
    let mut envelope = file(web, &name);
    change(&mut envelope);
    put(web, &name, &envelope);
}

fn snapshot_of(web: &Web) -> Vec<(String, Vec<u8>)> {
    web.names().into_iter().map(|name| (name.clone(), web.bytes(&name).unwrap())).collect()
}

fn restore(web: &Web, files: &[(String, Vec<u8>)]) {
    web.clear();
    files.iter().for_each(|(name, bytes)| web.put(name, Answer::Bytes(bytes.clone())));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_we_make_the_reference_accepts_and_both_refuse_what_is_broken() {
    let Some(python) = python() else { return };
    // The reference looks at the real clock.
    let now = Timestamp::now().as_second();
    let repo = Repo::made(Plan::releases(), now);
    repo.release("1.0.0", now);
    let place = tempfile::tempdir().unwrap();
    let (root, content, other) =
        (place.path().join("root.json"), place.path().join("content"), place.path().join("other"));
    std::fs::write(&root, &repo.root).unwrap();
    std::fs::write(&content, Repo::content("1.0.0")).unwrap();
    std::fs::write(&other, Repo::content("1.0.1")).unwrap();
    let reads = |content: &Path| {
        let path = Repo::release_of("1.0.0").flists[0].flist.to_string();
        let (root, target) = (root.display().to_string(), format!("prod/{path}"));
        run(&python, &["read", repo.web.url(), &root, &target, &content.display().to_string()])
    };
    reads(&content).unwrap();
    assert!(reads(&other).is_err());
    let good = snapshot_of(&repo.web);
    for (what, breakage) in BREAKAGES {
        breakage(&repo.web);
        assert!(reads(&content).is_err(), "the reference accepts: {what}");
        assert!(Node::of(&repo).offer(now).await.is_err(), "we accept: {what}");
        restore(&repo.web, &good);
    }
    // After rotations of every kind, from the first root on.
    for role in ["root", "targets", "snapshot", "timestamp", "prod"] {
        let role = role.parse().unwrap();
        let old = repo.trust.key_ids(role).unwrap().remove(0);
        let (key, _) = repo.trust.new_key(role, &repo.trust.keys(), &crate::rig::passphrase()).unwrap();
        repo.trust.change_keys(role, &[key], &[old], None, &mut repo.signers(), crate::rig::at(now)).unwrap();
    }
    repo.serve();
    reads(&content).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_reference_makes_we_accept_and_both_refuse_what_is_broken() {
    let Some(python) = python() else { return };
    let place = tempfile::tempdir().unwrap();
    let made = place.path().join("made");
    std::fs::create_dir(&made).unwrap();
    let content = place.path().join("content");
    std::fs::write(&content, b"evil").unwrap();
    let (path, target) = evil_target(b"evil");
    let custom = place.path().join("custom");
    std::fs::write(&custom, json!({"path": path, "custom": target["custom"]}).to_string()).unwrap();
    let text = |path: &Path| path.display().to_string();
    run(&python, &["write", &text(&made), &text(&custom), &text(&content)]).unwrap();
    let web = Web::start();
    for entry in std::fs::read_dir(&made).unwrap() {
        let entry = entry.unwrap();
        web.put(&entry.file_name().to_string_lossy(), Answer::Bytes(std::fs::read(entry.path()).unwrap()));
    }
    let root = made.join("1.root.json");
    let accepts = async || {
        let state = tempfile::tempdir().unwrap();
        let source = Source::new(web.url(), reqwest::Client::new()).unwrap();
        let client = TrustClient::open(&std::fs::read(&root).unwrap(), state.path(), source).unwrap();
        let now = Timestamp::now().as_second();
        let mut fresh =
            client.refresh(&crate::rig::clocks(now)).await.map_err(|error| flist::report(&error))?;
        let offers =
            fresh.releases(flist::hub::RunMode::Prod).await.map_err(|error| flist::report(&error))?;
        offers.first().map(|offer| offer.version.to_string()).ok_or("nothing is offered".to_owned())
    };
    assert_eq!(accepts().await.unwrap(), "6.6.6");
    let good = snapshot_of(&web);
    for (what, breakage) in BREAKAGES {
        breakage(&web);
        assert!(accepts().await.is_err(), "we accept: {what}");
        let read = run(&python, &["read", web.url(), &text(&root), &path, &text(&content)]);
        assert!(read.is_err(), "the reference accepts: {what}");
        restore(&web, &good);
    }
    run(&python, &["read", web.url(), &text(&root), &path, &text(&content)]).unwrap();
}
