//! Package descriptions on a real directory: what is asked of a node, hooks, migrations.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use bootstrap::engine::{EngineError, ReleaseTree};
use bootstrap::plan::Purpose;
use bootstrap::programs::{Call, How, InRoot, Programs};
use flist::hub::{Release, ReleaseId};
use flist::trust::for_tests::unchecked;
use nix::mount::{MsFlags, mount, umount};

use crate::place::{Place, put};

pub(crate) const DESCRIPTION: &str = "usr/lib/molt/packages/app.yaml";

impl Place {
    /// A root in which shell scripts run.
    pub(crate) fn with_shell() -> Self {
        let place = Self::new();
        place.put_shell();
        place
    }

    /// Puts what runs shell scripts into the root.
    pub(crate) fn put_shell(&self) {
        let said = Command::new("ldd").arg("/bin/sh").output().unwrap();
        let said = String::from_utf8(said.stdout).unwrap();
        let libraries = said.split_whitespace().filter(|word| word.starts_with('/'));
        for file in libraries.chain(["/bin/sh"]) {
            let to = self.root().join(file.trim_start_matches('/'));
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::copy(file, to).unwrap();
        }
    }

    /// Whether a release with this description may be installed.
    async fn admitted(&self, description: &str) -> Result<(), EngineError> {
        let release = self.release("1", &[(DESCRIPTION, description)]);
        let engine = self.engine();
        let packages = engine.packages_of(&release, self.source()).await?;
        engine.admit(&packages)
    }
}

