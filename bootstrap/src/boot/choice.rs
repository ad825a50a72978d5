//! Which release a root gets: what the channel offers, unless that is bad on this node, or held. Else, or when it cannot
//! be installed, what the root has of another channel; where it has nothing, a recorded release.

use std::fmt;

use flist::hub::{Channel, Release, ReleaseId};
use flist::trust::{Assurance, Trusted};

use super::BootError;
use crate::engine::{Engine, EngineError};
use crate::generation::{Cause, Generation};
use crate::held::{self, Patience};
use crate::releases::{Note, Releases};
use crate::settings::Settings;
use crate::state_place::StatePlace;

/// What is to be installed.
#[derive(Debug)]
pub(super) enum Choice {
    /// What the channel offers.
    Offered(Box<Trusted<Release>>),
    /// Something else.
    Other {
        /// What.
        other: Other,
        /// Why it is not what the channel offers.
        why: String,
    },
}

/// What a node can have instead of what the channel offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Other {
    /// What is installed in its root, of another channel.
    Installed,
    /// The release of one of these recorded generations, the best one first; none where nothing good is recorded.
    Recorded(Vec<u64>),
}

impl Other {
    /// Whether there is nothing.
    pub(super) fn is_nothing(&self) -> bool {
        matches!(self, Self::Recorded(numbers) if numbers.is_empty())
    }
}

/// Chooses between what the channel offers and what this node has.
///
/// # Errors
/// [`BootError::State`].
pub(super) fn choose(
    engine: &Engine,
    settings: &Settings,
    offered: Box<Trusted<Release>>,
) -> Result<Choice, BootError> {
    let releases = notes(engine);
    let (version, id) = (offered.version.to_string(), offered.id.to_string());
    let bad = releases.note(&offered.id).filter(|note| note.is_bad());
    let held = settings.switches.hold;
    let held = held.then(|| "the kernel parameter molt.hold holds every release".to_owned());
    let state = engine.state().path();
    let patience = Patience::read(&StatePlace::fixed(state), settings.longest_postponement);
    let held = held.or_else(|| held::why_held(state, &version, &id, &patience));
    let ran = ran(engine).map_err(BootError::State)?;
    let Some(objection) = objection(bad, held, ran == Some(offered.id)) else {
        return Ok(Choice::Offered(offered));
    };
    let why = format!("release {version} ({id}) {objection}");
    let other = other(engine, &offered)?;
    if other.is_nothing() && matches!(objection, Objection::Held(_)) {
        tracing::warn!(reason = why, "installing it all the same, because nothing else is recorded");
        return Ok(Choice::Offered(offered));
    }
    Ok(Choice::Other { other, why })
}

/// What this node can have instead of a release. What is bad or held is no better for being recorded.
///
/// # Errors
/// [`BootError::State`].
pub(super) fn other(engine: &Engine, offered: &Trusted<Release>) -> Result<Other, BootError> {
    if is_occupied(engine)? {
        return Ok(Other::Installed);
    }
    let releases = notes(engine);
    let recorded = recorded(engine).map_err(BootError::State)?;
    let unwanted =
        |release: &ReleaseId| *release == offered.id || releases.note(release).is_some_and(Note::is_bad);
    let trust = Trust::of(matches!(offered.assurance(), Assurance::Signed { .. }));
    Ok(Other::Recorded(good(&recorded, &offered.channel, trust, unwanted)))
}

/// Whether something is installed in this root; whoever chooses knows that it is of no channel that is followed.
fn is_occupied(engine: &Engine) -> Result<bool, BootError> {
    Ok(engine.current().map_err(BootError::State)?.is_some())
}

/// What is remembered of releases, where the engine's state is: it may have moved since.
pub(super) fn notes(engine: &Engine) -> Releases {
    Releases::load(&StatePlace::fixed(engine.state().path()))
}

/// What speaks against a release.
#[derive(Debug, PartialEq, Eq)]
enum Objection {
    Bad(String),
    /// Better than none all the same.
    Held(String),
}

impl fmt::Display for Objection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bad(reason) => write!(f, "is bad on this node: {reason}"),
            Self::Held(reason) => write!(f, "is held: {reason}"),
        }
    }
}

/// A hold is about changes: it says nothing against the release that ran here before.
fn objection(bad: Option<&Note>, held: Option<String>, ran_before: bool) -> Option<Objection> {
    let bad = bad.map(|note| Objection::Bad(note.reason.clone()));
    bad.or_else(|| held.filter(|_| !ran_before).map(Objection::Held))
}

