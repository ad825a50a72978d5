//! 2,000 readers of one hub while releases are published: every answer is of one release, and the hub's
//! memory stays as it is.
#![cfg(all(feature = "server", feature = "publish"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod serving;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use flist::block::{Sealed, seal};
use flist::format::fl;
use flist::hub::{
    FlistName, HubClient, Light, ListingEntry, Packages, Resolution, Sha256, TagName, TaglinkName, resolve,
};
use flist::tree::{Block, Content, Entry, Kind, Meta, Route, Tree};
use md5::{Digest, Md5};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serving::Serving;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream};
use tokio::net::TcpStream;
use tokio::sync::Barrier;
use tokio::task::JoinHandle;

const READERS: usize = 2000;

/// Readers that use the client of this crate.
const CLIENTS: usize = 8;

/// Releases that are there from the start; what moves, moves between them.
const EARLY: usize = 4;

/// Releases that are published while everybody reads.
const LATE: usize = 3;

/// How often links, tags and taglinks are moved while everybody reads.
const MOVES: usize = 120;

/// How many move each of them at one time.
const MOVERS: usize = 3;

const PACKAGES: [&str; 3] = ["net", "web", "zos"];

const META: Meta = Meta { mode: 0o755, uid: 0, gid: 0, mtime: 1_600_000_000 };

/// One flist of one release. All have different lengths.
struct Package {
    name: FlistName,
    bytes: Vec<u8>,
    md5: String,
    block: Sealed,
}

impl Package {
    fn make(package: usize, release: usize, url: &str) -> Self {
        let plain = format!("{} of release {release}", PACKAGES[package]);
        let block = seal(plain.as_bytes()).unwrap();
        let mut tree = Tree::new(META);
        let blocks = vec![Block { id: block.id, key: block.key }];
        let content = Content { size: plain.len() as u64, blocks };
        tree.insert("file".parse().unwrap(), Entry { meta: META, kind: Kind::File(content) }).unwrap();
        tree.routes = vec![Route::everything(format!("{url}/store"))];
        // At least a page of SQLite, 4 KiB, more for each.
        for part in 0..=release * PACKAGES.len() + package {
            tree.tags.insert(format!("padding {part}"), "x".repeat(4096));
        }
        let bytes = fl::to_bytes(&tree).unwrap();
        let name =
            FlistName::versioned("bins", PACKAGES[package], &semver::Version::new(1, 0, release as u64))
                .unwrap();
        Self { name, md5: hex::encode(Md5::digest(&bytes)), bytes, block }
    }
}

/// What all readers know: everything that ever was or will be published.
struct World {
    releases: Vec<Vec<Package>>,
    rounds: AtomicUsize,
    moves: AtomicUsize,
    enough: AtomicBool,
}

impl World {
    fn entries(&self, number: usize) -> BTreeMap<String, FlistName> {
        let named = PACKAGES.iter().zip(&self.releases[number]);
        named.map(|(package, published)| (format!("{package}.flist"), published.name.clone())).collect()
    }

    /// The only flist with this name.
    fn package(&self, file: &str) -> &Package {
        let all = self.releases.iter().flatten();
        all.into_iter()
            .find(|package| package.name.file() == file)
            .unwrap_or_else(|| panic!("{file} is none"))
    }

    /// That all entries are of one release, and it is complete.
    fn check_tag(&self, entries: &[ListingEntry], wanted: Option<&str>) {
        let names: Vec<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(names, PACKAGES.map(|package| format!("{package}.flist")), "the tag is not complete");
        let versions: Vec<&str> = entries
            .iter()
            .map(|entry| {
                let file = entry.target.as_deref().unwrap().strip_prefix("bins/").unwrap();
                let length = self.package(file).bytes.len() as f64 / 1024.0;
                assert_eq!(entry.size, format!("{length:.2} KB"), "{file} has the size of another one");
                file.split(":v").nth(1).unwrap().strip_suffix(".flist").unwrap()
            })
            .collect();
        assert!(versions.iter().all(|version| *version == versions[0]), "a half release: {versions:?}");
        assert!(wanted.is_none_or(|wanted| wanted == versions[0]), "tag {wanted:?} has {versions:?}");
    }
}

/// One connection that is kept.
struct Reader(BufStream<TcpStream>);

