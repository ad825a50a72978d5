//! The table of exit codes in docs/cli.md, row by row, by the program itself.
#![cfg(all(feature = "server", feature = "publish"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod serving;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serving::{FLIST, Serving};

const NOBODY: &str = "http://127.0.0.1:1";

/// A public key that belongs to nobody here (RFC 8032, the first test vector).
const PUBLIC: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

/// A hub that asks publishers for a token, with one signed release for `prod`, and a directory beside it.
struct Place {
    hub: Serving,
    at: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let at = tempfile::tempdir().unwrap();
        for (name, text) in [("secret", "a passphrase"), ("token", "a-token-0123456789abcdef")] {
            fs::write(at.path().join(name), format!("{text}\n")).unwrap();
            fs::set_permissions(at.path().join(name), PermissionsExt::from_mode(0o600)).unwrap();
        }
        let token = at.path().join("token");
        let hub = Serving::start(&at.path().join("hub"), &["--token-file", token.to_str().unwrap()]);
        let place = Self { hub, at };
        for (tree, text) in [("tree", "content"), ("other", "other content")] {
            fs::create_dir(place.path(tree)).unwrap();
            fs::write(place.path(tree).join("file"), text).unwrap();
        }
        place.ends(0, "trust init");
        place.ends(0, "publish --repo a --name zos --version 1.0.0 --run-mode prod --no-lint --token-file token --sign tree");
        place.ends(0, "pack -m app.fl -s blocks tree");
        place.ends(0, "pack -m other.fl -s blocks other");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.at.path().join(name)
    }

    fn ends(&self, code: i32, line: &str) {
        let mut command = Command::new("timeout");
        command.args(["120", FLIST]).args(line.split(' ')).current_dir(self.at.path()).stdin(Stdio::null());
        command.env_remove("FLIST_TOKEN").env("FLIST_HUB", &self.hub.url).env("RUST_LOG", "warn");
        command.env("FLIST_PASSPHRASE_FILE", self.path("secret")).env("FLIST_TRUST_DIR", self.path("trust"));
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{line}: {output:?}");
    }

    fn all_end(&self, code: i32, lines: &[&str]) {
        lines.iter().for_each(|line| self.ends(code, line));
    }

    /// The only signing key of a role.
    fn key(&self, role: &str) -> PathBuf {
        let keys = fs::read_dir(self.path("trust/keys")).unwrap().map(|entry| entry.unwrap().path());
        let of_role = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with(role);
        keys.into_iter().find(of_role).unwrap()
    }

    fn on_hub(&self, name: &str) -> PathBuf {
        self.path("hub/public/users").join(name)
    }
}

#[test]
fn failed() {
    let place = Place::new();
    place.all_end(1, &["inspect tree/file", &format!("list --hub {}/elsewhere", place.hub.url)]);
}

#[test]
fn wrong_usage_or_settings() {
    let place = Place::new();
    fs::write(place.path("open"), "a-token-0123456789abcdef").unwrap();
    place.all_end(
        2,
        &[
            "inspect",
            "inspect none.fl",
            "diff app.fl none.fl",
            "lint none",
            "verify none.fl",
            "unpack none.fl new",
            "convert none.fl new.fl",
            "pack -m new.fl -s blocks none",
            "publish --repo a --name zos --version 2.0.0 --no-lint --token-file token none",
            "publish --repo a --name zos --version 2.0.0 --no-lint --token-file none tree",
            "publish --repo a --name zos --version 2.0.0 --no-lint --token-file token --client-certificate none tree",
            "trust show --dir none",
            "trust check --root none",
            "director status",
            "director status --dir trust",
            "publish --repo tf/zos --name zos --version 1.0.0 --no-lint --token-file token tree",
            "promote --repo tf/zos --unsigned --token-file token dev test",
            "rm --token-file open a/zos:v1.0.0.flist",
            "rm --client-certificate tree/file a/zos:v1.0.0.flist",
            "trust key add prod --public 00ff",
            "trust refresh --dir none",
            "unpack app.fl tree",
        ],
    );
    // What is no link cannot be promoted.
    fs::copy(place.on_hub("a/zos:v1.0.0.flist"), place.on_hub("a/zos:development:latest.flist")).unwrap();
    place.ends(2, "promote --repo a --name zos --unsigned --token-file token dev test");
    let key = place.key("timestamp");
    let whole = fs::read(&key).unwrap();
    fs::write(&key, "no key").unwrap();
    place.ends(2, "trust refresh");
    fs::write(&key, whole).unwrap();
    fs::write(place.path("secret"), "another passphrase\n").unwrap();
    place.ends(2, "trust refresh");
    fs::write(place.path("trust/settings.json"), "{").unwrap();
    place.ends(2, "trust refresh");
}

