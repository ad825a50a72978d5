//! A hub with small, signed releases on it, and virtual machines that follow it and trust its keys.

use std::fs::File;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::fcntl::Flock;
use tempfile::TempDir;

use super::{Vm, VmBuilder};
use crate::error::{Doing, Error};
use crate::image::{BootDisk, Contents, Image, Programs};
use crate::site::{WEB, small_payload};
use crate::{Hub, NetNs, Payload, Signing, get, place};

/// Longest wait for a boot or an upgrade in an emulated machine.
const LIMIT: Duration = Duration::from_secs(240);

/// The port of the web service of the payloads.
const WEB_PORT: u16 = 8000;

/// A network namespace with a hub in it, and an image for machines.
pub struct Range {
    /// The namespace.
    pub netns: NetNs,
    /// The hub.
    pub hub: Hub,
    /// The keys that the machines trust.
    pub signing: Signing,
    /// The image.
    pub image: Image,
    contents: Contents,
    images: AtomicUsize,
    scratch: TempDir,
    /// An emulated machine takes a whole processor.
    _only_one: Flock<File>,
}

impl Range {
    /// Settings of the machines: nobody shall wait longer than there is something to see.
    pub const CONFIG: &str = "poll_interval: 1\nhandover_timeout: 20\nhealth_window: 1\nstart_timeout: 20\n";

    /// Builds the image and starts the hub.
    ///
    /// # Errors
    /// When something cannot be built or started.
    pub fn new() -> Result<Self, Error> {
        let mut range = Self::without_hub()?;
        range.hub.restart()?;
        Ok(range)
    }

    /// With the hub stopped; it can be started later.
    ///
    /// # Errors
    /// When something cannot be built.
    pub fn without_hub() -> Result<Self, Error> {
        let only_one = place::lock("vm")?;
        let programs = Programs::of_the_tests()?;
        let netns = NetNs::new()?;
        let hub = Hub::prepare(&netns)?;
        let signing = Signing::new(&hub)?;
        let scratch = place::scratch("image")?;
        let mut contents = Contents::new(programs);
        contents.config = Self::CONFIG.to_owned();
        contents.root_json = Some(signing.root_path());
        contents.units.push("agent");
        contents.drivers.push("virtio_console");
        let image = Image::write(&contents, scratch.path(), false)?;
        Ok(Self {
            netns,
            hub,
            signing,
            image,
            contents,
            images: AtomicUsize::new(0),
            scratch,
            _only_one: only_one,
        })
    }

