//! State whose records are lost: it is never migrated twice, and never cleared.

use bootstrap::engine::{EngineError, ReleaseTree};
use bootstrap::plan::Purpose;
use flist::package::SCHEMA_MARK;
use rustix::fs::{getxattr, removexattr};

use crate::packages::{DESCRIPTION, MIGRATE, UNDO, layout};
use crate::place::{Place, put};

impl Place {
    /// A release of this schema, which reads all from this one on.
    fn of_schema(&self, version: &str, schema: u32, floor: u32) -> ReleaseTree {
        let described = layout(schema, UNDO);
        let first = format!("  schema: {schema}\n");
        let description = described.replace(&first, &format!("{first}  floor: {floor}\n"));
        self.release(version, &[("bin/migrate", MIGRATE), ("bin/v", version), (DESCRIPTION, &description)])
    }

    /// A node whose state was migrated to the third layout.
    async fn migrated() -> Self {
        let place = Self::with_shell();
        let two = place.with_state(3, UNDO).await;
        place.apply(&two, Purpose::Upgrade).await.unwrap();
        std::fs::remove_file(place.root().join("log")).unwrap();
        place
    }

    /// What the state says of itself; empty when it says nothing.
    fn mark(&self) -> String {
        let mut said = [0; 64];
        let length = getxattr(self.root().join("srv/app"), SCHEMA_MARK, &mut said[..]).unwrap_or(0);
        String::from_utf8(said[..length].to_vec()).unwrap()
    }

    /// As state is that was written by a version that marked nothing.
    fn without_mark(&self) {
        removexattr(self.root().join("srv/app"), SCHEMA_MARK).unwrap();
    }

    fn data(&self) -> String {
        self.read("srv/app/data")
    }

    /// As when the state is on a disk of its own, and root and records are gone.
    fn lose_root_and_records(&self) {
        std::fs::remove_dir_all(&self.state).unwrap();
        let _absent = std::fs::remove_dir_all(self.root().join(".molt"));
        std::fs::remove_file(self.root().join(".molt-root")).unwrap();
    }
}

fn require_unknown(refused: &EngineError) {
    let EngineError::Schema(reasons) = refused else { panic!("{refused:?}") };
    assert_eq!(reasons[0].code, "schema-unknown");
    assert!(flist::report(refused).contains("write its number into /srv/app/.molt-schema"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn state_says_its_layout_itself_when_nobody_knows_what_is_installed() {
    let place = Place::migrated().await;
    assert!(place.mark().starts_with("3 "), "{}", place.mark());
    put(&place.state.join("current"), "unknown\n");
    place.apply(&place.of_schema("3", 3, 3), Purpose::Upgrade).await.unwrap();
    assert_eq!((place.data(), place.read("log")), ("3\n".into(), "entity not found".into()));
    assert_eq!((place.read("bin/v"), place.recorded_schema()), ("3".into(), 3));

    put(&place.state.join("current"), "unknown\n");
    place.apply(&place.of_schema("4", 4, 4), Purpose::Upgrade).await.unwrap();
    assert_eq!(place.read("log"), "4 from 3, migration 4\n");
    assert_eq!((place.data(), place.recorded_schema()), ("4\n".into(), 4));
    assert!(place.mark().starts_with("4 "), "{}", place.mark());
}

#[tokio::test(flavor = "multi_thread")]
async fn state_of_an_unknown_layout_is_not_migrated_until_a_person_says_which() {
    let place = Place::migrated().await;
    place.without_mark();
    put(&place.state.join("current"), "unknown\n");
    for release in [place.of_schema("3", 3, 3), place.of_schema("4", 4, 1)] {
        require_unknown(&place.apply(&release, Purpose::Upgrade).await.unwrap_err());
    }
    assert_eq!((place.data(), place.read("bin/v")), ("3\n".into(), "2".into()));
    // Nor do records become whole because something else was recorded meanwhile.
    let identityd = place.release("5", &[("bin/identityd", "5")]);
    place.apply(&identityd, Purpose::SelfUpdate).await.unwrap();
    let number = place.engine().state().numbers().unwrap().pop().unwrap();
    place.engine().commit_pending(&place.lock(), number).await.unwrap();
    require_unknown(&place.apply(&place.of_schema("6", 3, 3), Purpose::Upgrade).await.unwrap_err());
    place.apply(&place.release("7", &[("bin/v", "7")]), Purpose::Upgrade).await.unwrap();
    require_unknown(&place.apply(&place.of_schema("8", 3, 3), Purpose::Upgrade).await.unwrap_err());

    put(&place.root().join("srv/app/.molt-schema"), "3\n");
    place.apply(&place.of_schema("9", 4, 4), Purpose::Upgrade).await.unwrap();
    assert_eq!((place.data(), place.recorded_schema()), ("4\n".into(), 4));
    assert_eq!(place.read("log"), "4 from 3, migration 4\n");
    assert!(place.mark().starts_with("4 "), "{}", place.mark());
    assert_eq!(place.read("srv/app/.molt-schema"), "entity not found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_record_is_not_replaced_by_an_older_one() {
    let place = Place::migrated().await;
    place.without_mark();
    put(&place.state.join("generations/2.json"), "{");
    require_unknown(&place.apply(&place.of_schema("3", 3, 3), Purpose::Upgrade).await.unwrap_err());
    // What reads every layout may have it as it is.
    place.apply(&place.of_schema("4", 3, 0), Purpose::Upgrade).await.unwrap();
    assert_eq!((place.data(), place.read("log")), ("3\n".into(), "entity not found".into()));
    assert_eq!(place.recorded_schema(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_boot_onto_state_of_before_does_not_migrate_it_again_and_keeps_what_it_migrates() {
    let place = Place::migrated().await;
    place.lose_root_and_records();
    place.apply(&place.of_schema("3", 3, 3), Purpose::Boot).await.unwrap();
    assert_eq!((place.data(), place.read("log")), ("3\n".into(), "entity not found".into()));

    place.lose_root_and_records();
    place.apply(&place.of_schema("4", 4, 4), Purpose::Boot).await.unwrap();
    assert_eq!((place.data(), place.read("log")), ("4\n".into(), "4 from 3, migration 4\n".into()));
    let first = place.engine().current().unwrap().unwrap();
    let [kept] = first.states.as_slice() else { panic!("{:?}", first.states) };
    assert_eq!(place.read(&format!("{}/data", kept.slot)), "3\n");
    // Of what was replaced nothing else stays.
    let lies_in = place.root().join(kept.slot.parent().unwrap().as_path());
    assert_eq!(std::fs::read_dir(lies_in).unwrap().count(), 1);
    place.engine().collect(&place.lock(), None).unwrap();
    assert_eq!(place.read(&format!("{}/data", kept.slot)), "3\n");

    place.without_mark();
    place.lose_root_and_records();
    require_unknown(&place.apply(&place.of_schema("5", 4, 4), Purpose::Boot).await.unwrap_err());
    assert_eq!(place.data(), "4\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_whose_records_are_lost_keeps_its_configuration() {
    let place = Place::new();
    place
        .apply(&place.release("1", &[("etc/app", "shipped"), ("bin/app", "1")]), Purpose::Boot)
        .await
        .unwrap();
    put(&place.root().join("etc/app"), "of the user");
    std::fs::remove_dir_all(&place.state).unwrap();
    place.apply(&place.release("2", &[("etc/app", "newer"), ("bin/app", "2")]), Purpose::Boot).await.unwrap();
    assert_eq!((place.read("etc/app"), place.read("etc/app.new")), ("of the user".into(), "newer".into()));
    assert_eq!(place.read("bin/app"), "2");
}
