//! Making a node.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use zinit_client::Dialect;

use super::{Node, SUPERVISOR_SOCKET};
use crate::error::{Doing, Error, require_root};
use crate::launcher::{Medium, RootKind, Spec};
use crate::{BaseFile, Binaries, Log, NetNs, Zinit, base, payload, place, tools, wait_for};

/// How long a node may take until its supervisor answers. It copies some hundred MiB first.
const BOOT_LIMIT: Duration = Duration::from_secs(120);

/// What a node shall be like; [`boot`](Self::boot) makes it.
pub struct NodeBuilder {
    netns: NetNs,
    hostname: String,
    size_mib: u32,
    fuse: bool,
    command_line: String,
    extra: Vec<BaseFile>,
    boot_units: bool,
    root: RootKind,
    respawn_delay: Option<Duration>,
}

impl NodeBuilder {
    pub(super) fn new(netns: &NetNs) -> Self {
        Self {
            netns: netns.clone(),
            hostname: "node".to_owned(),
            size_mib: 1024,
            fuse: true,
            command_line: String::new(),
            extra: Vec::new(),
            boot_units: false,
            root: RootKind::Tmpfs,
            respawn_delay: None,
        }
    }

    /// What the kernel was started with, as the node sees it in /proc/cmdline.
    #[must_use]
    pub fn command_line(mut self, text: impl Into<String>) -> Self {
        self.command_line = text.into();
        self
    }

    /// Without this, the node has /dev/fuse.
    #[must_use]
    pub fn without_fuse(mut self) -> Self {
        self.fuse = false;
        self
    }

    /// Most MiB of the root file system; 1024 if nothing is said.
    #[must_use]
    pub fn size_mib(mut self, size: u32) -> Self {
        self.size_mib = size;
        self
    }

    /// What the root file system is on; a tmpfs if nothing is said.
    #[must_use]
    pub fn root(mut self, kind: RootKind) -> Self {
        self.root = kind;
        self
    }

    /// How long the supervisor lets pass before it starts a service that has ended, where it is our stand-in; that
    /// of zinit, two seconds, if nothing is said.
    #[must_use]
    pub fn respawn_delay(mut self, delay: Duration) -> Self {
        self.respawn_delay = Some(delay);
        self
    }

    /// One more entry of the base image.
    #[must_use]
    pub fn file(mut self, file: BaseFile) -> Self {
        self.extra.push(file);
        self
    }

    /// A service unit of the base image.
    #[must_use]
    pub fn unit(self, name: &str, yaml: &str) -> Self {
        self.file(BaseFile::text(format!("/etc/zinit/{name}.yaml"), yaml))
    }

    /// The units of the base image that install the node at boot: `internet` and `bootstrap`.
    #[must_use]
    pub fn boot_units(mut self) -> Self {
        self.boot_units = true;
        self
    }

    /// The configuration of bootstrap and identityd.
    #[must_use]
    pub fn config(self, yaml: &str) -> Self {
        self.file(BaseFile::text("/etc/molt/config.yaml", yaml))
    }

    /// Makes the node and waits until its supervisor answers.
    ///
    /// # Errors
    /// When the caller is not root, a program is missing, or the node does not come up; the error shows its
    /// console then.
    pub fn boot(self) -> Result<Node, Error> {
        require_root("a node")?;
        let binaries = Binaries::ensure()?;
        let busybox = tools::busybox()?;
        let scratch = place::scratch("node")?;
        let zinit = Zinit::at(binaries.supervisor(), None)?.with_respawn_delay(self.respawn_delay);
        let spec = self.spec((&binaries, &zinit), &busybox, &scratch)?;
        let path = scratch.path().join("node.json");
        let json = serde_json::to_vec(&spec).doing(|| "describe the node".to_owned())?;
        fs::write(&path, json).doing(|| format!("write {}", path.display()))?;

        let mut launch = Command::new(binaries.launcher());
        launch.arg("launch").arg(&path).stdin(Stdio::null());
        // One pipe for both, so that the console has one order of lines.
        let (reader, writer) = std::io::pipe().doing(|| "make a pipe".to_owned())?;
        let second = writer.try_clone().doing(|| "copy a pipe".to_owned())?;
        launch.stdout(writer).stderr(second);
        let console = Log::default();
        let booted = Instant::now();
        let launcher = self.netns.spawn(launch)?;
        let reader = Some(console.follow(reader));
        // From here on, dropping it cleans up.
        let mut node = Node { netns: self.netns, launcher, pid1: 0, console, reader, booted, scratch };
        node.pid1 = await_pid(&mut node, &spec.pid_file)?;
        node.wait_for("the supervisor answers", BOOT_LIMIT, || {
            node.services().map(drop).map_err(|error| format!("{error:?}"))
        })?;
        if zinit.dialect() == Dialect::Service {
            node.monitor_units()?;
        }
        Ok(node)
    }

    fn spec(
        &self,
        (binaries, zinit): (&Binaries, &Zinit),
        busybox: &Path,
        scratch: &TempDir,
    ) -> Result<Spec, Error> {
        let mut base = base::standard(binaries, busybox)?;
        base.push(BaseFile::text("/etc/hostname", format!("{}\n", self.hostname)));
        if self.boot_units {
            for unit in ["internet", "bootstrap"] {
                let text = payload::asset_unit(unit)?;
                base.push(BaseFile::text(format!("/etc/zinit/{unit}.yaml"), text));
            }
        }
        base.extend(self.extra.iter().cloned());
        let mount_point = scratch.path().join("root");
        fs::create_dir(&mount_point).doing(|| format!("make {}", mount_point.display()))?;
        let medium = Medium::make(self.root, scratch.path(), self.size_mib)?;
        let command_line = scratch.path().join("cmdline");
        fs::write(&command_line, format!("{}\n", self.command_line))
            .doing(|| format!("write {}", command_line.display()))?;
        let mut init = vec!["/sbin/zinit".to_owned()];
        let arguments = zinit.arguments(Path::new(SUPERVISOR_SOCKET), Path::new("/etc/zinit"));
        init.extend(arguments.iter().map(|word| word.to_string_lossy().into_owned()));
        Ok(Spec {
            hostname: self.hostname.clone(),
            mount_point,
            medium,
            size_mib: self.size_mib,
            fuse: self.fuse,
            base,
            command_line,
            pid_file: scratch.path().join("pid"),
            init,
        })
    }
}

fn await_pid(node: &mut Node, file: &Path) -> Result<u32, Error> {
    let (launcher, console) = (&mut node.launcher, &node.console);
    wait_for("the node has a PID 1", BOOT_LIMIT, || {
        if let Some(pid) = fs::read_to_string(file).ok().and_then(|text| text.parse().ok()) {
            return Ok(Ok(pid));
        }
        match launcher.try_wait() {
            Ok(None) => Err("the launcher is at work".to_owned()),
            ended => Ok(Err(format!("the launcher ended ({ended:?}):\n{}", console.tail(40)))),
        }
    })?
    .map_err(Error::Unexpected)
}
