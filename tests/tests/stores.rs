//! Blocks in real stores, Redis and a hub: whole, in parts, twice, and behind a proxy that damages answers.
#![allow(clippy::unwrap_used)]

mod packed;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use flist::block::{BlockId, Sealed, seal};
use flist::pack::pack;
use flist::report;
use flist::store::{DirStore, FetchError, Store, StoreError, open, open_routes};
use flist::tree::Tree;
use flist::unpack::unpack;
use flist::verify::verify;
use molt_tests::{BlockServer, Fault, FaultProxy, RedisServer, ReservedPort, run, scratch};
use packed::{http, noise, patiently, redis, routes, source};

const LIMIT: Duration = Duration::from_secs(60);

/// Packs the [`source`] into these stores; the tree has the same routes.
fn pack_into(stores: &[&str], directory: &Path) -> Tree {
    let at = directory.join("source");
    source(&at);
    let routes = routes(stores);
    let (mut tree, summary) = pack(&at, open_routes(&routes).unwrap().as_ref()).unwrap();
    assert_eq!(summary.new_blocks as usize, block_count(&tree), "nothing was there before");
    tree.routes = routes;
    tree
}

fn block_count(tree: &Tree) -> usize {
    tree.files().map(|(_, _, content)| content.blocks.len()).sum()
}

/// Checks every block through these stores; all of them have to be right.
fn all_right(tree: &Tree, stores: &[&str]) {
    let verified = verify(tree, open_routes(&routes(stores)).unwrap().as_ref());
    let bad: Vec<_> = verified.bad.values().map(|bad| report(&bad.error)).collect();
    assert!(bad.is_empty(), "{stores:?}: {bad:?}");
    assert_eq!(verified.blocks, block_count(tree));
    assert_eq!(verified.bytes, tree.total_bytes());
}

/// One block as it is stored.
fn a_block(length: usize) -> Sealed {
    seal(&noise(7, length)).unwrap()
}

#[test]
fn a_tree_comes_back_from_redis_and_databases_are_apart() {
    let (server, directory) = (RedisServer::start(None).unwrap(), scratch("redis-tree").unwrap());
    let (here, elsewhere) = (server.url(3), server.url(4));
    let tree = pack_into(&[&here], directory.path());
    all_right(&tree, &[&here]);
    let back = directory.path().join("back");
    unpack(&tree, open_routes(&tree.routes).unwrap().as_ref(), &back).unwrap();
    let mut compare = Command::new("diff");
    compare.args(["--recursive", "--no-dereference"]).arg(directory.path().join("source")).arg(&back);
    run(&mut compare, LIMIT).unwrap();

    let store = open(&elsewhere).unwrap();
    let nothing = verify(&tree, store.as_ref());
    assert_eq!(nothing.bad.len(), block_count(&tree), "another database has none of it");
    assert!(nothing.bad.values().all(|bad| matches!(bad.error, FetchError::Missing { .. })));
}

#[test]
fn each_shard_keeps_its_own_range() {
    let (server, directory) = (RedisServer::start(None).unwrap(), scratch("shards").unwrap());
    let folder = directory.path().join("upper").display().to_string();
    let (low, high) = (server.url(1), server.url(2));
    let (lower, upper) = (format!("00-7f={low}"), format!("80-ff={high}"));
    let tree = pack_into(&[&lower, &upper], directory.path());
    all_right(&tree, &[&lower, &upper]);
    let (low, high) = (open(&low).unwrap(), open(&high).unwrap());
    let copy = DirStore::new(&folder);
    let mut kept = [0, 0];
    for block in tree.files().flat_map(|(_, _, content)| &content.blocks) {
        let is_low = block.id.as_bytes()[0] < 0x80;
        kept[usize::from(is_low)] += 1;
        assert_eq!((low.has(&block.id).unwrap(), high.has(&block.id).unwrap()), (is_low, !is_low));
        if !is_low {
            copy.put(&block.id, &high.get(&block.id).unwrap().unwrap()).unwrap();
        }
    }
    assert!(kept[0] > 0 && kept[1] > 0, "both have some: {kept:?}");
    all_right(&tree, &[&lower, &format!("80-ff=dir://{folder}")]);
}

