//! Flists: metadata of file trees, with their content in stores of blocks.
//!
//! ```text
//! directory ──pack──► Tree + blocks ──format──► flist ──hub──► format ──► Tree ──unpack──► directory
//!                        │                                                  ├────mount───► FUSE
//!                        └──► Store (dir, http) ───── cache ── fetch ───────┘
//! ```
//!
//! Everything in a flist and everything a store or hub says comes from outside: it is checked while it is
//! read, within [`tree::Limits`], and a [`tree::Tree`] that exists is sound.

pub mod block;
#[cfg(all(feature = "server", feature = "publish"))]
pub mod cli;
#[cfg(feature = "publish")]
pub mod convert;
pub mod diff;
pub mod exit;
pub mod format;
pub mod hub;
pub mod merge;
pub mod mount;
pub mod mountinfo;
#[cfg(feature = "publish")]
pub mod pack;
pub mod package;
pub mod path;
pub mod private_file;
pub mod progress;
#[cfg(feature = "publish")]
pub mod publish;
#[cfg(feature = "publish")]
pub mod regular_file;
pub mod rehearsal;
mod report;
#[cfg(feature = "server")]
pub mod server;
pub mod span;
pub mod store;
mod tls;
pub mod tree;
pub mod trust;
pub mod unpack;
pub mod verify;
pub mod xattr;

pub use report::{ErrorReport, causes, report};

// The command is written as the user of this library that it is.
#[cfg(all(feature = "server", feature = "publish"))]
extern crate self as flist;
