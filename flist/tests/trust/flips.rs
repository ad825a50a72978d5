//! A bit that is turned on the way.

use std::collections::BTreeMap;

use flist::block::seal;
use flist::hub::HubClient;
use flist::store::{HttpStore, Store};
use flist::trust::director::Who;
use flist::trust::{Verdict, What, offered};

use crate::rig::{Node, Repo, TODAY, channel, clocks, facts, newest};
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
    // The flist is fetched as nodes do, from a hub that is the same server.
    let (flist, content) = (truth.flists[0].1.flist.to_string(), Repo::content("1.0.0"));
    repo.web.put(&flist, Answer::Bytes(content.clone()));
    let (reader, hub) = (Node::of(&repo), HubClient::new(repo.web.url(), "test").unwrap());
    let (facts, channels) = (facts(None), [channel()]);
    let who = Who { node: "n".to_owned(), group: None };
    let wanted = newest(&channels, &facts, &who);
    let fetches = async || offered(&reader.client, None, &hub, &wanted, &clocks(TODAY)).await;
    let names = repo.web.names().into_iter().filter(|name| *name != flist);
    let metadata: BTreeMap<String, Vec<u8>> =
        names.map(|name| (name.clone(), repo.web.bytes(&name).unwrap())).collect();
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
                repo.web.put(&flist, Answer::Bytes(flipped(&content, &mut random)));
                let error = fetches().await.map(drop).unwrap_err();
                assert_eq!(error.verdict(), Verdict::Mismatch, "{error}");
                *refused.get_mut("flist").unwrap() += 1;
                repo.web.put(&flist, Answer::Bytes(content.clone()));
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
    // What is right is accepted, all the same.
    assert!(matches!(fetches().await.unwrap().what, What::Release(_)));
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
