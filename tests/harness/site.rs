//! A hub with small releases on it, and nodes that follow it: what most scenarios start from.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use crate::error::{Doing, Error};
use crate::{Binaries, Hub, NetNs, Node, NodeBuilder, Payload, get};

/// Longest wait for a boot or an upgrade. A handover alone may take half a minute until it gives up.
pub const UPGRADE_LIMIT: Duration = Duration::from_secs(180);

/// The address of the web service of [`Site::payload`], in the namespace of the site.
pub const WEB: &str = "127.0.0.1:8000";

/// A service that does not change from release to release.
const IDLE_UNIT: &str = "exec: sleep 1000000\n";

/// A network namespace with a hub in it.
pub struct Site {
    /// The namespace.
    pub netns: NetNs,
    /// The hub.
    pub hub: Hub,
    binaries: Binaries,
}

impl Site {
    /// Starts the hub.
    ///
    /// # Errors
    /// When it does not start.
    pub fn new() -> Result<Self, Error> {
        let mut site = Self::without_hub()?;
        site.hub.restart()?;
        Ok(site)
    }

    /// With the hub stopped; it can be started later.
    ///
    /// # Errors
    /// When the programs are missing.
    pub fn without_hub() -> Result<Self, Error> {
        let netns = NetNs::new()?;
        let hub = Hub::prepare(&netns)?;
        Ok(Self { netns, hub, binaries: Binaries::ensure()? })
    }

    /// The payload of a small release: identityd, the web service (as a different program for every
    /// `version`, which it shows) and an idle service. identityd is the same in all versions.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn payload(&self, version: &str) -> Result<Payload, Error> {
        small_payload(&self.binaries.identityd(), &self.binaries.web(), version, WEB)
    }

    /// A node that boots in the run mode `dev` from the hub, and polls it every second.
    pub fn node(&self) -> NodeBuilder {
        Node::builder(&self.netns)
            .command_line(format!("console=ttyS0 runmode=dev hub={}", self.hub.url()))
            .boot_units()
            .config("poll_interval: 1\nhandover_timeout: 5\nhealth_window: 1\n")
    }

    /// Publishes `payload` as `version` for `dev`.
    ///
    /// # Errors
    /// When the hub refuses.
    pub fn publish(&self, version: &str, payload: &Payload) -> Result<(), Error> {
        self.hub.publish(version, payload.directory(), Some("dev")).map(drop)
    }

    /// Boots a node and waits until it runs `version`.
    ///
    /// # Errors
    /// When it does not.
    pub fn boot(&self, version: &str) -> Result<Node, Error> {
        let node = self.node().boot()?;
        self.await_version(&node, version)?;
        Ok(node)
    }

    /// Waits until `version` is installed, identityd has nothing more to do, and the web service answers
    /// with it.
    ///
    /// # Errors
    /// When that does not come.
    pub fn await_version(&self, node: &Node, version: &str) -> Result<(), Error> {
        self.await_version_of(node, version)?;
        node.wait_for(&format!("the web service shows {version}"), UPGRADE_LIMIT, || {
            match self.web_version() {
                Ok(shown) if shown == version => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
    }

    /// Waits until `version` is installed, and identityd has nothing more to do.
    ///
    /// # Errors
    /// When that does not come.
    pub fn await_version_of(&self, node: &Node, version: &str) -> Result<(), Error> {
        node.wait_for(&format!("version {version} is installed"), UPGRADE_LIMIT, || {
            let status = node.status().map_err(|error| format!("{error:?}"))?;
            if status["stage"] == "Idle" && status["installed"]["version"] == version {
                Ok(())
            } else {
                Err(status.to_string())
            }
        })
    }

    /// What the web service shows.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn web_version(&self) -> Result<String, Error> {
        let address = WEB.parse().map_err(|_| Error::Unexpected(format!("{WEB} is no address")))?;
        let answer = self
            .netns
            .run(|| get(address, "/version", Duration::from_secs(5)))?
            .doing(|| "ask the web service".to_owned())?;
        Ok(answer.body.trim().to_owned())
    }
}

/// The payload of a small release with these programs, whose web service listens on `web_address`.
pub(crate) fn small_payload(
    identityd: &Path,
    web: &Path,
    version: &str,
    web_address: &str,
) -> Result<Payload, Error> {
    let payload = Payload::new()?;
    payload
        .program("/sbin/identityd", identityd)?
        .asset_unit("identityd")?
        .program("/usr/bin/demo-web", web)?
        .marked("/usr/bin/demo-web", version)?
        .file("/usr/bin/demo-web.version", 0o644, version)?
        // Without the dependencies it has in the demo.
        .unit("web", &format!("exec: /usr/bin/demo-web --listen {web_address}\n"))?
        .unit("idle", IDLE_UNIT)?
        .file("/etc/os-release", 0o644, format!("VERSION_ID={version}\n"))?
        .file("/usr/share/site/private", 0o600, "the same in all versions\n")?
        .link("/usr/share/site/link", "private")?;
    Ok(payload)
}

/// Says in which file the node differs from the payload: content, mode, kind, owner.
///
/// # Errors
/// The first difference, or what cannot be read.
pub fn require_installed(node: &Node, payload: &Payload) -> Result<(), Error> {
    compare(node, payload.directory(), Path::new(""))
}

fn compare(node: &Node, top: &Path, below: &Path) -> Result<(), Error> {
    let directory = top.join(below);
    let entries = fs::read_dir(&directory).doing(|| format!("list {}", directory.display()))?;
    for entry in entries {
        let entry = entry.doing(|| format!("list {}", directory.display()))?;
        let (ours, path) = (entry.path(), below.join(entry.file_name()));
        // A directory may be a link in the node: merged-usr.
        let theirs = node.path(&path);
        if ours.is_dir() && !ours.is_symlink() {
            compare(node, top, &path)?;
        } else if let Some(difference) = differ(&ours, &theirs) {
            return Err(Error::Unexpected(format!("/{} {difference}", path.display())));
        }
    }
    Ok(())
}

fn differ(ours: &Path, theirs: &Path) -> Option<String> {
    let (Ok(mine), Ok(other)) = (ours.symlink_metadata(), theirs.symlink_metadata()) else {
        return Some("is missing in the node".to_owned());
    };
    if mine.is_symlink() || other.is_symlink() {
        return (fs::read_link(ours).ok() != fs::read_link(theirs).ok())
            .then(|| "links elsewhere".to_owned());
    }
    let (mode, installed) = (mine.permissions().mode(), other.permissions().mode());
    if mode != installed {
        return Some(format!("has mode {installed:o}, not {mode:o}"));
    }
    let same = fs::read(ours).ok().is_some_and(|bytes| fs::read(theirs).ok() == Some(bytes));
    (!same).then(|| "has other content".to_owned())
}
