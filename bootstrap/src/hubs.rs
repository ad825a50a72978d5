//! The hubs of a node. Which of them worked last is known to both programs.

use std::path::PathBuf;

use flist::hub::{HubError, Hubs};

use crate::durable;
use crate::settings::Settings;

/// Longest address that is read, in bytes.
const MAX_ADDRESS: usize = 4096;

fn file(settings: &Settings) -> PathBuf {
    settings.run_dir.join("hub")
}

/// The node's hubs, beginning with the one that worked last.
///
/// # Errors
/// An address is not one of a hub.
pub fn open(settings: &Settings, user_agent: &str) -> Result<Hubs, HubError> {
    let access = &settings.hub.access;
    for hub in access.in_the_clear() {
        tracing::warn!(hub, "the token for this hub can be read on the way: it has no https://");
    }
    let hubs = Hubs::with_access(&settings.hub.urls, user_agent, access)?;
    let last = match settings.hub.urls.len() {
        1 => None,
        _ => std::fs::read_to_string(file(settings)).ok().filter(|text| text.len() <= MAX_ADDRESS),
    };
    Ok(match last {
        Some(url) => hubs.beginning_with(url.trim()),
        None => hubs,
    })
}

/// Remembers which hub worked. Without that the next start only begins with the first one.
pub fn remember(settings: &Settings, hubs: &Hubs) {
    let (path, working) = (file(settings), hubs.working());
    if settings.hub.urls.len() == 1 || std::fs::read_to_string(&path).is_ok_and(|text| text.trim() == working)
    {
        return;
    }
    let written = durable::private_directory(&settings.run_dir)
        .and_then(|()| durable::replace(&path, format!("{working}\n").as_bytes(), 0o600));
    if let Err(error) = written {
        tracing::warn!(path = %path.display(), %error, "nobody will know which hub worked");
    }
}