    /// Writes another image for the machines of this range, with what is different in it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_image(&self, compressed: bool, change: impl FnOnce(&mut Contents)) -> Result<Image, Error> {
        let mut contents = self.contents.clone();
        change(&mut contents);
        let number = self.images.fetch_add(1, Ordering::Relaxed);
        Image::write(&contents, &self.scratch.path().join(number.to_string()), compressed)
    }

    /// The address of the hub as machines see it.
    ///
    /// # Errors
    /// When the hub's address has no port.
    pub fn hub_url(&self) -> Result<String, Error> {
        hub_seen_from_inside(&self.hub)
    }

    /// A machine with the kernel parameters `runmode=dev` and `hub=`.
    ///
    /// # Errors
    /// As [`hub_url`](Self::hub_url).
    pub fn vm(&self) -> Result<VmBuilder, Error> {
        Ok(self.bare()?.append("runmode=dev"))
    }

    /// A machine with the kernel parameter `hub=`.
    ///
    /// # Errors
    /// As [`hub_url`](Self::hub_url).
    pub fn bare(&self) -> Result<VmBuilder, Error> {
        let builder = VmBuilder::new(&self.netns, &self.image).port(WEB_PORT);
        Ok(builder.append(&format!("hub={}", self.hub_url()?)))
    }

    /// A machine that boots by itself from this disk, which has the kernel's command line.
    ///
    /// # Errors
    /// When there is no firmware for it.
    pub fn vm_from(&self, disk: &BootDisk) -> Result<VmBuilder, Error> {
        Ok(VmBuilder::from_disk(&self.netns, disk)?.port(WEB_PORT))
    }

    /// The payload of a small release, as [`Site::payload`](crate::Site::payload).
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn payload(&self, version: &str) -> Result<Payload, Error> {
        let programs = &self.contents.programs;
        small_payload(&programs.identityd(), &programs.web(), version, "0.0.0.0:8000")
    }

    /// Publishes a payload for `dev`, signed.
    ///
    /// # Errors
    /// When the hub refuses.
    pub fn publish(&self, version: &str, payload: &Payload) -> Result<(), Error> {
        publish_for_machines(&self.hub, &self.signing, version, payload, "dev")
    }

    /// Publishes bootstrap, with a mark in it, as its newest version for `dev`, signed.
    ///
    /// # Errors
    /// When the hub refuses.
    pub fn publish_bootstrap(&self, version: &str) -> Result<(), Error> {
        let payload = Payload::new()?;
        payload.program("/sbin/bootstrap", &self.contents.programs.bootstrap())?;
        payload.marked("/sbin/bootstrap", version)?;
        let store = format!("{}/store", self.hub_url()?);
        let directory = payload.directory().display().to_string();
        let named = ["--repo", "tf-autobuilder", "--name", "bootstrap", "--version", version];
        let what = ["--no-lint", "--route", &store, &directory];
        self.hub.command(&[&["publish"], &named[..], &what].concat())?;
        let channel = "tf-autobuilder/bootstrap:development.flist";
        let flist = format!("tf-autobuilder/bootstrap:v{version}.flist");
        let what = ["--run-mode", "dev", "--channel", channel, "--version", version, &flist];
        self.signing.run(&self.hub, &[&["release"], &what[..]].concat()).map(drop)
    }

    /// Waits until `version` is installed, identityd has nothing more to do, and the web service answers with it.
    ///
    /// # Errors
    /// When that does not come.
    pub fn await_version(&self, vm: &mut Vm, version: &str) -> Result<(), Error> {
        vm.wait_for(&format!("version {version} is installed"), LIMIT, |vm| {
            let status = vm.status().map_err(|error| format!("{error:?}"))?;
            if status["stage"] == "Idle" && status["installed"]["version"] == version {
                Ok(())
            } else {
                Err(status.to_string())
            }
        })?;
        self.await_web(vm, version)
    }

    /// Waits until the web service answers with `version`.
    ///
    /// # Errors
    /// When that does not come.
    pub fn await_web(&self, vm: &mut Vm, version: &str) -> Result<(), Error> {
        vm.wait_for(&format!("the web service shows {version}"), LIMIT, |_| match self.web_version() {
            Ok(shown) if shown == version => Ok(()),
            other => Err(format!("{other:?}")),
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
            .run(|| get(address, "/version", Duration::from_secs(10)))?
            .doing(|| "ask the web service".to_owned())?;
        Ok(answer.body.trim().to_owned())
    }
}

/// Publishes a signed payload whose blocks machines fetch from the hub by the address that they know it by.
///
/// # Errors
/// When the hub refuses.
pub fn publish_for_machines(
    hub: &Hub,
    signing: &Signing,
    version: &str,
    payload: &Payload,
    run_mode: &str,
) -> Result<(), Error> {
    let store = format!("{}/store", hub_seen_from_inside(hub)?);
    let more = (run_mode, &["--route", &store][..]);
    signing.publish_with(hub, version, payload.directory(), more).map(drop)
}

/// The address of a hub on the host's loopback, as a machine behind QEMU's own network sees it.
///
/// # Errors
/// When it has no port.
pub fn hub_seen_from_inside(hub: &Hub) -> Result<String, Error> {
    let url = hub.url();
    let port = url.rsplit(':').next().and_then(|port| port.parse::<u16>().ok());
    let port = port.ok_or_else(|| Error::Unexpected(format!("{url} has no port")))?;
    Ok(format!("http://10.0.2.2:{port}"))
}