#[test]
fn a_replica_stands_in_for_one_that_lost_damaged_or_left() {
    let (server, directory) = (RedisServer::start(None).unwrap(), scratch("replicas").unwrap());
    let folder = format!("dir://{}", directory.path().join("replica").display());
    let (replica, empty) = (server.url(1), server.url(2));
    let nobody = ReservedPort::new().unwrap();
    let down = format!("redis://{}/0", nobody.address());
    let tree = pack_into(&[&replica, &folder], directory.path());
    for stores in [[&*empty, &*folder], [&replica, &empty], [&folder, &replica]] {
        all_right(&tree, &stores);
    }
    let database = open(&replica).unwrap();
    for (_, _, content) in tree.files() {
        for block in &content.blocks {
            database.put(&block.id, b"garbage").unwrap();
        }
    }
    all_right(&tree, &[&replica, &folder]);
    let verified = verify(&tree, open(&replica).unwrap().as_ref());
    assert_eq!(verified.bad.len(), block_count(&tree), "damage is told, not hidden");
    let corrupt = |error: &FetchError| matches!(error, FetchError::Store { source: StoreError::Corrupt { url, .. }, .. } if *url == replica);
    assert!(verified.bad.values().all(|bad| corrupt(&bad.error)));

    let (id, _) = verified.bad.first_key_value().unwrap();
    let fallback = open_routes(&routes(&[&down, &folder])).unwrap();
    assert!(fallback.get(id).unwrap().is_some(), "a server that is gone is passed over");
    let error = open_routes(&routes(&[&down, &empty])).unwrap().get(id).unwrap_err();
    assert!(report(&error).contains(&down), "but \"missing\" would be a guess: {}", report(&error));
}

#[test]
fn a_wrong_password_names_the_store_and_not_the_password() {
    let server = RedisServer::start(Some("open-sesame")).unwrap();
    let url = |login: &str| format!("redis://{login}{}/0", server.address());
    let block = a_block(1000);
    let right = open(&url(":open-sesame@")).unwrap();
    right.put(&block.id, &block.stored).unwrap();
    assert_eq!(right.get(&block.id).unwrap().unwrap(), block.stored);
    for login in ["", ":guess-work@", "somebody:guess-work@"] {
        let error = open(&url(login)).unwrap().get(&block.id).unwrap_err();
        let text = report(&error);
        assert!(text.contains(&server.address().to_string()), "{text}");
        assert!(!text.contains("guess-work") && !text.contains("sesame"), "{text}");
        assert!(!error.is_retryable(), "{text}");
    }
}

/// Asks a proxied store for `block` under every fault, on a new and on a kept connection, and again when
/// the fault is over. `offsets` are where an answer is cut, reset or flipped.
fn every_fault(
    proxy: &mut FaultProxy,
    block: &Sealed,
    connect: impl Fn() -> Arc<dyn Store>,
    offsets: &[usize],
) {
    let mut faults = vec![Fault::Refuse, Fault::Drop, Fault::Delay(Duration::from_millis(20)), Fault::Stall];
    faults.extend(offsets.iter().flat_map(|at| [Fault::Truncate(*at), Fault::Reset(*at)]));
    faults.extend(offsets.iter().flat_map(|at| [1, 0x0f].map(|bits| Fault::Flip { at: *at, bits })));
    for fault in faults {
        for kept in [false, true] {
            let store = connect();
            if kept {
                assert_eq!(store.get(&block.id).unwrap().unwrap(), block.stored);
            }
            let before = proxy.strikes();
            proxy.set(fault).unwrap();
            let answer = store.get(&block.id);
            assert!(fault == Fault::Refuse || proxy.strikes() > before, "{fault:?} struck");
            match (answer, fault) {
                // Not every byte of an answer means something.
                (Ok(Some(stored)), Fault::Delay(_) | Fault::Flip { .. }) => assert_eq!(stored, block.stored),
                // A flipped digit makes an honest server say something else; it is never "missing".
                (Err(error), Fault::Flip { .. }) => assert!(names(&error, proxy), "{error:?}"),
                (Err(error), Fault::Delay(_)) => panic!("a delay is no failure: {error:?}"),
                (Err(error), _) => {
                    assert!(names(&error, proxy) && error.is_retryable(), "{fault:?}: {error:?}")
                }
                (answer, _) => {
                    panic!("{fault:?} was answered with {:?}", answer.map(|stored| stored.is_some()))
                }
            }
            proxy.set(Fault::Pass).unwrap();
            let again = store.get(&block.id);
            assert!(
                again.as_ref().is_ok_and(|stored| stored.as_deref() == Some(&*block.stored)),
                "{fault:?}: {again:?}"
            );
        }
    }
}

