//! A real hub in a network namespace.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::error::{Doing, Error};
use crate::{Binaries, Log, NetNs, http, job, place, wait_for};

/// Repository of the channel that nodes follow by default.
pub const CHANNEL_REPO: &str = "tf-zos";

/// Name of the flist in it.
pub const CHANNEL_NAME: &str = "zos";

/// How long anything the hub does may take.
const LIMIT: Duration = Duration::from_secs(120);

/// `flist serve` on a port of 127.0.0.1 inside of a [`NetNs`].
pub struct Hub {
    netns: NetNs,
    binaries: Binaries,
    root: TempDir,
    address: SocketAddr,
    server: Option<Child>,
    log: Log,
}

impl Hub {
    /// Starts one with nothing in it and waits until it answers.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(netns: &NetNs) -> Result<Self, Error> {
        let mut hub = Self::prepare(netns)?;
        hub.restart()?;
        Ok(hub)
    }

    /// One that does not run yet, but has its address already; see [`restart`](Self::restart).
    ///
    /// # Errors
    /// When the programs are missing, or no port is free.
    pub fn prepare(netns: &NetNs) -> Result<Self, Error> {
        let binaries = Binaries::ensure()?;
        let root = place::scratch("hub")?;
        // The port stays free: nobody else takes ports in this namespace.
        let address = netns
            .run(|| std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()))?
            .doing(|| "find a port for the hub".to_owned())?;
        Ok(Self { netns: netns.clone(), binaries, root, address, server: None, log: Log::default() })
    }

    /// The address of the hub, for the kernel parameter `hub=`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The directory with the hub's blocks: `<2 hex digits>/<64 hex digits>`.
    pub fn block_directory(&self) -> PathBuf {
        self.root.path().join("store")
    }

    /// What the hub wrote.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Publishes `directory` as `version` of the channel's flist; with a run mode (`dev`), its nodes are
    /// pointed to it. Returns what `flist publish` printed.
    ///
    /// # Errors
    /// When it is refused.
    pub fn publish(&self, version: &str, directory: &Path, run_mode: Option<&str>) -> Result<String, Error> {
        self.publish_with(version, directory, run_mode, &[])
    }

    /// As [`publish`](Self::publish), with more options of `flist publish`.
    ///
    /// # Errors
    /// When it is refused.
    pub fn publish_with(
        &self,
        version: &str,
        directory: &Path,
        run_mode: Option<&str>,
        options: &[&str],
    ) -> Result<String, Error> {
        let mut publish = Command::new(self.binaries.flist());
        publish.args(["publish", "--hub", &self.url(), "--repo", CHANNEL_REPO, "--name", CHANNEL_NAME]);
        publish.args(["--version", version]);
        if let Some(mode) = run_mode {
            publish.args(["--run-mode", mode]);
        }
        if !options.contains(&"--sign") {
            // Also on a hub with signed releases, where it is what whoever has stolen the hub does.
            publish.arg("--unsigned");
        }
        publish.args(options).arg(directory);
        // Uploads are accepted from the hub's own machine only, which its namespace is to it.
        self.netns.run(|| job::run(&mut publish, LIMIT))?
    }

    /// Publishes `directory` as `version` of another package of the channel's repo.
    ///
    /// # Errors
    /// When it is refused.
    pub fn publish_package(&self, name: &str, version: &str, directory: &Path) -> Result<String, Error> {
        let directory = directory.display().to_string();
        let what = ["--repo", CHANNEL_REPO, "--name", name, "--version", version, &directory];
        self.command(&[&["publish"], &what[..]].concat())
    }

    /// Runs a subcommand of `flist` that talks to this hub, such as `tag` or `link`; returns what it printed.
    ///
    /// # Errors
    /// When it is refused.
    pub fn command(&self, arguments: &[&str]) -> Result<String, Error> {
        let mut command = Command::new(self.binaries.flist());
        command.args(arguments).env("FLIST_HUB", self.url());
        self.netns.run(|| job::run(&mut command, LIMIT))?
    }

    /// `flist`, for commands that are told everything.
    pub fn program(&self) -> PathBuf {
        self.binaries.flist()
    }

    /// The directory that holds the repos.
    pub fn users(&self) -> PathBuf {
        self.root.path().join("public/users")
    }

    /// The blocks of a published version, by id, with the bytes that each takes on the hub.
    ///
    /// # Errors
    /// When it was not published, or a block is not there.
    pub fn blocks_of(&self, version: &str) -> Result<BTreeMap<String, u64>, Error> {
        let flist = self.flist(&format!("v{version}"));
        let json =
            job::run(Command::new(self.binaries.flist()).args(["inspect", "--json"]).arg(&flist), LIMIT)?;
        let described: serde_json::Value = serde_json::from_str(&json)
            .doing(|| format!("understand the description of {}", flist.display()))?;
        let entries = described["entries"].as_array().into_iter().flatten();
        let blocks = entries.filter_map(|entry| entry["blocks"].as_array()).flatten();
        let mut found = BTreeMap::new();
        for id in blocks.filter_map(|block| block["id"].as_str()) {
            let path = self.block_directory().join(id.get(..2).unwrap_or_default()).join(id);
            let size = fs::metadata(&path).doing(|| format!("find {}", path.display()))?.len();
            found.insert(id.to_owned(), size);
        }
        Ok(found)
    }

    /// Kills the hub; what was published stays.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill(&mut self) -> Result<(), Error> {
        if let Some(mut server) = self.server.take() {
            server.kill().and_then(|()| server.wait()).doing(|| "kill the hub".to_owned())?;
        }
        Ok(())
    }

    /// Starts the hub, at the same address with the same content if it ran before, and waits until it
    /// answers.
    ///
    /// # Errors
    /// When it does not start.
    pub fn restart(&mut self) -> Result<(), Error> {
        self.kill()?;
        let mut serve = Command::new(self.binaries.launcher());
        serve.arg("tied").arg(self.binaries.flist()).args(["serve", "--listen", &self.address.to_string()]);
        serve.arg("--root").arg(self.root.path());
        serve.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut server = self.netns.spawn(serve)?;
        if let Some(stdout) = server.stdout.take() {
            self.log.follow(stdout);
        }
        if let Some(stderr) = server.stderr.take() {
            self.log.follow(stderr);
        }
        self.server = Some(server);
        let answers = || match http::get(self.address, "/api/repositories", Duration::from_secs(5)) {
            Ok(answer) if answer.status == 200 => Ok(()),
            other => Err(format!("{other:?}\n{}", self.log.tail(20))),
        };
        self.netns.run(|| wait_for("the hub answers", LIMIT, answers))?
    }

    /// Publishes `directory` as `version`, then loses the blocks that only this version has, then points
    /// the nodes of the run mode `dev` to it. Returns how many blocks were lost.
    ///
    /// # Errors
    /// When a step fails.
    pub fn publish_without_its_blocks(&self, version: &str, directory: &Path) -> Result<usize, Error> {
        let before = self.blocks()?;
        self.publish(version, directory, None)?;
        let new: Vec<_> = self.blocks()?.into_iter().filter(|block| !before.contains(block)).collect();
        for block in &new {
            fs::remove_file(block).doing(|| format!("remove {}", block.display()))?;
        }
        self.offer(&format!("v{version}"))?;
        Ok(new.len())
    }

    /// Copies the flist of a published version, so that it can be [offered](Self::offer) under a name that
    /// is higher or lower than no other.
    ///
    /// # Errors
    /// When it was not published.
    pub fn name(&self, version: &str, name: &str) -> Result<(), Error> {
        let (from, to) = (self.flist(&format!("v{version}")), self.flist(name));
        fs::copy(&from, &to).doing(|| format!("copy {} to {}", from.display(), to.display())).map(drop)
    }

    /// Moves the link of the run mode `dev` behind the hub's back to `v<version>` or a
    /// [name](Self::name); publishing again would bring missing blocks back.
    ///
    /// # Errors
    /// When it cannot be moved.
    pub fn offer(&self, name: &str) -> Result<(), Error> {
        let (link, new) = (self.channel(), self.repo().join(".new"));
        symlink(format!("{CHANNEL_NAME}:{name}.flist"), &new)
            .and_then(|()| fs::rename(&new, &link))
            .doing(|| format!("move {}", link.display()))
    }

    /// The flist of a published version.
    pub fn flist_path(&self, version: &str) -> PathBuf {
        self.flist(&format!("v{version}"))
    }

    /// Removes the link of the run mode `dev`: nothing is offered until something is again.
    ///
    /// # Errors
    /// When there is none.
    pub fn withdraw(&self) -> Result<(), Error> {
        let link = self.channel();
        fs::remove_file(&link).doing(|| format!("remove {}", link.display()))
    }

    fn channel(&self) -> PathBuf {
        self.flist("development:latest")
    }

    fn flist(&self, name: &str) -> PathBuf {
        self.repo().join(format!("{CHANNEL_NAME}:{name}.flist"))
    }

    fn repo(&self) -> PathBuf {
        self.users().join(CHANNEL_REPO)
    }

    fn blocks(&self) -> Result<Vec<PathBuf>, Error> {
        let mut blocks = Vec::new();
        let entries = |directory: &Path| -> Result<Vec<PathBuf>, Error> {
            fs::read_dir(directory)
                .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
                .doing(|| format!("list {}", directory.display()))
        };
        if self.block_directory().is_dir() {
            for prefix in entries(&self.block_directory())?.iter().filter(|path| path.is_dir()) {
                blocks.extend(entries(prefix)?);
            }
        }
        Ok(blocks)
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        // It dies with the keeper of its namespace anyway.
        let _ = self.kill();
    }
}
