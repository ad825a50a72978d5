//! Test harness: real programs in a throw-away node.
//!
//! ```text
//! NetNs ── own network, `lo` only ─────────────────────────────────────────┐
//! │  Hub: `flist serve`             Node: own mount, pid and uts namespaces │
//! │  (127.0.0.1:port)  ◄── HTTP ──    root, /dev/fuse, command line         │
//! │                                   PID 1 = supervisor ─ bootstrap, …     │
//! └──────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Nothing is mocked: the hub, the supervisor and everything in the node are processes of the programs
//! under test, found and built by [`Binaries`]. The supervisor is our `molt-supervisor` unless
//! `MOLT_ZINIT=/path/to/zinit` names a real one, of any version. [`Payload`] is what a release consists of.
//!
//! [`RedisServer`] and [`BlockServer`] are stores on 127.0.0.1 without a node, and [`FaultProxy`] damages
//! what they answer. [`campaign`] lets upgrades of nodes go wrong many times over.
//!
//! All of the node needs root, and says so. Every process dies with the thread that keeps its [`NetNs`], so that
//! a test that is killed leaves nothing running; temporary files are under the target directory.

mod base;
mod binaries;
pub mod campaign;
mod clock;
pub mod conformance;
mod error;
mod fault_proxy;
mod http;
mod hub;
pub mod image;
mod job;
pub mod launcher;
mod libraries;
mod log;
pub mod musl;
mod netns;
mod node;
mod path_watch;
mod payload;
mod place;
mod port;
mod signing;
mod site;
mod store_server;
mod tls_proxy;
pub mod tools;
pub mod vm;
mod wait;
mod zinit;

pub use base::{BaseFile, Content};
pub use binaries::{Binaries, Release, SKIP_BUILD, SUPERVISOR};
pub use clock::{clock_ahead, put_clock_ahead};
pub use error::{Error, require_root};
pub use fault_proxy::{Fault, FaultProxy};
pub use http::{Answer, get};
pub use hub::{CHANNEL_NAME, CHANNEL_REPO, Hub};
pub use job::{output, run};
pub use launcher::RootKind;
pub use log::{Line, Log};
pub use netns::NetNs;
pub use node::{Census, Node, NodeBuilder, Process, digest_of};
pub use path_watch::{PathWatch, Seen};
pub use payload::Payload;
pub use place::{cargo, lock, profile_dir, scratch, target_dir, workspace};
pub use port::ReservedPort;
pub use signing::Signing;
pub use site::{Site, UPGRADE_LIMIT, WEB, require_installed};
pub use store_server::{BlockServer, RedisServer};
pub use tls_proxy::{TlsProxy, certificate};
pub use wait::{interrupt, wait_for};
pub use zinit::Zinit;

/// Answer of every fallible function of the harness.
pub type Result<T> = std::result::Result<T, Error>;
