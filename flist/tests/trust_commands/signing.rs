//! `flist trust sign`, by somebody to whom the change was brought by somebody else.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::{Rig, strs};

/// A release that waits for the second of two signatures, whose key is in `usb`, and a copy of the repository.
fn waiting() -> Rig {
    let rig = Rig::start();
    rig.says(&["trust", "init", "--role", "prod=2/2"]);
    fs::create_dir(rig.path("usb")).unwrap();
    let keys = fs::read_dir(rig.path("trust/keys")).unwrap().map(|entry| entry.unwrap().path());
    let of_prod = keys.into_iter().find(|path| path.display().to_string().contains("/prod-")).unwrap();
    fs::rename(of_prod, rig.path("usb/prod.key")).unwrap();
    rig.says(&strs(&rig.publish("1.0.0")));
    rig.copy();
    rig
}

/// A program that notes that it was run, and prints what is nobody's signature.
fn trap(rig: &Rig) -> (PathBuf, PathBuf) {
    let (script, marker) = (rig.path("trap"), rig.path("was-run"));
    fs::write(&script, format!("#!/bin/sh\ncat >/dev/null\ntouch {}\nprintf '%0128d' 0\n", marker.display()))
        .unwrap();
    fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    (script, marker)
}

/// The ids of all keys of prod.
fn ids(rig: &Rig) -> Vec<String> {
    let shown: Value = serde_json::from_str(&rig.says(&["trust", "show", "--json"])).unwrap();
    let roles = shown["roles"].as_array().unwrap();
    let prod = roles.iter().find(|role| role["role"] == "prod").unwrap();
    serde_json::from_value(prod["keys"].clone()).unwrap()
}

#[test]
fn a_copy_that_names_commands_has_none_of_them_run() {
    let rig = waiting();
    let (script, marker) = trap(&rig);
    let commands: Value = ids(&rig).into_iter().map(|id| (id, json!([script]))).collect();
    let sign = ["trust", "sign", "--dir", "copy", "--yes", "--keys", "usb"];
    // Beside keys that the copy has of its own.
    fs::create_dir(rig.path("copy/keys")).unwrap();
    let planted = rig.path("copy/keys/signers.json");
    fs::write(&planted, commands.to_string()).unwrap();
    fs::set_permissions(&planted, PermissionsExt::from_mode(0o600)).unwrap();
    fs::rename(rig.path("usb/prod.key"), rig.path("prod.key")).unwrap();
    assert!(rig.refused(&sign).contains("none of the keys at hand"));
    rig.refused(&["trust", "sign", "--dir", "copy", "--yes"]);
    assert!(!marker.exists());
    fs::rename(rig.path("prod.key"), rig.path("usb/prod.key")).unwrap();
    rig.says(&sign);
    assert!(!marker.exists());
    // In the settings, where earlier versions had them.
    let mut settings: Value =
        serde_json::from_slice(&fs::read(rig.path("copy/settings.json")).unwrap()).unwrap();
    settings["commands"] = commands.clone();
    fs::write(rig.path("copy/settings.json"), settings.to_string()).unwrap();
    let said = rig.refused(&sign);
    assert!(said.contains("names commands") && said.contains("--signer"), "{said}");
    assert!(!marker.exists());
    // Those of the holder are run: from the command line, and from beside his keys.
    fs::remove_dir_all(rig.path("copy")).unwrap();
    rig.copy();
    fs::remove_file(rig.path("usb/prod.key")).unwrap();
    let own: Vec<String> = ids(&rig).iter().map(|id| format!("{}={}", &id[..8], script.display())).collect();
    rig.says(&["trust", "sign", "--dir", "copy", "--yes", "--signer", &own[0], "--signer", &own[1]]);
    assert!(marker.exists());
    fs::remove_file(&marker).unwrap();
    fs::rename(planted_elsewhere(&rig, &commands), rig.path("usb/signers.json")).unwrap();
    rig.run(&sign);
    assert!(marker.exists());
}

/// The commands, in a file that is the holder's own.
fn planted_elsewhere(rig: &Rig, commands: &Value) -> PathBuf {
    let path = rig.path("own-signers");
    fs::write(&path, commands.to_string()).unwrap();
    fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    path
}