fn names(error: &StoreError, proxy: &FaultProxy) -> bool {
    report(error).contains(&proxy.address().to_string())
}

/// A fault that strikes once is not seen through a store that asks again.
fn one_fault_is_invisible(proxy: &mut FaultProxy, block: &Sealed, store: &dyn Store) {
    for fault in [Fault::Drop, Fault::Truncate(1), Fault::Truncate(500), Fault::Reset(500), Fault::Stall] {
        let before = proxy.strikes();
        proxy.set_once(fault).unwrap();
        assert_eq!(store.get(&block.id).unwrap().unwrap(), block.stored, "{fault:?}");
        assert_eq!(proxy.strikes(), before + 1, "{fault:?}");
    }
}

#[test]
fn faults_between_us_and_redis() {
    let server = RedisServer::start(None).unwrap();
    let mut proxy = FaultProxy::start(server.address()).unwrap();
    let block = a_block(5000);
    redis(server.address()).put(&block.id, &block.stored).unwrap();
    let address = proxy.address();
    // `+OK\r\n` to SELECT, `$5000\r\n…` to GET.
    let whole = 7 + block.stored.len() + 2;
    let offsets = [0, 1, 2, 4, 5, 6, 7, 1000, whole - 3, whole - 2, whole - 1];
    every_fault(&mut proxy, &block, || Arc::new(redis(address)), &offsets);
    one_fault_is_invisible(&mut proxy, &block, patiently(redis(address)).as_ref());
}

#[test]
fn faults_between_us_and_a_hub() {
    let server = BlockServer::start().unwrap();
    let mut proxy = FaultProxy::start(server.address()).unwrap();
    let block = a_block(5000);
    http(server.address()).put(&block.id, &block.stored).unwrap();
    let address = proxy.address();
    let offsets = [0, 5, 9, 12, 17, 40, 1000, block.stored.len() - 1];
    every_fault(&mut proxy, &block, || Arc::new(http(address)), &offsets);
    one_fault_is_invisible(&mut proxy, &block, patiently(http(address)).as_ref());
}

#[test]
fn an_answer_that_is_out_of_step_spoils_none_after_it() {
    let server = RedisServer::start(None).unwrap();
    let mut proxy = FaultProxy::start(server.address()).unwrap();
    // Of 808 bytes that are said to be 708, the rest looks like ten more answers.
    let stored = b"$4\r\noops\r\n".repeat(81)[..808].to_vec();
    let id = BlockId::of(&stored);
    redis(server.address()).put(&id, &stored).unwrap();
    let store = redis(proxy.address());
    assert_eq!(store.get(&id).unwrap().unwrap(), stored);
    proxy.set_once(Fault::Flip { at: 1, bits: b'8' ^ b'7' }).unwrap();
    let error = store.get(&id).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
    assert_eq!(store.get(&id).unwrap().unwrap(), stored);
}
