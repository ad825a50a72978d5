//! The rehearsal: would a tree run on a node? It is decided before any service is stopped, by looking alone.
//!
//! ```text
//! tree over what the node has ──► FutureRoot ─┐
//! commands of the services ───────────────────┼──► rehearse ──► findings, sorted
//! files that changed ─────────────────────────┘
//! ```
//!
//! The node's engine, `flist lint` and `flist publish` make the same checks. Of programs only headers, dynamic
//! sections and versions are read, a few pages each, so a tree whose content is in a store is rehearsed without
//! fetching all of it. Everything that is read may be hostile: numbers, lengths and depths have limits.
//!
//! Findings can be compared: what a node has wrong already is subtracted from what it would have wrong.

mod check;
mod closure;
mod elf;
mod finding;
mod layered;
mod program;
mod root;
mod script;
mod search;
mod service;
mod tree_root;
mod window;

pub use check::{Facts, rehearse};
pub use finding::{Code, Finding, Subject, without_repeats};
pub use layered::{Conflict, Layered, Nothing};
pub use root::{FutureRoot, Node, Resolved, RootError, resolve};
pub use service::{Purpose, SEARCH_PATH, Service};
pub use tree_root::TreeRoot;

/// The processors of nodes, as ELF numbers them.
pub mod machine {
    /// 64-bit ARM.
    pub const AARCH64: u16 = ::elf::abi::EM_AARCH64;
    /// 64-bit x86.
    pub const X86_64: u16 = ::elf::abi::EM_X86_64;
}
