//! What holds when defaults, file, kernel command line and arguments say different things.

use clap::Parser;
use flist::hub::MAX_HUBS;

use super::file::utc;
use super::hub::{DEFAULT_HUB, DEFAULT_STORE};
use super::*;

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    overrides: Overrides,
}

fn load(config: &str, cmdline: &str, arguments: &[&str]) -> Result<Settings, SettingsError> {
    let dir = tempfile::tempdir().unwrap();
    let (config_path, cmdline_path) = (dir.path().join("config"), dir.path().join("cmdline"));
    std::fs::write(&config_path, config).unwrap();
    std::fs::write(&cmdline_path, cmdline).unwrap();
    let mut all = vec!["x", "--config", config_path.to_str().unwrap()];
    all.extend(["--cmdline", cmdline_path.to_str().unwrap()]);
    all.extend(arguments);
    Settings::load(&Arguments::parse_from(all).overrides)
}

#[test]
fn later_sources_win() {
    let file = "hub: http://file\nrun_mode: test\npoll_interval: 5\n";
    let settings = load(file, "", &[]).unwrap();
    assert_eq!((&settings.hub.urls[..], settings.run_mode), (&["http://file".to_owned()][..], RunMode::Test));
    assert_eq!(settings.poll_interval, Duration::from_secs(5));
    assert_eq!(settings.channel_names(), "tf-zos/testing or tf-zos/zos:testing:latest.flist");
    let settings = load(file, "runmode=dev hub=http://kernel,http://second", &[]).unwrap();
    assert_eq!(
        (settings.hub.urls, settings.run_mode),
        (vec!["http://kernel".into(), "http://second".into()], RunMode::Dev)
    );
    let settings = load(file, "runmode=dev", &["--run-mode", "qa", "--hub", "http://arg,http://b"]).unwrap();
    assert_eq!(
        (settings.hub.urls, settings.run_mode),
        (vec!["http://arg".into(), "http://b".into()], RunMode::Qa)
    );
    for text in ["a/b.flist", "a/b", "a/tags/1.0.0"] {
        let settings = load("", &format!("flist={text}"), &[]).unwrap();
        assert_eq!((settings.channel_names().as_str(), settings.run_mode), (text, RunMode::Prod));
    }
}

#[test]
fn what_says_which_channel_is_followed_is_known() {
    let said =
        |config: &str, line: &str, arguments: &[&str]| load(config, line, arguments).unwrap().channels_from;
    let file = "run_mode: dev\nflist: a/b.flist\n";
    assert_eq!(said("", "", &[]), "the default run mode");
    assert_eq!(said("run_mode: dev\n", "", &[]), "run_mode in the configuration file");
    assert_eq!(said("run_mode: dev\n", "runmode=qa", &[]), "runmode= on the kernel command line");
    assert_eq!(said("", "runmode=qa", &["--run-mode", "dev"]), "--run-mode");
    // A flist counts more than a run mode, whatever says which.
    assert_eq!(said(file, "runmode=qa", &["--run-mode", "dev"]), "flist in the configuration file");
    assert_eq!(said(file, "version=1.2.3", &[]), "version= on the kernel command line");
    assert_eq!(said(file, "flist=c/d.flist", &[]), "flist= on the kernel command line");
    assert_eq!(said(file, "flist=c/d.flist", &["--flist", "e/f.flist"]), "--flist");
    let settings = load("", "flist=c/d.flist", &[]).unwrap();
    let (followed, other) = ("c/d.flist".parse().unwrap(), "a/b.flist".parse().unwrap());
    assert_eq!(settings.asks_instead_of(&followed), None);
    let asked = settings.asks_instead_of(&other);
    assert_eq!(asked.as_deref(), Some("flist= on the kernel command line asks for c/d.flist"));
}

