//! SIGKILL of identityd at named points: the beginning and the end of each step and each effect of an upgrade
//! in which everything changes, identityd itself too.
//!
//! A dry run in both directions, for each kind of root, lists the points (`molt-halting` says where they are). Then, for each, an upgrade
//! is let run until the program has halted there; it is killed, and recovery has to leave one of the releases,
//! as after random kills. The points of two recoveries are listed too, of one that undoes and of one that finishes:
//! there identityd is killed for the second time. A point that was listed and is not reached is a problem.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::thread;

use fastrand::Rng;

use super::ending::{Ending, Tally};
use super::points::Points;
use super::range::{Range, Releases};
use super::{Extent, Tell, kill_identityd, on_nodes};
use crate::error::Error;
use crate::{Binaries, RootKind};

/// Files of each release that differ from those of the other. Each has some points.
const FILES: usize = 4;

/// How often a point is tried to be reached: some lie in what happens at the same time as something else.
const TRIES: usize = 3;

/// Where the first kill comes whose recovery is killed in turn: what it undoes is everything, what it finishes is
/// committed.
const FIRST_KILLS: [&str; 2] =
    ["daemon/apply:Upgrade/step:soak/enter", "daemon/apply:Upgrade/step:commit/leave"];

/// How the points of the daemon begin, of its recovery, and of what the guardian does while it waits: the same
/// again and again, which has a number then.
const DAEMON: &str = "daemon/";
const RECOVERY: &str = "daemon/recover/";
const GUARD: &str = "guardian/guard/";

/// A point.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Aim {
    /// Where identityd was killed before.
    after: Option<&'static str>,
    name: String,
}

impl fmt::Display for Aim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.after {
            None => f.write_str(&self.name),
            Some(after) => write!(f, "{} after {after}", self.name),
        }
    }
}

/// What came of it.
#[derive(Debug, Clone, Default)]
pub struct Reached {
    /// How many points the dry run has listed.
    pub listed: usize,
    /// What the kills came to.
    pub tally: Tally,
    /// What became of each point.
    pub points: BTreeMap<String, Ending>,
    /// The points of an upgrade that nothing happens to, in the order in which it comes by them.
    pub in_order: Vec<String>,
}

/// The points that there are, for each kind of root and each direction between the releases.
type Listed = BTreeMap<RootKind, [BTreeSet<Aim>; 2]>;

/// Points that are to be tried, for each kind of root and each direction between the releases.
#[derive(Debug)]
struct Queue {
    points: BTreeMap<RootKind, [VecDeque<(Aim, usize)>; 2]>,
}

impl Queue {
    /// Of all points, or as many as are wanted, spread over them. One that is there with several roots, or in both
    /// directions, is tried with one of them.
    fn of(listed: &Listed, runs: usize, random: &mut Rng) -> Self {
        let mut aims: Vec<_> = all(listed).into_iter().collect();
        if runs < aims.len() {
            random.shuffle(&mut aims);
            aims.truncate(runs);
        }
        let points = listed.keys().map(|root| (*root, <[VecDeque<_>; 2]>::default())).collect();
        let mut queue = Self { points };
        for aim in aims {
            let ways = queue.points.iter_mut().flat_map(|(root, ways)| {
                ways.iter_mut().zip(&listed[root]).filter(|(_, there)| there.contains(aim))
            });
            let shortest = ways.map(|(way, _)| way).min_by_key(|way| way.len());
            shortest.into_iter().for_each(|way| way.push_back((aim.clone(), TRIES)));
        }
        queue
    }

    fn len(&self) -> usize {
        self.points.values().flatten().map(VecDeque::len).sum()
    }

    /// Those of nodes with such a root, by direction.
    fn on(&mut self, root: RootKind) -> &mut [VecDeque<(Aim, usize)>; 2] {
        self.points.entry(root).or_default()
    }
}

/// Every point, once.
fn all(listed: &Listed) -> BTreeSet<&Aim> {
    listed.values().flatten().flatten().collect()
}

