//! Generations that are pinned, and what a plan finds on the node already.

use bootstrap::engine::EngineError;
use bootstrap::generation::PINS;
use bootstrap::plan::Purpose;
use flist::store::{DirStore, Store};

use crate::place::Place;

/// A file that each release has otherwise, and one that only some have.
fn files(version: &'static str) -> Vec<(&'static str, &'static str)> {
    let mut files = vec![("bin/app", version), ("etc/app.conf", version)];
    files.extend((version != "3").then_some(("usr/share/app/data", version)));
    files
}

fn numbers(place: &Place) -> Vec<u64> {
    place.engine().generations().unwrap().iter().map(|listed| listed.number).collect()
}

/// A node that was upgraded from 1 to 4, with the first generation pinned in time.
async fn pinned() -> Place {
    let place = Place::new();
    place.apply(&place.release("1", &files("1")), Purpose::Boot).await.unwrap();
    assert!(place.engine().pin(&place.lock(), 1).unwrap());
    assert!(!place.engine().pin(&place.lock(), 1).unwrap(), "it is pinned already");
    for version in ["2", "3", "4"] {
        place.apply(&place.release(version, &files(version)), Purpose::Upgrade).await.unwrap();
        place.engine().collect(&place.lock(), Some(0)).unwrap();
    }
    place
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_generation_can_be_gone_back_to_without_a_store_until_it_is_unpinned() {
    let place = pinned().await;
    let collected = place.engine().collectable(Some(0)).unwrap();
    assert_eq!((collected.pinned, collected.on_the_way), (vec![1], vec![2, 3]));
    assert_eq!((collected.generations, numbers(&place)), (vec![], vec![1, 2, 3, 4]));
    assert_eq!(place.engine().collectable(Some(3)).unwrap().pinned, [0; 0], "it would stay anyway");

    let engine = place.engine();
    let refused = |result: Result<(), EngineError>| result.unwrap_err().to_string();
    let unknown = refused(engine.pin(&place.lock(), 9).map(drop));
    assert_eq!(unknown, "there is no such generation to pin; these are kept: 1, 2, 3, 4");
    assert_eq!(refused(engine.unpin(&place.lock(), 2)), "this generation is not pinned; these are: 1");

    std::fs::remove_dir_all(place.at("store")).unwrap();
    let (number, target) = engine.revert_target(Some(1)).unwrap();
    assert_eq!(number, 1);
    place.apply(&target, Purpose::Revert).await.unwrap();
    for (path, content) in files("1") {
        assert_eq!(place.read(path), content, "{path}");
    }
    engine.unpin(&place.lock(), 1).unwrap();
    assert_eq!(refused(engine.unpin(&place.lock(), 1)), "this generation is not pinned; none is");
    assert_eq!(engine.collect(&place.lock(), Some(0)).unwrap().generations, [1, 2, 3, 4]);
    assert_eq!(numbers(&place), [5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_can_read_what_is_pinned_nothing_is_forgotten() {
    let place = pinned().await;
    std::fs::write(place.state.join(PINS), "{").unwrap();
    let error = place.engine().collect(&place.lock(), Some(0)).unwrap_err();
    assert!(flist::report(&error).contains("pins.json is damaged"), "{error:?}");
    assert!(place.engine().pin(&place.lock(), 2).is_err());
    place.apply(&place.release("5", &files("5")), Purpose::Upgrade).await.unwrap();
    assert_eq!(numbers(&place), [1, 2, 3, 4, 5]);
    std::fs::remove_file(place.state.join(PINS)).unwrap();
    place.engine().collect(&place.lock(), Some(0)).unwrap();
    assert_eq!(numbers(&place), [5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_or_cached_on_this_node_has_not_to_be_fetched() {
    let place = pinned().await;
    let cache = DirStore::new(place.at("cache"));
    let engine = place.engine().caching_in(place.at("cache"));
    // As 1 was, but for one file that nobody has.
    let mut next = files("1");
    next.push(("usr/share/app/new", "content of five words, new"));
    next.push(("usr/share/app/more", "more"));
    let release = place.release("6", &next);
    let fetched = async || {
        let prepared = engine.prepare(&release, Purpose::Upgrade, place.source(), None).await.unwrap();
        (prepared.plan.staged_bytes(), engine.cost(&prepared).unwrap().fetched_bytes)
    };
    assert_eq!(fetched().await, (3 + 26 + 4, 26 + 4));
    for (path, _, content) in release.tree().files() {
        if path.to_string() == "usr/share/app/new" {
            let id = content.blocks[0].id;
            cache.put(&id, &place.store().get(&id).unwrap().unwrap()).unwrap();
        }
    }
    assert_eq!(fetched().await, (33, 4));
}
