//! Installing a release at boot: mounted where there is FUSE, and told of on the console.

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use flist::mount::{MountedFlist, Purpose as MountPurpose, mount};
use flist::store::Store;

use super::meter::{Counted, Meter, to_stage};
use super::{BootError, Stopped, blocking, mount_directory, not_installed};
use crate::block_cache::{cached, clear_cache_in_ram, give_back_cache, keep_cache};
use crate::boot_report::Reporter;
use crate::durable;
use crate::engine::{Engine, EngineError, Prepared, ReleaseTree};
use crate::lock::EngineLock;
use crate::plan::Purpose;
use crate::releases::Releases;
use crate::settings::Settings;
use crate::source::{BlockSource, ContentSource, MountSource};
use crate::state_place::StatePlace;
use crate::transaction::Progress;

/// Time between two looks at how far the installation is.
const LOOK: Duration = Duration::from_secs(1);

/// Installs a release, and tells on the way how far it is, and who is `stopped`. Over what is installed already, of
/// another channel, it goes the way of an upgrade: rehearsed, watched, and undone if its services do not do.
///
/// # Errors
/// [`BootError`]; nothing half-installed is left then.
pub(super) async fn install(
    engine: &Engine,
    lock: &EngineLock,
    settings: &Settings,
    release: &ReleaseTree,
    stopped: &Stopped,
) -> Result<(), BootError> {
    tracing::info!(channel = %release.channel(), version = %release.version(), release = %release.id(), entries = release.tree().len(), "installing");
    let content = Content::open(engine, settings, release).await?;
    let prepared = match engine.current() {
        Ok(current) => {
            let purpose = if current.is_some() { Purpose::Upgrade } else { Purpose::Boot };
            engine.prepare(release, purpose, content.source.clone(), None).await
        }
        Err(error) => Err(error),
    };
    let installed = match prepared {
        Ok(prepared) => apply(engine, lock, &prepared, (&content, &settings.cache_dir), stopped).await,
        Err(error) => Err(error),
    };
    content.close().await?;
    if let Err(EngineError::NoSpace(lacking)) = &installed {
        let (lacking, cache) = (lacking.clone(), settings.cache_dir.clone());
        blocking(move || give_back_cache(&lacking, &cache)).await?;
    }
    if let Err(EngineError::Transaction(error)) = &installed
        && error.is_judged()
    {
        // The next attempt takes another one.
        let noted = Releases::load(&StatePlace::of(settings)).judged_bad(release.id(), &flist::report(error));
        if let Err(error) = noted {
            tracing::error!(error = %flist::report(&error), "the failure cannot be remembered");
        }
    }
    installed.map_err(|error| not_installed(settings, error))?;
    let cache = settings.cache_dir.clone();
    blocking(move || clear_cache_in_ram(&cache)).await
}

/// Carries out the plan; meanwhile the console hears how far it is.
async fn apply(
    engine: &Engine,
    lock: &EngineLock,
    prepared: &Prepared,
    (content, cache_dir): (&Content, &Path),
    stopped: &Stopped,
) -> Result<(), EngineError> {
    let (counted, total) = (Arc::new(Counted::new(content.source.clone())), to_stage(&prepared.plan));
    let files = prepared.plan.files.changes.iter().filter(|change| change.staged().is_some()).count();
    tracing::info!("staging {files} files with {:.1} MiB", total as f64 / f64::from(1 << 20));
    let start = Instant::now();
    let steps = Steps { reporter: Reporter::of_this_process(), taken: AtomicU64::new(0) };
    let observer = |progress| {
        stopped.note(&progress);
        report_progress(&progress, (start, counted.bytes()), &steps);
    };
    let before_swap = || {
        keep_cache(cache_dir);
        Ok(())
    };
    let mut applied = pin!(engine.apply(lock, prepared, counted.clone(), &observer, &before_swap));
    let (mut meter, mut looks) = (Meter::new(total), tokio::time::interval(LOOK));
    loop {
        tokio::select! {
            applied = &mut applied => return applied,
            _ = looks.tick() => {
                steps.report(counted.bytes());
                if let Some(line) = meter.look(start.elapsed(), counted.bytes()) {
                    tracing::info!("staging: {line}");
                }
            }
        }
    }
}

