//! What the tests of stores pack, and the stores they read it from.

#![allow(clippy::unwrap_used, reason = "all of this is for tests")]

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use flist::block::BLOCK_SIZE;
use flist::store::{HttpStore, RedisStore, RetryPolicy, RetryStore, Store, StoreUrl};
use flist::tree::Route;
use molt_tests::run;

/// Longest silence these stores put up with: much longer than a busy machine is silent.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long a tool may work.
#[allow(dead_code, reason = "not every test program runs tools")]
const TOOL_LIMIT: Duration = Duration::from_secs(120);

/// Bytes that do not compress, other ones for each seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed + 1);
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// A small tree with most that a tree can have: 32 small files, one of three blocks, an empty one, an
/// executable, a symlink, directories.
pub(crate) fn source(at: &Path) {
    fs::create_dir_all(at.join("deep/er")).unwrap();
    for number in 0..32 {
        fs::write(at.join(format!("deep/er/{number}")), noise(number, 1000 + number as usize)).unwrap();
    }
    fs::write(at.join("big"), noise(99, 2 * BLOCK_SIZE + 1000)).unwrap();
    fs::write(at.join("empty"), "").unwrap();
    fs::copy("/bin/true", at.join("program")).unwrap();
    fs::set_permissions(at.join("program"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("deep/er/1", at.join("link")).unwrap();
}

/// Routes as they are given to `--store`.
#[allow(dead_code, reason = "not every test program shards")]
pub(crate) fn routes(texts: &[&str]) -> Vec<Route> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// Database 0 of the Redis server at an address, asked once.
#[allow(dead_code, reason = "not every test program reads from Redis")]
pub(crate) fn redis(address: SocketAddr) -> RedisStore {
    let StoreUrl::Redis(url) = format!("redis://{address}/0").parse().unwrap() else {
        panic!("redis:// is an address of Redis");
    };
    RedisStore::with_patience(&url, PATIENCE).unwrap()
}

/// The hub at an address, asked once.
#[allow(dead_code, reason = "not every test program reads over HTTP")]
pub(crate) fn http(address: SocketAddr) -> HttpStore {
    HttpStore::with_patience(&format!("http://{address}/store"), PATIENCE).unwrap()
}

/// The same store, asked again after a failure.
#[allow(dead_code, reason = "not every test program opens a store")]
pub(crate) fn patiently(store: impl Store + 'static) -> Arc<dyn Store> {
    let (first_pause, longest_pause) = (Duration::from_millis(5), Duration::from_millis(20));
    Arc::new(RetryStore::new(Arc::new(store), RetryPolicy { attempts: 3, first_pause, longest_pause }))
}

/// Runs a shell command with `$AT` as `at` and nobody's settings of git; returns what it printed.
#[allow(dead_code, reason = "not every test program runs tools")]
pub(crate) fn shell(at: &Path, line: &str) -> String {
    let mut command = Command::new("sh");
    command.args(["-euc", line]).env("AT", at).env("LC_ALL", "C");
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null");
    run(&mut command, TOOL_LIMIT).unwrap()
}

/// Whether this machine has a program.
#[allow(dead_code, reason = "not every test program runs tools")]
pub(crate) fn installed(program: &str) -> bool {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).status();
    found.is_ok_and(|status| status.success())
}