#[test]
fn not_reached_or_in_use() {
    let place = Place::new();
    place.all_end(
        3,
        &[
            &format!("list --hub {NOBODY}"),
            &format!("trust check --hub {NOBODY}"),
            &format!("verify -s {NOBODY}/store app.fl"),
            "gc --root hub",
            "serve --root hub --listen 127.0.0.1:0",
        ],
    );
}

#[test]
fn not_there_or_not_signed() {
    let place = Place::new();
    place.ends(0, "director init");
    place.all_end(
        4,
        &[
            "list nobody",
            "rm --token-file token a/none.flist",
            "link --token-file token a/zos:qa:latest.flist a/none.flist",
            "link --token-file token a/qa a/tags/9.9.9",
            "tag --token-file token a/tags/9.9.9 a/none.flist",
            "trust sign",
            "trust show --staged",
            "director assign --run-mode prod --channel a/zos:production:latest.flist --version 9.9.9 --group x",
            "trust withdraw --run-mode prod --channel a/zos:production:latest.flist 9.9.9",
        ],
    );
    // The link leads to what is not the newest release that is signed.
    place.ends(
        0,
        "publish --repo a --name zos --version 2.0.0 --run-mode prod --no-lint --token-file token --unsigned other",
    );
    place.ends(4, "promote --repo a --name zos --sign --token-file token prod qa");
    fs::rename(place.path("blocks"), place.path("lost")).unwrap();
    place.ends(4, "unpack app.fl new");
}

#[test]
fn refused() {
    let place = Place::new();
    fs::create_dir(place.path("occupied")).unwrap();
    fs::write(place.path("occupied/file"), "mine").unwrap();
    place.ends(0, "trust init --dir trust2");
    place.all_end(
        5,
        &[
            "rm a/zos:v1.0.0.flist",
            "publish --repo a --name zos --version 1.0.0 --no-lint --token-file token other",
            "unpack --merge app.fl occupied",
            "promote --repo a --name zos --token-file token prod qa",
            // Links to what is not signed, on a hub with signed releases.
            "publish --repo a --name zos --version 2.0.0 --run-mode prod --no-lint --token-file token other",
            "link --token-file token a/zos:qa:latest.flist a/zos:v1.0.0.flist",
            "tag --token-file token --run-mode qa a/tags/1.0.0 a/zos:v1.0.0.flist",
            "trust init",
            // Signed by others than those who may.
            "trust check --root trust2/root.json",
        ],
    );
    // A key in a token, of which the command says no.
    place.ends(5, &format!("trust key add prod --public {PUBLIC} --command /bin/false"));
    // The hub has the metadata of another repository.
    place.ends(5, "trust refresh --dir trust2 --token-file token");
}

#[test]
fn something_was_found() {
    let place = Place::new();
    place.all_end(
        6,
        &[
            "diff app.fl other.fl",
            "publish --repo a --version 3.0.0 --no-lint --token-file token one=tree two=other",
        ],
    );
    place.ends(0, "publish --repo a --name net --version 1.0.0 --no-lint --token-file token other");
    place.ends(6, "tag --token-file token a/tags/1.0.0 a/zos:v1.0.0.flist a/net:v1.0.0.flist");
    fs::rename(place.path("blocks"), place.path("lost")).unwrap();
    place.ends(6, "verify app.fl");
}