#[test]
fn what_is_signed_is_shown_and_asked_before() {
    let rig = waiting();
    let staged = || fs::read(rig.path("copy/staged/2.prod.json")).unwrap();
    let before = staged();
    let signed: Value = serde_json::from_slice(&before).unwrap();
    let target = &signed["signed"]["targets"]["prod/tf-zos/zos:v1.0.0.flist"];
    let parts = [
        "prod version 2, after 1".to_owned(),
        "+ prod/tf-zos/zos:v1.0.0.flist".to_owned(),
        format!("SHA-256 {}, {} bytes", target["hashes"]["sha256"].as_str().unwrap(), target["length"]),
        "version 1.0.0 of tf-zos/zos:production:latest.flist for prod".to_owned(),
        "on any node".to_owned(),
        "holds until 20".to_owned(),
    ];
    let shows = |said: &str| parts.iter().for_each(|part| assert!(said.contains(part), "{part}: {said}"));
    // To look takes no key.
    let shown = rig.says(&["trust", "show", "--dir", "copy", "--staged"]);
    shows(&shown);
    assert!(shown.contains("root file of your own"), "{shown}");
    // Nothing is signed that nobody has seen.
    let sign = ["trust", "sign", "--dir", "copy", "--keys", "usb"];
    let said = rig.refused(&sign);
    shows(&said);
    assert!(said.contains("no terminal to ask") && said.contains("--yes"), "{said}");
    assert_eq!(staged(), before);
    // Where the holder has a root of his own beside his keys, it counts.
    fs::copy(rig.path("trust/root.json"), rig.path("usb/root.json")).unwrap();
    rig.says(&["trust", "init", "--dir", "other"]);
    let other = [&sign[..], &["--yes", "--root", "other/root.json"]].concat();
    assert!(rig.refused(&other).contains("do not follow from other/root.json"));
    assert_eq!(staged(), before);
    let output = rig.run(&[&sign[..], &["--yes"]].concat());
    let said = String::from_utf8(output.stderr).unwrap();
    shows(&said);
    assert!(output.status.success() && !said.contains("root file of your own"), "{said}");
    assert_ne!(staged(), before);
    // For programs as well.
    fs::remove_dir_all(rig.path("copy")).unwrap();
    rig.copy();
    let output = rig.run(&[&sign[..], &["--yes", "--json"]].concat());
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["difference"][0]["role"], "prod", "{json}");
    let subject = &json["difference"][0]["changes"][0]["subject"];
    assert_eq!(subject["target"], "prod/tf-zos/zos:v1.0.0.flist", "{json}");
}

#[test]
fn keys_that_are_not_there_are_an_error() {
    let rig = waiting();
    let sign = ["trust", "sign", "--dir", "copy", "--yes", "--keys"];
    let output = rig.run(&[&sign[..], &["nodir"]].concat());
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8(output.stderr).unwrap().contains("nodir is no directory"));
    fs::create_dir(rig.path("empty")).unwrap();
    let output = rig.run(&[&sign[..], &["empty"]].concat());
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn a_command_is_kept_only_for_a_key_that_was_added() {
    let rig = Rig::start();
    rig.says(&["trust", "init"]);
    let public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    let add = [
        "trust",
        "key",
        "add",
        "prod",
        "--public",
        public,
        "--command",
        "/bin/true",
        "--token-file",
        "token",
    ];
    let kept = rig.path("trust/keys/signers.json");
    let settings = fs::read(rig.path("trust/settings.json")).unwrap();
    let said = rig.refused(&[&add[..], &["--threshold", "5"]].concat());
    assert!(said.contains("need 5 signatures"), "{said}");
    assert!(!kept.exists());
    assert_eq!(fs::read(rig.path("trust/settings.json")).unwrap(), settings);
    // As `true` prints no signature, it is found out here already.
    rig.refused(&add);
    assert!(!kept.exists());
    let (script, marker) = trap(&rig);
    let mut add = add;
    let script = script.display().to_string();
    add[7] = &script;
    rig.says(&add);
    assert!(fs::read_to_string(&kept).unwrap().contains("74c181c7ad8a"));
    // Where the repository is kept, its owner's own file counts without being named.
    fs::remove_file(&marker).unwrap();
    rig.says(&["trust", "refresh", "prod", "--token-file", "token"]);
    assert!(marker.exists());
}
