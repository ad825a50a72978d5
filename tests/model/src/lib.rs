//! A node in memory, to fail the engine at every single effect.
//!
//! ```text
//! Scenario ─► Machine (files, services) ◄─ Disk, Supervisor, Programs ◄─ the real engine
//!                │  Injector: fails effect n │
//!                ▼                           ▼
//!             Verdict: the old or the new generation, and all services run
//! ```
//! The engine under test is the real one, with nothing but its three traits replaced. That the model's files
//! behave like real ones is what `tests/differential.rs` shows.

pub mod campaign;
mod disk;
pub mod fault;
mod files;
mod machine;
mod programs;
pub mod scenario;
mod services;
mod verdict;

pub use disk::ModelDisk;
pub use files::{Files, Kept};
pub use machine::{Deed, Machine, Volume};
pub use verdict::{Ending, Observed};
