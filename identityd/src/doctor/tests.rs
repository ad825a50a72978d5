//! Nodes with one thing wrong each.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use bootstrap::generation::{Cause, RootIdentity, StateDir, generation};
use bootstrap::item::Items;
use clap::Parser;
use flist::hub::{Channel, FlistName, ReleaseId, ReleaseVersion};
use tempfile::TempDir;

use super::*;

mod roots;

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    overrides: bootstrap::settings::Overrides,
}

/// The settings of the node in this directory.
fn load(directory: &Path) -> Settings {
    let mut words = vec!["x".to_owned()];
    for (option, name) in [
        ("--root", "root"),
        ("--config", "config.yaml"),
        ("--cmdline", "cmdline"),
        ("--zinit-socket", "zinit.sock"),
        ("--state-dir", "state"),
        ("--run-dir", "run"),
        ("--cache-dir", "cache"),
    ] {
        words.extend([option.to_owned(), directory.join(name).to_str().unwrap().to_owned()]);
    }
    Settings::load_without_secrets(&Arguments::parse_from(words).overrides).unwrap()
}

struct Node {
    directory: TempDir,
    settings: Settings,
}

impl Node {
    /// A node that was installed from a channel; only its supervisor does not answer.
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::create_dir_all(path("root/tmp")).unwrap();
        std::fs::create_dir_all(path("cache")).unwrap();
        std::fs::write(path("cmdline"), "").unwrap();
        std::fs::write(path("config.yaml"), "").unwrap();
        let settings = load(directory.path());
        let channel: FlistName = "a/b:v1.0.0.flist".parse().unwrap();
        let version = ReleaseVersion::in_name(&channel);
        let channel = Channel::Flist(channel);
        let what = (channel.clone(), version, ReleaseId::of([]), &[][..]);
        let root = RootIdentity { marker: Some("x".to_owned()), volatile: true };
        let state = StateDir::open(&settings.state_dir).unwrap();
        for number in [1, 2] {
            let what = what.clone();
            let made = generation(number, Cause::Release, what, root.clone(), "{}".to_owned(), Items::new());
            state.prepare(&made, &[], b"").unwrap();
        }
        state.commit(2).unwrap();
        bootstrap::boot_info::write(&bootstrap::root::Root::open(&settings.root).unwrap(), &channel, "{}")
            .unwrap();
        bootstrap::durable::private_directory(&settings.run_dir).unwrap();
        Self { directory, settings }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    async fn codes(&self) -> Vec<&'static str> {
        let findings = examine(&self.settings, None).await;
        // There is no supervisor in these tests.
        findings.iter().map(|finding| finding.code).filter(|code| *code != "zinit").collect()
    }

    /// Exactly this is wrong, a look changes nothing, and afterwards nothing is wrong.
    async fn is_cured_of(&self, code: &str) {
        assert_eq!(self.codes().await, [code]);
        assert_eq!(self.codes().await, [code]);
        for (finding, result) in repair(&self.settings, None).await.unwrap() {
            assert!(result.is_ok(), "{finding:?}: {result:?}");
        }
        assert_eq!(self.codes().await, [""; 0], "after the repair of {code}");
    }
}

#[tokio::test]
async fn a_healthy_node_has_nothing() {
    assert_eq!(Node::new().codes().await, [""; 0]);
}

#[tokio::test]
async fn a_state_directory_that_is_not_there_is_told_and_not_made() {
    let mut node = Node::new();
    node.settings.state_dir = node.path("nowhere");
    let findings = examine(&node.settings, None).await;
    let found = findings.iter().find(|finding| finding.code == "no-state").unwrap();
    assert!(found.what.contains("nowhere") && found.what.contains("--state-dir"), "{found:?}");
    assert!(!node.path("nowhere").exists());
    // Nor is the mode changed of one that is there.
    node.settings.state_dir = node.path("state");
    std::fs::set_permissions(node.path("state"), Permissions::from_mode(0o755)).unwrap();
    assert_eq!((node.codes().await, node.codes().await), (vec!["mode"], vec!["mode"]));
}

