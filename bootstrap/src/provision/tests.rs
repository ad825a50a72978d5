use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tempfile::TempDir;

use super::*;

const CONFIG: &str = "hub: http://hub\nrun_mode: test\n";

/// A root of trust, and one of another repository.
const RELEASES: &[u8] = include_bytes!("../../tests/fixtures/root.json");
const CHOICES: &[u8] = include_bytes!("../../tests/fixtures/director.json");

fn directories() -> (TempDir, TempDir) {
    let (from, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(from.path().join("config.yaml"), CONFIG).unwrap();
    fs::write(from.path().join("root.json"), RELEASES).unwrap();
    fs::write(from.path().join("director.json"), CHOICES).unwrap();
    for (name, text) in [
        ("hub.token", "0123456789abcdef0123"),
        ("hub.pem", include_str!("../../../flist/tests/fixtures/tls/client.pem")),
    ] {
        fs::write(from.path().join(name), text).unwrap();
        fs::set_permissions(from.path().join(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    (from, root)
}

fn provision(root: &Path, from: &Path) -> Result<Vec<&'static str>, ProvisionError> {
    Provisioning::check(root, from)?.carry_out()
}

fn differing(root: &Path, from: &Path) -> Result<Vec<&'static str>, ProvisionError> {
    Provisioning::check(root, from)?.differing()
}

/// Refused, with these words, before anything was written.
fn assert_refused(root: &Path, from: &Path, words: &[&str]) {
    let refused = provision(root, from).unwrap_err();
    let said = flist::report(&refused);
    assert!(words.iter().all(|word| said.contains(word)), "{words:?}: {said}");
    let place = root.join(PLACE);
    assert!(place.is_symlink() || !place.join("config.yaml").exists(), "{said}");
}

/// Where a run was killed, in the middle of the next file; that runs are killed so is tried with the program.
#[test]
fn what_a_killed_run_has_left_is_gone_on_with_and_taken_away() {
    for done in 0..=FILES.len() {
        let (from, root) = directories();
        let place = root.path().join(PLACE);
        fs::create_dir_all(&place).unwrap();
        for (name, _) in &FILES[..done] {
            fs::copy(from.path().join(name), place.join(name)).unwrap();
        }
        fs::write(place.join(".new-abcdef"), "half a token").unwrap();
        fs::create_dir(place.join(".new-mine")).unwrap();
        let left: Vec<&str> = FILES[done..].iter().map(|(name, _)| *name).collect();
        assert_eq!(provision(root.path(), from.path()).unwrap(), left, "{done}");
        assert!(!place.join(".new-abcdef").exists() && place.join(".new-mine").exists());
        assert_eq!(provision(root.path(), from.path()).unwrap(), [""; 0]);
        for (name, mode) in FILES {
            assert_eq!(fs::read(from.path().join(name)).unwrap(), fs::read(place.join(name)).unwrap());
            let found = fs::metadata(place.join(name)).unwrap().permissions().mode() & 0o777;
            assert_eq!(found, mode, "{name}");
        }
        // A secret that others could read is made private again, and a root that others could write their own.
        for (name, mode) in [("hub.token", 0o644), ("root.json", 0o666)] {
            fs::set_permissions(place.join(name), fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(provision(root.path(), from.path()).unwrap(), [name]);
        }
        assert_eq!(provision(root.path(), from.path()).unwrap(), [""; 0]);
    }
}

#[test]
fn a_directory_that_a_killed_run_has_made_in_part_is_gone_on_with() {
    let (from, root) = directories();
    fs::create_dir(root.path().join(".new-etc")).unwrap();
    provision(root.path(), from.path()).unwrap();
    assert!(!root.path().join(".new-etc").exists());
    for directory in ["etc", PLACE] {
        assert_eq!(fs::metadata(root.path().join(directory)).unwrap().mode() & 0o7777, 0o755, "{directory}");
    }
}

#[test]
fn what_the_configuration_names_has_to_be_there_or_to_come() {
    let config = |text: &str| {
        let (from, root) = directories();
        fs::write(from.path().join("config.yaml"), text).unwrap();
        (from, root)
    };
    for named in [
        "trust: {root: /etc/molt/root.json, director: /etc//molt/./director.json}\n",
        "hub_access: {token: /etc/molt/hub.token, certificate: /etc/molt/hub.pem}\n",
    ] {
        let (from, root) = config(named);
        provision(root.path(), from.path()).unwrap();
    }
    for (named, option, path) in [
        ("trust: {root: /etc/molt/other.json}\n", "trust.root", "/etc/molt/other.json"),
        ("trust: {director: /media/usb/director.json}\n", "trust.director", "/media/usb/director.json"),
        ("hub_access: {token: /etc/molt/other.token}\n", "hub_access.token", "/etc/molt/other.token"),
        ("hub_access: {certificate: /etc/other.pem}\n", "hub_access.certificate", "/etc/other.pem"),
        ("hub_access: {token: hub.token}\n", "hub_access.token", "hub.token"),
        ("trust: {root: /etc/../etc/molt/root.json}\n", "trust.root", "/etc/../etc/molt/root.json"),
    ] {
        let (from, root) = config(named);
        assert_refused(root.path(), from.path(), &[option, path]);
        assert!(!root.path().join(PLACE).exists(), "{named}");
    }
}

#[test]
fn what_the_configuration_names_and_is_there_has_to_be_usable_and_leaves_nothing_unread() {
    let (from, root) = directories();
    let share = root.path().join("usr/share");
    fs::create_dir_all(&share).unwrap();
    fs::write(from.path().join("config.yaml"), "trust: {root: /usr/share/root.json}\n").unwrap();
    fs::write(share.join("root.json"), "{}").unwrap();
    assert_refused(root.path(), from.path(), &["root.json is no root of trust"]);
    fs::write(share.join("root.json"), RELEASES).unwrap();
    assert_refused(root.path(), from.path(), &["trust.root", "so root.json would never be read"]);
    fs::remove_file(from.path().join("root.json")).unwrap();
    provision(root.path(), from.path()).unwrap();
    // The same by the configuration that is there.
    fs::remove_file(from.path().join("config.yaml")).unwrap();
    fs::write(from.path().join("root.json"), RELEASES).unwrap();
    let refused = provision(root.path(), from.path()).unwrap_err();
    assert!(matches!(refused, ProvisionError::Unused { name: "root.json", .. }), "{refused}");
    let (from, root) = directories();
    fs::write(from.path().join("config.yaml"), "hub_access: {token: /etc/own.token}\n").unwrap();
    fs::remove_file(from.path().join("hub.token")).unwrap();
    fs::create_dir_all(root.path().join("etc")).unwrap();
    fs::write(root.path().join("etc/own.token"), "0123456789abcdef0123").unwrap();
    fs::set_permissions(root.path().join("etc/own.token"), fs::Permissions::from_mode(0o644)).unwrap();
    assert_refused(root.path(), from.path(), &["own.token", "chmod 600"]);
}

#[test]
fn what_would_be_replaced_is_known_before() {
    let (from, root) = directories();
    assert_eq!(differing(root.path(), from.path()).unwrap(), [""; 0]);
    provision(root.path(), from.path()).unwrap();
    assert_eq!(differing(root.path(), from.path()).unwrap(), [""; 0]);
    fs::write(root.path().join(PLACE).join("root.json"), "another root").unwrap();
    assert_eq!(differing(root.path(), from.path()).unwrap(), ["root.json"]);
    fs::remove_file(from.path().join("root.json")).unwrap();
    assert_eq!(differing(root.path(), from.path()).unwrap(), [""; 0]);
}

#[test]
fn what_is_wrong_changes_nothing() {
    for (name, content) in [
        ("root.json", "{}"),
        ("director.json", "x"),
        ("hub.token", "x"),
        ("hub.pem", "x"),
        ("config.yaml", "no_such_key: 1\n"),
        ("config.yaml", "poll_interval: 0\n"),
        ("config.yaml", "hub: []\n"),
        ("config.yaml", "store: foo\n"),
        ("config.yaml", "maintenance: {windows: [\"Foo 1-2\"]}\n"),
        ("config.yaml", "maintenance: {timezone: Mars/Base, windows: [\"02:00-05:00\"]}\n"),
        ("root.json", &" ".repeat(MAX_FILE + 1)),
    ] {
        let (from, root) = directories();
        fs::write(from.path().join(name), content).unwrap();
        assert!(provision(root.path(), from.path()).is_err(), "{name}");
        assert!(!root.path().join(PLACE).exists(), "{name}");
    }
    let (from, root) = directories();
    let nowhere = root.path().join("no-such-root");
    assert!(matches!(provision(&nowhere, from.path()), Err(ProvisionError::NoRoot(_))));
    assert!(!nowhere.exists());
    assert!(matches!(provision(root.path(), root.path()), Err(ProvisionError::Empty { .. })));
}

#[test]
fn whatever_is_not_taken_is_named_and_what_was_meant_and_is_broken_is_refused() {
    let (from, root) = directories();
    for name in ["root.json.bak", "README", "hub.tokens"] {
        fs::write(from.path().join(name), "x").unwrap();
    }
    let checked = Provisioning::check(root.path(), from.path()).unwrap();
    assert_eq!(checked.not_taken(), ["README", "hub.tokens", "root.json.bak"]);
    let only = from.path().join("only");
    fs::create_dir(&only).unwrap();
    fs::write(only.join("roots.json"), RELEASES).unwrap();
    let refused = Provisioning::check(root.path(), &only);
    let said = refused.unwrap_err().to_string();
    assert!(said.contains("has none of root.json") && said.contains("is not taken: roots.json"), "{said}");

    let (from, root) = directories();
    fs::rename(from.path().join("root.json"), from.path().join("Root.json")).unwrap();
    assert_refused(root.path(), from.path(), &["Root.json", "has to be called root.json"]);
    fs::remove_file(from.path().join("Root.json")).unwrap();
    symlink("nowhere.json", from.path().join("root.json")).unwrap();
    assert_refused(root.path(), from.path(), &["root.json is a link to something that is not there"]);
    fs::remove_file(from.path().join("root.json")).unwrap();
    fs::create_dir(from.path().join("root.json")).unwrap();
    assert_refused(root.path(), from.path(), &["root.json is no regular file"]);
    assert_refused(root.path(), &from.path().join("none"), &["there is no directory", "none"]);
}

/// Nobody ever writes to it, so whoever opened it without care would wait for ever.
#[test]
fn nobody_waits_for_a_fifo() {
    for name in FILES.map(|(name, _)| name) {
        let (from, root) = directories();
        fs::remove_file(from.path().join(name)).unwrap();
        mkfifo(&from.path().join(name), Mode::S_IRWXU).unwrap();
        assert_refused(root.path(), from.path(), &[name, "is no regular file"]);
        let (from, root) = directories();
        fs::create_dir_all(root.path().join(PLACE)).unwrap();
        mkfifo(&root.path().join(PLACE).join(name), Mode::S_IRWXU).unwrap();
        assert!(matches!(differing(root.path(), from.path()), Err(ProvisionError::NoFile(_))), "{name}");
    }
    let (from, root) = directories();
    fs::remove_file(from.path().join("root.json")).unwrap();
    let _socket = UnixListener::bind(from.path().join("root.json")).unwrap();
    assert!(provision(root.path(), from.path()).is_err());
}

#[test]
fn roots_of_one_repository_are_refused() {
    for (name, content) in [("director.json", RELEASES), ("root.json", CHOICES)] {
        let (from, root) = directories();
        fs::write(from.path().join(name), content).unwrap();
        assert_refused(root.path(), from.path(), &["root.json and", "are of the same repository"]);
        // Also where one of them is there already.
        let (from, root) = directories();
        provision(root.path(), from.path()).unwrap();
        for other in FILES.map(|(name, _)| name) {
            fs::remove_file(from.path().join(other)).unwrap();
        }
        fs::write(from.path().join(name), content).unwrap();
        let refused = provision(root.path(), from.path()).unwrap_err();
        assert!(matches!(refused, ProvisionError::SameRepository { .. }), "{refused}");
    }
}

#[test]
fn roots_that_the_node_has_the_other_way_round_are_refused() {
    let exchange = |directory: &Path| {
        fs::write(directory.join("root.json"), CHOICES).unwrap();
        fs::write(directory.join("director.json"), RELEASES).unwrap();
    };
    let (from, root) = directories();
    provision(root.path(), from.path()).unwrap();
    exchange(from.path());
    let said = provision(root.path(), from.path()).unwrap_err().to_string();
    assert!(said.contains("root.json and director.json in") && said.contains("are exchanged"), "{said}");
    // Only one of them, in the place of what is none.
    fs::remove_file(from.path().join("director.json")).unwrap();
    fs::write(root.path().join(PLACE).join("root.json"), "none").unwrap();
    assert!(matches!(provision(root.path(), from.path()), Err(ProvisionError::SameRepository { .. })));
    // A node that has both of one repository, as earlier versions accepted, can be put right.
    let (from, root) = directories();
    provision(root.path(), from.path()).unwrap();
    fs::write(root.path().join(PLACE).join("director.json"), RELEASES).unwrap();
    assert_eq!(provision(root.path(), from.path()).unwrap(), ["director.json"]);
}

/// An image whose links lead to where the node will have something, which is not what this machine has there.
#[test]
fn links_of_an_image_are_followed_in_the_image() {
    for (link, directory) in [("etc/molt", "data/molt"), ("etc", "data"), ("etc/molt", "etc/else")] {
        let (from, image) = directories();
        let outside = tempfile::tempdir().unwrap();
        let target = |name: &str| Path::new("/").join(name);
        fs::create_dir_all(image.path().join(directory)).unwrap();
        fs::create_dir_all(image.path().join(link).parent().unwrap()).unwrap();
        let _none = fs::remove_dir(image.path().join(link));
        symlink(target(directory), image.path().join(link)).unwrap();
        provision(image.path(), from.path()).unwrap();
        let place = match link {
            "etc" => image.path().join(directory).join("molt"),
            _ => image.path().join(directory),
        };
        assert!(place.join("root.json").is_file() && place.join("hub.token").is_file(), "{link}");
        assert_eq!(provision(image.path(), from.path()).unwrap(), [""; 0]);
        // Out of the image, as far as up goes.
        let (from, image) = directories();
        let up = "../".repeat(20);
        fs::create_dir(image.path().join("etc")).unwrap();
        let leads = format!("{up}{}", outside.path().strip_prefix("/").unwrap().display());
        symlink(leads, image.path().join("etc/molt")).unwrap();
        assert_refused(image.path(), from.path(), &["is neither a directory nor a link to one in the root"]);
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    }
}

#[test]
fn a_link_in_the_place_of_a_file_is_replaced_and_what_it_leads_to_is_not() {
    let (from, image) = directories();
    let outside = tempfile::tempdir().unwrap();
    let victim = outside.path().join("victim");
    fs::write(&victim, RELEASES).unwrap();
    let place = image.path().join(PLACE);
    fs::create_dir_all(&place).unwrap();
    symlink(&victim, place.join("root.json")).unwrap();
    symlink("/etc/molt/kept", place.join("hub.token")).unwrap();
    fs::write(place.join("kept"), "another token").unwrap();
    // The first leads nowhere in the image, the second to other content.
    assert_eq!(differing(image.path(), from.path()).unwrap(), ["hub.token"]);
    provision(image.path(), from.path()).unwrap();
    assert!(!place.join("root.json").is_symlink() && !place.join("hub.token").is_symlink());
    assert_eq!(fs::read(&victim).unwrap(), RELEASES);
    assert_eq!(fs::read(place.join("kept")).unwrap(), b"another token");
}

#[test]
fn a_node_that_will_have_no_root_of_trust_is_known() {
    let (from, root) = directories();
    let untrusting = || Provisioning::check(root.path(), from.path()).unwrap().untrusting().unwrap();
    assert_eq!(untrusting(), None);
    fs::remove_file(from.path().join("root.json")).unwrap();
    let canonical = root.path().canonicalize().unwrap();
    let path = canonical.join("etc/molt/root.json");
    assert_eq!(untrusting(), Some(Missing { path: path.clone(), known: None }));
    let known = canonical.join("var/lib/molt/trust/root.json");
    fs::create_dir_all(known.parent().unwrap()).unwrap();
    fs::write(&known, RELEASES).unwrap();
    assert_eq!(untrusting(), Some(Missing { path: path.clone(), known: Some(known) }));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, RELEASES).unwrap();
    assert_eq!(untrusting(), None);
}

#[test]
fn a_director_that_the_node_has_followed_is_missed() {
    let (from, root) = directories();
    let missed = || Provisioning::check(root.path(), from.path()).unwrap().misses_director().unwrap();
    fs::remove_file(from.path().join("director.json")).unwrap();
    assert_eq!(missed(), None, "a node that has followed none");
    let canonical = root.path().canonicalize().unwrap();
    let known = canonical.join("var/lib/molt/director/root.json");
    fs::create_dir_all(known.parent().unwrap()).unwrap();
    fs::write(&known, CHOICES).unwrap();
    let path = canonical.join("etc/molt/director.json");
    assert_eq!(missed(), Some(Missing { path: path.clone(), known: Some(known) }));
    // It is told to follow none, or has it, or gets it.
    fs::write(from.path().join("config.yaml"), "trust: {director: none}\n").unwrap();
    assert_eq!(missed(), None);
    fs::write(from.path().join("config.yaml"), CONFIG).unwrap();
    fs::write(from.path().join("director.json"), CHOICES).unwrap();
    assert_eq!(missed(), None);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::rename(from.path().join("director.json"), &path).unwrap();
    assert_eq!(missed(), None);
}

#[test]
fn a_directors_root_for_a_node_that_follows_none_is_refused() {
    let (from, root) = directories();
    let follow_none = |directory: &Path| {
        fs::create_dir_all(directory).unwrap();
        fs::write(directory.join("config.yaml"), "trust: {director: none}\n").unwrap();
    };
    follow_none(from.path());
    let refused = provision(root.path(), from.path()).unwrap_err();
    let said = flist::report(&refused);
    assert!(
        said.contains("trust.director: none") && said.contains("director.json would never be read"),
        "{said}"
    );
    assert!(!root.path().join(PLACE).exists());
    // Also where the node is told so already.
    let (from, root) = directories();
    follow_none(&root.path().join(PLACE));
    fs::remove_file(from.path().join("config.yaml")).unwrap();
    assert!(matches!(provision(root.path(), from.path()), Err(ProvisionError::Unused { .. })));
}

#[test]
fn a_directory_that_is_not_there_or_has_other_names_is_told_with_the_remedy() {
    let (from, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let refused = provision(root.path(), &from.path().join("nowhere")).unwrap_err();
    assert!(matches!(refused, ProvisionError::NoDirectory { .. }), "{refused}");
    fs::write(from.path().join("root.1.json"), RELEASES).unwrap();
    assert_refused(root.path(), from.path(), &["root.1.json", "rename those that are meant"]);
    fs::create_dir(from.path().join("root.json")).unwrap();
    assert_refused(root.path(), from.path(), &["root.json is no regular file", "move it away"]);
}
