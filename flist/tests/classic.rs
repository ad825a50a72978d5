//! Classic flists: the golden one, which zflist has made, read in every way; and those that mean harm.
#![cfg(all(feature = "server", feature = "publish"))]
#![allow(clippy::unwrap_used)]

#[path = "classic/damaged.rs"]
mod damaged;
#[path = "classic/forge.rs"]
mod forge;
#[path = "classic/golden.rs"]
mod golden;
#[path = "classic/hostile.rs"]
mod hostile;
mod observe;
#[path = "classic/peers.rs"]
mod peers;
#[path = "classic/random.rs"]
mod random;
#[path = "classic/written.rs"]
mod written;