#[test]
fn what_is_done_about_another_kernel_is_said_in_full() {
    let kernel = load("", "", &[]).unwrap().kernel;
    assert_eq!((kernel.policy, kernel.deadline), (KernelPolicy::Never, Duration::from_secs(900)));
    assert_eq!(
        load("kernel: {policy: kexec, deadline: 60}\n", "", &[]).unwrap().kernel.deadline.as_secs(),
        60
    );
    let reboot = load("kernel: {policy: reboot, boot_loader: /sbin/next}\n", "", &[]).unwrap().kernel;
    assert_eq!(reboot.boot_loader.unwrap().to_string(), "sbin/next");
    for (text, said) in [
        ("policy: reboot", "kernel.policy is reboot, expected kernel.boot_loader beside it"),
        ("policy: always", "unknown variant `always`, expected one of `never`, `kexec`, `reboot`"),
        ("boot_loader: next", "kernel.boot_loader is next, expected the absolute path of a program"),
        ("boot_loader: /", "kernel.boot_loader is /, expected"),
        ("deadline: 0", "kernel.deadline is 0, expected 1 to 86400 seconds"),
        ("polici: kexec", "unknown field `polici`"),
    ] {
        let error = flist::report(&load(&format!("kernel: {{{text}}}\n"), "", &[]).unwrap_err());
        assert!(error.contains(said), "{text}: {error}");
    }
}

#[test]
fn several_hubs_are_a_list() {
    let settings = load("hub: [http://a, http://b]\n", "", &[]).unwrap();
    assert_eq!(settings.hub.urls, ["http://a", "http://b"]);
    assert_eq!(load("", "", &[]).unwrap().hub.urls, [DEFAULT_HUB]);
    assert!(matches!(load("hub: [http://a, b]\n", "", &[]), Err(SettingsError::Hub(_))));
    let error = load("hub: {a: 1}\n", "", &[]).unwrap_err();
    assert!(flist::report(&error).contains("one address or a list of them"), "{}", flist::report(&error));
    let error = load("hub: []\n", "", &[]).unwrap_err();
    assert!(flist::report(&error).contains("at least one address"), "{}", flist::report(&error));
    let many = vec!["http://a"; MAX_HUBS + 1].join(", ");
    assert!(matches!(load(&format!("hub: [{many}]\n"), "", &[]), Err(SettingsError::Range { .. })));
}

#[test]
fn layouts_of_the_public_hub() {
    let of = |text: &str| load(text, "runmode=dev", &[]).map(|settings| settings.channels);
    let link = of("channel: {layout: link, packages: tf-zos-bins}\n").unwrap();
    let [(channel, packages)] = &link[..] else { panic!("{link:?}") };
    assert_eq!(channel.to_string(), "tf-zos/zos:development:latest.flist");
    assert_eq!(packages.repo.as_ref().unwrap().repo, "tf-zos-bins.dev");
    let tag = of("channel: {layout: tag, variant: v3light, name: os, packages: x}\n").unwrap();
    let [(channel, packages)] = &tag[..] else { panic!("{tag:?}") };
    assert_eq!((channel.to_string().as_str(), packages.boot.as_str()), ("tf-zos/development-v3light", "os"));
    assert!(packages.repo.is_none());
    let error = of("channel: {packages: ../x}\n").unwrap_err().to_string();
    assert!(error.contains("channel.packages is ../x, expected the name of a repo"), "{error}");
    assert!(of("channel: {layout: stars}\n").is_err());
    // What was asked for is followed alone.
    let settings = load("channel: {packages: bins}\n", "flist=a/b.flist", &[]).unwrap();
    assert!(settings.channels.iter().all(|(_, packages)| packages.repo.is_none()));
}

#[test]
fn a_newer_bootstrap_is_looked_for_by_run_mode_unless_that_is_off() {
    let of = |config: &str, cmdline: &str| {
        load(config, cmdline, &[]).unwrap().bootstrap.channel.map(|channel| channel.to_string())
    };
    assert_eq!(of("", "").as_deref(), Some("tf-autobuilder/bootstrap:latest.flist"));
    assert_eq!(of("", "runmode=dev").as_deref(), Some("tf-autobuilder/bootstrap:development.flist"));
    assert_eq!(of("bootstrap: {flist: a/b.flist}\n", "").as_deref(), Some("a/b.flist"));
    assert_eq!(of("bootstrap: {update: false}\n", ""), None);
    for bad in ["start_timeout: 601", "progress_timeout: 86401", "progress_timeout: 0"] {
        let bad = load(&format!("bootstrap: {{{bad}}}\n"), "", &[]);
        assert!(matches!(bad, Err(SettingsError::Range { .. })), "{bad:?}");
    }
}

