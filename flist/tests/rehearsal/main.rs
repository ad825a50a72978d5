//! Trees that would run, and trees that would not.
#![allow(clippy::unwrap_used)]

mod broken;
mod good;
mod hostile;
mod layers;
mod machine;

mod forge;
mod memory;
