//! Blocks by id.

use flist::block::{BlockId, MAX_STORED, seal};
use reqwest::Client;

use crate::rig::TestHub;

fn path(id: &BlockId) -> String {
    let id = id.to_string();
    format!("/store/{}/{id}", &id[..2])
}

#[tokio::test]
async fn a_block_is_kept_once_and_found_under_both_addresses() {
    let hub = TestHub::start().await;
    let block = seal(b"some content").unwrap();
    let both = [path(&block.id), format!("/store/{}", block.id)];
    for address in &both {
        let missing = hub.get(address).await;
        assert_eq!(missing.status(), 404);
        assert!(missing.text().await.unwrap().contains("is not here"));
    }
    assert_eq!(hub.put(&both[0], block.stored.clone()).await.status(), 201);
    let file = hub.root().join(&both[0][1..]);
    let kept = std::fs::metadata(&file).unwrap();
    assert_eq!(hub.put(&both[0], block.stored.clone()).await.status(), 200);
    let inode = std::os::unix::fs::MetadataExt::ino;
    assert_eq!(inode(&std::fs::metadata(&file).unwrap()), inode(&kept), "it was written again");
    for address in &both {
        let head = Client::new().head(format!("{}{address}", hub.url)).send().await.unwrap();
        assert_eq!(head.status(), 200);
        assert_eq!(head.headers()["content-length"], block.stored.len().to_string());
        let get = hub.get(address).await;
        assert_eq!(get.status(), 200);
        assert_eq!(get.bytes().await.unwrap(), block.stored);
    }
    let names: Vec<_> = std::fs::read_dir(file.parent().unwrap()).unwrap().collect();
    assert_eq!(names.len(), 1, "something was left behind: {names:?}");
}

#[tokio::test]
async fn a_damaged_block_is_repaired() {
    let hub = TestHub::start().await;
    let block = seal(b"some content").unwrap();
    let address = path(&block.id);
    assert_eq!(hub.put(&address, block.stored.clone()).await.status(), 201);
    std::fs::write(hub.root().join(&address[1..]), "rotten").unwrap();
    assert_eq!(hub.put(&address, block.stored.clone()).await.status(), 200);
    assert_eq!(hub.get(&address).await.bytes().await.unwrap(), block.stored);
}

#[tokio::test]
async fn bytes_that_are_not_the_blocks_are_refused() {
    let hub = TestHub::start().await;
    let block = seal(b"some content").unwrap();
    let address = path(&block.id);
    let refused = hub.put(&address, "something else").await;
    assert_eq!(refused.status(), 400);
    assert!(refused.text().await.unwrap().contains("corrupt"));
    assert_eq!(hub.put(&address, "").await.status(), 400);
    assert_eq!(hub.get(&address).await.status(), 404);
    let wrong_prefix = format!("/store/{}/{}", if address.contains("/00/") { "11" } else { "00" }, block.id);
    assert_eq!(hub.put(&wrong_prefix, block.stored.clone()).await.status(), 404);
    assert_eq!(hub.put("/store/zz/zz", block.stored).await.status(), 404);

    let longest = vec![0; MAX_STORED];
    assert_eq!(hub.put(&path(&BlockId::of(&longest)), longest).await.status(), 201);
    let too_long = vec![0; MAX_STORED + 1];
    assert_eq!(hub.put(&path(&BlockId::of(&too_long)), too_long).await.status(), 413);
}
