//! The hub client against the embedded hub, and against servers that are no good hubs.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, also in its rig")]

#[path = "hub/bad_hub.rs"]
mod bad_hub;
#[path = "hub/blocks.rs"]
mod blocks;
#[path = "hub/channels.rs"]
mod channels;
#[cfg(feature = "publish")]
#[path = "hub/classic.rs"]
mod classic;
#[path = "hub/listings.rs"]
mod listings;
#[path = "hub/pages.rs"]
mod pages;
#[path = "hub/publishing.rs"]
mod publishing;
#[path = "hub/releases.rs"]
mod releases;
#[path = "hub/rest.rs"]
mod rest;
#[path = "hub/resume.rs"]
mod resume;
#[path = "hub/rig.rs"]
mod rig;
#[path = "hub/serving.rs"]
mod serving;
#[path = "hub/several.rs"]
mod several;
#[path = "hub/tokens.rs"]
mod tokens;
#[path = "hub/upkeep.rs"]
mod upkeep;