#[tokio::test]
async fn a_configuration_that_keeps_identityd_from_starting_is_told() {
    let mut node = Node::new();
    std::fs::write(node.path("config.yaml"), "maintenance: {windows: ['Foo 1-2']}\n").unwrap();
    node.settings = load(node.directory.path());
    assert_eq!(node.codes().await, ["configuration"]);
    std::fs::write(node.path("config.yaml"), "maintenance: {windows: ['Sat 01:00-02:00']}\n").unwrap();
    assert_eq!(node.codes().await, [""; 0]);
}

#[tokio::test]
async fn a_secret_that_others_can_read_is_named_and_left_alone() {
    let mut node = Node::new();
    let token = node.path("hub.token");
    std::fs::write(&token, "0123456789abcdef0123").unwrap();
    std::fs::set_permissions(&token, Permissions::from_mode(0o644)).unwrap();
    let config = format!("hub_access: {{token: {}}}", token.display());
    std::fs::write(node.path("config.yaml"), config).unwrap();
    node.settings = load(node.directory.path());
    assert_eq!(node.codes().await, ["secret"]);
    let repaired = repair(&node.settings, None).await.unwrap();
    let (finding, _) = repaired.iter().find(|(finding, _)| finding.code == "secret").unwrap();
    assert!(finding.fix.is_none() && finding.what.contains("chmod 600"), "{finding:?}");
    assert!(!finding.what.contains("0123456789"), "{finding:?}");
    assert_eq!(node.codes().await, ["secret"]);
    std::fs::set_permissions(&token, Permissions::from_mode(0o600)).unwrap();
    assert_eq!(node.codes().await, [""; 0]);
}

#[tokio::test]
async fn damaged_files_are_set_aside_not_deleted() {
    for (file, code) in [
        ("orders.json", "orders-damaged"),
        ("releases.json", "releases-damaged"),
        ("pins.json", "pins-damaged"),
        ("attempt.json", "attempt-damaged"),
        ("history.jsonl", "history-damaged"),
        ("generations/1.json", "generation-damaged"),
    ] {
        let node = Node::new();
        std::fs::write(node.path("state").join(file), "{\"torn").unwrap();
        node.is_cured_of(code).await;
        let aside = node.path("state").join(format!("{file}.broken-1"));
        assert_eq!(std::fs::read(aside).unwrap(), b"{\"torn", "{file}");
    }
    let node = Node::new();
    // A damaged line in the middle, which no crash leaves at the end.
    std::fs::write(node.path("state/journal"), "rubbish\nrubbish\n").unwrap();
    node.is_cured_of("journal-damaged").await;
    assert!(node.path("state/journal.broken-1").exists());
}

#[tokio::test]
async fn a_record_of_the_current_generation_that_is_damaged_is_left_to_the_next_upgrade() {
    for (file, code) in [("current", "current-damaged"), ("generations/2.json", "generation-damaged")] {
        let node = Node::new();
        std::fs::write(node.path("state").join(file), "?").unwrap();
        assert_eq!(node.codes().await, [code]);
        let findings = examine(&node.settings, None).await;
        assert_eq!(findings[0].fix, None);
        repair(&node.settings, None).await.unwrap();
        assert_eq!(std::fs::read(node.path("state").join(file)).unwrap(), b"?");
    }
}

#[tokio::test]
async fn open_directories_are_closed() {
    for name in ["state", "run"] {
        let node = Node::new();
        std::fs::set_permissions(node.path(name), Permissions::from_mode(0o777)).unwrap();
        assert_eq!(node.codes().await, ["mode"], "{name}");
        repair(&node.settings, None).await.unwrap();
        assert_eq!(node.codes().await, [""; 0], "{name}");
        assert_eq!(std::fs::metadata(node.path(name)).unwrap().permissions().mode() & 0o777, 0o700);
    }
}

