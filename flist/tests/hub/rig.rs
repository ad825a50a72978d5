//! A real hub on a free port of this machine, and a few raw requests.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use flist::block::{Sealed, seal};
use flist::format::fl;
use flist::hub::{FlistName, HubClient};
use flist::server::{ServerConfig, ServerError, serve};
use flist::tree::{Block, Content, Entry, Kind, Meta, Route, Tree};
use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const META: Meta = Meta { mode: 0o755, uid: 0, gid: 0, mtime: 1_600_000_000 };

pub(crate) struct TestHub {
    pub(crate) url: String,
    pub(crate) address: SocketAddr,
    pub(crate) client: HubClient,
    root: tempfile::TempDir,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<Result<(), ServerError>>,
}

impl TestHub {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| ()).await
    }

    pub(crate) async fn start_with(adjust: impl FnOnce(&mut ServerConfig)) -> Self {
        Self::start_on(TcpListener::bind("127.0.0.1:0").await.unwrap(), adjust).await
    }

    /// Where another one was before.
    pub(crate) async fn start_at(address: SocketAddr) -> Self {
        Self::start_on(TcpListener::bind(address).await.unwrap(), |_| ()).await
    }

    async fn start_on(listener: TcpListener, adjust: impl FnOnce(&mut ServerConfig)) -> Self {
        let root = tempfile::tempdir().unwrap();
        let mut config = ServerConfig::new(root.path());
        adjust(&mut config);
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(serve(listener, config, async {
            let _ = stopped.await;
        }));
        let url = format!("http://{address}");
        let client = HubClient::new(&url, "molt-test").unwrap();
        // Answers only once the directories are there.
        client.ping().await.unwrap();
        Self { url, address, client, root, stop, serving }
    }

    pub(crate) async fn stop(self) -> Result<(), ServerError> {
        self.stop.send(()).unwrap();
        self.serving.await.unwrap()
    }

    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }

    pub(crate) fn users(&self) -> PathBuf {
        self.root().join("public/users")
    }

    /// Writes a file beneath the users' directory, dated `seconds` after 1970.
    pub(crate) fn write(&self, path: &str, content: &[u8], seconds: u64) {
        let path = self.users().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        date(&path, seconds);
    }

    /// Makes a link beneath the users' directory, dated `seconds` after 1970.
    pub(crate) fn symlink(&self, path: &str, target: &str, seconds: i64) {
        let path = self.users().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, &path).unwrap();
        let time = TimeSpec::new(seconds, 0);
        utimensat(AT_FDCWD, &path, &time, &time, UtimensatFlags::NoFollowSymlink).unwrap();
    }

    pub(crate) async fn get(&self, path: &str) -> reqwest::Response {
        reqwest::get(format!("{}{path}", self.url)).await.unwrap()
    }

    pub(crate) async fn text(&self, path: &str) -> String {
        let response = self.get(path).await;
        assert_eq!(response.status(), 200, "{path}");
        response.text().await.unwrap()
    }

    pub(crate) async fn put(&self, path: &str, body: impl Into<reqwest::Body>) -> reqwest::Response {
        let client = reqwest::Client::new();
        client.put(format!("{}{path}", self.url)).body(body).send().await.unwrap()
    }

    /// Sends bytes as they are, and returns all that comes back.
    pub(crate) async fn raw(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let reading = stream.read_to_end(&mut answer);
        tokio::time::timeout(Duration::from_secs(60), reading).await.expect("no end of the answer").unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }
}

/// Sets the time of a file or directory.
pub(crate) fn date(path: &Path, seconds: u64) {
    File::open(path).unwrap().set_modified(UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
}

pub(crate) fn name(text: &str) -> FlistName {
    text.parse().unwrap()
}

/// A flist without files that differs from others by `text`.
pub(crate) fn flist(text: &str) -> Vec<u8> {
    let mut tree = Tree::new(META);
    tree.tags.insert("text".to_owned(), text.to_owned());
    fl::to_bytes(&tree).unwrap()
}

/// A flist with one file of `plain` bytes, whose only block is looked for at `route`; and that block.
pub(crate) fn flist_with_block(plain: &[u8], route: &str) -> (Vec<u8>, Sealed) {
    let sealed = seal(plain).unwrap();
    let mut tree = Tree::new(META);
    let blocks = vec![Block { id: sealed.id, key: sealed.key }];
    let content = Content { size: plain.len() as u64, blocks };
    tree.insert("file".parse().unwrap(), Entry { meta: META, kind: Kind::File(content) }).unwrap();
    tree.routes = vec![Route::everything(route.to_owned())];
    (fl::to_bytes(&tree).unwrap(), sealed)
}

/// Polls until a condition holds, for at most a minute.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..6000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}

/// The flist that zflist has made.
pub(crate) fn classic_flist() -> Vec<u8> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/golden/classic/golden.flist");
    fs::read(golden).unwrap()
}
