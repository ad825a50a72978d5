//! What is not signed, on a hub that has signed releases: nodes with a root of trust do not install it, so no link comes
//! to lead to it without a word.

use std::fs;

use super::{Rig, strs};

const LINK: &str = "tf-zos/zos:production:latest.flist";

/// A hub with one signed release of prod.
fn signed() -> Rig {
    let rig = Rig::start();
    rig.says(&["trust", "init"]);
    rig.says(&strs(&rig.publish("1.0.0")));
    rig
}

/// Publishes other content as this version, with these options.
fn publish(version: &str, options: &[&str]) -> Vec<String> {
    let words = ["publish", "--repo", "tf-zos", "--name", "zos", "--version", version, "--no-lint"];
    let words = words.iter().chain(&["--token-file", "token"]).chain(options).chain(&["tree"]);
    words.map(|word| (*word).to_owned()).collect()
}

/// The command that follows these words, up to what ends it.
pub(super) fn command(said: &str, before: &str) -> String {
    let start = said.find(before).unwrap_or_else(|| panic!("no '{before}' in: {said}")) + before.len();
    let rest = &said[start..];
    rest[..rest.find(['\n', ';']).unwrap_or(rest.len())].trim().to_owned()
}

fn target(rig: &Rig, link: &str) -> String {
    let path = fs::read_link(rig.path("hub/public/users").join(link)).unwrap();
    path.file_name().unwrap().to_string_lossy().into_owned()
}

#[test]
fn no_link_moves_to_what_is_not_signed_unless_that_is_said() {
    let rig = signed();
    fs::write(rig.path("tree/file"), "other content").unwrap();
    let said = rig.refused(&strs(&publish("2.0.0", &["--run-mode", "prod"])));
    assert!(said.contains("nothing was published") && said.contains("--sign and --dir"), "{said}");
    assert!(!rig.path("hub/public/users/tf-zos/zos:v2.0.0.flist").exists());
    assert_eq!(target(&rig, LINK), "zos:v1.0.0.flist");
    // Without a link it is published, with a word on what is missing; what that says is what helps.
    let said = rig.says(&strs(&publish("2.0.0", &[])));
    assert!(said.contains("WARNING") && said.contains("nodes with a root of trust"), "{said}");
    let link = ["link", "--token-file", "token", LINK, "tf-zos/zos:v2.0.0.flist"];
    let refused = rig.refused(&link);
    assert!(refused.contains("nothing was changed") && refused.contains("not signed for"), "{refused}");
    assert_eq!(target(&rig, LINK), "zos:v1.0.0.flist");
    let (sign, same) = (command(&said, "signs it: "), command(&refused, "sign it first: "));
    assert_eq!(sign, same);
    rig.follows(&sign);
    rig.says(&link);
    assert_eq!(target(&rig, LINK), "zos:v2.0.0.flist");
    assert!(!rig.says(&strs(&publish("2.1.0", &["--json"]))).contains("\"signed\""));
    // What has a signature keeps its content; other links are nobody's channel.
    fs::write(rig.path("tree/file"), "another content").unwrap();
    let said = rig.refused(&strs(&publish("2.0.0", &["--replace"])));
    assert!(said.contains("part of a signed release"), "{said}");
    rig.says(&["link", "--token-file", "token", "tf-zos/zos:newest.flist", "tf-zos/zos:v2.1.0.flist"]);
    // Who says so gets it.
    rig.says(&["link", "--token-file", "token", "--unsigned", LINK, "tf-zos/zos:v2.1.0.flist"]);
    rig.says(&strs(&publish("3.0.0", &["--run-mode", "prod", "--unsigned"])));
    assert_eq!(target(&rig, LINK), "zos:v3.0.0.flist");
}

