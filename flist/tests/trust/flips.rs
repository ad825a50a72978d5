//! A bit that is turned on the way.

use std::collections::BTreeMap;
use std::sync::Arc;

use flist::block::BlockId;
use flist::format::fl;
use flist::hub::{HubClient, Sha256};
use flist::pack::pack;
use flist::store::{DirStore, HttpStore, Store};
use flist::tree::Tree;
use flist::trust::director::Who;
use flist::trust::{Verdict, What, offered};
use serde_json::Value;

use crate::rig::{Node, Repo, TODAY, at, channel, clocks, facts, newest};
use crate::web::{Answer, Web};

/// How many of them have to be noticed.
const BITES: usize = 1000;

fn flipped(bytes: &[u8], random: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let at = random.usize(..bytes.len());
    bytes[at] ^= 1 << random.u8(..8);
    bytes
}

/// Whether two files of metadata say the same in what is signed, and differ at most in how that is written, and around it.
fn say_the_same(one: &[u8], other: &[u8]) -> bool {
    let signed = |bytes: &[u8]| Some(serde_json::from_slice::<Value>(bytes).ok()?.get("signed")?.clone());
    signed(one).is_some_and(|one| signed(other) == Some(one))
}

/// A release of a few files: its flist, and its blocks where a store has them.
fn packed(blocks: &Web) -> (Tree, Vec<u8>, BTreeMap<BlockId, Vec<u8>>) {
    let place = tempfile::tempdir().unwrap();
    let (payload, store) = (place.path().join("payload"), DirStore::new(place.path().join("store")));
    std::fs::create_dir_all(payload.join("usr/bin")).unwrap();
    for number in 0..8_u8 {
        let content: Vec<u8> =
            (0..5000 + u32::from(number)).map(|byte| (byte % 251) as u8 ^ number).collect();
        std::fs::write(payload.join(format!("usr/bin/program-{number}")), content).unwrap();
    }
    let (tree, _) = pack(&payload, &store).unwrap();
    let ids = tree.files().flat_map(|(_, _, content)| content.blocks.iter().map(|block| block.id));
    let stored: BTreeMap<BlockId, Vec<u8>> = ids.map(|id| (id, store.get(&id).unwrap().unwrap())).collect();
    stored.iter().for_each(|(id, bytes)| blocks.put(&block_name(id), Answer::Bytes(bytes.clone())));
    let bytes = fl::to_bytes(&tree).unwrap();
    (tree, bytes, stored)
}

fn block_name(id: &BlockId) -> String {
    format!("{}/{id}", &id.to_string()[..2])
}

/// One bit is turned in a file that a node asks for, of metadata, the flist or a block, until 1,000 were refused. What
/// is not refused has left what is signed as it was.
#[tokio::test(flavor = "multi_thread")]
async fn no_flipped_bit_is_accepted() {
    let mut random = fastrand::Rng::with_seed(6);
    let (repo, blocks) = (Repo::new(), Web::start());
    let (tree, flist, stored) = packed(&blocks);
    let mut release = Repo::release_of("1.0.0");
    release.flists[0].length = flist.len() as u64;
    release.flists[0].sha256 = Sha256::of(&flist);
    repo.trust.release(&release, &mut repo.signers(), at(TODAY)).unwrap();
    repo.serve();
    // The flist is fetched as nodes do, from a hub that is the same server.
    let name = release.flists[0].flist.to_string();
    repo.web.put(&name, Answer::Bytes(flist.clone()));
    let hub = HubClient::new(repo.web.url(), "test").unwrap();
    let (facts, channels, who) = (facts(None), [channel()], Who { node: "n".to_owned(), group: None });
    let wanted = newest(&channels, &facts, &who);
    let fetches = async |node: &Node| match offered(&node.client, None, &hub, &wanted, &clocks(TODAY)).await {
        Ok(offered) => match offered.what {
            What::Release(release) => Ok(*release),
            other => panic!("{other:?}"),
        },
        Err(error) => Err(error),
    };
    repo.web.asked();
    let truth = fetches(&Node::of(&repo)).await.unwrap();
    let read = flist::format::parse(&truth.flists[0].bytes, &flist::tree::Limits::default()).unwrap();
    assert_eq!(read.len(), tree.len());
    // What a node has asked for, and got.
    let asked = repo.web.asked().into_iter().filter(|asked| *asked != name);
    let metadata: BTreeMap<String, Vec<u8>> =
        asked.filter_map(|name| repo.web.bytes(&name).map(|bytes| (name, bytes))).collect();
    let names: Vec<&String> = metadata.keys().collect();
    assert_eq!(names.len(), 4, "timestamp, snapshot, targets and prod: {names:?}");
    let ids: Vec<&BlockId> = stored.keys().collect();
    let url = blocks.url().to_owned();
    let store = Arc::new(tokio::task::spawn_blocking(move || HttpStore::new(&url).unwrap()).await.unwrap());

    let reader = Node::of(&repo);
    let mut refused = BTreeMap::from([("metadata", 0), ("flist", 0), ("block", 0)]);
    let mut harmless = 0;
    for round in 0.. {
        if refused.values().sum::<usize>() >= BITES {
            break;
        }
        match round % 3 {
            0 => {
                let name = names[random.usize(..names.len())];
                let damaged = flipped(&metadata[name], &mut random);
                repo.web.put(name, Answer::Bytes(damaged.clone()));
                match fetches(&Node::of(&repo)).await {
                    // White space, another case of a hexadecimal digit of a signature.
                    Ok(release) => {
                        assert!(release == truth && say_the_same(&damaged, &metadata[name]), "{name}");
                        harmless += 1;
                    }
                    Err(_) => *refused.get_mut("metadata").unwrap() += 1,
                }
                repo.web.put(name, Answer::Bytes(metadata[name].clone()));
            }
            1 => {
                repo.web.put(&name, Answer::Bytes(flipped(&flist, &mut random)));
                let error = fetches(&reader).await.map(drop).unwrap_err();
                assert_eq!(error.verdict(), Verdict::Mismatch, "{error}");
                *refused.get_mut("flist").unwrap() += 1;
                repo.web.put(&name, Answer::Bytes(flist.clone()));
            }
            _ => {
                let id = *ids[random.usize(..ids.len())];
                blocks.put(&block_name(&id), Answer::Bytes(flipped(&stored[&id], &mut random)));
                let got = tokio::task::spawn_blocking({
                    let store = Arc::clone(&store);
                    move || store.get(&id)
                });
                assert!(got.await.unwrap().is_err(), "a damaged block was accepted");
                *refused.get_mut("block").unwrap() += 1;
                blocks.put(&block_name(&id), Answer::Bytes(stored[&id].clone()));
            }
        }
    }
    eprintln!("refused {refused:?}; {harmless} changed nothing that is signed");
    // What is right is accepted, all the same.
    assert_eq!(fetches(&reader).await.unwrap(), truth);
    tokio::task::spawn_blocking(move || drop(store)).await.unwrap();
    // It has bitten everywhere, and hardly anything is harmless.
    assert!(refused.values().all(|count| *count >= 300), "{refused:?}");
    assert!(harmless <= 50, "{harmless} harmless");
}