/// Runs the campaign: every listed point, or as many as are wanted. A node on which something went wrong is
/// not used any further.
///
/// # Errors
/// A node cannot be set up.
pub fn run(extent: Extent, tell: &Tell<'_>) -> Result<Reached, Error> {
    let program = Binaries::ensure()?.halting();
    let releases = Releases { program: &program, replaces_itself: true, files: FILES };
    let (listed, in_order) = list_all(releases, &extent.roots.among(extent.nodes.max(1)))?;
    let queue = Queue::of(&listed, extent.runs, &mut Rng::with_seed(extent.seed));
    let number = all(&listed).len();
    tell(&format!("{number} points, {} of them are tried", queue.len()));
    let queue = Mutex::new(queue);
    let extent = Extent { runs: usize::MAX, ..extent };
    let of_nodes = on_nodes(extent, |number, _| {
        let root = extent.roots.of(number);
        let mut trap = Trap { range: Range::set_up(releases, root)?, root };
        let mut reached = Reached::default();
        while let Some((point, tries)) = trap.next(&queue)? {
            match trap.kill_at(&point) {
                Ok(Some((ending, stage))) => {
                    tell(&format!("node {number}, {root}: {ending} (in {stage}) at {point}"));
                    reached.tally.note(ending, stage, root);
                    reached.points.insert(point.to_string(), ending);
                }
                Ok(None) if tries > 1 => {
                    tell(&format!("node {number}, {root}: did not come by {point}, which is tried again"));
                    queue_of(&queue).on(root)[1 - trap.range.installed].push_back((point, tries - 1));
                }
                Ok(None) => {
                    let problem = format!("node {number}, {root}: {point} was listed and not reached");
                    reached.tally.problems.push(problem);
                }
                Err(error) => {
                    tell(&format!("node {number}, {root}: at {point}: {error:?}"));
                    reached.tally.problems.push(format!("node {number}, {root}, at {point}: {error:?}"));
                    break;
                }
            }
        }
        Ok(reached)
    })?;
    let mut total = Reached { listed: number, in_order, ..Reached::default() };
    for reached in of_nodes {
        total.tally.add(reached.tally);
        total.points.extend(reached.points);
    }
    let left = queue.into_inner().unwrap_or_else(PoisonError::into_inner).points.into_values();
    let left = left.flatten().flatten();
    total.tally.problems.extend(left.map(|(point, _)| format!("{point} was not tried")));
    Ok(total)
}

/// Kills identityd at one point so many times, each in another upgrade to the same release; the upgrades in
/// between are not disturbed.
///
/// # Errors
/// Something went wrong, or the point was not reached.
pub fn again_and_again(point: &str, times: usize) -> Result<Vec<Ending>, Error> {
    let program = Binaries::ensure()?.halting();
    let releases = Releases { program: &program, replaces_itself: true, files: FILES };
    let (root, mut endings) = (RootKind::Tmpfs, Vec::new());
    let mut trap = Trap { range: Range::set_up(releases, root)?, root };
    let aim = Aim { after: None, name: point.to_owned() };
    for _ in 0..times {
        let killed = trap.kill_at(&aim)?;
        endings.push(killed.ok_or_else(|| Error::Unexpected(format!("{point} was not reached")))?.0);
        trap.range.move_on()?;
    }
    Ok(endings)
}

fn queue_of(queue: &Mutex<Queue>) -> std::sync::MutexGuard<'_, Queue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The points of each kind of root, and those of an upgrade with the first of them in their order.
fn list_all(releases: Releases<'_>, roots: &[RootKind]) -> Result<(Listed, Vec<String>), Error> {
    let gone = |_| Error::Unexpected("a thread of the campaign died".to_owned());
    let lists: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> =
            roots.iter().map(|root| (*root, scope.spawn(|| list(releases, *root)))).collect();
        let join = |(root, thread): (_, thread::ScopedJoinHandle<'_, _>)| {
            Ok::<_, Error>((root, thread.join().map_err(gone)??))
        };
        threads.into_iter().map(join).collect::<Result<_, _>>()
    })?;
    let in_order = lists.first().map(|(_, (_, in_order))| in_order.clone()).unwrap_or_default();
    Ok((lists.into_iter().map(|(root, (listed, _))| (root, listed)).collect(), in_order))
}

/// The points of an upgrade to either release, and of two recoveries on the way there.
fn list(releases: Releases<'_>, root: RootKind) -> Result<([BTreeSet<Aim>; 2], Vec<String>), Error> {
    let mut trap = Trap { range: Range::set_up(releases, root)?, root };
    let (mut listed, mut in_order) = ([BTreeSet::new(), BTreeSet::new()], Vec::new());
    for after in [None, Some(FIRST_KILLS[0]), Some(FIRST_KILLS[1])] {
        for to in [1, 0] {
            match after {
                None => trap.points().begin_list().and_then(|()| trap.range.move_on())?,
                Some(point) => trap.list_recovery(point)?,
            }
            let names = trap.points().end_list()?;
            if in_order.is_empty() {
                in_order.clone_from(&names);
            }
            let is_meant = |name: &String| match after {
                None => !(name.starts_with(GUARD) && name.contains('#')),
                Some(_) => name.starts_with(RECOVERY),
            };
            listed[to].extend(names.into_iter().filter(is_meant).map(|name| Aim { after, name }));
        }
    }
    Ok((listed, in_order))
}

