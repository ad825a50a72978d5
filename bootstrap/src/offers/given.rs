//! What a node was given: the roots that it trusts, and its name.

use std::io;

use super::OffersError;
use crate::durable;
use crate::settings::Settings;
use crate::state_place::StatePlace;

/// Largest root of trust, in bytes.
const MAX_ROOT: u64 = 1 << 20;

/// The file in the state directory with the id of a node that has no other.
const NODE_ID: &str = "node-id";

/// The director's root; `None` where there is none.
pub(super) fn director(settings: &Settings) -> Result<Option<Vec<u8>>, OffersError> {
    let path = &settings.trust.director;
    let failed = |source| OffersError::Root { path: path.clone(), source };
    match std::fs::File::open(path) {
        Ok(file) => read(file).map(Some).map_err(failed),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !settings.trust.is_directed => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

/// What the director calls this node: what it was told, or what the machine is called, or a name that it gives itself.
pub(super) fn node_id(settings: &Settings) -> String {
    let state = StatePlace::of(settings).directory();
    let own = state.join(NODE_ID);
    let machine = settings.root.join("etc/machine-id");
    let places = [machine.as_path(), "/sys/class/dmi/id/product_uuid".as_ref(), own.as_path()];
    let named = |path: &std::path::Path| {
        let text = std::fs::read_to_string(path).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    };
    let known = settings.trust.node_id.clone().or_else(|| places.into_iter().find_map(named));
    known.unwrap_or_else(|| {
        // The kernel makes another one each time.
        let new = named("/proc/sys/kernel/random/uuid".as_ref()).unwrap_or_default();
        let kept =
            durable::private_directory(&state).and_then(|()| durable::replace(&own, new.as_bytes(), 0o600));
        if let Err(error) = kept {
            tracing::warn!(%error, "this node will have another place in waves after the next start");
        }
        new
    })
}

fn read(file: std::fs::File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, MAX_ROOT), &mut bytes)?;
    Ok(bytes)
}

/// The root of trust of a node; `None` where it has none, or was told to do without.
pub(super) fn root(settings: &Settings) -> Result<Option<Vec<u8>>, OffersError> {
    let path = &settings.trust.root;
    if settings.trust.is_insecure {
        tracing::error!(
            "INSECURE: molt.insecure=1: signatures are not checked; whoever runs the hub decides what runs here"
        );
        return Ok(None);
    }
    let failed = |source| OffersError::Root { path: path.clone(), source };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound && !settings.trust.is_required => {
            tracing::warn!(path = %path.display(), "INSECURE: there is no root of trust; whoever runs the hub decides what runs here");
            return Ok(None);
        }
        Err(error) => return Err(failed(error)),
    };
    read(file).map(Some).map_err(failed)
}
