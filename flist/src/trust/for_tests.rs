//! Releases that tests may install without a hub, and without signatures. Only where the feature `trust-for-tests` is on,
//! which no program that is shipped is built with: a build of the whole workspace with its tests has it.

use super::trusted::Trusted;
use crate::hub::Release;

/// A release that a test made itself, as a node without a root of trust would have it from a hub.
pub fn unchecked(release: Release) -> Trusted<Release> {
    Trusted::unchecked(release)
}
