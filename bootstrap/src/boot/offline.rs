//! Booting while no hub answers with something that may be installed: from a recorded release whose content this node
//! still has, or from what is installed.

use std::collections::BTreeSet;
use std::time::Duration;

use flist::hub::{Channel, ReleaseId};
use flist::store::{DirStore, Store};

use super::BootError;
use super::choice::{Choice, Other, Recorded, Trust, good, notes, recorded};
use crate::engine::{Engine, ReleaseTree};
use crate::releases::Note;
use crate::settings::Settings;

/// How long the hub, or the content of what it offers, is waited for before that.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// What a node could have without a hub.
pub(super) struct Offline<'e> {
    engine: &'e Engine,
    cache: DirStore,
    other: Other,
    /// What this node has of another channel than the one that it is to follow, for people.
    elsewhere: Option<String>,
}

impl<'e> Offline<'e> {
    /// Looks for it: what is installed; where nothing is, good releases of the channel that the node trusts, every
    /// block of which is in the cache.
    ///
    /// # Errors
    /// [`BootError::State`].
    pub(super) fn look(engine: &'e Engine, settings: &Settings, trust: Trust) -> Result<Self, BootError> {
        let cache = DirStore::new(&settings.cache_dir);
        let followed = settings.channels.iter().map(|(channel, _)| channel.clone()).collect::<Vec<_>>();
        let recorded = |channels: &[Channel]| complete(engine, channels, trust, &cache);
        let (other, number) = match engine.current().map_err(BootError::State)? {
            Some(current) => (Other::Installed, Some(current.number)),
            None => match recorded(&followed)? {
                // What could be booted from if something else were asked for.
                none if none.is_empty() => {
                    let others = other_channels(engine, &followed)?;
                    (Other::Recorded(none), recorded(&others)?.into_iter().max())
                }
                numbers => (Other::Recorded(numbers), None),
            },
        };
        let elsewhere = number.and_then(|number| of_other_channel(engine, settings, &other, number));
        Ok(Self { engine, other, cache, elsewhere })
    }

    /// What to boot from when the hub, after so long, has answered with nothing that may be installed: silence and
    /// answers that nobody may trust are in the same hands. For what is recorded that takes every block in hand: a
    /// power cut can leave blocks that are there by name only. Blocks the thread.
    pub(super) fn instead(&mut self, after: Duration, reason: &str) -> Option<Choice> {
        if after < PATIENCE || self.other.is_nothing() {
            return None;
        }
        let (state, cache) = (self.engine.state(), &self.cache);
        if let Other::Recorded(numbers) = &mut self.other {
            numbers.retain(|number| {
                let release = ReleaseTree::recorded(state, *number);
                let whole = release.is_ok_and(|release| is_whole(&release, cache));
                if !whole {
                    tracing::warn!(
                        generation = number,
                        "blocks of a recorded release are damaged in the cache"
                    );
                }
                whole
            });
        }
        let mut why = format!("the hub has offered nothing for {PATIENCE:?} that may be installed: {reason}");
        if let Some(elsewhere) = &self.elsewhere {
            why = format!("{why}; {elsewhere}");
        }
        (!self.other.is_nothing()).then(|| Choice::Other { other: self.other.clone(), why })
    }

    /// What ends the wait besides `event`, for people.
    pub(super) fn until(&self, event: &str) -> String {
        let until = match &self.other {
            Other::Installed => format!("{event}, for at most {PATIENCE:?}: then what is installed counts"),
            Other::Recorded(numbers) if numbers.is_empty() => {
                format!("{event}; nothing that is recorded could be installed instead")
            }
            Other::Recorded(_) => {
                format!("{event}, for at most {PATIENCE:?}: then what is recorded is installed")
            }
        };
        match &self.elsewhere {
            Some(elsewhere) => format!("{until}: {elsewhere}"),
            None => until,
        }
    }
}

/// The channels that releases are recorded of, other than these.
fn other_channels(engine: &Engine, followed: &[Channel]) -> Result<Vec<Channel>, BootError> {
    let recorded = recorded(engine).map_err(BootError::State)?;
    let others = recorded.iter().map(Recorded::channel).filter(|channel| !followed.contains(channel));
    Ok(others.cloned().collect::<BTreeSet<_>>().into_iter().collect())
}