#[tokio::test]
async fn flist_name_is_written_again_from_the_current_generation() {
    let node = Node::new();
    let name = node.path("root/tmp/flist.name");
    std::fs::set_permissions(&name, Permissions::from_mode(0o666)).unwrap();
    node.is_cured_of("flist-name").await;
    std::fs::remove_file(&name).unwrap();
    node.is_cured_of("flist-name").await;
    std::fs::write(&name, "evil/other.flist\n").unwrap();
    node.is_cured_of("flist-name").await;
    assert_eq!(std::fs::read_to_string(&name).unwrap(), "a/b:v1.0.0.flist\n");
    let aside = std::fs::read_to_string(node.path("root/tmp/flist.name.broken-2")).unwrap();
    assert_eq!(aside, "evil/other.flist\n");
}

#[tokio::test]
async fn staged_files_of_nobody_are_set_aside_but_not_while_a_transaction_is_under_way() {
    let node = Node::new();
    for number in ["1", "7", "not-a-number"] {
        std::fs::create_dir_all(node.path("root/.molt").join(number)).unwrap();
    }
    std::fs::write(node.path("root/.molt/7/0"), "old").unwrap();
    std::fs::write(node.path("state/journal"), "").unwrap();
    assert_eq!(node.codes().await, [""; 0]);
    std::fs::remove_file(node.path("state/journal")).unwrap();
    let lock = lock::take(&node.settings.run_dir, "somebody", Duration::ZERO).unwrap();
    assert_eq!(node.codes().await, [""; 0]);
    drop(lock);
    node.is_cured_of("leftover-staging").await;
    assert_eq!(std::fs::read(node.path("root/.molt/7.broken-1/0")).unwrap(), b"old");
    assert!(node.path("root/.molt/1").exists() && node.path("root/.molt/not-a-number").exists());
}

#[tokio::test]
async fn a_cache_that_is_no_directory_is_set_aside() {
    let node = Node::new();
    std::fs::remove_dir(node.path("cache")).unwrap();
    std::fs::write(node.path("cache"), "").unwrap();
    node.is_cured_of("cache").await;
    assert!(node.path("cache.broken-1").exists());
}

#[tokio::test]
async fn without_a_supervisor_that_is_said() {
    let findings = examine(&Node::new().settings, None).await;
    let [finding] = &findings[..] else { panic!("{findings:?}") };
    assert!(finding.code == "zinit" && finding.what.contains("zinit.sock"), "{finding:?}");
}

#[tokio::test]
async fn orders_that_are_damaged_are_restored_from_their_copy() {
    let node = Node::new();
    let orders = r#"{"schema": 1, "holds": [{"release": "2", "since": {"at": "x", "unix": 7}, "by": 1}]}"#;
    std::fs::write(node.path("state/orders.last.json"), orders).unwrap();
    std::fs::write(node.path("state/orders.json"), "{\"torn").unwrap();
    node.is_cured_of("orders-damaged").await;
    let restored = std::fs::read_to_string(node.path("state/orders.json")).unwrap();
    assert!(restored.contains("\"2\""), "{restored}");
    assert_eq!(std::fs::read(node.path("state/orders.json.broken-1")).unwrap(), b"{\"torn");
}