/// The release that this node ran before it lost its root.
fn ran(engine: &Engine) -> Result<Option<ReleaseId>, EngineError> {
    let state = engine.state();
    let generation = match state.current_number().map_err(EngineError::Generation)? {
        Some(number) => state.recorded(number).map_err(EngineError::Generation)?,
        None => None,
    };
    Ok(generation.map(|generation| generation.release))
}

/// Which recorded releases a node takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trust {
    /// Those that were signed: what came here while nothing was checked, for one boot or before there was a root of
    /// trust, does not come back by keeping the hub away.
    Signed,
    /// All: this node checks nothing.
    Anything,
}

impl Trust {
    pub(super) fn of(is_checked: bool) -> Self {
        if is_checked { Self::Signed } else { Self::Anything }
    }
}

/// What counts of a recorded generation.
pub(super) struct Recorded {
    number: u64,
    is_signed: bool,
    cause: Cause,
    channel: Channel,
    release: ReleaseId,
}

impl Recorded {
    /// What it was installed from.
    pub(super) fn channel(&self) -> &Channel {
        &self.channel
    }
}

pub(super) fn recorded(engine: &Engine) -> Result<Vec<Recorded>, EngineError> {
    let mut all = Vec::new();
    for number in engine.state().numbers().map_err(EngineError::Generation)? {
        // A damaged record is none.
        if let Some(generation) = engine.state().recorded(number).map_err(EngineError::Generation)? {
            let Generation { cause, channel, release, is_signed, .. } = generation;
            all.push(Recorded { number, is_signed, cause, channel, release });
        }
    }
    Ok(all)
}

/// The newest generation of each good release of this channel, the newest one first. A generation of a
/// self-update is no release as a whole.
pub(super) fn good(
    all: &[Recorded],
    channel: &Channel,
    trust: Trust,
    is_bad: impl Fn(&ReleaseId) -> bool,
) -> Vec<u64> {
    let whole = |cause| matches!(cause, Cause::FirstBoot | Cause::Release | Cause::Revert);
    let trusted = |found: &Recorded| found.is_signed || trust == Trust::Anything;
    let usable = |found: &&Recorded| {
        whole(found.cause) && found.channel == *channel && trusted(found) && !is_bad(&found.release)
    };
    let mut usable: Vec<_> = all.iter().filter(usable).collect();
    usable.sort_unstable_by_key(|found| std::cmp::Reverse(found.number));
    let mut seen = std::collections::BTreeSet::new();
    usable.retain(|found| seen.insert(found.release));
    usable.into_iter().map(|found| found.number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u8) -> ReleaseId {
        format!("{number:02x}").repeat(32).parse().unwrap()
    }

    #[test]
    fn a_hold_does_not_take_away_what_ran_and_a_bad_release_is_bad_in_any_case() {
        let mut releases = Releases::load(&StatePlace::fixed(std::path::Path::new("/nonexistent")));
        // It cannot be written there; what was noted counts.
        releases.judged_bad(id(1), "web is not well").unwrap_err();
        let bad = releases.note(&id(1));
        let held = || Some("rolled back".to_owned());
        assert_eq!(objection(None, None, false), None);
        assert_eq!(objection(None, held(), false), Some(Objection::Held("rolled back".to_owned())));
        assert_eq!(objection(None, held(), true), None);
        for ran_before in [true, false] {
            let expected = Some(Objection::Bad("web is not well".to_owned()));
            assert_eq!(objection(bad, held(), ran_before), expected);
        }
    }

    #[test]
    fn the_newest_generation_of_each_good_release_of_the_channel_counts() {
        let channel: Channel = "tf-zos/zos:development:latest.flist".parse().unwrap();
        let other: Channel = "tf-zos/zos:testing:latest.flist".parse().unwrap();
        let of = |number, cause, channel: &Channel, release| Recorded {
            number,
            is_signed: number != 4,
            cause,
            channel: channel.clone(),
            release: id(release),
        };
        let all = [
            of(1, Cause::FirstBoot, &channel, 1),
            of(2, Cause::Release, &channel, 2),
            of(3, Cause::Revert, &channel, 1),
            of(4, Cause::Release, &channel, 3),
            of(5, Cause::SelfUpdate, &channel, 2),
            of(6, Cause::Release, &other, 6),
            of(7, Cause::Other, &channel, 7),
        ];
        let anything = Trust::Anything;
        assert_eq!(good(&all, &channel, anything, |release| *release == id(3)), [3, 2]);
        assert_eq!(good(&all, &channel, anything, |_| false), [4, 3, 2]);
        assert_eq!(good(&all, &channel, anything, |_| true), [0; 0]);
        // The one that was installed while nothing was checked is none to a node that checks.
        assert_eq!(good(&all, &channel, Trust::Signed, |_| false), [3, 2]);
    }
}