impl Reader {
    async fn connect(hub: &Serving) -> Self {
        Self(BufStream::with_capacity(4096, 512, TcpStream::connect(hub.address).await.unwrap()))
    }

    /// The body, and the entity tag.
    async fn get(&mut self, path: &str) -> (Vec<u8>, String) {
        self.0.write_all(format!("GET {path} HTTP/1.1\r\nHost: hub\r\n\r\n").as_bytes()).await.unwrap();
        self.0.flush().await.unwrap();
        let (mut length, mut etag, mut line) = (None, String::new(), String::new());
        self.0.read_line(&mut line).await.unwrap();
        assert_eq!(line.trim(), "HTTP/1.1 200 OK", "{path}");
        loop {
            line.clear();
            self.0.read_line(&mut line).await.unwrap();
            let Some((name, value)) = line.trim().split_once(": ") else { break };
            match name.to_lowercase().as_str() {
                "content-length" => length = value.parse().ok(),
                "etag" => etag = value.trim_matches('"').to_owned(),
                _ => {}
            }
        }
        let mut body = vec![0; length.unwrap()];
        self.0.read_exact(&mut body).await.unwrap();
        (body, etag)
    }

    async fn json<T: for<'a> serde::Deserialize<'a>>(&mut self, path: &str) -> T {
        serde_json::from_slice(&self.get(path).await.0).unwrap()
    }

    /// Looks at everything that moves once.
    async fn round(&mut self, world: &World) {
        let light: Light = self.json("/api/flist/zos/zos:production:latest.flist/light").await;
        let file = light.target.unwrap();
        let package = world.package(file.strip_prefix("../bins/").unwrap());
        assert_eq!(
            (light.size, light.md5.as_ref()),
            (package.bytes.len() as u64, Some(&package.md5)),
            "{file}"
        );

        let (bytes, etag) = self.get("/zos/zos:production:latest.flist").await;
        assert_eq!(Sha256::of(&bytes).to_string(), etag, "the tag is not that of the content");
        assert!(
            world.releases.iter().any(|release| release[2].bytes == bytes),
            "no release has this content"
        );

        let rolling: Vec<ListingEntry> = self.json("/api/flist/zos/tags/rolling").await;
        world.check_tag(&rolling, None);

        let taglink: BTreeMap<String, String> = self.json("/api/flist/zos/production/taglink").await;
        let tag: TagName = taglink["target"].parse().unwrap();
        let entries: Vec<ListingEntry> = self.json(&format!("/api/flist/zos/tags/{}", tag.tag())).await;
        world.check_tag(&entries, Some(tag.tag()));
        let (bytes, _) = self.get(&format!("/zos/tags/{}/net.flist", tag.tag())).await;
        assert!(
            world.package(&format!("net:v{}.flist", tag.tag())).bytes == bytes,
            "{tag} has another content"
        );
        world.rounds.fetch_add(1, Ordering::Relaxed);
    }
}

async fn publish_blocks(hub: &Serving, world: &World) {
    let http = reqwest::Client::new();
    for block in world.releases.iter().flatten().map(|package| &package.block) {
        let id = block.id.to_string();
        let request = http.put(format!("{}/store/{}/{id}", hub.url, &id[..2])).body(block.stored.clone());
        assert_eq!(request.send().await.unwrap().status(), 201);
    }
}

/// Publishes a release: flists, then their tag.
async fn publish(client: &HubClient, world: &World, number: usize) {
    for package in &world.releases[number] {
        client.upload(&package.name, package.bytes.clone()).await.unwrap();
    }
    client.put_tag(&version(number), &world.entries(number), false).await.unwrap();
}

/// Points the link, the tag that is replaced, and the taglink to a release, in turn.
async fn point(client: &HubClient, world: &World, what: usize, number: usize) {
    let moved = match what {
        0 => client.link_to(&channel(), &world.releases[number][2].name).await,
        1 => client.put_tag(&TagName::new("zos", "rolling").unwrap(), &world.entries(number), false).await,
        _ => client.put_taglink(&TaglinkName::new("zos", "production").unwrap(), &version(number)).await,
    };
    moved.unwrap();
}

/// Moves one thing between the early releases until that is enough.
async fn keep_moving(client: HubClient, world: Arc<World>, what: usize, mut number: usize) {
    while !world.enough.load(Ordering::Relaxed) {
        number = (number + 1) % EARLY;
        point(&client, &world, what, number).await;
        world.moves.fetch_add(1, Ordering::Relaxed);
    }
}