/// What is said of a generation of another channel than the ones that are followed: why it is not booted from, and what
/// would have it so.
fn of_other_channel(engine: &Engine, settings: &Settings, other: &Other, number: u64) -> Option<String> {
    let generation = engine.state().recorded(number).ok()??;
    let (channel, version) = (&generation.channel, &generation.version);
    let asks = settings.asks_instead_of(channel)?;
    Some(match other {
        Other::Installed => format!(
            "version {version} of {channel} is installed, and {asks}, which is installed at a boot at which a hub offers it"
        ),
        Other::Recorded(_) => format!(
            "version {version} is recorded, but of {channel}, and {asks}; bring back a hub that offers that, or boot \
             with what asked for {channel} to boot from what is recorded"
        ),
    })
}

fn complete(
    engine: &Engine,
    channels: &[Channel],
    trust: Trust,
    cache: &DirStore,
) -> Result<Vec<u64>, BootError> {
    let releases = notes(engine);
    let recorded = recorded(engine).map_err(BootError::State)?;
    let is_bad = |release: &ReleaseId| releases.note(release).is_some_and(Note::is_bad);
    let followed = channels.iter().flat_map(|channel| good(&recorded, channel, trust, is_bad));
    let mut numbers: Vec<u64> = followed.collect();
    // A record that cannot be read is as good as none.
    numbers.retain(|number| {
        ReleaseTree::recorded(engine.state(), *number).is_ok_and(|release| is_complete(&release, cache))
    });
    Ok(numbers)
}

fn is_complete(release: &ReleaseTree, cache: &DirStore) -> bool {
    let mut blocks = release.tree().files().flat_map(|(_, _, content)| &content.blocks);
    blocks.all(|block| cache.has(&block.id).unwrap_or(false))
}

/// As [`is_complete`], and every block is what its id says.
fn is_whole(release: &ReleaseTree, cache: &DirStore) -> bool {
    let mut blocks = release.tree().files().flat_map(|(_, _, content)| &content.blocks);
    blocks.all(|block| cache.get(&block.id).is_ok_and(|block| block.is_some()))
}

#[cfg(test)]
mod tests {
    use flist::block::{BLOCK_SIZE, BlockId, BlockKey};
    use flist::hub::{Channel, FlistName, Release, ReleaseFlist, ReleaseVersion, Sha256};
    use flist::tree::{Block, Content, Entry, Kind, Meta, Tree};
    use flist::trust::for_tests::unchecked;

    use super::*;

    #[test]
    fn one_block_that_is_missing_is_one_too_many() {
        let directory = tempfile::tempdir().unwrap();
        let cache = DirStore::new(directory.path());
        let block = |plain: &[u8]| Block { id: BlockId::of(plain), key: BlockKey::of(plain) };
        let size = BLOCK_SIZE as u64 + 1;
        let content = Content { size, blocks: vec![block(b"a"), block(b"b")] };
        let meta = Meta { mode: 0o644, uid: 0, gid: 0, mtime: 0 };
        let mut tree = Tree::new(meta);
        tree.insert("file".parse().unwrap(), Entry { meta, kind: Kind::File(content) }).unwrap();
        let channel: FlistName = "a/b:v1.0.0.flist".parse().unwrap();
        let bytes = flist::format::fl::to_bytes(&tree).unwrap();
        let (package, sha256) = (String::new(), Sha256::of(&bytes));
        let release = Release {
            version: ReleaseVersion::in_name(&channel),
            channel: Channel::Flist(channel.clone()),
            id: ReleaseId::of([]),
            info: serde_json::Map::new(),
            flists: vec![ReleaseFlist { package, location: channel, sha256, bytes }],
        };
        let release = ReleaseTree::read(unchecked(release)).unwrap();
        cache.put(&BlockId::of(b"a"), b"a").unwrap();
        assert!(!is_complete(&release, &cache));
        cache.put(&BlockId::of(b"b"), b"b").unwrap();
        assert!(is_complete(&release, &cache) && is_whole(&release, &cache));
        // As a power cut leaves it.
        std::fs::write(cache.path_of(&BlockId::of(b"b")), "").unwrap();
        assert!(is_complete(&release, &cache) && !is_whole(&release, &cache));
    }
}
