//! Which releases may be installed: the client of a TUF repository.
//!
//! ```text
//! root.json (base image) ──► TrustClient ──refresh──► Fresh ──target──► SignedTarget
//!                               │   ▲                                       │
//!                     Source (HTTP)  StateDir (per role, atomic)            ▼
//!                                                         content of this length and digest
//! ```
//!
//! Hubs, mirrors and caches only carry. What they send is checked from the pinned root on: signatures and
//! thresholds, versions that never fall, expiry, length and digest. The checks themselves are those of the
//! crate `sigstore-tuf`, docs/decisions/0012; this module gives it limits, a state on disk, and a floor for
//! the clock.
//!
//! Source: The Update Framework Specification 1.0.33, <https://theupdateframework.github.io/specification/>.

mod believed;
#[cfg(feature = "publish")]
pub mod campaign;
mod choose;
pub mod claims;
mod client;
pub mod clock;
pub mod director;
mod error;
mod floors;
#[cfg(feature = "trust-for-tests")]
pub mod for_tests;
mod keys;
mod mirrors;
mod node;
mod offer;
#[cfg(feature = "publish")]
pub mod repository;
mod root_of_trust;
mod source;
mod state;
mod trusted;

pub use believed::{Believed, believed};
pub use choose::{Downgrade, OfferRefusal, Pick, choose};
pub use client::{Fresh, SignedTarget, TrustClient, check_root, earliest, learn_time};
pub use error::{TrustError, Verdict};
pub use mirrors::Standing;
pub use node::{Offered, Served, Wanted, What, check_served, offered, served_flists};
pub use offer::SignedOffer;
pub use root_of_trust::RootOfTrust;
pub use source::{Body, Source, SourceError, SourceLimits};
pub use state::StateError;
pub use trusted::{Assurance, Trusted};
