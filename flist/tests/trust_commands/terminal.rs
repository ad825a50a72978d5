//! What `flist trust sign` shows and asks before it signs.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use super::Rig;
use super::signing::waiting;

#[test]
fn what_is_signed_is_shown_however_quiet_it_is() {
    let rig = waiting();
    let output = rig.run(&["trust", "sign", "-q", "--dir", "copy", "--keys", "usb", "--yes"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && output.stdout.is_empty());
    assert!(said.contains("+ prod/tf-zos/zos:v1.0.0.flist") && said.contains("SHA-256"), "{said}");
}

/// Signs the copy with a terminal, on which this is answered.
fn answered(rig: &Rig, answer: &[u8]) -> (Option<i32>, String) {
    let terminal = nix::pty::openpty(None, None).unwrap();
    let flist = rig.command(&["trust", "sign", "--dir", "copy", "--keys", "usb"]);
    let mut command = std::process::Command::new("setsid");
    command.args(["--ctty", "--wait"]).arg(flist.get_program()).args(flist.get_args());
    command.envs(flist.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.env_remove("FLIST_TOKEN").current_dir(rig.directory.path());
    command.stdin(terminal.slave).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    // The only other holder of the terminal's end; a program that asks nothing ends all the same.
    drop(command);
    let mut master = fs::File::from(terminal.master);
    master.write_all(answer).unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn who_sits_at_a_terminal_is_asked() {
    let rig = waiting();
    let staged = || fs::read(rig.path("copy/staged/2.prod.json")).unwrap();
    let before = staged();
    for answer in [&b"n\n"[..], b"\n"] {
        let (code, said) = answered(&rig, answer);
        assert_eq!(code, Some(5), "{said}");
        assert!(said.contains("+ prod/tf-zos/zos:v1.0.0.flist") && said.contains("as you said"), "{said}");
        assert_eq!(staged(), before);
    }
    let (code, said) = answered(&rig, b"y\n");
    assert_eq!(code, Some(0), "{said}");
    assert_ne!(staged(), before);
}
