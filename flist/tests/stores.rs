//! Stores that answer badly, and what is said when a block cannot be had.
#![cfg(feature = "publish")]
#![allow(clippy::unwrap_used)]

mod observe;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use flist::block::{self, BLOCK_SIZE, BlockId, MAX_STORED, Sealed};
use flist::pack::pack;
use flist::store::{CachedStore, DirStore, HttpStore, Store, StoreError, open_for_reading};
use flist::tree::{Block, Content, Entry, Kind, Limits, Meta, Route, Tree};
use flist::unpack::unpack;
use flist::{format, report};

const META: Meta = Meta { mode: 0o644, uid: 0, gid: 0, mtime: 1_600_000_000 };

/// A web server without manners: one connection for each request, and whatever bytes the test wants. Its
/// threads end with the test program.
struct Server {
    url: String,
    /// The paths that were asked for.
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(answer: impl Fn(&str, &mut TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/store", listener.local_addr().unwrap());
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let (answer, log) = (Arc::new(answer), asked.clone());
        thread::spawn(move || {
            for connection in listener.incoming() {
                let (answer, log) = (answer.clone(), log.clone());
                thread::spawn(move || {
                    let mut connection = connection.unwrap();
                    if let Some(path) = read_request(&connection) {
                        log.lock().unwrap().push(path.clone());
                        answer(&path, &mut connection);
                    }
                });
            }
        });
        Self { url, asked }
    }

    /// The same answer to every request.
    fn always(answer: Vec<u8>) -> Self {
        Self::start(move |_, connection| {
            // The client may have seen enough.
            let _ = connection.write_all(&answer);
        })
    }

    fn get(&self, id: &BlockId) -> Result<Option<Vec<u8>>, StoreError> {
        HttpStore::new(&self.url).unwrap().get(id)
    }
}

/// The path of a request whose headers have been read.
fn read_request(connection: &TcpStream) -> Option<String> {
    let mut lines = BufReader::new(connection).lines();
    let path = lines.next()?.ok()?.split(' ').nth(1)?.to_owned();
    lines.map_while(Result::ok).find(|line| line.is_empty())?;
    Some(path)
}

fn answer(status: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn sealed() -> Sealed {
    block::seal(b"some content").unwrap()
}

#[test]
fn not_found_is_missing_in_both_layouts() {
    let server = Server::always(answer("404 Not Found", b"<html>no</html>"));
    let id = sealed().id;
    assert!(server.get(&id).unwrap().is_none());
    let name = id.to_string();
    let both = [format!("/store/{}/{name}", &name[..2]), format!("/store/{name}")];
    assert_eq!(*server.asked.lock().unwrap(), both);
}

#[test]
fn the_older_layout_is_read() {
    let block = sealed();
    let (name, body) = (block.id.to_string(), answer("200 OK", &block.stored));
    let server = Server::start(move |path, connection| {
        let missing = answer("404 Not Found", b"");
        connection.write_all(if *path == format!("/store/{name}") { &body } else { &missing }).unwrap();
    });
    assert_eq!(server.get(&block.id).unwrap().unwrap(), block.stored);
    assert!(HttpStore::new(&server.url).unwrap().has(&block.id).unwrap());
}

#[test]
fn a_failing_server_is_not_a_missing_block() {
    for (status, code, retryable) in [
        ("500 Internal Server Error", 500, true),
        ("503 Service Unavailable", 503, true),
        ("429 Too Many Requests", 429, true),
        ("403 Forbidden", 403, false),
    ] {
        let server = Server::always(answer(status, b""));
        let error = server.get(&sealed().id).unwrap_err();
        assert!(matches!(&error, StoreError::Status { status, .. } if *status == code), "{error:?}");
        assert_eq!(error.is_retryable(), retryable, "{error}");
        assert!(report(&error).contains(&server.url), "{error}");
    }
}

#[test]
fn a_page_instead_of_a_block_is_corrupt() {
    let server = Server::always(answer("200 OK", b"<html>please log in</html>"));
    let error = server.get(&sealed().id).unwrap_err();
    assert!(matches!(&error, StoreError::Corrupt { .. }), "{error:?}");
    assert!(report(&error).contains(&format!("block {} is corrupt", sealed().id)), "{}", report(&error));
    assert!(!error.is_retryable());
}

#[test]
fn an_endless_answer_is_cut() {
    let stopped = Arc::new(AtomicBool::new(false));
    let flag = stopped.clone();
    let server = Server::start(move |_, connection| {
        let mut chunk = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".to_vec();
        while connection.write_all(&chunk).is_ok() {
            chunk = vec![b'x'; 64 * 1024];
        }
        flag.store(true, Ordering::Relaxed);
    });
    let error = server.get(&sealed().id).unwrap_err();
    assert!(matches!(&error, StoreError::TooLong { .. }), "{error:?}");
    assert!(report(&error).contains(&format!("more than {MAX_STORED} bytes")), "{error}");
    observe::wait_until("the server cannot send any more", || stopped.load(Ordering::Relaxed));
}

#[test]
fn an_answer_that_breaks_off_may_be_asked_for_again() {
    let whole = answer("200 OK", &sealed().stored);
    let server = Server::always(whole[..whole.len() - 3].to_vec());
    let error = server.get(&sealed().id).unwrap_err();
    assert!(matches!(&error, StoreError::Answer { .. }), "{error:?}");
    assert!(error.is_retryable());

    let server = Server::always(b"HTTP/1.1 200 OK\r\nContent-Le".to_vec());
    let error = server.get(&sealed().id).unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    let server = Server::always(b"what do you want?\r\n\r\n".to_vec());
    let error = server.get(&sealed().id).unwrap_err();
    assert!(matches!(&error, StoreError::Request { .. }), "{error:?}");
}

#[test]
fn nobody_there_is_not_a_missing_block() {
    let url = format!("http://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    let error = HttpStore::new(&url).unwrap().get(&sealed().id).unwrap_err();
    assert!(error.is_retryable() && report(&error).contains(&url), "{}", report(&error));
}

#[test]
fn silence_is_given_up() {
    let server = Server::start(|_, connection| {
        // Until the client hangs up.
        let _ = BufReader::new(connection).lines().next();
    });
    let store = HttpStore::with_patience(&server.url, Duration::from_millis(100)).unwrap();
    let error = store.get(&sealed().id).unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
}

#[test]
fn a_drip_is_given_up_although_it_never_pauses_for_long() {
    let block = sealed();
    let whole = answer("200 OK", &block.stored);
    let (head, body) = whole.split_at(whole.len() - block.stored.len());
    let (head, body) = (head.to_vec(), body.to_vec());
    let server = Server::start(move |_, connection| {
        // Complete in the end, so that nothing but impatience can fail.
        let _ = connection.write_all(&head);
        let _ = body.iter().try_for_each(|byte| {
            thread::sleep(Duration::from_millis(50));
            connection.write_all(&[*byte])
        });
    });
    assert_eq!(server.get(&block.id).unwrap().unwrap(), block.stored);
    let store = HttpStore::with_patience(&server.url, Duration::from_millis(400)).unwrap();
    assert!(store.get(&block.id).unwrap_err().is_retryable());
}

/// A file of two blocks, packed into a store.
fn packed(dir: &Path) -> (Tree, DirStore, Content) {
    let plain: Vec<u8> = (0..BLOCK_SIZE + 5).map(|i| (i / 3) as u8).collect();
    fs::create_dir_all(dir.join("source/bin")).unwrap();
    fs::write(dir.join("source/bin/app"), plain).unwrap();
    let store = DirStore::new(dir.join("store"));
    let (tree, _) = pack(&dir.join("source"), &store).unwrap();
    let content = tree.files().next().unwrap().2.clone();
    (tree, store, content)
}

fn unpack_error(tree: &Tree, store: &dyn Store, dir: &Path) -> String {
    report(&unpack(tree, store, &dir.join("out")).unwrap_err())
}

#[test]
fn a_missing_block_names_the_file_the_block_and_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, store, content) = packed(dir.path());
    let gone = content.blocks[1].id;
    store.remove(&gone).unwrap();
    let error = unpack_error(&tree, &store, dir.path());
    let wanted = format!("cannot get the content of 'bin/app': block {gone} is missing in {}", store.url());
    assert_eq!(error, wanted);

    let unrouted = open_for_reading(&tree.routes, &[], None).unwrap();
    let error = unpack_error(&tree, unrouted.as_ref(), &dir.path().join("unrouted"));
    assert!(error.ends_with("is missing in the flist's stores: it names none"), "{error}");
}

#[test]
fn a_damaged_block_names_the_file_and_the_block() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, store, content) = packed(dir.path());
    let id = content.blocks[0].id;
    let mut stored = fs::read(store.path_of(&id)).unwrap();
    stored[100] ^= 0x20;
    fs::write(store.path_of(&id), stored).unwrap();
    let error = unpack_error(&tree, &store, dir.path());
    assert!(error.contains("'bin/app'") && error.contains(&format!("block {id} is corrupt")), "{error}");
}

