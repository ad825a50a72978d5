//! A bit that is turned on the way.

use std::collections::BTreeMap;

use flist::block::seal;
use flist::store::{HttpStore, Store};

use crate::rig::{Node, Repo, TODAY, accepts};
use crate::web::{Answer, Web};

const FLIPS: usize = 1000;

fn flipped(bytes: &[u8], random: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let at = random.usize(..bytes.len());
    bytes[at] ^= 1 << random.u8(..8);
    bytes
}

/// 1,000 times one bit of metadata, of the flist or of a block: nothing but what was signed is ever accepted.
#[tokio::test(flavor = "multi_thread")]
async fn no_flipped_bit_is_accepted() {
    let mut random = fastrand::Rng::with_seed(6);
    let repo = Repo::new();
    repo.release("1.0.0", TODAY);
    let truth = Node::of(&repo).offer(TODAY).await.unwrap();
    let fresh = Node::of(&repo).refresh(TODAY).await.unwrap();
    let metadata: BTreeMap<String, Vec<u8>> =
        repo.web.names().into_iter().map(|name| (name.clone(), repo.web.bytes(&name).unwrap())).collect();
    let names: Vec<&String> = metadata.keys().collect();
    let (blocks, ids) = blocks();
    let store = tokio::task::spawn_blocking({
        let url = blocks.url().to_owned();
        move || HttpStore::new(&url).unwrap()
    });
    let store = std::sync::Arc::new(store.await.unwrap());

    let mut refused = BTreeMap::from([("metadata", 0), ("flist", 0), ("block", 0)]);
    let mut harmless = 0;
    for round in 0..FLIPS {
        match round % 3 {
            0 => {
                let name = names[random.usize(..names.len())];
                repo.web.put(name, Answer::Bytes(flipped(&metadata[name], &mut random)));
                match Node::of(&repo).offer(TODAY).await {
                    // White space, another case of a digit, a file that this node does not read.
                    Ok(offer) => {
                        assert_eq!(offer, truth, "{name}");
                        harmless += 1;
                    }
                    Err(_) => *refused.get_mut("metadata").unwrap() += 1,
                }
                repo.web.put(name, Answer::Bytes(metadata[name].clone()));
            }
            1 => {
                let bytes = flipped(&Repo::content("1.0.0"), &mut random);
                assert!(!accepts(&truth, &bytes, &fresh));
                *refused.get_mut("flist").unwrap() += 1;
            }
            _ => {
                let (id, stored) = &ids[random.usize(..ids.len())];
                let name = format!("{}/{id}", &id.to_string()[..2]);
                blocks.put(&name, Answer::Bytes(flipped(stored, &mut random)));
                let (store, id) = (store.clone(), *id);
                let got = tokio::task::spawn_blocking(move || store.get(&id)).await.unwrap();
                assert!(got.is_err(), "a damaged block was accepted");
                *refused.get_mut("block").unwrap() += 1;
                blocks.put(&name, Answer::Bytes(stored.clone()));
            }
        }
    }
    tokio::task::spawn_blocking(move || drop(store)).await.unwrap();
    // The test has bitten everywhere.
    assert!(refused.values().all(|count| *count >= 100), "{refused:?}, {harmless} harmless");
}

fn blocks() -> (Web, Vec<(flist::block::BlockId, Vec<u8>)>) {
    let web = Web::start();
    let ids = (0..8_u8).map(|number| {
        let sealed = seal(&vec![number; 5000 + usize::from(number)]).unwrap();
        let name = format!("{}/{}", &sealed.id.to_string()[..2], sealed.id);
        web.put(&name, Answer::Bytes(sealed.stored.clone()));
        (sealed.id, sealed.stored)
    });
    let ids = ids.collect();
    (web, ids)
}
