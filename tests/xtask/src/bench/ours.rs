//! What `flist` is measured at.

use std::path::Path;

use molt_tests::Error;

use super::arena::Arena;
use super::case::{Case, Invocation, Outcome, Step, copy};
use super::measure::{self, Daemon};

/// Names of our cases; the goals refer to them.
pub(super) const PACK: &str = "flist pack";
pub(super) const UNPACK_COLD: &str = "flist unpack, cold";
pub(super) const UNPACK_HUB: &str = "flist unpack, from a hub, fills the cache";
pub(super) const UNPACK_WARM: &str = "flist unpack, warm";
pub(super) const MOUNT_COLD: &str = "flist mount + cp -a, cold";
pub(super) const MOUNT_HUB: &str = "flist mount + cp -a, from a hub, fills the cache";
pub(super) const MOUNT_WARM: &str = "flist mount + cp -a, warm";

/// The cases, and the hub that some of them need.
pub(super) struct Cases {
    pub(super) list: Vec<Case>,
    /// Runs for as long as the cases are measured.
    pub(super) hub: Daemon,
}

/// Packs the tree once, starts a hub with its blocks, and fills a cache.
///
/// # Errors
/// When a program fails.
pub(super) fn cases(arena: &Arena, flist: &Path) -> Result<Cases, Error> {
    let input = Input::prepare(arena, flist)?;
    let (hub, cold) = (input.url.as_str(), input.store.as_str());
    let (out, at) = (arena.path("out"), arena.path("mnt"));
    let (warm, filling) = (arena.path("input/cache"), arena.path("cache"));
    let unpack = |store: &str, cache: Option<&Path>| {
        vec![Step::Run(with_cache(input.reading("unpack", store), cache).arg(&out))]
    };
    let mount = |store: &str, cache: Option<&Path>| {
        vec![
            Step::Start(with_cache(input.reading("mount", store), cache).arg(&at)),
            Step::Run(copy(&at, &out)),
            Step::Run(Invocation::new("umount").arg(&at)),
        ]
    };
    let case = |name, steps| Case {
        name,
        fresh: vec![out.clone(), filling.clone(), at.clone()],
        steps,
        outcome: Outcome::Copy(out.clone()),
    };
    let packed = arena.path("packed");
    let pack = Case {
        name: PACK,
        fresh: vec![packed.clone()],
        steps: vec![Step::Run(pack(flist, &packed, &arena.tree()))],
        outcome: Outcome::Packed,
    };
    let list = vec![
        pack,
        case(UNPACK_COLD, unpack(cold, None)),
        case(UNPACK_HUB, unpack(hub, Some(&filling))),
        case(UNPACK_WARM, unpack(hub, Some(&warm))),
        case(MOUNT_COLD, mount(cold, None)),
        case(MOUNT_HUB, mount(hub, Some(&filling))),
        case(MOUNT_WARM, mount(hub, Some(&warm))),
    ];
    Ok(Cases { list, hub: input.hub })
}

/// What is read in the cases.
struct Input {
    flist: std::path::PathBuf,
    meta: std::path::PathBuf,
    /// The blocks, as a directory.
    store: String,
    /// The same blocks, by HTTP.
    url: String,
    hub: Daemon,
}

impl Input {
    fn prepare(arena: &Arena, flist: &Path) -> Result<Self, Error> {
        let (directory, cache) = (arena.path("input"), arena.path("input/cache"));
        let once = |name, fresh, invocation| {
            let steps = vec![Step::Run(invocation)];
            measure::measure(&Case { name, fresh, steps, outcome: Outcome::Packed })
        };
        once(PACK, vec![directory.clone()], pack(flist, &directory, &arena.tree()))?;
        let serve =
            Invocation::new(flist).args(["serve", "--listen", "127.0.0.1:0", "--root"]).arg(&directory);
        let hub = Daemon::start(&serve)?;
        let address = hub.said.trim().rsplit(' ').next().unwrap_or_default();
        let input = Self {
            flist: flist.to_owned(),
            meta: directory.join("tree.fl"),
            store: format!("dir://{}", directory.join("store").display()),
            url: format!("{address}/store"),
            hub,
        };
        let out = arena.path("out");
        let filling = with_cache(input.reading("unpack", &input.url), Some(&cache)).arg(&out);
        once(UNPACK_HUB, vec![out, cache], filling)?;
        Ok(input)
    }

    fn reading(&self, verb: &str, store: &str) -> Invocation {
        Invocation::new(&self.flist).args([verb, "--store", store, "--meta"]).arg(&self.meta)
    }
}

fn with_cache(invocation: Invocation, cache: Option<&Path>) -> Invocation {
    match cache {
        Some(directory) => invocation.arg("--cache").arg(directory),
        None => invocation,
    }
}

fn pack(flist: &Path, to: &Path, tree: &Path) -> Invocation {
    let store = format!("dir://{}", to.join("store").display());
    Invocation::new(flist).args(["pack", "--store", &store, "--meta"]).arg(to.join("tree.fl")).arg(tree)
}