#[tokio::test]
async fn a_node_that_is_not_as_a_package_needs_it_is_told_what_and_why() {
    let place = Place::new();
    put(&place.root().join("here/file"), "x");
    std::fs::create_dir_all(place.root().join("ro")).unwrap();
    let read_only = place.root().join("ro");
    mount(Some("none"), &read_only, Some("tmpfs"), MsFlags::MS_RDONLY, None::<&str>).unwrap();
    let mut wrong = Vec::new();
    for (text, code) in [
        ("kernel: '2.6', memory_mib: 1, paths: [/here/file], writable: [/here], mounts: [/ro]", ""),
        ("kernel: '999.0'", "kernel-too-old"),
        ("memory_mib: 16777216", "memory-too-small"),
        ("architectures: [vax]", "wrong-architecture"),
        ("molt: 999.0.0", "molt-too-old"),
        ("paths: [/here/nothing]", "path-missing"),
        ("mounts: [/here]", "not-mounted"),
        ("writable: [/ro]", "not-writable"),
        // Nothing is installed, so it comes from nowhere.
        ("installed: 999.0.0", ""),
    ] {
        match place.admitted(&format!("requires: {{{text}}}")).await {
            Ok(()) if code.is_empty() => {}
            Err(EngineError::Unmet(unmet)) if unmet.len() == 1 && unmet[0].code == code => {
                assert!(!unmet[0].have.is_empty() && unmet[0].package == "app", "{unmet:?}");
            }
            other => wrong.push(format!("{text}: {other:?}")),
        }
    }
    umount(&read_only).unwrap();
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[tokio::test]
async fn a_description_with_a_mistake_is_refused_with_its_place() {
    let place = Place::new();
    let error = place.admitted("requires: {}\nhook: []\n").await.unwrap_err();
    let said = flist::report(&error);
    assert!(said.contains("/usr/lib/molt/packages/app.yaml") && said.contains("line 2 column 1"), "{said}");
    assert!(error.is_about_molt(), "a newer version may know the key");
}

#[tokio::test]
async fn state_that_nobody_described_has_schema_0() {
    let place = Place::new();
    place.apply(&place.release("0", &[("bin/app", "0")]), Purpose::Boot).await.unwrap();
    let text = |floor| format!("state: {{schema: 2, floor: {floor}, paths: [/var/lib/app]}}");
    place.admitted(&text(2)).await.unwrap();
    std::fs::create_dir_all(place.root().join("var/lib/app")).unwrap();
    place.admitted(&text(2)).await.unwrap();
    put(&place.root().join("var/lib/app/data"), "x");
    place.admitted(&text(0)).await.unwrap();
    let refused = place.admitted(&text(1)).await.unwrap_err();
    assert!(
        matches!(&refused, EngineError::Schema(refused) if refused[0].code == "schema-too-old"),
        "{refused:?}"
    );
}

/// Writes down what it is told and where it is.
const HOOK: &str =
    "#!/bin/sh\necho \"$MOLT_PACKAGE $MOLT_HOOK $MOLT_ACTION $1\" >> /log\necho said\nexit ${2:-0}\n";

fn hook(name: &str, when: &str, code: u8) -> String {
    format!(
        "  - {{name: {name}, when: {when}, run: [/bin/hook, {name}, '{code}'], undo: [/bin/hook, back]}}\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_are_run_in_the_root_at_their_moments_and_a_dropped_one_is_taken_back() {
    let place = Place::with_shell();
    let text = ["after-start", "before-start", "before-swap"].map(|when| hook(when, when, 0)).concat();
    let description = format!("hooks:\n{text}");
    let one = place.release("1", &[("bin/hook", HOOK), (DESCRIPTION, &description)]);
    place.apply(&one, Purpose::Boot).await.unwrap();
    let run = "app before-swap run before-swap\napp before-start run before-start\napp after-start run after-start\n";
    assert_eq!(place.read("log"), run);

    std::fs::remove_file(place.root().join("log")).unwrap();
    let description = format!("hooks:\n{}", hook("new", "before-start", 0));
    let two = place.release("2", &[("bin/hook", HOOK), (DESCRIPTION, &description)]);
    place.apply(&two, Purpose::Upgrade).await.unwrap();
    assert_eq!(
        place.read("log"),
        "app after-start undo back\napp before-start undo back\napp before-swap undo back\napp new run new\n"
    );
    // Nothing changes, so nothing is run.
    std::fs::remove_file(place.root().join("log")).unwrap();
    let again = Release { id: ReleaseId::of([]), ..place.packed("2", &place.at("payload-2")) };
    let three = ReleaseTree::read(unchecked(again)).unwrap();
    place.apply(&three, Purpose::Upgrade).await.unwrap();
    assert_eq!(place.read("log"), "entity not found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_a_release_leaves_to_others_is_not_missed_by_the_rehearsal() {
    let place = Place::with_shell();
    // The libraries of the shell are in lib too, and nobody's.
    let one = place.release("1", &[("bin/hook", HOOK), ("lib/own/file", "1")]);
    place.apply(&one, Purpose::Boot).await.unwrap();
    let description = format!("hooks:\n{}", hook("new", "before-start", 0));
    let two = place.release("2", &[("bin/hook", HOOK), (DESCRIPTION, &description)]);
    place.apply(&two, Purpose::Upgrade).await.unwrap();
    assert!(place.read("log").contains("app new run"));
    assert!(place.root().join("lib").exists() && !place.root().join("lib/own").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_that_fails_undoes_the_upgrade_and_names_itself_with_what_it_said() {
    let place = Place::with_shell();
    let one = place.release("1", &[("bin/hook", HOOK), ("bin/app", "1")]);
    place.apply(&one, Purpose::Boot).await.unwrap();
    let text =
        hook("good", "before-swap", 0) + &hook("bad", "before-start", 7) + &hook("never", "after-start", 0);
    let description = format!("hooks:\n{text}");
    let two = place.release("2", &[("bin/hook", HOOK), ("bin/app", "2"), (DESCRIPTION, &description)]);
    let failed = place.apply(&two, Purpose::Upgrade).await.unwrap_err();
    let said = flist::report(&failed);
    let expected = "the hook bad of package app failed: it ended with code 7; the last it said: said";
    assert!(said.contains(expected), "{said}");
    let EngineError::Transaction(error) = &failed else { panic!("{failed:?}") };
    assert!(error.is_the_releases_fault() && error.is_judged());
    assert_eq!(place.read("bin/app"), "1");
    assert_eq!(
        place.read("log"),
        "app good run good\napp bad run bad\napp bad undo back\napp good undo back\n"
    );
    assert_eq!(place.engine().current().unwrap().unwrap().number, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inverse_that_fails_is_told_and_the_node_can_be_upgraded_all_the_same() {
    let place = Place::with_shell();
    place.apply(&place.release("1", &[("bin/hook", HOOK)]), Purpose::Boot).await.unwrap();
    let bad = "hooks: [{name: bad, when: after-start, run: [/bin/hook, x, '1'], undo: [/bin/hook, y, '2']}]";
    let two = place.release("2", &[("bin/hook", HOOK), (DESCRIPTION, bad)]);
    let failed = place.apply(&two, Purpose::Upgrade).await.unwrap_err();
    let said = flist::report(&failed);
    assert!(said.contains("but this stays: the inverse of hook bad of package app failed"), "{said}");
    assert!(matches!(&failed, EngineError::Transaction(error) if error.is_judged()), "{failed:?}");
    assert_eq!(place.read("log").matches("undo").count(), 3);
    place.apply(&place.release("3", &[("bin/hook", HOOK), ("etc/x", "3")]), Purpose::Upgrade).await.unwrap();
}

/// Processes with this in their environment.
fn marked(mark: &str) -> usize {
    let processes = std::fs::read_dir("/proc").unwrap();
    let environments = processes.filter_map(|entry| std::fs::read(entry.ok()?.path().join("environ")).ok());
    environments.filter(|bytes| bytes.windows(mark.len()).any(|part| part == mark.as_bytes())).count()
}

fn call(script: &str, mark: &str, timeout: Duration) -> Call {
    let words = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    let (program, mark) = ("bin/sh".parse().unwrap(), mark.to_owned());
    Call { program, words, environment: Vec::new(), mark, instead: Vec::new(), timeout }
}

#[tokio::test]
async fn nothing_of_a_program_outlives_its_time_also_not_what_has_left_its_group() {
    let programs = InRoot::new(Path::new("/"));
    let mark = format!("molt-test-{}", std::process::id());
    let script = "echo begun; setsid sleep 600 & sleep 600 & sleep 600";
    let ended = programs.run(&call(script, &mark, Duration::from_millis(500))).await.unwrap();
    assert_eq!(
        (ended.how, ended.output.as_slice()),
        (How::TimedOut(Duration::from_millis(500)), &b"begun\n"[..])
    );
    assert_eq!(marked(&mark), 0);
    // One that ends leaves nobody behind either, and of much output the end is kept.
    let script = "setsid sleep 600 & i=0; while [ $i -lt 3000 ]; do echo $i; i=$((i+1)); done; exit 3";
    let ended = programs.run(&call(script, &mark, Duration::from_secs(60))).await.unwrap();
    assert_eq!(ended.how, How::Exited(3));
    assert!(ended.output.len() == 4096 && ended.output.ends_with(b"2998\n2999\n"), "{}", ended.output.len());
    assert_eq!(marked(&mark), 0);
    let killed = programs.run(&call("kill -9 $$", &mark, Duration::from_secs(60))).await.unwrap();
    assert_eq!(killed.how, How::Killed(9));
    let missing = Call { program: "no/such".parse().unwrap(), ..call("", &mark, Duration::from_secs(1)) };
    assert_eq!(programs.run(&missing).await.unwrap_err().kind(), std::io::ErrorKind::NotFound);
}

#[tokio::test]
async fn what_a_killed_engine_left_running_is_ended() {
    let mark = format!("molt-left-{}", std::process::id());
    let mut child = Command::new("sleep").arg("600").env("MOLT_MARK", &mark).spawn().unwrap();
    let mut other = Command::new("sleep").arg("600").env("MOLT_MARK", format!("{mark}0")).spawn().unwrap();
    InRoot::new(Path::new("/")).end_leftovers(&mark).await.unwrap();
    assert!(!child.wait().unwrap().success());
    assert_eq!(other.try_wait().unwrap(), None);
    other.kill().unwrap();
    other.wait().unwrap();
}

/// Its state has one file; each layout writes its number into it. The real state must not be what it works on.
pub(crate) const MIGRATE: &str = "#!/bin/sh
read old < /srv/app/data || exit 1
echo \"$1 from $old, migration $MOLT_MIGRATION\" >> /log
echo \"$1\" > /srv/app/data
echo \"of $1\" > /srv/app/deep/new
";

pub(crate) fn layout(schema: u32, undo: &str) -> String {
    let steps = (2..=schema).map(|to| {
        let undo = undo.replace('N', &(to - 1).to_string());
        format!("    - {{to: {to}, run: [/bin/migrate, '{to}']{undo}}}\n")
    });
    let steps = steps.collect::<String>();
    let steps = if steps.is_empty() { String::new() } else { format!("  migrations:\n{steps}") };
    format!("state:\n  schema: {schema}\n  limit_mib: 1\n  paths: [/srv/app]\n{steps}")
}

pub(crate) const UNDO: &str = ", undo: [/bin/migrate, 'N']";

impl Place {
    /// A node with state of the first layout, and a release of this schema for it.
    pub(crate) async fn with_state(&self, schema: u32, undo: &str) -> ReleaseTree {
        let files = |version, schema| {
            let description = layout(schema, undo);
            self.release(
                version,
                &[("bin/migrate", MIGRATE), ("bin/v", version), (DESCRIPTION, &description)],
            )
        };
        self.apply(&files("1", 1), Purpose::Boot).await.unwrap();
        put(&self.root().join("srv/app/data"), "1\n");
        put(&self.root().join("srv/app/deep/other"), "kept");
        std::fs::set_permissions(self.root().join("srv/app/deep"), PermissionsExt::from_mode(0o700)).unwrap();
        files("2", schema)
    }

    pub(crate) fn recorded_schema(&self) -> u32 {
        let schemas = self.engine().current().unwrap().unwrap().schemas.unwrap();
        schemas[&"app".parse().unwrap()]
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn state_is_migrated_on_a_copy_step_by_step_and_back() {
    let place = Place::with_shell();
    let two = place.with_state(3, UNDO).await;
    place.apply(&two, Purpose::Upgrade).await.unwrap();
    assert_eq!(place.read("log"), "2 from 1, migration 2\n3 from 2, migration 3\n");
    assert_eq!((place.read("srv/app/data"), place.read("srv/app/deep/new")), ("3\n".into(), "of 3\n".into()));
    assert_eq!(place.read("srv/app/deep/other"), "kept");
    let mode = std::fs::metadata(place.root().join("srv/app/deep")).unwrap().permissions().mode();
    assert_eq!((mode & 0o7777, place.recorded_schema()), (0o700, 3));
    let kept = &place.engine().current().unwrap().unwrap().states;
    if let [kept] = kept.as_slice() {
        assert_eq!(place.read(&format!("{}/data", kept.slot)), "1\n");
    }

    // What was written meanwhile is not lost by going back.
    put(&place.root().join("srv/app/deep/later"), "later");
    std::fs::remove_file(place.root().join("log")).unwrap();
    let (_, target) = place.engine().revert_target(None).unwrap();
    place.apply(&target, Purpose::Revert).await.unwrap();
    assert_eq!(place.read("log"), "2 from 3, migration 3\n1 from 2, migration 2\n");
    assert_eq!(
        (place.read("srv/app/data"), place.read("srv/app/deep/later")),
        ("1\n".into(), "later".into())
    );
    assert_eq!((place.read("bin/v"), place.recorded_schema()), ("1".into(), 1));
    // And forward again, to the same.
    place.apply(&two, Purpose::Upgrade).await.unwrap();
    assert_eq!((place.read("srv/app/data"), place.recorded_schema()), ("3\n".into(), 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_floor_blocks_a_rollback_that_could_not_read_the_state() {
    let place = Place::with_shell();
    let two = place.with_state(3, "").await;
    place.apply(&two, Purpose::Upgrade).await.unwrap();
    let engine = place.engine();
    let refused = engine.revert_target(Some(1)).unwrap_err();
    let EngineError::Schema(reasons) = &refused else { panic!("{refused:?}") };
    assert_eq!((reasons[0].code.as_str(), reasons[0].state, reasons[0].missing), ("schema-too-new", 3, 3));
    assert!(flist::report(&refused).contains("the inverse of migration 3 would be needed"), "{refused}");
    let listed = engine.generations().unwrap();
    assert!(listed[0].target && listed[0].blocked.as_ref().is_some_and(|why| why.contains("schema 3")));
    // As an upgrade it is refused too.
    let recorded = ReleaseTree::recorded(engine.state(), 1).unwrap();
    let again = place.apply(&recorded, Purpose::Upgrade).await.unwrap_err();
    assert!(matches!(again, EngineError::Schema(_)), "{again:?}");
    assert_eq!((place.read("bin/v"), place.read("srv/app/data")), ("2".into(), "3\n".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_fails_or_grows_too_large_leaves_the_state_alone() {
    let grows = "#!/bin/sh\ni=0; x=0123456789abcdef; while [ $i -lt 7 ]; do x=$x$x$x$x; i=$((i+1)); done; echo $x > /srv/app/big; echo $x > /srv/app/more; echo $x >> /srv/app/more; echo $x >> /srv/app/more; echo $x >> /srv/app/more\n";
    for (script, expected) in [
        (
            "#!/bin/sh\necho 9 > /srv/app/data; echo cannot; exit 4\n",
            "migration 2 of package app failed: it ended with code 4",
        ),
        (grows, "its description allows 1048576"),
    ] {
        let place = Place::with_shell();
        place.with_state(2, UNDO).await;
        let files = [("bin/migrate", script), ("bin/v", "3"), (DESCRIPTION, &layout(2, UNDO))];
        let failed = place.apply(&place.release("3", &files), Purpose::Upgrade).await.unwrap_err();
        let said = flist::report(&failed);
        assert!(said.contains(expected), "{said}");
        assert!(matches!(&failed, EngineError::Transaction(error) if error.is_judged()), "{said}");
        assert_eq!((place.read("srv/app/data"), place.read("bin/v")), ("1\n".into(), "1".into()));
        assert_eq!((place.read("srv/app/big"), place.recorded_schema()), ("entity not found".into(), 1));
        assert!(!place.root().join(".molt").exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn state_that_somebody_writes_to_meanwhile_or_that_is_too_large_is_not_migrated() {
    let place = Place::with_shell();
    let two = place.with_state(2, UNDO).await;
    // It knows the way to the real state by another name, as a service that was not named does.
    let data = place.root().join("srv/app/data");
    let other = place.root().join("other");
    std::fs::hard_link(&data, &other).unwrap();
    let script = "#!/bin/sh\necho changed > /other\n";
    let files = [("bin/migrate", script), ("bin/v", "3"), (DESCRIPTION, &layout(2, UNDO))];
    let failed = place.apply(&place.release("3", &files), Purpose::Upgrade).await.unwrap_err();
    assert!(flist::report(&failed).contains("/srv/app was changed by somebody else"), "{failed:?}");
    assert!(matches!(&failed, EngineError::Transaction(error) if !error.is_the_releases_fault()));
    assert_eq!((place.read("srv/app/data"), place.read("bin/v")), ("changed\n".into(), "1".into()));

    std::fs::write(place.root().join("srv/app/big"), vec![0; 2 << 20]).unwrap();
    let refused = place.apply(&two, Purpose::Upgrade).await.unwrap_err();
    assert!(
        matches!(&refused, EngineError::Unmet(unmet) if unmet[0].code == "state-too-large"),
        "{refused:?}"
    );
}
