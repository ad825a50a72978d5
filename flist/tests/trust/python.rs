//! Our repositories and our client against the reference implementation, Python's `tuf`: each accepts what the other
//! makes, and both refuse what is broken.

use std::path::{Path, PathBuf};
use std::process::Command;

use flist::trust::repository::Plan;
use flist::trust::{Source, TrustClient};
use jiff::Timestamp;
use serde_json::{Value, json};

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

/// Whoever changes files on the way, and has no key: a name, and what is done to what is served.
type Meddling = (&'static str, fn(&Web));

const MEDDLING: [Meddling; 5] = [
    ("a signature is gone", |web| edit(web, "prod", |role| role["signatures"] = json!([]))),
    ("a digit of a signature", |web| {
        edit(web, "timestamp", |role| {
            let text = role["signatures"][0]["sig"].as_str().unwrap();
            let at = text.len() / 2;
            let digit = if &text[at..=at] == "0" { "1" } else { "0" };
            role["signatures"][0]["sig"] = format!("{}{digit}{}", &text[..at], &text[at + 1..]).into();
        });
    }),
    ("a target more", |web| {
        edit(web, "prod", |role| {
            let (path, target) = evil_target(b"evil");
            role["signed"]["targets"][path.replace("6.6.6", "6.6.7")] = target;
        });
    }),
    ("half a file", |web| {
        let name = newest(web, "prod");
        let bytes = web.bytes(&name).unwrap();
        web.put(&name, Answer::Bytes(bytes[..bytes.len() / 2].to_vec()));
    }),
    ("a file that is not there", |web| web.remove(&newest(web, "snapshot"))),
];

fn edit(web: &Web, role: &str, change: impl FnOnce(&mut Value)) {
    let name = newest(web, role);
    let mut envelope = file(web, &name);
    change(&mut envelope);
    put(web, &name, &envelope);
}

/// What the holder of a role's key signs wrongly, so that every signature is right: the role, what is wrong with it, and
/// how each of the two says so.
struct Wrong {
    role: &'static str,
    what: &'static str,
    change: fn(&mut Value),
    ours: &'static str,
    theirs: &'static str,
}

const PAST: &str = "2000-01-01T00:00:00Z";

const fn wrong(
    (role, what): (&'static str, &'static str),
    change: fn(&mut Value),
    (ours, theirs): (&'static str, &'static str),
) -> Wrong {
    Wrong { role, what, change, ours, theirs }
}

const WRONG: [Wrong; 17] = [
    wrong(
        ("timestamp", "expired"),
        |signed| signed["expires"] = PAST.into(),
        ("expired at", "ExpiredMetadataError"),
    ),
    wrong(
        ("snapshot", "expired"),
        |signed| signed["expires"] = PAST.into(),
        ("expired at", "ExpiredMetadataError"),
    ),
    wrong(
        ("targets", "expired"),
        |signed| signed["expires"] = PAST.into(),
        ("expired at", "ExpiredMetadataError"),
    ),
    wrong(
        ("prod", "expired"),
        |signed| signed["expires"] = PAST.into(),
        ("expired at", "ExpiredMetadataError"),
    ),
    wrong(
        ("root", "expired"),
        |signed| signed["expires"] = PAST.into(),
        ("expired at", "ExpiredMetadataError"),
    ),
    wrong(
        ("root", "of a version that is not the next"),
        |signed| signed["version"] = 3.into(),
        ("root version must increment", "BadVersionNumberError"),
    ),
    wrong(
        ("snapshot", "of another version"),
        |signed| signed["version"] = 77.into(),
        ("version 77 does not match", "BadVersionNumberError"),
    ),
    wrong(
        ("targets", "of another version"),
        |signed| signed["version"] = 77.into(),
        ("version 77 does not match", "BadVersionNumberError"),
    ),
    wrong(
        ("prod", "of another version"),
        |signed| signed["version"] = 77.into(),
        ("version 77 does not match", "BadVersionNumberError"),
    ),
    wrong(
        ("timestamp", "of another type"),
        |signed| signed["_type"] = "snapshot".into(),
        ("expected _type", "Expected 'timestamp', got 'snapshot'"),
    ),
    wrong(
        ("targets", "of another type"),
        |signed| signed["_type"] = "root".into(),
        ("expected _type", "DeserializationError"),
    ),
    wrong(
        ("targets", "asks for two signatures of prod"),
        |signed| {
            let delegations = &mut signed["delegations"];
            let roles = delegations["roles"].as_array_mut().unwrap();
            let prod = roles.iter_mut().find(|role| role["name"] == "prod").unwrap();
            let id = prod["keyids"][0].as_str().unwrap().to_owned();
            prod["keyids"].as_array_mut().unwrap().push("another".into());
            prod["threshold"] = 2.into();
            let mut key = delegations["keys"][&id].clone();
            key["keyval"]["public"] = "11".repeat(32).into();
            delegations["keys"]["another"] = key;
        },
        ("prod: 1/2 valid signatures", "prod was signed by 1/2 keys"),
    ),
    wrong(
        ("timestamp", "another hash of the snapshot"),
        |signed| signed["meta"]["snapshot.json"]["hashes"] = json!({"sha256": "00".repeat(32)}),
        ("snapshot.json: sha256 mismatch", "LengthOrHashMismatchError: Observed hash"),
    ),
    wrong(
        ("timestamp", "a shorter snapshot"),
        |signed| signed["meta"]["snapshot.json"]["length"] = 10.into(),
        ("!= pinned 10", "DownloadLengthMismatchError"),
    ),
    wrong(
        ("snapshot", "another hash of prod"),
        |signed| signed["meta"]["prod.json"]["hashes"] = json!({"sha256": "00".repeat(32)}),
        ("prod.json: sha256 mismatch", "LengthOrHashMismatchError: Observed hash"),
    ),
    wrong(
        ("prod", "another hash of the target"),
        |signed| only_target(signed)["hashes"] = json!({"sha256": "00".repeat(32)}),
        ("nobody has signed a release", "LengthOrHashMismatchError: Observed hash"),
    ),
    wrong(
        ("prod", "a longer target"),
        |signed| only_target(signed)["length"] = 1000.into(),
        ("is not what was signed", "LengthOrHashMismatchError: Observed length"),
    ),
];

fn only_target(signed: &mut Value) -> &mut Value {
    let mut targets = signed["targets"].as_object_mut().unwrap().values_mut();
    targets.next().unwrap()
}

/// Has snapshot and timestamp list versions only, so that what is signed wrongly is not found by its length and hash
/// before it is read.
fn list_versions_only(web: &Web, sign: impl Fn(&str, Value) -> Value) {
    for role in ["snapshot", "timestamp"] {
        let name = newest(web, role);
        let mut signed = file(web, &name)["signed"].clone();
        for listed in signed["meta"].as_object_mut().unwrap().values_mut() {
            *listed = json!({"version": listed["version"]});
        }
        put(web, &name, &sign(role, signed));
    }
}

/// Does one of these wrongs; `sign` has the role's keys.
fn commit(web: &Web, wrong: &Wrong, sign: impl FnOnce(&str, Value) -> Value) {
    let before = newest(web, wrong.role);
    let mut signed = file(web, &before)["signed"].clone();
    // Every node has the first root; the next one is a version of its own.
    let name = match wrong.role {
        "root" => {
            signed["version"] = 2.into();
            "2.root.json".to_owned()
        }
        _ => before,
    };
    (wrong.change)(&mut signed);
    put(web, &name, &sign(wrong.role, signed));
}

fn snapshot_of(web: &Web) -> Vec<(String, Vec<u8>)> {
    web.names().into_iter().map(|name| (name.clone(), web.bytes(&name).unwrap())).collect()
}

fn restore(web: &Web, files: &[(String, Vec<u8>)]) {
    web.clear();
    files.iter().for_each(|(name, bytes)| web.put(name, Answer::Bytes(bytes.clone())));
}

/// What a new node is offered and would install of this content.
async fn offers(repo: &Repo, content: &Path, now: i64) -> Result<(), String> {
    let node = Node::of(repo);
    let offer = node.offer(now).await?;
    let fresh = node.refresh(now).await.map_err(|error| flist::report(&error))?;
    let content = vec![std::fs::read(content).unwrap()];
    let taken = offer.verified(crate::rig::channel(), content, &fresh);
    taken.map(drop).map_err(|error| flist::report(&error))
}

/// Notes where the two do not refuse the same for the same reason.
fn compare(differ: &mut Vec<String>, wrong: &Wrong, ours: Result<(), String>, theirs: Result<(), String>) {
    let Wrong { role, what, ours: our_reason, theirs: their_reason, .. } = wrong;
    for (who, answer, reason) in [("we", ours, our_reason), ("the reference", theirs, their_reason)] {
        match answer {
            Ok(()) => differ.push(format!("{role} {what}: {who} accept")),
            Err(said) if !said.contains(reason) => differ.push(format!("{role} {what}: {who} say {said}")),
            Err(_) => {}
        }
    }
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
    for (what, meddling) in MEDDLING {
        meddling(&repo.web);
        assert!(reads(&content).is_err(), "the reference accepts: {what}");
        assert!(offers(&repo, &content, now).await.is_err(), "we accept: {what}");
        restore(&repo.web, &good);
    }
    let sign = |role: &str, signed| crate::forge::signed(&signed, &repo.stolen(role));
    list_versions_only(&repo.web, sign);
    reads(&content).unwrap();
    let listed = snapshot_of(&repo.web);
    let mut differ = Vec::new();
    for wrong in &WRONG {
        commit(&repo.web, wrong, sign);
        compare(&mut differ, wrong, offers(&repo, &content, now).await, reads(&content));
        restore(&repo.web, &listed);
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
    restore(&repo.web, &good);
    offers(&repo, &content, now).await.unwrap();
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
    let (made, keys) = (place.path().join("made"), place.path().join("keys"));
    for directory in [&made, &keys] {
        std::fs::create_dir(directory).unwrap();
    }
    let content = place.path().join("content");
    std::fs::write(&content, b"evil").unwrap();
    let (path, target) = evil_target(b"evil");
    let custom = place.path().join("custom");
    std::fs::write(&custom, json!({"path": path, "custom": target["custom"]}).to_string()).unwrap();
    let text = |path: &Path| path.display().to_string();
    run(&python, &["write", &text(&made), &text(&keys), &text(&custom), &text(&content)]).unwrap();
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
        let offers = fresh.releases(flist::hub::RunMode::Prod).await;
        let offers = offers.map_err(|error| flist::report(&error))?;
        let offer = offers.first().ok_or("nobody has signed a release")?;
        let taken = offer.verified(crate::rig::channel(), vec![b"evil".to_vec()], &fresh);
        taken.map_err(|error| flist::report(&error)).map(|_| assert_eq!(offer.version.to_string(), "6.6.6"))
    };
    accepts().await.unwrap();
    let good = snapshot_of(&web);
    let reads = || run(&python, &["read", web.url(), &text(&root), &path, &text(&content)]);
    for (what, meddling) in MEDDLING {
        meddling(&web);
        assert!(accepts().await.is_err(), "we accept: {what}");
        assert!(reads().is_err(), "the reference accepts: {what}");
        restore(&web, &good);
    }
    let signed = place.path().join("signed.json");
    let sign = |role: &str, value: Value| {
        std::fs::write(&signed, json!({"signed": value}).to_string()).unwrap();
        run(&python, &["sign", &text(&keys), role, &text(&signed)]).unwrap();
        serde_json::from_slice(&std::fs::read(&signed).unwrap()).unwrap()
    };
    let mut differ = Vec::new();
    for wrong in &WRONG {
        commit(&web, wrong, sign);
        compare(&mut differ, wrong, accepts().await, reads());
        restore(&web, &good);
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
    accepts().await.unwrap();
    reads().unwrap();
}
