//! The two releases of the demo: what is in them.

use std::path::Path;

use molt_tests::tools::{Redis, busybox};
use molt_tests::{Binaries, Error, Payload, digest_of};

/// The version that the node boots.
pub(super) const OLD: &str = "1.0.0";

/// The version that is published while it runs.
pub(super) const NEW: &str = "2.0.0";

/// Services of both releases.
pub(super) const SERVICES: [&str; 4] = ["identityd", "redis", "syslog", "web"];

/// One release, ready to be published.
pub(super) struct Release {
    /// Its version.
    pub(super) version: &'static str,
    /// Its files.
    pub(super) payload: Payload,
    /// SHA-256 of its identityd.
    pub(super) identityd: String,
}

/// Builds our programs in this version and puts the payload together.
pub(super) fn build(binaries: &Binaries, redis: &Redis, version: &'static str) -> Result<Release, Error> {
    let built = binaries.build_release(version)?;
    let payload = Payload::new()?;
    payload
        .program("/sbin/identityd", &built.identityd)?
        .program("/usr/bin/demo-web", &built.web)?
        .program("/usr/bin/redis-server", &redis.server)?
        .program("/usr/bin/redis-cli", &redis.client)?
        .program("/usr/local/bin/busybox", &busybox()?)?
        .file("/etc/os-release", 0o644, format!("NAME=\"Demo OS\"\nVERSION_ID={version}\n"))?;
    for library in &redis.libraries {
        payload.program(&place_of(library)?, library)?;
    }
    for service in SERVICES {
        payload.asset_unit(service)?;
    }
    Ok(Release { version, payload, identityd: digest_of(&built.identityd)? })
}

/// Where a library of Debian goes: `/usr/lib/<triplet>/<name>`, where the loader looks by itself.
fn place_of(library: &Path) -> Result<String, Error> {
    let mut parts = library.iter().rev().filter_map(|part| part.to_str());
    match (parts.next(), parts.next()) {
        (Some(name), Some(triplet)) => Ok(format!("/usr/lib/{triplet}/{name}")),
        _ => Err(Error::Unexpected(format!("{} is no path of a library", library.display()))),
    }
}
