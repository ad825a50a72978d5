//! SIGKILL of identityd at named points: the beginning and the end of each step and each effect of an upgrade
//! in which everything changes, identityd itself too.
//!
//! A dry run in both directions lists the points (`molt-halting` says where they are). Then, for each, an upgrade
//! is let run until the program has halted there; it is killed, and recovery has to leave one of the releases,
//! as after random kills. The points of two recoveries are listed too, of one that undoes and of one that finishes:
//! there identityd is killed for the second time. A point that was listed and is not reached is a problem.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::{Mutex, PoisonError};

use fastrand::Rng;

use super::ending::{Ending, Tally};
use super::points::Points;
use super::range::{Range, Releases};
use super::{Extent, Tell, kill_identityd, on_nodes};
use crate::Binaries;
use crate::error::Error;

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

/// Points that are to be tried, for each direction between the releases.
#[derive(Debug, Default)]
struct Queue {
    points: [VecDeque<(Aim, usize)>; 2],
}

impl Queue {
    /// Of all points, or as many as are wanted, spread over them. One that is there in both directions is tried
    /// in one of them.
    fn of(listed: &[BTreeSet<Aim>; 2], runs: usize, random: &mut Rng) -> Self {
        let mut aims: Vec<_> = listed[0].union(&listed[1]).collect();
        if runs < aims.len() {
            random.shuffle(&mut aims);
            aims.truncate(runs);
        }
        let mut queue = Self::default();
        for aim in aims {
            let shorter = usize::from(queue.points[1].len() < queue.points[0].len());
            let direction = [shorter, 1 - shorter].into_iter().find(|to| listed[*to].contains(aim));
            queue.points[direction.unwrap_or_default()].push_back((aim.clone(), TRIES));
        }
        queue
    }

    fn len(&self) -> usize {
        self.points.iter().map(VecDeque::len).sum()
    }
}

/// Runs the campaign: every listed point, or as many as are wanted. A node on which something went wrong is
/// not used any further.
///
/// # Errors
/// A node cannot be set up.
pub fn run(extent: Extent, tell: &Tell<'_>) -> Result<Reached, Error> {
    let program = Binaries::ensure()?.halting();
    let releases = Releases { program: &program, replaces_itself: true, files: FILES };
    let ((listed, in_order), mut random) = (list(releases)?, Rng::with_seed(extent.seed));
    let queue = Queue::of(&listed, extent.runs, &mut random);
    let number = listed[0].union(&listed[1]).count();
    tell(&format!("{number} points, {} of them are tried", queue.len()));
    let queue = Mutex::new(queue);
    let extent = Extent { runs: usize::MAX, ..extent };
    let of_nodes = on_nodes(extent, |number, _| {
        let mut trap = Trap { range: Range::set_up(releases)? };
        let mut reached = Reached::default();
        while let Some((point, tries)) = trap.next(&queue)? {
            match trap.kill_at(&point) {
                Ok(Some((ending, stage))) => {
                    tell(&format!("node {number}: {ending} (in {stage}) at {point}"));
                    reached.tally.note(ending, stage);
                    reached.points.insert(point.to_string(), ending);
                }
                Ok(None) if tries > 1 => {
                    tell(&format!("node {number}: did not come by {point}, which is tried again"));
                    queue_of(&queue).points[1 - trap.range.installed].push_back((point, tries - 1));
                }
                Ok(None) => {
                    reached.tally.problems.push(format!("node {number}: {point} was listed and not reached"));
                }
                Err(error) => {
                    tell(&format!("node {number}: at {point}: {error:?}"));
                    reached.tally.problems.push(format!("node {number}, at {point}: {error:?}"));
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
    let left = queue.into_inner().unwrap_or_else(PoisonError::into_inner).points.into_iter().flatten();
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
    let (mut trap, mut endings) = (Trap { range: Range::set_up(releases)? }, Vec::new());
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

/// The points of an upgrade to either release, and of two recoveries on the way there.
fn list(releases: Releases<'_>) -> Result<([BTreeSet<Aim>; 2], Vec<String>), Error> {
    let mut trap = Trap { range: Range::set_up(releases)? };
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
            let mut points = queue_of(queue);
            if let Some(point) = points.points[other].pop_front() {
                return Ok(Some(point));
            }
            if points.len() == 0 {
                return Ok(None);
            }
            drop(points);
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
    fn every_point_is_tried_once_in_a_direction_that_has_it() {
        let listed = [set(&["a", "b", "both", "too"]), set(&["c", "both", "too"])];
        let queue = Queue::of(&listed, 100, &mut Rng::with_seed(1));
        let mut tried = Vec::new();
        for (direction, points) in queue.points.iter().enumerate() {
            for (aim, _) in points {
                assert!(listed[direction].contains(aim), "{aim}");
                tried.push(aim.name.as_str());
            }
        }
        tried.sort_unstable();
        assert_eq!(tried, ["a", "b", "both", "c", "too"]);
        assert_eq!(Queue::of(&listed, 2, &mut Rng::with_seed(1)).len(), 2);
    }
}
