//! The engine that installs a release, and the pipeline that runs it once at boot.
//!
//! ```text
//! release ──► look at the node ──► plan (pure) ──► transaction (journal, swap, undo) ──► generation
//! ```
//!
//! A first boot is an upgrade from the empty generation: `bootstrap` runs the engine once, `identityd`
//! decides when to run it again.

pub mod block_cache;
pub mod boot;
pub mod boot_info;
pub mod boot_report;
pub mod boot_waits;
pub mod cli;
pub mod disk;
pub mod durable;
pub mod engine;
pub mod generation;
pub mod health;
pub mod held;
pub mod hubs;
pub mod item;
pub mod kernel_guard;
pub mod kernel_params;
pub mod lock;
pub mod maintenance;
pub mod mirrors;
mod newer;
pub mod offers;
pub mod plan;
pub mod processes;
pub mod programs;
pub mod provision;
mod rehearsal;
pub mod releases;
pub mod root;
pub mod settings;
pub mod source;
pub mod state_place;
pub mod supervise;
pub mod supervisor;
pub mod transaction;
