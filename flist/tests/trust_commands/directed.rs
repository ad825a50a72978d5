//! `flist director`, and what `flist trust check` makes of it.

use serde_json::Value;

use super::{Rig, strs};

#[test]
fn a_director_is_run_from_the_command_line() {
    let rig = Rig::start();
    rig.says(&["trust", "init"]);
    rig.says(&strs(&rig.publish("1.0.0")));
    rig.says(&["director", "init", "--dir", "director"]);
    let release = [
        "--dir",
        "director",
        "--run-mode",
        "prod",
        "--channel",
        "tf-zos/zos:production:latest.flist",
        "--token-file",
        "token",
    ];
    let order = |verb: &str, version: &str, more: &[&str]| {
        let words: Vec<&str> =
            ["director", verb].into_iter().chain(release).chain(["--version", version]).collect();
        [&words[..], more].concat().into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let unsigned = rig.refused(&strs(&order("assign", "2.0.0", &["--group", "canary"])));
    assert!(unsigned.contains("nobody has signed version 2.0.0"), "{unsigned}");
    assert!(rig.refused(&strs(&order("assign", "1.0.0", &[]))).contains("for whom"));
    rig.says(&strs(&order("assign", "1.0.0", &["--group", "canary", "--node", "n1"])));
    rig.says(&strs(&order("wave", "1.0.0", &["--percent", "10", "--hours", "6"])));
    let named = ["--dir", "director", "--run-mode", "prod", "--version", "1.0.0", "--token-file", "token"];
    let again = |verb: &str| rig.says(&[&["director", verb][..], &named[..]].concat());
    assert!(again("pause").contains("paused"));
    again("resume");
    assert!(again("abort").contains("called off"));
    let status: Value =
        serde_json::from_str(&rig.says(&["director", "status", "--dir", "director", "--json"])).unwrap();
    let choice = &status["chosen"]["prod/tf-zos/zos:v1.0.0.flist"];
    assert_eq!(choice["for"].as_array().unwrap().len(), 3, "{status}");
    assert!(rig.path("hub/director/timestamp.json").exists());
    // A node that gets it all the same does not start the wave again for all others.
    let said = rig.says(&strs(&order("assign", "1.0.0", &["--node", "lab"])));
    assert!(said.contains("node lab\n"), "{said}");
    // Each repository is for what it is made for.
    let mut wrong = order("assign", "1.0.0", &["--node", "n2"]);
    wrong[3] = "trust".to_owned();
    let said = rig.refused(&strs(&wrong));
    assert!(said.contains("trust is the repository of the releases"), "{said}");
    let mut wrong = rig.publish("1.1.0");
    wrong.extend(["--dir", "director"].map(str::to_owned));
    let said = rig.refused(&strs(&wrong));
    assert!(said.contains("director is a director's repository"), "{said}");
    assert!(rig.refused(&strs(&order("assign", "1.0.0", &["--group", ""]))).contains("--group"));
}

#[test]
fn what_is_chosen_can_be_taken_back_and_a_check_says_for_whom_it_is() {
    let rig = Rig::start();
    rig.says(&["trust", "init"]);
    rig.says(&strs(&rig.publish("1.0.0")));
    let checked = |more: &[&str]| -> Value {
        serde_json::from_str(&rig.says(&[&["trust", "check", "--json"][..], more].concat())).unwrap()
    };
    assert_eq!(checked(&[])["director"], Value::Null);
    let root = ["--director", "director/root.json"];
    rig.says(&["director", "init", "--dir", "director"]);
    let refused = rig.refused(&[&["trust", "check"][..], &root].concat());
    assert!(refused.contains("flist trust refresh --dir director --hub"), "{refused}");
    rig.says(&["trust", "refresh", "--dir", "director", "--token-file", "token"]);
    let of_director = &checked(&root)["releases"][0]["director"];
    assert_eq!(of_director["why"], "the director has not chosen it", "{of_director}");

    let named = ["--dir", "director", "--run-mode", "prod", "--version", "1.0.0", "--token-file", "token"];
    let channel = ["--channel", "tf-zos/zos:production:latest.flist"];
    let order = |verb: &str, more: &[&str]| -> Vec<String> {
        let words = [&["director", verb][..], &named, &channel, more].concat();
        words.into_iter().map(str::to_owned).collect()
    };
    rig.says(&strs(&order("assign", &["--group", "canary", "--node", "n1"])));
    rig.says(&strs(&order("wave", &["--percent", "10", "--hours", "6"])));
    let said = rig.says(&[&["trust", "check"][..], &root].concat());
    assert!(
        said.contains("chosen for node n1; group canary; a wave of 10 % of all nodes (those whose place, by a hash of their id, is below 10), one after the other"),
        "{said}"
    );
    assert_eq!(checked(&root)["director"]["checked"], true);
    // Without the root file it is said that something was not looked at.
    assert_eq!(checked(&[])["director"]["checked"], false);
    assert!(rig.says(&["trust", "check"]).contains("name that file with --director"));

    assert!(rig.refused(&strs(&order("unassign", &[]))).contains("for whom is it no more"));
    let refused = rig.refused(&strs(&order("unassign", &["--node", "n1", "--group", "others"])));
    assert!(refused.contains("not assigned to group others; nothing was changed"), "{refused}");
    rig.says(&strs(&order("unassign", &["--group", "canary"])));
    let said = rig.says(&[&["trust", "check"][..], &root].concat());
    assert!(
        said.contains("node n1") && said.contains("a wave of 10 %") && !said.contains("canary"),
        "{said}"
    );
    let said = rig.says(&strs(&order("unassign", &["--node", "n1", "--waves"])));
    assert!(said.contains("for nobody any more"), "{said}");
    let said = rig.says(&[&["trust", "check"][..], &root].concat());
    assert!(said.contains("for nobody: the director has not chosen it"), "{said}");
    assert!(
        rig.refused(&strs(&order("unassign", &["--node", "n1"]))).contains("has chosen no version 1.0.0")
    );
}

/// The names of flists say nothing about the release that they are in.
#[test]
fn a_director_finds_a_release_by_what_it_chose_and_not_by_names_of_flists() {
    let rig = Rig::start();
    rig.says(&["trust", "init"]);
    for (name, version) in [("net", "7.0.0"), ("zos", "1.5.0")] {
        let words = ["publish", "--repo", "tf-zos", "--name", name, "--version", version, "--no-lint"];
        rig.says(&[&words[..], &["--token-file", "token", "tree"]].concat());
    }
    let channel = "tf-zos/zos:production:latest.flist";
    let named = ["--run-mode", "prod", "--version", "1.5.0", "--token-file", "token"];
    let flists = ["net=tf-zos/net:v7.0.0.flist", "zos=tf-zos/zos:v1.5.0.flist"];
    rig.says(&[&["trust", "release", "--channel", channel][..], &named, &flists].concat());
    rig.says(&["director", "init", "--dir", "director"]);
    let director = |verb: &str, more: &[&str]| {
        rig.says(&[&["director", verb, "--dir", "director"][..], &named, more].concat())
    };
    director("assign", &["--channel", channel, "--group", "canary"]);
    let aborted = director("abort", &[]);
    assert_eq!(aborted.matches("called off").count(), 2, "{aborted}");
    // Of another version, or on another channel, it has chosen nothing.
    let of = |version: &str, channel: &str| {
        let words = ["director", "pause", "--dir", "director", "--run-mode", "prod", "--version", version];
        rig.refused(&[&words[..], &["--channel", channel, "--token-file", "token"]].concat())
    };
    assert!(of("7.0.0", channel).contains("has chosen no version 7.0.0"));
    assert!(of("1.5.0", "tf-zos/zos:qa:latest.flist").contains("has chosen no version 1.5.0"));
}
