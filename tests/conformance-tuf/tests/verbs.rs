//! The verbs of the suite's command line, against a repository of this test: that the program works where the suite is
//! not run.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use flist::hub::Sha256;
use flist::trust::repository::{Passphrase, Plan, RoleName, Settings, Signers, TrustDirectory};
use jiff::Timestamp;
use tempfile::TempDir;

const CONTENT: &[u8] = b"the content of the target";
const NAME: &str = "dir/file name.txt";

/// Paths and what is served there.
type Files = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

fn serve(files: Files) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    // Ends with the test.
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut line = String::new();
            let _ = reader.read_line(&mut line);
            let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
            while reader.read_line(&mut line).is_ok_and(|read| read > 2) {}
            let (status, body) = match files.lock().unwrap().get(&path) {
                Some(body) => ("200 OK", body.clone()),
                None => ("404 Not Found", Vec::new()),
            };
            let head =
                format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            let _ = stream.write_all(&[head.as_bytes(), &body].concat());
        }
    });
    url
}

struct Suite {
    files: Files,
    url: String,
    place: TempDir,
    trust: TrustDirectory,
}

impl Suite {
    /// A repository with one target.
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let (secret, now) = (Passphrase::with_rounds("open sesame", 2), Timestamp::now());
        let path = place.path().join("trust");
        let (trust, _) =
            TrustDirectory::init(&path, Settings::default(), &Plan::director(), &secret, now).unwrap();
        for name in ["metadata", "downloads"] {
            fs::create_dir(place.path().join(name)).unwrap();
        }
        let files = Files::default();
        let suite = Self { url: serve(Arc::clone(&files)), files, place, trust };
        suite.sign(CONTENT);
        suite
    }

    /// Signs a content for the target, and serves it with all metadata.
    fn sign(&self, content: &[u8]) {
        let secret = Passphrase::with_rounds("open sesame", 2);
        let mut signers = Signers::find(&[self.trust.keys()], Some(secret)).unwrap();
        let sha256 = Sha256::of(content).to_string();
        let targets = [(NAME.to_owned(), content.len() as u64, sha256.clone(), serde_json::Value::Null)];
        self.trust.add_targets(RoleName::Targets, &targets, &mut signers, Timestamp::now()).unwrap();
        let mut files = self.files.lock().unwrap();
        for (name, bytes) in self.trust.served().unwrap() {
            files.insert(format!("/metadata/{name}"), bytes);
        }
        files.insert(format!("/targets/dir/{sha256}.file%20name.txt"), content.to_vec());
    }

    fn at(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    /// Runs a verb as the suite does; what it says where it fails.
    fn verb(&self, words: &[&Path]) -> Result<(), String> {
        let mut shim = Command::new(env!("CARGO_BIN_EXE_conformance-tuf"));
        shim.arg("--metadata-dir").arg(self.at("metadata"));
        shim.args(["--metadata-url", &format!("{}/metadata/", self.url), "--target-name", NAME]);
        shim.args(["--target-base-url", &format!("{}/targets/", self.url), "--target-dir"]);
        let output = shim.arg(self.at("downloads")).args(words).output().unwrap();
        match output.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    fn downloaded(&self) -> Vec<Vec<u8>> {
        let entries = fs::read_dir(self.at("downloads")).unwrap();
        entries.map(|entry| fs::read(entry.unwrap().path()).unwrap()).collect()
    }
}

#[test]
fn the_verbs_of_the_suite() {
    let suite = Suite::new();
    let verb = |word: &str| suite.verb(&[Path::new(word)]);
    suite.verb(&[Path::new("init"), &suite.trust.root()]).unwrap();
    verb("refresh").unwrap();
    let kept = fs::read(suite.at("metadata/timestamp.json")).unwrap();
    assert_eq!(kept, suite.files.lock().unwrap()["/metadata/timestamp.json"]);
    assert!(suite.downloaded().is_empty());
    verb("download").unwrap();
    assert_eq!(suite.downloaded(), [CONTENT]);

    // What is not what was signed is not kept, and what was there stays.
    let other = b"another content of the target";
    suite.sign(other);
    let name = format!("/targets/dir/{}.file%20name.txt", Sha256::of(other));
    suite.files.lock().unwrap().insert(name, other.map(|byte| byte ^ 1).to_vec());
    assert!(verb("download").unwrap_err().contains("is not what was signed"));
    assert_eq!(suite.downloaded(), [CONTENT]);
    suite.sign(other);
    verb("download").unwrap();
    assert_eq!(suite.downloaded(), [other]);

    // A refusal is told by the exit code, which is all that the suite looks at.
    suite.files.lock().unwrap().insert("/metadata/timestamp.json".to_owned(), kept);
    assert!(verb("refresh").is_err());
}