#[test]
fn what_is_signed_for_others_is_told_as_that_and_what_signs_it_can_be_done() {
    let rig = signed();
    let said = rig.says(&strs(&publish("1.0.0", &[])));
    assert!(!said.contains("WARNING"), "it is signed: {said}");
    let mut dev = rig.publish("2.0.0");
    let mode = dev.iter_mut().find(|word| *word == "prod").unwrap();
    *mode = "dev".to_owned();
    rig.says(&strs(&dev));
    let said = rig.says(&strs(&publish("2.0.0", &[])));
    assert!(said.contains("is signed for dev (tf-zos/zos:development:latest.flist) only"), "{said}");
    let refused = rig.refused(&["link", "--token-file", "token", LINK, "tf-zos/zos:v2.0.0.flist"]);
    assert!(refused.contains("only for dev (tf-zos/zos:development:latest.flist)"), "{refused}");
    rig.follows(&command(&refused, "sign it first: "));
    // A flist is a part of one release: what makes it one of another takes it from there first.
    rig.says(&["tag", "--token-file", "token", "tf-zos/tags/1.0.0", "tf-zos/zos:v1.0.0.flist"]);
    let link = ["link", "--token-file", "token", "tf-zos/production", "tf-zos/tags/1.0.0"];
    let refused = rig.refused(&link);
    assert!(refused.contains(&format!("a part of version 1.0.0 of {LINK}")), "{refused}");
    let commands = command(&refused, "sign it for this one: ").replace("DIR", "trust");
    assert!(commands.starts_with("flist trust withdraw"), "{commands}");
    commands.split(" && ").for_each(|command| drop(rig.follows(command)));
    rig.says(&link);
}

