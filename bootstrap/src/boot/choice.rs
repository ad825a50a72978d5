//! Which release a root gets that has none: what the channel offers, unless that is bad on this node.

use flist::hub::{FlistName, Release, ReleaseId};

use super::BootError;
use crate::engine::{Engine, EngineError};
use crate::generation::{Cause, Generation};
use crate::releases::{Note, Releases};

/// What is to be installed.
#[derive(Debug)]
pub(super) enum Choice {
    /// What the channel offers.
    Offered(Box<Release>),
    /// The release of one of these recorded generations, the best one first; none where nothing good is
    /// recorded.
    Recorded {
        /// Their numbers.
        numbers: Vec<u64>,
        /// Why it is not what the channel offers.
        why: String,
    },
}

/// Chooses between what the channel offers and what is recorded.
///
/// # Errors
/// [`BootError::State`].
pub(super) fn choose(engine: &Engine, offered: Box<Release>) -> Result<Choice, BootError> {
    let releases = Releases::load(&engine.state().releases());
    let Some(Note { reason, .. }) = releases.note(&offered.id).filter(|note| note.is_bad()) else {
        return Ok(Choice::Offered(offered));
    };
    let why = format!("release {} ({}) failed on this node: {reason}", offered.version, offered.id);
    let recorded = recorded(engine).map_err(BootError::State)?;
    let is_bad = |release: &ReleaseId| releases.note(release).is_some_and(Note::is_bad);
    let numbers = good(&recorded, &offered.channel, is_bad);
    Ok(Choice::Recorded { numbers, why })
}

/// What counts of a recorded generation.
struct Recorded {
    number: u64,
    cause: Cause,
    channel: FlistName,
    release: ReleaseId,
}

fn recorded(engine: &Engine) -> Result<Vec<Recorded>, EngineError> {
    let mut all = Vec::new();
    for number in engine.state().numbers().map_err(EngineError::Generation)? {
        // A damaged record is none.
        if let Some(generation) = engine.state().recorded(number).map_err(EngineError::Generation)? {
            let Generation { cause, channel, release, .. } = generation;
            all.push(Recorded { number, cause, channel, release });
        }
    }
    Ok(all)
}

/// The newest generation of each good release of this channel, the newest one first. A generation of a
/// self-update is no release as a whole.
fn good(all: &[Recorded], channel: &FlistName, is_bad: impl Fn(&ReleaseId) -> bool) -> Vec<u64> {
    let whole = |cause| matches!(cause, Cause::FirstBoot | Cause::Release | Cause::Revert);
    let usable =
        |found: &&Recorded| whole(found.cause) && found.channel == *channel && !is_bad(&found.release);
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
    fn the_newest_generation_of_each_good_release_of_the_channel_counts() {
        let channel: FlistName = "tf-zos/zos:development:latest.flist".parse().unwrap();
        let other: FlistName = "tf-zos/zos:testing:latest.flist".parse().unwrap();
        let of = |number, cause, channel: &FlistName, release| Recorded {
            number,
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
        assert_eq!(good(&all, &channel, |release| *release == id(3)), [3, 2]);
        assert_eq!(good(&all, &channel, |_| false), [4, 3, 2]);
        assert_eq!(good(&all, &channel, |_| true), [0; 0]);
    }
}