#[tokio::test]
async fn a_state_in_ram_goes_back_to_a_disk_that_works() {
    let node = Node::new();
    let ram = node.path("run/state");
    std::fs::create_dir(&ram).unwrap();
    std::fs::write(ram.join("in-force"), r#"{"schema": 1, "since": 7, "reason": "it was read-only"}"#)
        .unwrap();
    std::fs::write(ram.join("orders.json"), r#"{"schema": 1, "holds": []}"#).unwrap();
    let findings = examine(&node.settings, None).await;
    assert!(findings.iter().any(|finding| finding.what.contains("it was read-only")), "{findings:?}");
    // Nothing of it is installed in RAM, so what the disk says of that counts.
    node.is_cured_of("state-in-ram").await;
    assert!(!ram.exists() && node.path("state/orders.json").exists());
}

/// A state in RAM, of which nothing is known but these files.
fn move_to_ram(node: &Node, files: &[(&str, &str)]) {
    let notice = r#"{"schema": 1, "since": 7, "reason": "it was broken", "unread": ["generations"]}"#;
    std::fs::create_dir_all(node.path("run/state/generations")).unwrap();
    for (name, content) in files.iter().chain(&[("in-force", notice)]) {
        std::fs::write(node.path("run/state").join(name), content).unwrap();
    }
}

/// What the root keeps for generations that nobody could read is theirs once the disk is back, and until then.
#[tokio::test]
async fn what_is_kept_for_generations_that_could_not_be_read_is_left_alone() {
    for comes_back in [true, false] {
        let node = Node::new();
        let staged = |name: &str| node.path("root/.molt").join(name);
        for number in ["2", "5", "7"] {
            std::fs::create_dir_all(staged(number)).unwrap();
        }
        move_to_ram(&node, &[("floor", "5"), ("releases.json", "{}")]);
        let in_the_way = node.path("state/releases.json");
        if !comes_back {
            std::fs::create_dir(&in_the_way).unwrap();
        }
        let done = repair(&node.settings, None).await.unwrap();
        let failed: Vec<_> = done.iter().filter(|(_, result)| result.is_err()).collect();
        assert_eq!(failed.len(), usize::from(!comes_back), "{failed:?}");
        assert_eq!(node.path("run/state").exists(), !comes_back);
        assert!(staged("2").exists() && staged("7.broken-1").exists(), "{comes_back}");
        assert_eq!(staged("5").exists(), !comes_back, "nobody has a record of it, as far as anybody knows");
    }
}

/// A state disk that is not mounted leaves an empty directory.
#[tokio::test]
async fn what_is_kept_is_left_alone_where_no_generation_is_known() {
    let node = Node::new();
    std::fs::create_dir_all(node.path("root/.molt/7")).unwrap();
    std::fs::remove_dir_all(node.path("state")).unwrap();
    std::fs::create_dir(node.path("state")).unwrap();
    repair(&node.settings, None).await.unwrap();
    assert!(node.path("root/.molt/7").exists());
}

/// Somebody has deleted the state of a node on which something is installed, or its disk is not mounted.
#[tokio::test]
async fn records_that_are_lost_are_told_with_what_that_means() {
    let node = Node::new();
    std::fs::remove_dir_all(node.path("state")).unwrap();
    StateDir::open(&node.path("state")).unwrap();
    assert_eq!(node.codes().await, [""; 0], "a node on which nothing was ever installed");
    let root = bootstrap::root::Root::open(&node.settings.root).unwrap();
    RootIdentity::to_be(&root).unwrap().mark(&root).unwrap();
    assert_eq!(node.codes().await, ["records-lost"]);
    let findings = examine(&node.settings, None).await;
    let what = &findings.iter().find(|finding| finding.code == "records-lost").unwrap().what;
    assert!(what.contains("nothing can be gone back to") && what.contains("not mounted"), "{what}");
}

/// A daemon that notes its attempts waits while the history is written anew, and every line of its is there afterwards.
#[test]
fn a_rewrite_of_the_history_loses_no_line() {
    use crate::history::{Cause, FILE, History, Named, Record};
    use std::io::Write;
    const LINES: u64 = 200;
    let node = Node::new();
    let place = StatePlace::of(&node.settings);
    let daemon = History::at(place.clone());
    let notes = std::thread::spawn(move || {
        for number in 0..LINES {
            let named = Named { version: "1".to_owned(), release: "ab".to_owned() };
            let ids = (number.to_string(), "boot".to_owned());
            let at = crate::timestamp::Timestamp::from_unix(number);
            daemon.append(&Record::begin(ids, Cause::Poll, (None, named), at)).unwrap();
        }
    });
    let mut rewritten = 0;
    while !notes.is_finished() {
        let lock = place.write_lock().unwrap();
        let path = place.directory().join(FILE);
        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
        file.write_all(b"damaged\n").unwrap();
        drop(lock);
        state::keep_readable(&place.directory(), &place).unwrap();
        rewritten += 1;
    }
    notes.join().unwrap();
    let past = History::at(place).read(usize::MAX).unwrap();
    assert!(rewritten > 0);
    assert_eq!((past.records.len() as u64, past.unreadable), (LINES, 0));
}
