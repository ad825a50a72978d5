//! What the engine is made to do.

mod content;
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bootstrap::engine::{Engine, EngineError, Prepared, ReleaseTree};
use bootstrap::generation::{Standing, StateDir};
use bootstrap::health::HealthLimits;
use bootstrap::lock::EngineLock;
use bootstrap::plan::Purpose;
use bootstrap::root::Root;
use bootstrap::transaction::Progress;
use flist::block::{BLOCK_SIZE, BlockId, BlockKey};
use flist::hub::{Release as Offer, ReleaseFlist, ReleaseId, ReleaseVersion, Sha256};
use flist::path::FlistPath;
use flist::tree::{Block, Content, Entry, Kind, Meta, Tree};
use flist::trust::for_tests::unchecked;
use zinit_client::UnitName;

use content::bytes_of;
pub use content::{CONFLICT, all, upgrade_with};
use source::{Fetching, Release};

use crate::disk::ModelDisk;
use crate::files::Files;
use crate::machine::{Machine, Volume};
use crate::programs::ModelPrograms;
use crate::services::{DIES, EXITS, ModelSupervisor};
use crate::verdict::Ending;

/// A file of a release: path, permission bits, content; `-> x` as content is a symlink.
pub type FileSpec = (&'static str, u32, &'static str);

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// bootstrap installs the release.
    Boot,
    /// identityd upgrades to the release.
    Upgrade,
    /// identityd replaces itself and says that it runs.
    SelfUpdate,
    /// A guardian goes back from a self-update that is committed.
    SelfRevert,
    /// The generation before the last upgrade is put back.
    Revert,
    /// What is kept for going back is forgotten.
    Collect,
    /// An upgrade that was cut off right before its commit is recovered.
    Recover,
}

/// One scenario.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// What is done.
    pub act: Act,
    /// What the base image holds.
    pub base: Vec<FileSpec>,
    /// The release that is installed before.
    pub installed: Option<Vec<FileSpec>>,
    /// What somebody changed after that; units are loaded anew.
    pub edited: Vec<FileSpec>,
    /// The release that is installed.
    pub release: Vec<FileSpec>,
    /// The root file system cannot exchange names.
    pub no_exchange: bool,
    /// The root file system is an overlay over the base image.
    pub overlay: bool,
    /// The root file system lies in RAM: after a power cut it is the base image.
    pub in_ram: bool,
    /// A service that somebody stops.
    pub stopped: Option<Stopped>,
}