/// A node whose identityd halts.
struct Trap {
    range: Range,
    root: RootKind,
}

impl Trap {
    fn points(&self) -> Points<'_> {
        Points(&self.range.node)
    }

    /// The next point in the direction that the node can go; when there is none left, it goes on to where there
    /// are some.
    fn next(&mut self, queue: &Mutex<Queue>) -> Result<Option<(Aim, usize)>, Error> {
        loop {
            let other = self.range.other();
            let mut queue = queue_of(queue);
            let points = queue.on(self.root);
            if let Some(point) = points[other].pop_front() {
                return Ok(Some(point));
            }
            if points.iter().all(VecDeque::is_empty) {
                return Ok(None);
            }
            drop(queue);
            self.range.move_on()?;
        }
    }

    /// Kills identityd at a point; `None` when the upgrade, or the recovery, did not come by there.
    fn kill_at(&mut self, aim: &Aim) -> Result<Option<(Ending, String)>, Error> {
        let new = self.range.other();
        let before = self.range.generation()?;
        self.points().arm(aim.after.unwrap_or(&aim.name))?;
        self.range.offer(new)?;
        let Some(mut pid) = self.points().halted(|| self.range.is_at(new))? else {
            self.range.await_end(new)?;
            return Ok(None);
        };
        let begun = self.range.begun();
        self.range.site.hub.withdraw()?;
        let mut reached = true;
        if aim.after.is_some() {
            self.points().arm(&aim.name)?;
            kill_identityd(&self.range.node, pid)?;
            match self.points().halted(|| self.range.rests())? {
                Some(second) => pid = second,
                None => reached = false,
            }
        }
        let range = &mut self.range;
        let status = range.node.status();
        let stage = status.map(|status| status["stage"].to_string()).unwrap_or_default();
        if reached {
            kill_identityd(&range.node, pid)?;
        }
        let (_found, ending) = range.recovered(begun, before)?;
        // Where another process was killed, the daemon has gone on.
        let finished_itself = ending == Ending::Finished && !aim.name.starts_with(DAEMON);
        let ending = if finished_itself { Ending::Completed } else { ending };
        range.offer(new)?;
        range.await_end(new)?;
        Ok(reached.then(|| (ending, stage.trim_matches('"').to_owned())))
    }

    /// Kills identityd at a point, begins a list, and moves on when recovery is over.
    fn list_recovery(&mut self, point: &str) -> Result<(), Error> {
        let (new, before) = (self.range.other(), self.range.generation()?);
        self.points().arm(point)?;
        self.range.offer(new)?;
        let pid = self.points().halted(|| self.range.is_at(new))?;
        let pid = pid.ok_or_else(|| Error::Unexpected(format!("{point} was not reached")))?;
        let begun = self.range.begun();
        self.range.site.hub.withdraw()?;
        self.points().begin_list()?;
        kill_identityd(&self.range.node, pid)?;
        self.range.recovered(begun, before)?;
        self.range.move_on()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<Aim> {
        names.iter().map(|name| Aim { after: None, name: (*name).to_owned() }).collect()
    }

    #[test]
    fn every_point_is_tried_once_with_a_root_and_in_a_direction_that_have_it() {
        let listed = BTreeMap::from([
            (RootKind::Tmpfs, [set(&["a", "b", "both", "too"]), set(&["c", "both", "too"])]),
            (RootKind::Ext4, [set(&["a", "b", "ext4", "both"]), set(&["c", "both", "too"])]),
        ]);
        let queue = Queue::of(&listed, 100, &mut Rng::with_seed(1));
        let mut tried = Vec::new();
        for (root, ways) in &queue.points {
            for (direction, points) in ways.iter().enumerate() {
                assert!(!points.is_empty(), "{root} has a share in both directions");
                for (aim, _) in points {
                    assert!(listed[root][direction].contains(aim), "{aim}");
                    tried.push(aim.name.as_str());
                }
            }
        }
        tried.sort_unstable();
        assert_eq!(tried, ["a", "b", "both", "c", "ext4", "too"]);
        assert_eq!(Queue::of(&listed, 2, &mut Rng::with_seed(1)).len(), 2);
    }
}
