//! `flist trust sign`, by somebody to whom the change was brought by somebody else.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::{Value, json};

use super::{PASSPHRASE, Rig, TOKEN, strs};

/// A release that waits for the second of two signatures, whose key is in `usb`, and a copy of the repository.
pub(super) fn waiting() -> Rig {
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

/// A release that waits for the signatures of two others, whose keys are in `usb1` and `usb2`.
fn waiting_for_two() -> Rig {
    let rig = Rig::start();
    rig.says(&["trust", "init", "--role", "prod=3/3"]);
    let keys = fs::read_dir(rig.path("trust/keys")).unwrap().map(|entry| entry.unwrap().path());
    let of_prod: Vec<PathBuf> = keys.filter(|path| path.display().to_string().contains("/prod-")).collect();
    for (key, usb) in of_prod.iter().zip(["usb1", "usb2"]) {
        fs::create_dir(rig.path(usb)).unwrap();
        fs::rename(key, rig.path(usb).join("prod.key")).unwrap();
    }
    rig.says(&strs(&rig.publish("1.0.0")));
    rig
}

/// The entry of prod in what `trust show` says.
fn prod(rig: &Rig, dir: &str) -> Value {
    let shown: Value = serde_json::from_str(&rig.says(&["trust", "show", "--dir", dir, "--json"])).unwrap();
    let roles = shown["roles"].as_array().unwrap();
    roles.iter().find(|role| role["role"] == "prod").unwrap().clone()
}

#[test]
fn what_holders_sign_at_the_same_time_comes_together() {
    let rig = waiting_for_two();
    let signed = |dir: &str| prod(&rig, dir)["signatures"][0]["signed_by"].as_array().unwrap().len();
    assert_eq!(signed("trust"), 1);
    let said = rig.says(&["trust", "show"]);
    assert!(said.contains("prod: 1 of 3 have signed: ") && said.contains("; able to sign: "), "{said}");
    for (copy, usb) in [("copy1", "usb1"), ("copy2", "usb2")] {
        rig.copy();
        fs::rename(rig.path("copy"), rig.path(copy)).unwrap();
        let said = rig.says(&["trust", "sign", "--dir", copy, "--keys", usb, "--yes"]);
        assert!(said.contains("prod: 2 of 3 have signed") && said.contains("--from COPY"), "{said}");
        assert!(said.contains("--root ROOT"), "{said}");
    }
    // One after the other; what is there already is no harm.
    let sign = ["trust", "sign", "--yes", "--token-file", "token", "--from"];
    let said = rig.says(&[&sign[..], &["copy1"]].concat());
    assert!(said.contains("prod: 2 of 3 have signed"), "{said}");
    assert_eq!(signed("trust"), 2);
    let said = rig.refused(&[&sign[..], &["copy1"]].concat());
    assert!(said.contains("that is not here already") && said.contains("nothing was signed"), "{said}");
    // As when its file is laid over the other one: the copies have what that takes away.
    fs::copy(rig.path("copy2/staged/2.prod.json"), rig.path("trust/staged/2.prod.json")).unwrap();
    let shown = rig.says(&["trust", "show", "--staged"]);
    assert!(shown.contains("signatures of prod: 2 of 3 have signed: "), "{shown}");
    let said = rig.says(&[&sign[..], &["copy1", "--from", "copy2/staged"]].concat());
    assert!(said.contains("sent to the hub"), "{said}");
    assert!(rig.says(&["trust", "check"]).contains("1.0.0"));
    // And what comes next can be followed.
    let link = said.lines().last().unwrap().strip_prefix("for nodes without a root of trust: ").unwrap();
    rig.follows(link);
}

#[test]
fn signatures_for_another_change_are_not_taken() {
    let rig = waiting_for_two();
    rig.copy();
    fs::rename(rig.path("copy"), rig.path("old")).unwrap();
    rig.says(&["trust", "sign", "--dir", "old", "--keys", "usb1", "--yes"]);
    fs::remove_dir_all(rig.path("trust/staged")).unwrap();
    rig.says(&strs(&rig.publish("1.1.0")));
    let before = fs::read(rig.path("trust/staged/2.prod.json")).unwrap();
    let output = rig.run(&["trust", "sign", "--yes", "--from", "old"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(5), "{said}");
    assert!(said.contains("another change") && said.contains("old/staged"), "{said}");
    // Nor what is no signature of a key that has to sign.
    rig.copy();
    let path = rig.path("copy/staged/2.prod.json");
    let mut forged: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let missing = prod(&rig, "trust")["signatures"][0]["missing"].clone();
    let garbage = missing.as_array().unwrap().iter().map(|id| json!({"keyid": id, "sig": "00".repeat(64)}));
    forged["signatures"].as_array_mut().unwrap().extend(garbage);
    fs::write(&path, forged.to_string()).unwrap();
    rig.refused(&["trust", "sign", "--yes", "--from", "copy"]);
    assert_eq!(fs::read(rig.path("trust/staged/2.prod.json")).unwrap(), before);
    rig.refused(&["trust", "sign", "--yes", "--from", "tree"]);
}

#[test]
fn a_key_that_others_can_use_signs_nothing() {
    let rig = waiting();
    let key = rig.path("usb/prod.key");
    fs::create_dir(rig.path("links")).unwrap();
    std::os::unix::fs::symlink(&key, rig.path("links/prod.key")).unwrap();
    for mode in [0o640, 0o604] {
        fs::set_permissions(&key, PermissionsExt::from_mode(mode)).unwrap();
        for keys in ["usb", "links"] {
            let output = rig.run(&["trust", "sign", "--dir", "copy", "--keys", keys, "--yes"]);
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(2), "{said}");
            assert!(said.contains("chmod 600") && said.contains("prod.key"), "{said}");
        }
    }
    fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();
    rig.says(&["trust", "sign", "--dir", "copy", "--keys", "links", "--yes"]);
}

/// What keeps a key of releases from signing is no reason to let the timestamp run out.
#[test]
fn a_refresh_does_not_mind_a_key_that_it_does_not_need() {
    let rig = Rig::start();
    rig.says(&["trust", "init"]);
    let key = |role: &str| {
        let mut keys = fs::read_dir(rig.path("trust/keys")).unwrap().map(|entry| entry.unwrap().path());
        keys.find(|path| path.file_name().unwrap().to_string_lossy().starts_with(role)).unwrap()
    };
    let mode = |role: &str, mode| fs::set_permissions(key(role), PermissionsExt::from_mode(mode)).unwrap();
    let refresh = ["trust", "refresh", "--token-file", "token"];
    mode("prod-", 0o644);
    rig.says(&refresh);
    let refused = rig.refused(&strs(&rig.publish("1.0.0")));
    assert!(refused.contains("chmod 600") && refused.contains("prod-"), "{refused}");
    mode("prod-", 0o600);
    mode("timestamp-", 0o644);
    let refused = rig.refused(&refresh);
    assert!(refused.contains("chmod 600") && refused.contains("timestamp-"), "{refused}");
}

#[test]
fn nobody_is_waited_for_to_write_what_was_brought() {
    let rig = waiting();
    let fifo = |path: &str| {
        let path = rig.path(path);
        let _gone = fs::remove_file(&path);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    };
    let quickly = |arguments: &[&str]| {
        let flist = rig.command(arguments);
        let mut command = std::process::Command::new("timeout");
        command.arg("20").arg(flist.get_program()).args(flist.get_args()).current_dir(rig.directory.path());
        command.envs(flist.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let output = command.output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("not a regular file"), "{arguments:?}: {said}");
        assert_ne!(output.status.code(), Some(124));
    };
    fifo("root");
    quickly(&["trust", "show", "--staged", "--dir", "copy", "--root", "root"]);
    quickly(&["trust", "check", "--root", "root"]);
    fifo("usb/signers.json");
    quickly(&["trust", "sign", "--dir", "copy", "--keys", "usb", "--yes"]);
    fifo("usb/prod.key");
    quickly(&["trust", "sign", "--dir", "copy", "--keys", "usb", "--yes"]);
    fifo("copy/staged/2.prod.json");
    quickly(&["trust", "show", "--staged", "--dir", "copy"]);
    fifo("copy/settings.json");
    quickly(&["trust", "show", "--dir", "copy"]);
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

/// What everybody on the machine can see while somebody signs, of `flist`, which has the passphrase and the token by
/// then, and of the command that signs.
#[test]
fn while_a_command_signs_no_process_shows_a_secret() {
    let rig = Rig::start();
    rig.says(&["trust", "init", "--role", "prod=2/2"]);
    let id = ids(&rig).remove(1);
    let named = |path: &PathBuf| path.display().to_string().contains(&format!("/prod-{}", &id[..8]));
    let mut keys = fs::read_dir(rig.path("trust/keys")).unwrap().map(|entry| entry.unwrap().path());
    fs::remove_file(keys.find(named).unwrap()).unwrap();
    let (script, runs, go) = (rig.path("slow"), rig.path("runs"), rig.path("go"));
    let text = format!(
        "#!/bin/sh\ncat >/dev/null\necho $$ >{runs}.new\nmv {runs}.new {runs}\nwhile [ ! -e {go} ]; do sleep 0.1; done\nprintf '%0128d' 0\n",
        runs = runs.display(),
        go = go.display()
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();

    let signer = format!("{}={}", &id[..8], script.display());
    let words = rig.publish("1.0.0");
    let mut flist = rig.command(&[&strs(&words)[..], &["--signer", &signer]].concat());
    let mut flist = flist.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while !runs.exists() {
        assert!(flist.try_wait().unwrap().is_none(), "it has not asked the command");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let command = fs::read_to_string(&runs).unwrap();
    let mut shown = 0;
    for pid in [flist.id().to_string().as_str(), command.trim()] {
        for file in ["cmdline", "environ", "comm", "status", "maps"] {
            let seen = fs::read(format!("/proc/{pid}/{file}")).unwrap();
            shown += seen.len();
            let seen = String::from_utf8_lossy(&seen);
            assert!(!seen.contains(PASSPHRASE) && !seen.contains(TOKEN), "/proc/{pid}/{file}: {seen}");
        }
    }
    assert!(shown > 1000, "{shown} bytes");
    fs::write(&go, "").unwrap();
    flist.wait().unwrap();
}