/// When somebody stops which service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// Before anything is planned.
    Before(&'static str),
    /// When all is planned and staged, right before the swap.
    Meanwhile(&'static str),
    /// When the health window begins.
    Soaking(&'static str),
}

/// A scenario that is about to begin.
#[derive(Debug)]
pub struct Stage {
    /// The scenario.
    pub scenario: Scenario,
    /// The machine before it.
    pub machine: Arc<Machine>,
    release: Release,
}

/// Why a scenario cannot be set up.
pub type SetUpError = Box<dyn std::error::Error + Send + Sync>;

impl Scenario {
    /// The release is bad, so that what a fault hits may be the undoing.
    pub fn undoes_itself(&self) -> bool {
        let bad = |file: &FileSpec| [EXITS, DIES].iter().any(|bad| file.2.contains(bad));
        self.release.iter().any(bad)
    }

    /// Makes the machine, with the release before installed and its services running.
    ///
    /// # Errors
    /// The scenario makes no sense.
    pub async fn set_up(self, lock: &EngineLock) -> Result<Stage, SetUpError> {
        let mut root = Files::new(1);
        put_all(&mut root, &self.base)?;
        if self.overlay {
            root.lay_down();
        }
        root.in_ram = self.in_ram;
        let machine = Arc::new(Machine::new(root, Files::new(2)));
        machine.with(|root, _, _| root.can_exchange = !self.no_exchange);
        machine.with(|root, _, services| services.boot(root));
        if let Some(installed) = &self.installed {
            let installed = release("1.0.0", installed)?;
            carry_out(&machine, &installed, (Act::Boot, None), lock).await?;
            machine.with(|root, _, services| {
                put_all(root, &self.edited)?;
                services.reload(root);
                Ok::<_, SetUpError>(())
            })?;
        }
        let release = release("2.0.0", &self.release)?;
        if matches!(self.act, Act::Revert | Act::Collect) {
            carry_out(&machine, &release, (Act::Upgrade, None), lock).await?;
        }
        if self.act == Act::SelfRevert {
            carry_out(&machine, &release, (Act::SelfUpdate, None), lock).await?;
        }
        if self.act == Act::Recover {
            let broken = crate::fault::Planned {
                at: commit_of(&machine, &release, lock).await?,
                fault: crate::fault::Fault::KillBefore,
                lasting: false,
            };
            machine.plan(Some(broken));
            // It is meant to be cut off.
            let _ = carry_out(&machine, &release, (Act::Upgrade, None), lock).await;
            machine.plan(None);
        }
        if let Some(Stopped::Before(service)) = self.stopped {
            machine.with(|_, _, services| services.stop_by_hand(service));
        }
        machine.with(|root, state, _| {
            let _ = root.sync_filesystem(&FlistPath::root());
            let _ = state.sync_filesystem(&FlistPath::root());
        });
        Ok(Stage { scenario: self, machine, release })
    }
}

/// The operation after which the release is the current generation; right before it all is swapped.
async fn commit_of(machine: &Machine, release: &Release, lock: &EngineLock) -> Result<usize, SetUpError> {
    let copy = Arc::new(machine.copy());
    copy.plan(None);
    carry_out(&copy, release, (Act::Upgrade, None), lock).await?;
    // The pointer is the last file that is renamed into place.
    let operations = copy.operations();
    let last = operations.iter().rposition(|operation| *operation == crate::fault::Operation::Allocate);
    Ok(last.unwrap_or_default().saturating_sub(4))
}

impl Stage {
    /// Does it on a machine.
    ///
    /// # Errors
    /// The engine's.
    pub async fn act(&self, machine: &Arc<Machine>, lock: &EngineLock) -> Result<(), EngineError> {
        carry_out(machine, &self.release, (self.scenario.act, self.scenario.stopped), lock).await
    }

    /// Plans the upgrade to the release, and does nothing.
    ///
    /// # Errors
    /// The engine's.
    pub async fn prepare(&self, machine: &Arc<Machine>) -> Result<Prepared, EngineError> {
        let source = Arc::new(self.release.clone());
        engine(machine)?.prepare(&self.release.tree, Purpose::Upgrade, source, None).await
    }

    /// Installs the release as the next attempt would.
    ///
    /// # Errors
    /// The engine's.
    pub async fn try_again(&self, machine: &Arc<Machine>, lock: &EngineLock) -> Result<(), EngineError> {
        let act = match self.scenario.act {
            Act::Recover => Act::Upgrade,
            other => other,
        };
        carry_out(machine, &self.release, (act, None), lock).await
    }

    /// What whoever starts next does first. After a power cut, or for bootstrap, services that the
    /// supervisor does not know are monitored; a root that has lost everything gets the release that is offered.
    ///
    /// # Errors
    /// The engine's.
    pub async fn recover(
        &self,
        machine: &Arc<Machine>,
        lock: &EngineLock,
        restarted: bool,
    ) -> Result<(), EngineError> {
        let engine = engine(machine)?;
        engine.recover(lock).await?;
        match engine.standing()? {
            Standing::Installed(current) if restarted || self.scenario.act == Act::Boot => {
                engine.start_missing(lock, &current, &BTreeSet::new()).await.map(drop)
            }
            Standing::Nothing if restarted && self.scenario.in_ram => {
                carry_out(machine, &self.release, (Act::Boot, None), lock).await
            }
            _ => Ok(()),
        }
    }

    /// What is wrong with the record of what is installed, in words.
    ///
    /// # Errors
    /// The engine's.
    pub fn trouble_with_record(
        &self,
        machine: &Arc<Machine>,
        ending: Ending,
    ) -> Result<Option<&'static str>, EngineError> {
        Ok(match engine(machine)?.standing()? {
            Standing::Damaged => Some("the record of what is installed is damaged"),
            Standing::Nothing if ending == Ending::New || self.scenario.installed.is_some() => {
                Some("nothing is recorded as installed")
            }
            _ => None,
        })
    }

    /// Besides, whoever is stopped: a supervisor that does not answer forgets him later.
    pub fn ignored_while_it_lasts(&self) -> BTreeSet<UnitName> {
        let stopped = self
            .scenario
            .stopped
            .map(|(Stopped::Before(name) | Stopped::Meanwhile(name) | Stopped::Soaking(name))| name);
        self.ignored().into_iter().chain(stopped.and_then(|name| name.parse().ok())).collect()
    }

    /// Services that are not judged: identityd goes on as the process that it is.
    pub fn ignored(&self) -> BTreeSet<UnitName> {
        "identityd".parse().into_iter().collect()
    }
}

fn engine(machine: &Arc<Machine>) -> Result<Engine, EngineError> {
    let disk = |volume| Arc::new(ModelDisk::new(machine.clone(), volume));
    let state =
        StateDir::on(disk(Volume::State), Path::new("/var/lib/molt")).map_err(EngineError::Generation)?;
    let root = Root::on(disk(Volume::Root), Path::new("/"));
    let health = HealthLimits { start_timeout: Duration::from_secs(10), window: Duration::from_secs(1) };
    let supervisor = Arc::new(ModelSupervisor { machine: machine.clone() });
    let programs = Arc::new(ModelPrograms { machine: machine.clone() });
    Ok(Engine::on(root, state, supervisor).running(programs).with_health(health).fetching(0))
}

async fn carry_out(
    machine: &Arc<Machine>,
    release: &Release,
    (act, stopped): (Act, Option<Stopped>),
    lock: &EngineLock,
) -> Result<(), EngineError> {
    let engine = engine(machine)?;
    let source = Arc::new(Fetching { release: release.clone(), machine: machine.clone() });
    let (purpose, only) = match act {
        Act::Boot => (Purpose::Boot, None),
        Act::Upgrade => (Purpose::Upgrade, None),
        Act::SelfUpdate => {
            let own = |path: &&FlistPath| {
                path.as_bytes().ends_with(b"identityd") || path.as_bytes().ends_with(b"identityd.yaml")
            };
            let paths = release.tree.tree().iter().map(|(path, _)| path);
            (Purpose::SelfUpdate, Some(paths.filter(own).cloned().collect::<BTreeSet<_>>()))
        }
        // It is the second generation, after the first boot.
        Act::SelfRevert => return engine.revert_self_update(lock, 1).await.map(drop),
        Act::Recover => return engine.recover(lock).await.map(drop),
        Act::Collect => return engine.collect(lock, Some(0)).map(drop),
        Act::Revert => {
            let (_, target) = engine.revert_target(None)?;
            let prepared = engine.prepare_revert(&target, source.clone()).await?;
            // Everything that is needed is kept on the node.
            let nowhere = Arc::new(Release { content: Arc::default(), ..release.clone() });
            return engine.apply(lock, &prepared, nowhere, &|_| {}, &|| Ok(())).await;
        }
    };
    let prepared = engine.prepare(&release.tree, purpose, source.clone(), only.as_ref()).await?;
    let before_swap = || {
        if let Some(Stopped::Meanwhile(service)) = stopped {
            machine.with(|_, _, services| services.stop_by_hand(service));
        }
        Ok(())
    };
    let observer = |progress| {
        if let (Progress::Soaking, Some(Stopped::Soaking(service))) = (progress, stopped) {
            machine.with(|_, _, services| services.stop_by_hand(service));
        }
    };
    engine.apply(lock, &prepared, source, &observer, &before_swap).await?;
    if act == Act::SelfUpdate {
        engine.commit_pending(lock, prepared.generation()).await?;
    }
    Ok(())
}

fn release(version: &str, files: &[FileSpec]) -> Result<Release, SetUpError> {
    let meta = |mode| Meta { mode, uid: 0, gid: 0, mtime: 1_700_000_000 };
    let mut tree = Tree::new(meta(0o755));
    let mut content = BTreeMap::new();
    let mut directories = BTreeSet::new();
    for (path, mode, text) in files {
        let path: FlistPath = path.parse()?;
        let mut above = Vec::new();
        let mut at = path.parent().unwrap_or_default();
        while !at.is_root() {
            above.push(at.clone());
            at = at.parent().unwrap_or_default();
        }
        for directory in above.into_iter().rev() {
            if directories.insert(directory.clone()) {
                tree.insert(directory, Entry { meta: meta(0o755), kind: Kind::Directory })?;
            }
        }
        let kind = match text.strip_prefix("-> ") {
            Some(target) => Kind::Symlink(target.as_bytes().to_vec()),
            None => {
                let block = |piece: &[u8]| Block { id: BlockId::of(piece), key: BlockKey::of(piece) };
                let blocks = text.as_bytes().chunks(BLOCK_SIZE).map(block).collect();
                content.insert(path.clone(), text.as_bytes().to_vec());
                Kind::File(Content { size: text.len() as u64, blocks })
            }
        };
        tree.insert(path, Entry { meta: meta(*mode), kind })?;
    }
    let bytes = flist::format::fl::to_bytes(&tree)?;
    let flist = ReleaseFlist {
        package: "zos".to_owned(),
        location: format!("tf-zos/zos:v{version}.flist").parse()?,
        sha256: Sha256::of(&bytes),
        bytes,
    };
    let release = Offer {
        channel: "tf-zos/zos:development:latest.flist".parse()?,
        id: ReleaseId::of([("zos", Sha256::of(version.as_bytes()))]),
        version: ReleaseVersion::Text(version.to_owned()),
        info: [("version".to_owned(), version.into())].into_iter().collect(),
        flists: vec![flist],
    };
    let tree = ReleaseTree::read(unchecked(release))?;
    Ok(Release { tree, content: Arc::new(content) })
}

fn put_all(root: &mut Files, files: &[FileSpec]) -> Result<(), SetUpError> {
    for (path, mode, text) in files {
        let path: FlistPath = path.parse()?;
        let mut above = Vec::new();
        let mut at = path.parent().unwrap_or_default();
        while !at.is_root() && root.real_directory(&at)?.is_none() {
            above.push(at.clone());
            at = at.parent().unwrap_or_default();
        }
        for directory in above.iter().rev() {
            root.make_directory(directory)?;
            root.set_mode(directory, 0o755)?;
        }
        if root.stat(&path)?.is_some() {
            root.remove(&path)?;
        }
        match text.strip_prefix("-> ") {
            Some(target) => root.make_special(&path, bootstrap::disk::Special::Symlink(target.as_bytes()))?,
            None => {
                root.create(&path)?;
                root.set_mode(&path, *mode)?;
                root.append(&path, &bytes_of(text))?;
            }
        }
    }
    Ok(())
}