#[test]
fn flists_that_name_no_store_have_a_default_one() {
    let url = |config: &str, arguments: &[&str]| load(config, "", arguments).unwrap().hub.store.url;
    assert_eq!(url("store: zdb://file/ns\n", &[]), "zdb://file/ns");
    assert_eq!(url("store: zdb://file/ns\n", &["--store", "dir:///arg"]), "dir:///arg");
    assert_eq!(url("", &[]), DEFAULT_STORE);
    assert_eq!(url("store: /srv/blocks\n", &[]), "/srv/blocks");
    for none in ["ftp://x", "foo", "dir://foo"] {
        assert!(matches!(load(&format!("store: {none}\n"), "", &[]), Err(SettingsError::Store(_))), "{none}");
    }
}

#[test]
fn a_version_on_the_kernel_command_line_pins_the_flist() {
    let settings = load("channel: {repo: a, name: b}\nflist: c/d.flist\n", "version=1.2.3", &[]).unwrap();
    assert_eq!(settings.channel_names(), "a/tags/1.2.3 or a/b:v1.2.3.flist");
    let channels: Vec<_> = settings.channels.iter().map(|(channel, _)| channel.clone()).collect();
    let (version, of) = settings.pinned(&channels).unwrap();
    let names: Vec<_> = of.iter().map(ToString::to_string).collect();
    assert_eq!(
        (version.to_string().as_str(), &names[..]),
        ("1.2.3", &["a/production".to_owned(), "a/b:production:latest.flist".to_owned()][..])
    );
    assert_eq!(settings.pinned(&channels[1..]).unwrap().1, of[1..]);
    assert_eq!(settings.pinned(&["x/bootstrap.flist".parse().unwrap()]), None);
    let settings = load("", "version=1.2.3", &["--flist", "a/c.flist"]).unwrap();
    assert_eq!(settings.channel_names(), "a/c.flist");
    assert_eq!(settings.pin, None);
}

/// Versions do not go down unnoticed because one of the two is asked for by its number.
#[test]
fn a_version_that_was_asked_for_is_of_the_run_mode_too() {
    let of = |cmdline: &str, channel: &str, version: &str| {
        let version = flist::hub::ReleaseVersion::Semver(version.parse().unwrap());
        load("", cmdline, &[]).unwrap().is_of_run_mode(&channel.parse().unwrap(), &version)
    };
    let link = "tf-zos/zos:development:latest.flist";
    for (cmdline, channel, version, is_of) in [
        ("runmode=dev", link, "2.0.0", true),
        ("runmode=dev version=1.0.0", link, "2.0.0", true),
        ("runmode=dev version=1.0.0", "tf-zos/development", "2.0.0", true),
        ("runmode=dev version=1.0.0", "tf-zos/tags/2.0.0", "2.0.0", true),
        ("runmode=dev", "tf-zos/tags/2.0.0", "2.0.0", true),
        ("runmode=dev", "tf-zos/zos:v2.0.0.flist", "2.0.0", true),
        ("runmode=dev", "tf-zos/other:v2.0.0.flist", "2.0.0", false),
        ("runmode=dev version=1.0.0", "tf-zos/testing", "2.0.0", false),
        ("runmode=dev", "x/tags/2.0.0", "2.0.0", false),
    ] {
        assert_eq!(of(cmdline, channel, version), is_of, "{cmdline} {channel}");
    }
}

#[test]
fn mistakes_in_the_file_name_line_and_key() {
    let error = load("hub: http://x\npol_interval: 5\n", "", &[]).unwrap_err();
    let text = flist::report(&error);
    assert!(text.contains("pol_interval") && text.contains("line 2"), "{text}");
    assert!(matches!(load("poll_interval: 0\n", "", &[]), Err(SettingsError::Range { .. })));
    let error = load("maintenance: { windows: [], zone: UTC }\n", "", &[]).unwrap_err();
    assert!(flist::report(&error).contains("zone"), "{}", flist::report(&error));
}