/// The flists of a repository that are on the hub.
fn on_hub(rig: &Rig) -> Vec<String> {
    let names = fs::read_dir(rig.path("hub/public/users/tf-zos")).unwrap();
    let mut names: Vec<String> =
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_cannot_be_signed_is_not_published() {
    let rig = signed();
    let before = on_hub(&rig);
    fs::write(rig.path("tree/file"), "other content").unwrap();
    // One of the two is a part of another release.
    let words = ["publish", "--repo", "tf-zos", "--version", "1.0.0", "--run-mode", "prod", "--no-lint"];
    let more = ["--token-file", "token", "--sign", "net=tree", "zos=tree"];
    let refused = rig.refused(&[&words[..], &more].concat());
    assert!(
        refused.contains("nothing was published") && refused.contains("is signed as a part"),
        "{refused}"
    );
    assert_eq!(on_hub(&rig), before);
    // Another change waits for signatures, and one can wait at a time.
    let key = fs::read_dir(rig.path("trust/keys")).unwrap().map(|entry| entry.unwrap().path());
    let key = key.into_iter().find(|path| path.to_string_lossy().contains("/prod-")).unwrap();
    fs::rename(&key, rig.path("prod.key")).unwrap();
    assert!(rig.says(&strs(&rig.publish("2.0.0"))).contains("no link was moved"));
    let before = on_hub(&rig);
    let refused = rig.refused(&strs(&rig.publish("3.0.0")));
    assert!(
        refused.contains("nothing was published") && refused.contains("waiting for signatures"),
        "{refused}"
    );
    assert_eq!(on_hub(&rig), before);
    // What nobody can know before: it says what stays, and what takes it away.
    fs::remove_dir_all(rig.path("trust/staged")).unwrap();
    let id = key.file_stem().unwrap().to_string_lossy().trim_start_matches("prod-").to_owned();
    let mut fails = rig.publish("3.0.0");
    fails.extend(["--signer".to_owned(), format!("{id}=false")]);
    let refused = rig.refused(&strs(&fails));
    assert!(refused.contains("tf-zos/zos:v3.0.0.flist stays on the hub"), "{refused}");
    assert_ne!(on_hub(&rig), before);
    rig.follows(&command(&refused, "take it away: "));
    assert_eq!(on_hub(&rig), before);
}

#[test]
fn a_hub_without_signatures_asks_for_none() {
    let rig = Rig::start();
    let said = rig.says(&strs(&publish("1.0.0", &["--run-mode", "prod"])));
    assert!(!said.contains("WARNING"), "{said}");
    let said = rig.says(&strs(&publish("1.1.0", &[])));
    assert!(!said.contains("WARNING"), "{said}");
    rig.says(&["link", "--token-file", "token", LINK, "tf-zos/zos:v1.1.0.flist"]);
}

#[test]
fn tags_are_signed_before_a_taglink_leads_to_them() {
    let rig = signed();
    let tag = |tag: &str, options: &[&str]| -> Vec<String> {
        let words = ["tag", "--token-file", "token"].iter().chain(options);
        words
            .chain(&[tag, "tf-zos/zos:v1.0.0.flist", "tf-zos/net:v1.0.0.flist"])
            .map(|word| (*word).to_owned())
            .collect()
    };
    fs::create_dir(rig.path("net")).unwrap();
    fs::write(rig.path("net/of-net"), "net").unwrap();
    let mut net = publish("1.0.0", &[]);
    net[4] = "net".to_owned();
    *net.last_mut().unwrap() = "net".to_owned();
    rig.says(&strs(&net));
    let refused = rig.refused(&strs(&tag("tf-zos/tags/1.2.0", &["--run-mode", "qa"])));
    assert!(refused.contains("nothing was changed"), "{refused}");
    assert!(rig.refused(&["list", "tf-zos/tags/1.2.0"]).contains("does not exist"));
    let said = rig.says(&strs(&tag("tf-zos/tags/1.2.0", &[])));
    assert!(said.contains("WARNING"), "{said}");
    let refused = rig.refused(&["link", "--token-file", "token", "tf-zos/qa", "tf-zos/tags/1.2.0"]);
    let sign = command(&refused, "sign it first: ");
    assert!(
        sign.contains("--run-mode qa") && sign.ends_with("net:v1.0.0.flist tf-zos/zos:v1.0.0.flist"),
        "{sign}"
    );
    rig.follows(&sign);
    rig.says(&["link", "--token-file", "token", "tf-zos/qa", "tf-zos/tags/1.2.0"]);
}

#[test]
fn a_promotion_that_cannot_be_says_what_makes_it_possible() {
    let rig = signed();
    let promote = |options: &[&str]| -> Vec<String> {
        let words = ["promote", "--repo", "tf-zos", "--sign", "--token-file", "token"].iter().chain(options);
        words.chain(&["prod", "qa"]).map(|word| (*word).to_owned()).collect()
    };
    let by_link = promote(&["--name", "zos"]);
    // The link is ahead of what is signed.
    fs::write(rig.path("tree/file"), "other content").unwrap();
    rig.says(&strs(&publish("2.0.0", &["--run-mode", "prod", "--unsigned"])));
    let refused = rig.refused(&strs(&by_link));
    assert!(refused.contains("is not signed for prod"), "{refused}");
    rig.follows(&command(&refused, "sign it first: "));
    rig.says(&strs(&by_link));
    // It lags behind.
    rig.says(&["link", "--token-file", "token", LINK, "tf-zos/zos:v1.0.0.flist"]);
    let refused = rig.refused(&strs(&by_link));
    assert!(refused.contains("version 2.0.0 is the newest that is signed"), "{refused}");
    rig.follows(&command(&refused, "let it point there first: "));
    assert_eq!(target(&rig, LINK), "zos:v2.0.0.flist");
    rig.says(&strs(&by_link));
}

#[test]
fn a_promotion_of_a_tag_that_cannot_be_says_what_makes_it_possible() {
    let rig = signed();
    fs::create_dir(rig.path("net")).unwrap();
    for version in ["1.0.0", "2.0.0"] {
        fs::write(rig.path("net/of-net"), version).unwrap();
        let mut net = publish(version, &[]);
        net[4] = "net".to_owned();
        *net.last_mut().unwrap() = "net".to_owned();
        rig.says(&strs(&net));
    }
    let promote = ["promote", "--repo", "tf-zos", "--sign", "--token-file", "token", "prod", "qa"];
    let tag = ["tag", "--token-file", "token", "--run-mode", "prod", "--unsigned"];
    rig.says(&[&tag[..], &["tf-zos/tags/1.0.0", "tf-zos/net:v1.0.0.flist"]].concat());
    rig.follows(&command(&rig.refused(&promote), "sign it first: "));
    rig.says(&promote);
    // Of what is signed nobody has made a tag yet.
    let release = ["trust", "release", "--run-mode", "prod", "--channel", "tf-zos/production"];
    let more = ["--version", "2.0.0", "--token-file", "token", "tf-zos/net:v2.0.0.flist"];
    rig.says(&[&release[..], &more].concat());
    let remedy = command(&rig.refused(&promote), "let it point there first: ");
    remedy.split(" && ").for_each(|command| drop(rig.follows(command)));
    rig.says(&promote);
    // The taglink lags behind.
    rig.says(&["link", "--token-file", "token", "tf-zos/production", "tf-zos/tags/1.0.0"]);
    let remedy = command(&rig.refused(&promote), "let it point there first: ");
    assert!(remedy.starts_with("flist link"), "{remedy}");
    rig.follows(&remedy);
    rig.says(&promote);
}
