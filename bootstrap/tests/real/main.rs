//! The engine on real files: directories, mounts, disks that fail. Needs root.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

mod engine;
mod filesystems;
mod filler;
mod lasting;
mod layouts;
mod packages;
mod pins;
mod place;
mod state_disk;