/// Tells who watches a newer bootstrap how far it is: in bytes, and then in steps.
struct Steps {
    reporter: Option<Reporter>,
    taken: AtomicU64,
}

impl Steps {
    fn take(&self, bytes: u64) {
        self.taken.fetch_add(1, Ordering::Relaxed);
        self.report(bytes);
    }

    fn report(&self, bytes: u64) {
        if let Some(reporter) = &self.reporter {
            reporter.working(bytes.saturating_add(self.taken.load(Ordering::Relaxed)));
        }
    }
}

fn report_progress(progress: &Progress, (start, bytes): (Instant, u64), steps: &Steps) {
    // Files are counted by their bytes.
    if !matches!(progress, Progress::Staged { done, total } if done < total) {
        steps.take(bytes);
    }
    match progress {
        Progress::Staged { done, total } if done == total => {
            tracing::info!("staged {total} files: {}", Meter::end(start.elapsed(), bytes));
        }
        Progress::Swapping => tracing::info!("swapping"),
        Progress::Started { unit, .. } => tracing::info!(service = %unit, "monitored"),
        Progress::Stopped(unit) => tracing::info!(service = %unit, "stopped"),
        Progress::Staged { .. } | Progress::Verifying | Progress::Soaking => {}
        Progress::LeftDown(_) | Progress::LeftBehind(_) => {}
    }
}

/// The release's content, through a mount where there is FUSE.
struct Content {
    source: Arc<dyn ContentSource>,
    mounted: Option<MountedFlist>,
    mount_point: PathBuf,
    channel: String,
}

impl Content {
    async fn open(engine: &Engine, settings: &Settings, release: &ReleaseTree) -> Result<Self, BootError> {
        let channel = release.channel().to_string();
        let mount_point = mount_directory(&settings.run_dir).join(release.id().to_string());
        let prepared = std::fs::create_dir_all(&mount_point)
            .and_then(|()| durable::private_directory(&mount_directory(&settings.run_dir)));
        prepared.map_err(|source| BootError::MountPoint { path: mount_point.clone(), source })?;

        let (release, cache, at) = (release.clone(), settings.cache_dir.clone(), mount_point.clone());
        let (hub, room) = (settings.hub.clone(), engine.cache_room());
        let opened = blocking(move || {
            let store = cached(release.open_stores(&hub)?, &cache, room);
            let mounted = mount(release.tree(), store.clone(), &at, MountPurpose::Install);
            Ok((store, mounted))
        });
        let (store, mounted): (Arc<dyn Store>, _) =
            opened.await?.map_err(|source| BootError::Store { channel: channel.clone(), source })?;
        match mounted {
            Ok(mounted) => {
                tracing::info!(path = %mount_point.display(), "mounted");
                let source = Arc::new(MountSource { mount: mount_point.clone() });
                Ok(Self { source, mounted: Some(mounted), mount_point, channel })
            }
            Err(error) => {
                tracing::warn!(reason = %flist::report(&error), "reading blocks directly");
                Ok(Self { source: Arc::new(BlockSource { store }), mounted: None, mount_point, channel })
            }
        }
    }

    async fn close(self) -> Result<(), BootError> {
        let Self { source, mounted, mount_point, channel } = self;
        blocking(move || {
            // The last user of the stores: their threads end here, where blocking is allowed.
            drop(source);
            let unmounted = mounted.map_or(Ok(()), MountedFlist::unmount);
            // An empty directory in RAM; the next boot would remove it.
            let _ = std::fs::remove_dir(&mount_point);
            unmounted
        })
        .await?
        .map_err(|source| BootError::Unmount { channel, source })
    }
}