#[test]
fn blocks_that_lie_about_their_length_or_key_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = DirStore::new(dir.path().join("store"));
    let Sealed { id, key, stored } = sealed();
    store.put(&id, &stored).unwrap();
    let other_key = block::seal(b"other content").unwrap().key;
    for (size, key, says) in [
        (11, key, "holds 12 bytes where the flist needs 11"),
        (13, key, "holds 12 bytes where the flist needs 13"),
        (12, other_key, "does not open with the key in the flist"),
    ] {
        let mut tree = Tree::new(META);
        let content = Content { size, blocks: vec![Block { id, key }] };
        tree.insert("app".parse().unwrap(), Entry { meta: META, kind: Kind::File(content) }).unwrap();
        let out = tempfile::tempdir().unwrap();
        let error = unpack_error(&tree, &store, out.path());
        assert!(
            error.contains("'app'") && error.contains(&id.to_string()) && error.contains(says),
            "{error}"
        );
    }
}

#[test]
fn the_cache_serves_only_what_it_can_verify() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, store, content) = packed(dir.path());
    let cache = DirStore::new(dir.path().join("cache"));
    let cached = CachedStore::new(Arc::new(store.clone()), cache.clone());
    unpack(&tree, &cached, &dir.path().join("first")).unwrap();
    let id = content.blocks[0].id;
    fs::write(cache.path_of(&id), b"garbage").unwrap();
    unpack(&tree, &cached, &dir.path().join("second")).unwrap();
    assert_eq!(fs::read(cache.path_of(&id)).unwrap(), fs::read(store.path_of(&id)).unwrap(), "repaired");

    // A damaged copy is no answer when the store has nothing better.
    fs::write(cache.path_of(&id), b"garbage").unwrap();
    store.remove(&id).unwrap();
    let error = unpack_error(&tree, &cached, dir.path());
    assert!(error.contains(&format!("block {id} is missing")), "{error}");
    let source = observe::digests(&dir.path().join("source"));
    assert_eq!(observe::digests(&dir.path().join("second")), source);
}