fn version(number: usize) -> TagName {
    TagName::new("zos", &format!("1.0.{number}")).unwrap()
}

fn channel() -> FlistName {
    FlistName::channel_link("zos", "zos", "production").unwrap()
}

/// What a node does, with the client that a node uses.
async fn follow(client: HubClient, world: Arc<World>) {
    while !world.enough.load(Ordering::Relaxed) {
        let Resolution::Release(release, _) =
            resolve(&client, &channel().into(), &Packages::default(), None).await.unwrap()
        else {
            panic!("nothing was known");
        };
        let package = world.package(release.flists[0].location.file());
        assert!(release.flists[0].bytes == package.bytes, "{} has another content", package.name);
        assert!(package.name.file().contains(&format!(":v{}.", release.version)));
        assert_eq!(release.info["md5"], package.md5);
    }
}

fn allow_connections() {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let wanted = 2 * READERS as u64 + 500;
    assert!(hard >= wanted, "this test needs {wanted} open files; raise the limit: ulimit -Hn {wanted}");
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(wanted), hard).unwrap();
}

/// Reads everything twice with all others, and then again and again until there is enough.
async fn read_on(hub: Arc<Serving>, world: Arc<World>, phase: Arc<Barrier>) {
    let mut reader = Reader::connect(&hub).await;
    phase.wait().await;
    reader.round(&world).await;
    reader.round(&world).await;
    phase.wait().await;
    phase.wait().await;
    while !world.enough.load(Ordering::Relaxed) {
        reader.round(&world).await;
    }
}

/// Waits until enough has moved, or one of the tasks has failed, and tells everybody.
async fn until_enough_has_moved(world: &World, tasks: &[JoinHandle<()>]) {
    while world.moves.load(Ordering::Relaxed) < MOVES && !tasks.iter().any(JoinHandle::is_finished) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    world.enough.store(true, Ordering::Relaxed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_reader_ever_sees_a_half_release() {
    allow_connections();
    let root = tempfile::tempdir().unwrap();
    let hub = Arc::new(Serving::start(root.path(), &["--max-connections", "3000"]));
    let make =
        |release| (0..PACKAGES.len()).map(|package| Package::make(package, release, &hub.url)).collect();
    let world = Arc::new(World {
        releases: (0..EARLY + LATE).map(make).collect(),
        rounds: AtomicUsize::new(0),
        moves: AtomicUsize::new(0),
        enough: AtomicBool::new(false),
    });
    let client = HubClient::new(&hub.url, "molt-test").unwrap();
    publish_blocks(&hub, &world).await;
    for number in 0..EARLY {
        publish(&client, &world, number).await;
    }
    for what in 0..3 {
        point(&client, &world, what, 0).await;
    }

    // Everybody is connected, and everybody has read everything at the same time, before anything moves.
    let phase = Arc::new(Barrier::new(READERS + 1));
    let readers = (0..READERS).map(|_| read_on(hub.clone(), world.clone(), phase.clone()));
    let mut readers: Vec<_> = readers.map(tokio::spawn).collect();
    phase.wait().await;
    phase.wait().await;
    let (before, files) = (hub.memory("VmHWM"), hub.open_files());
    assert!(files > READERS, "only {files} open files, so not everybody is connected");
    phase.wait().await;
    readers.extend((0..CLIENTS).map(|_| tokio::spawn(follow(client.clone(), world.clone()))));
    let movers = (0..3 * MOVERS).map(|mover| keep_moving(client.clone(), world.clone(), mover % 3, mover));
    readers.extend(movers.map(tokio::spawn));
    for number in EARLY..EARLY + LATE {
        publish(&client, &world, number).await;
    }
    until_enough_has_moved(&world, &readers).await;
    for reader in readers {
        reader.await.unwrap();
    }
    let after = hub.memory("VmHWM");
    let rounds = world.rounds.load(Ordering::Relaxed);
    let moves = world.moves.load(Ordering::Relaxed);
    println!("{rounds} rounds of {READERS} readers, {moves} moves; peak memory {before} kB, then {after} kB");
    assert!(after < before + before / 2 + 32 * 1024, "peak memory grew from {before} to {after} kB");
    assert!(Arc::into_inner(hub).unwrap().stop(), "it did not stop properly");
}