#[test]
fn how_many_generations_are_kept_is_limited() {
    assert_eq!(load("", "", &[]).unwrap().keep_generations, None);
    assert_eq!(load("keep_generations: 0\n", "", &[]).unwrap().keep_generations, Some(0));
    let error = load("keep_generations: 101\n", "", &[]).unwrap_err();
    assert!(error.to_string().contains("keep_generations is 101, expected 0 to 100"), "{error}");
}

#[test]
fn how_long_a_release_may_be_postponed_is_limited() {
    let days =
        |config: &str| load(config, "", &[]).map(|settings| settings.longest_postponement.as_secs() / 86_400);
    assert_eq!(days("").unwrap(), 14);
    for (config, expected) in [("14d", 14), ("0d", 0), ("365d", 365), ("48h", 2)] {
        assert_eq!(days(&format!("longest_postponement: {config}\n")).unwrap(), expected, "{config}");
    }
    for bad in ["366d", "14", "1y", "-1d", "soon"] {
        let error = days(&format!("longest_postponement: {bad}\n")).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("longest_postponement is") && text.contains("expected 0d to 365d"), "{text}");
    }
}

#[test]
fn services_can_be_protected() {
    assert!(load("", "", &[]).unwrap().protected.is_empty());
    let settings = load("protected: [redis, bus]\n", "", &[]).unwrap();
    assert_eq!(settings.protected.iter().map(UnitName::as_str).collect::<Vec<_>>(), ["bus", "redis"]);
    let error = load("protected: [../redis]\n", "", &[]).unwrap_err();
    assert!(flist::report(&error).contains("line 1"), "{}", flist::report(&error));
}

#[test]
fn maintenance_windows_are_taken_as_they_are_written() {
    assert_eq!(load("", "", &[]).unwrap().maintenance, None);
    let settings = load("maintenance: { windows: [\"Sat 02:00-05:00\"] }\n", "", &[]).unwrap();
    let expected = Maintenance { timezone: utc(), windows: vec!["Sat 02:00-05:00".to_owned()] };
    assert_eq!(settings.maintenance, Some(expected));
}

#[test]
fn a_file_that_is_too_long_is_refused_and_not_cut_off() {
    let long = format!("hub: http://x\n{}", "# filler\n".repeat(8000));
    let error = load(&long, "", &[]).unwrap_err();
    assert!(matches!(error, SettingsError::TooLong { .. }), "{error}");
}

#[test]
fn what_the_hub_is_shown_is_refused_where_others_can_read_it() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let token = directory.path().join("token");
    std::fs::write(&token, "0123456789abcdef0123\n").unwrap();
    let config = format!("hub: https://hub\nhub_access: {{token: {}}}\n", token.display());
    for (mode, fine) in [(0o600, true), (0o644, false), (0o660, false)] {
        std::fs::set_permissions(&token, std::fs::Permissions::from_mode(mode)).unwrap();
        match load(&config, "", &[]) {
            Ok(settings) => {
                assert!(fine, "{mode:o}");
                assert!(!settings.hub.access.is_empty());
                assert!(!format!("{settings:?}").contains("0123456789abcdef0123"));
            }
            Err(error) => {
                // Who asks no hub does not need it.
                let dir = tempfile::tempdir().unwrap();
                let (file, line) = (dir.path().join("config"), dir.path().join("line"));
                std::fs::write(&file, &config).unwrap();
                std::fs::write(&line, "").unwrap();
                let words = ["x", "--config", file.to_str().unwrap(), "--cmdline", line.to_str().unwrap()];
                let settings = Settings::load_without_secrets(&Arguments::parse_from(words).overrides);
                assert!(settings.unwrap().hub.access.is_empty());
                let text = flist::report(&error);
                assert!(!fine && text.contains("chmod 600") && !text.contains("0123456789"), "{text}");
            }
        }
    }
    let missing = load("hub_access: {certificate: /nonexistent/hub.pem}\n", "", &[]).unwrap_err();
    assert!(flist::report(&missing).contains("/nonexistent/hub.pem"), "{missing}");
    assert!(load("", "", &[]).unwrap().hub.access.is_empty());
}
