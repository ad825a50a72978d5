//! SIGKILL of the guardian at named points while it puts the old identityd back, because the new one does not do.
//!
//! A dry run lists the points for each kind of bad identityd. Then, for each, a release is offered whose identityd is
//! bad, and the guardian that acts is killed at the point. The old identityd has to be back all the same, with
//! nothing left to do.

use std::collections::BTreeSet;
use std::time::Duration;

use fastrand::Rng;

use super::points::{Points, guardians};
use super::{CONFIG, LIMIT, Tell, is_current, kill_identityd, without_debug_information};
use crate::error::Error;
use crate::{Binaries, Node, Site, digest_of};

/// How the points begin.
pub const PUTS_BACK: &str = "guardian/guard/put_back";

/// Identityds that do not do: one ends, one hangs, one hangs with the engine's lock.
const BAD: [&str; 3] = [
    "#!/bin/sh\nexit 0\n",
    "#!/bin/sh\nexec sleep 4000000\n",
    "#!/bin/sh\nexec flock /run/molt/lock sleep 4000000\n",
];

/// How long the node may take to have the old identityd back: the bound of a handover, the pauses of the supervisor.
const BACK: Duration = Duration::from_secs(60);

/// A point, with the kind of identityd that leads there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Aim {
    bad: usize,
    name: String,
}

/// What came of it.
#[derive(Debug, Clone, Default)]
pub struct Kills {
    /// How many points the dry run has listed.
    pub listed: usize,
    /// The points at which the guardian was killed.
    pub points: Vec<String>,
}

/// Kills the guardian at every listed point whose name has one of the words `always`, and at as many others as are
/// wanted.
///
/// # Errors
/// The old identityd did not come back, or a point was not reached.
pub fn run(always: &[&str], others: usize, seed: u64, tell: &Tell<'_>) -> Result<Kills, Error> {
    let mut ground = Ground::set_up()?;
    let mut listed = BTreeSet::new();
    for bad in 0..BAD.len() {
        listed.extend(ground.list(bad)?.into_iter().map(|name| Aim { bad, name }));
    }
    let mut kills = Kills { listed: listed.len(), points: Vec::new() };
    let (mut aims, mut rest): (Vec<_>, Vec<_>) =
        listed.into_iter().partition(|aim| always.iter().any(|word| aim.name.contains(word)));
    Rng::with_seed(seed).shuffle(&mut rest);
    aims.extend(rest.into_iter().take(others));
    for Aim { bad, name } in aims {
        tell(&format!("the guardian is killed at {name}, with the identityd {:?}", BAD[bad]));
        ground.kill_at(bad, &name)?;
        kills.points.push(name);
    }
    Ok(kills)
}

/// A node whose guardian halts.
struct Ground {
    site: Site,
    node: Node,
    /// What identityd has to be.
    old: String,
    /// Bad releases so far.
    offered: usize,
}

impl Ground {
    fn set_up() -> Result<Self, Error> {
        let (_aside, program) = without_debug_information(&Binaries::ensure()?.halting())?;
        let site = Site::new()?;
        let good = site.payload("1.0.0")?;
        good.program("/sbin/identityd", &program)?;
        site.publish("1.0.0", &good)?;
        let node = site.node().config(CONFIG).boot()?;
        site.await_version(&node, "1.0.0")?;
        Ok(Self { site, node, old: digest_of(&program)?, offered: 0 })
    }

    /// Offers another release with this bad identityd.
    fn offer(&mut self, bad: usize) -> Result<(), Error> {
        self.offered += 1;
        // All else is as before: zinit 0.3 takes no changed units of services while identityd runs.
        let payload = self.site.payload("1.0.0")?;
        payload.file("/sbin/identityd", 0o755, format!("{}# {}\n", BAD[bad], self.offered))?;
        self.site.publish(&format!("2.0.{}", self.offered), &payload)
    }

    /// The points of putting back, without a kill.
    fn list(&mut self, bad: usize) -> Result<Vec<String>, Error> {
        let points = Points(&self.node);
        points.begin_list()?;
        // The first point of it is not to be missed, nor the release tried a second time.
        points.arm(&format!("{PUTS_BACK}/enter"))?;
        self.offer(bad)?;
        let points = Points(&self.node);
        let halted = points.halted(|| false)?;
        self.site.hub.withdraw()?;
        if let Some(pid) = halted {
            self.goes_on(pid)?;
        }
        self.old_is_back()?;
        let mut names = Points(&self.node).end_list()?;
        names.retain(|name| name.starts_with(PUTS_BACK));
        Ok(names)
    }

    fn goes_on(&self, pid: u32) -> Result<(), Error> {
        let raw = i32::try_from(pid).map_err(|_| Error::Unexpected(format!("{pid} is no pid")))?;
        let sent = nix::sys::signal::kill(nix::unistd::Pid::from_raw(raw), nix::sys::signal::Signal::SIGCONT);
        sent.map_err(|errno| Error::Unexpected(format!("the guardian cannot go on: {errno}")))
    }

    fn kill_at(&mut self, bad: usize, point: &str) -> Result<(), Error> {
        Points(&self.node).arm(point)?;
        self.offer(bad)?;
        // A release that is given up without coming by there is no longer tried.
        let given_up = || self.node.status().is_ok_and(|status| status["gate"] == "Refused");
        let halted = Points(&self.node).halted(given_up)?;
        let pid = halted.ok_or_else(|| Error::Unexpected(format!("{point} was listed and not reached")))?;
        self.site.hub.withdraw()?;
        kill_identityd(&self.node, pid)?;
        self.old_is_back()
    }

    /// Waits until the old identityd runs, has recovered, and nobody watches over it any more.
    fn old_is_back(&self) -> Result<(), Error> {
        self.node.wait_for("the old identityd is back", BACK.max(LIMIT), || {
            let failed = |error: Error| format!("{error:?}");
            let pid = self.node.pid_of("identityd").map_err(failed)?;
            let runs = digest_of(format!("/proc/{pid}/exe")).map_err(failed)?;
            let installed = digest_of(self.node.path("/usr/sbin/identityd")).map_err(failed)?;
            if (&runs, &installed) != (&self.old, &self.old) {
                return Err(format!("{runs} runs and {installed} is installed, not {}", self.old));
            }
            let status = self.node.status().map_err(failed)?;
            let left = guardians(&self.node).map_err(failed)?;
            let pending = ["/var/lib/molt/journal", "/run/molt/handover.json"]
                .into_iter()
                .find(|path| self.node.path(path).exists());
            match is_current(&self.node, &status) && status["gate"] == "BackOff" {
                true if left.is_empty() && pending.is_none() => Ok(()),
                _ => Err(format!("guardians {left:?}, {pending:?}, {status}")),
            }
        })
    }
}
