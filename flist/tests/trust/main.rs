//! The client of a trust repository against those who want it to install something else.

#![allow(clippy::unwrap_used, missing_docs)]
#![cfg(feature = "publish")]

mod attacks;
mod clocks;
mod delegations;
mod directed;
mod flips;
mod forge;
mod keys;
mod mirrors;
mod python;
mod rig;
mod rotation;
mod staged;
mod web;