#[test]
fn routes_that_no_store_is_behind_are_named() {
    let refused = |url: &str| report(&open_for_reading(&[Route::everything(url)], &[], None).err().unwrap());
    assert!(refused("gopher://hub.example/").contains("'gopher://hub.example/' is not a store"));
    assert!(refused("http://").contains("'http://' is not a store"));
    // The same address in many ranges is opened once, so that a flist cannot make us open thousands.
    let routes: Vec<_> =
        (0..=255).map(|byte| Route { first: byte, last: byte, url: "http://127.0.0.1:1/".into() }).collect();
    let threads = || fs::read_dir("/proc/self/task").unwrap().count();
    let before = threads();
    let store = open_for_reading(&routes, &[], None).unwrap();
    assert!(threads() < before + 100, "one client for each of {} routes", routes.len());
    assert_eq!(store.url(), "http://127.0.0.1:1");
}

#[test]
fn a_flist_packed_elsewhere_is_read_by_its_routes() {
    let dir = tempfile::tempdir().unwrap();
    let (mut tree, store, _) = packed(dir.path());
    let root = dir.path().join("store");
    let server = Server::start(move |path, connection| {
        let file = root.join(path.trim_start_matches("/store/"));
        let found = fs::read(file).map(|stored| answer("200 OK", &stored));
        connection.write_all(&found.unwrap_or_else(|_| answer("404 Not Found", b""))).unwrap();
    });
    tree.routes = vec![
        Route::everything(format!("dir://{}/empty", dir.path().display())),
        Route::everything(&server.url),
    ];
    let path = dir.path().join("tree.fl");
    format::write(&tree, &path).unwrap();
    let read = format::read(&path, &Limits::default()).unwrap();
    assert_eq!(read, tree);
    let stores = open_for_reading(&read.routes, &[], None).unwrap();
    unpack(&read, stores.as_ref(), &dir.path().join("out")).unwrap();
    assert_eq!(observe::digests(&dir.path().join("out")), observe::digests(&dir.path().join("source")));
    assert!(store.url().starts_with("dir://") && !server.asked.lock().unwrap().is_empty());
}
