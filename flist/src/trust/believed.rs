//! Nodes without a root of trust believe what a hub says. That is the one way to a [`Trusted`] release that nobody has
//! signed.

use super::trusted::Trusted;
use crate::hub::{Channel, HubError, Hubs, Packages, Release, Resolution, Seen};

/// What a hub says, believed.
#[derive(Debug)]
pub enum Believed {
    /// What it said the last time.
    Same(Seen),
    /// This release, which may be installed, and what to ask with the next time.
    Release(Box<Trusted<Release>>, Seen),
}

/// Asks hubs what they offer on the first of these channels that they have, and checks no signature. Only for nodes
/// without a root of trust, which say so at every start.
///
/// # Errors
/// As [`Hubs::resolve`].
pub async fn believed(
    hubs: &Hubs,
    channels: &[(Channel, Packages)],
    known: Option<&Seen>,
) -> Result<Believed, HubError> {
    Ok(match hubs.resolve(channels, known).await? {
        Resolution::Unchanged(seen) => Believed::Same(seen),
        Resolution::Release(release, seen) => Believed::Release(Box::new(Trusted::unchecked(*release)), seen),
    })
}
