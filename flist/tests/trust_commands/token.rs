//! Keys in a PKCS#11 token, by the recipe of docs/trust.md; the token is SoftHSM's.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::{Rig, strs};

const PIN: &str = "73051962";

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/sign-with-token");

/// Where distributions have SoftHSM's library.
const MODULES: [&str; 3] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
];

/// Where a program is.
fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|path| path.is_file())
}

/// A token, and a `pkcs11-tool` that notes what it is called with.
struct Token<'r> {
    rig: &'r Rig,
    module: &'static str,
    tool: PathBuf,
}

impl<'r> Token<'r> {
    /// A new one; `None` where what it takes is not installed.
    fn new(rig: &'r Rig) -> Option<Self> {
        let missing =
            ["softhsm2-util", "pkcs11-tool", "openssl"].into_iter().find(|name| program(name).is_none());
        let module = MODULES.into_iter().find(|path| Path::new(path).exists());
        let (None, Some(module), Some(tool)) = (missing, module, program("pkcs11-tool")) else {
            eprintln!("SKIPPED: keys in a token: {} is not installed", missing.unwrap_or("libsofthsm2.so"));
            return None;
        };
        fs::create_dir(rig.path("tokens")).unwrap();
        let tokens = rig.path("tokens").display().to_string();
        fs::write(rig.path("softhsm2.conf"), format!("directories.tokendir = {tokens}\nlog.level = ERROR\n"))
            .unwrap();
        fs::create_dir(rig.path("bin")).unwrap();
        let text = format!(
            "#!/bin/sh\necho \"$*\" >> {}\nexec {} \"$@\"\n",
            rig.path("called").display(),
            tool.display()
        );
        fs::write(rig.path("bin/pkcs11-tool"), text).unwrap();
        fs::set_permissions(rig.path("bin/pkcs11-tool"), PermissionsExt::from_mode(0o755)).unwrap();
        let token = Self { rig, module, tool };
        token.pin(PIN, 0o600);
        let label = ["--init-token", "--free", "--label", "molt", "--so-pin", "00000000", "--pin", PIN];
        token.run(Command::new("softhsm2-util").args(label));
        Some(token)
    }

    fn run(&self, command: &mut Command) {
        command.env("SOFTHSM2_CONF", self.rig.path("softhsm2.conf")).env("TOKEN_PIN", PIN);
        let output = command.current_dir(self.rig.directory.path()).output().unwrap();
        assert!(output.status.success(), "{command:?}: {output:?}");
    }

    /// Makes a key; returns the file with its public half.
    fn key(&self, id: &str) -> String {
        let pem = format!("token-{id}.pem");
        let on_token = ["--module", self.module, "--token-label", "molt", "--id", id];
        let make = ["--login", "--pin", "env:TOKEN_PIN", "--keypairgen", "--key-type", "EC:prime256v1"];
        self.run(Command::new(&self.tool).args(on_token).args(make));
        let read = ["--read-object", "--type", "pubkey", "--output-file", "public"];
        self.run(Command::new(&self.tool).args(on_token).args(read));
        self.run(Command::new("openssl").args(["pkey", "-pubin", "-in", "public", "-out", &pem]));
        pem
    }

    fn pin(&self, pin: &str, mode: u32) {
        fs::write(self.rig.path("pin"), format!("{pin}\n")).unwrap();
        fs::set_permissions(self.rig.path("pin"), PermissionsExt::from_mode(mode)).unwrap();
    }

    /// The command that signs with a key, as options of `flist trust key`.
    fn command(&self, id: &str) -> Vec<String> {
        let (rig, path) = (self.rig, std::env::var("PATH").unwrap());
        let words = [
            "env".to_owned(),
            format!("SOFTHSM2_CONF={}", rig.path("softhsm2.conf").display()),
            format!("PATH={}:{path}", rig.path("bin").display()),
            SCRIPT.to_owned(),
            self.module.to_owned(),
            "molt".to_owned(),
            id.to_owned(),
            rig.path("pin").display().to_string(),
        ];
        words.into_iter().map(|word| format!("--command={word}")).collect()
    }

    /// What it says on both streams, without the PIN.
    fn says(&self, arguments: &[&str], succeeds: bool) -> String {
        let output = self.rig.run(arguments);
        let said =
            [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
        assert_eq!(output.status.success(), succeeds, "{arguments:?}: {said}");
        assert!(!said.contains(PIN), "{said}");
        said
    }
}

#[test]
fn keys_in_a_token_sign_a_root_and_a_release_that_nodes_accept() {
    let rig = Rig::start();
    let Some(token) = Token::new(&rig) else { return };
    rig.says(&["trust", "init", "--role", "root=1/1"]);
    for (role, id) in [("prod", "01"), ("root", "02")] {
        let (public, command) = (token.key(id), token.command(id));
        let rotate = ["trust", "key", "rotate", role, "--public", &public, "--token-file", "token"];
        token.says(&[&rotate[..], &strs(&command)].concat(), true);
    }
    token.says(&strs(&rig.publish("1.0.0")), true);
    let check: Value = serde_json::from_str(&rig.says(&["trust", "check", "--json"])).unwrap();
    assert_eq!(
        (&check["releases"][0]["version"], &check["accepted"]),
        (&"1.0.0".into(), &true.into()),
        "{check}"
    );
    assert!(rig.says(&["trust", "show"]).contains("prod"));

    // The PIN is in nothing that is kept, and in no argument.
    let kept = fs::read_to_string(rig.path("trust/keys/signers.json")).unwrap();
    let called = fs::read_to_string(rig.path("called")).unwrap();
    assert!(kept.contains("sign-with-token") && called.contains("--pin env:TOKEN_PIN"), "{kept} {called}");
    assert!(!kept.contains(PIN) && !called.contains(PIN), "{kept} {called}");

    // Nothing is signed with another PIN, nor with one that others can read.
    token.pin("00000000", 0o600);
    assert!(token.says(&strs(&rig.publish("2.0.0")), false).contains("did not sign"));
    token.pin(PIN, 0o644);
    assert!(token.says(&strs(&rig.publish("2.0.0")), false).contains("chmod 600"));
    token.pin(PIN, 0o400);
    token.says(&strs(&rig.publish("2.0.0")), true);
}
