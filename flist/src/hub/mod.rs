//! The client side of a hub: which flists there are, what a channel offers, and publishing.
//!
//! ```text
//! channel ──taglink, tag, list, light──► destinations, version ──GET of each (304?)──► Release
//! ```
//!
//! A hub only carries: nothing here is proof of who made a release. Everything a hub sends has a limit
//! in bytes and in time, and names and link targets are checked before they are used.

mod access;
mod address;
mod answer;
mod channel;
mod client;
mod download;
mod error;
mod hubs;
mod model;
mod name;
mod publishing;
mod release;
mod resolve;
mod run_mode;
mod tag;
mod token;

pub use access::{Access, AccessError};
pub use address::shown_address;
pub(crate) use answer::message_of;
pub use answer::{Download, Validators};
#[cfg(feature = "server")]
pub(crate) use channel::target_name;
pub use channel::{
    Channel, ChannelNameError, Destination, MAX_FLIST, PackageRepo, Packages, TargetError, destination,
};
pub use client::{HubClient, LightAnswer, Timeouts};
pub use error::HubError;
pub use hubs::{HubFailure, HubFailures, Hubs, MAX_HUBS};
pub use model::{
    Kind, Light, ListingEntry, ModelError, Repository, TaglinkTarget, parse_light, parse_listing,
    parse_repositories, parse_taglink,
};
pub(crate) use name::printable;
pub use name::{FlistName, MAX_COMPONENT, NameError, check_component};
pub use publishing::Removal;
pub use release::{DigestError, Release, ReleaseFlist, ReleaseId, ReleaseVersion, Sha256, VersionError};
pub use resolve::{Described, OfferError, Resolution, Seen, SeenFlist, resolve, resolve_first};
pub use run_mode::{RunMode, RunModeError};
pub use tag::{TagName, TagNameError, TaglinkName};
#[cfg(feature = "server")]
pub(crate) use token::{Grant, read_grants};
pub use token::{Token, TokenError};
