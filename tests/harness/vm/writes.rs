//! The log of everything that a disk was told to write, and the disks that a power cut could have left.
//!
//! The layout is that of the kernel's dm-log-writes (Documentation/admin-guide/device-mapper/log-writes.rst), which
//! QEMU's `blklogwrites` keeps: a first sector that describes the log; then, for each request, a sector that
//! describes it and the data. Between two flushes a disk may write in any order and leave out anything.
//! A machine can keep such a log itself as well (`guest_log.rs`).

use std::fs::File;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use fastrand::Rng;

use crate::error::{Doing, Error};

/// Bytes of a sector, as we tell QEMU.
pub(super) const SECTOR: u64 = 512;

/// What the first sector begins with.
const MAGIC: u64 = 0x006a_7366_7773_6872;

/// Flags of a request: everything before it is durable; so is it itself; it has no data.
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;

/// Most bytes of one request; a log with more is damaged.
const MAX_REQUEST: u64 = 64 << 20;

/// One request to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Request {
    /// The first sector that it writes.
    sector: u64,
    /// How many.
    sectors: u64,
    flags: u64,
    /// Where its data is in the log.
    data: u64,
}

/// A log, read.
pub struct WriteLog {
    log: File,
    requests: Vec<Request>,
}

impl WriteLog {
    /// Reads the log as far as it has been written.
    ///
    /// # Errors
    /// When it is no log.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let log = File::open(path).doing(|| format!("open {}", path.display()))?;
        let requests = requests(&log).doing(|| format!("read the log of writes {}", path.display()))?;
        Ok(Self { log, requests })
    }

    /// How many requests there are.
    pub fn len(&self) -> usize {
        self.requests.len()
    }

    /// How many of the requests of this range are flushes.
    pub fn flushes(&self, range: Range<usize>) -> usize {
        let requests = self.requests.get(range).unwrap_or_default();
        requests.iter().filter(|request| request.flags & FLUSH != 0).count()
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Lets `disk`, which is as it was before the first request, come to what a power cut after `count` requests
    /// can have left: all that was flushed, and of the rest whatever `random` picks, in any order.
    ///
    /// # Errors
    /// When something cannot be read or written.
    pub fn replay(&self, count: usize, disk: &Path, random: &mut Rng) -> Result<Replayed, Error> {
        let target = File::options().write(true).open(disk).doing(|| format!("open {}", disk.display()))?;
        let requests = &self.requests[..count.min(self.requests.len())];
        let durable = requests.iter().rposition(|request| request.flags & FLUSH != 0).map_or(0, |at| at + 1);
        let mut replayed = Replayed { durable, kept: 0, lost: 0 };
        for request in &requests[..durable] {
            self.write(request, &target)?;
        }
        let mut rest: Vec<_> = requests[durable..].iter().collect();
        random.shuffle(&mut rest);
        for request in rest {
            // A write that is durable by itself has been acknowledged as such.
            if request.flags & FUA != 0 || random.bool() {
                self.write(request, &target)?;
                replayed.kept += 1;
            } else {
                replayed.lost += 1;
            }
        }
        Ok(replayed)
    }

    fn write(&self, request: &Request, target: &File) -> Result<(), Error> {
        if request.flags & DISCARD != 0 || request.sectors == 0 {
            return Ok(());
        }
        let length = usize::try_from(request.sectors * SECTOR).unwrap_or_default();
        let mut data = vec![0; length];
        self.log
            .read_exact_at(&mut data, request.data)
            .and_then(|()| target.write_all_at(&data, request.sector * SECTOR))
            .doing(|| "replay a write".to_owned())
    }
}

/// What a replay came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replayed {
    /// Requests up to the last flush.
    pub durable: usize,
    /// Writes after it that reached the disk.
    pub kept: usize,
    /// Writes after it that did not.
    pub lost: usize,
}

fn requests(log: &File) -> io::Result<Vec<Request>> {
    let damaged = |text: &str| io::Error::new(ErrorKind::InvalidData, text.to_owned());
    let mut first = [0; 24];
    log.read_exact_at(&mut first, 0)?;
    if number(&first, 0) != MAGIC {
        return Err(damaged("it does not begin as one"));
    }
    let (mut found, mut at) = (Vec::new(), SECTOR);
    loop {
        let mut header = [0; 32];
        match log.read_exact_at(&mut header, at) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(found),
            read => read?,
        }
        let [sector, sectors, flags] = [0, 1, 2].map(|field| number(&header, field));
        if sectors == 0 && flags == 0 {
            return Ok(found);
        }
        if sectors.saturating_mul(SECTOR) > MAX_REQUEST && flags & DISCARD == 0 {
            return Err(damaged("a request is absurdly long"));
        }
        let data = at + SECTOR;
        at = if flags & DISCARD == 0 { data + sectors * SECTOR } else { data };
        found.push(Request { sector, sectors, flags, data });
    }
}

/// The little-endian number in a field of eight bytes.
fn number(bytes: &[u8], field: usize) -> u64 {
    let mut own = [0; 8];
    own.copy_from_slice(&bytes[field * 8..field * 8 + 8]);
    u64::from_le_bytes(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log_of(requests: &[(u64, u64, u8)]) -> Vec<u8> {
        let mut bytes = MAGIC.to_le_bytes().to_vec();
        bytes.resize(SECTOR as usize, 0);
        for (sector, flags, fill) in requests {
            let sectors = u64::from(*flags != FLUSH);
            let header = [*sector, sectors, *flags, 0].map(u64::to_le_bytes).concat();
            bytes.extend(&header);
            bytes.resize(bytes.len() - header.len() + SECTOR as usize, 0);
            bytes.extend(vec![*fill; (sectors * SECTOR) as usize]);
        }
        bytes.extend([0; 1024]);
        bytes
    }

    #[test]
    fn what_was_flushed_is_there_and_the_rest_may_be() {
        let directory = tempfile::tempdir().unwrap();
        let (log, disk) = (directory.path().join("log"), directory.path().join("disk"));
        std::fs::write(&log, log_of(&[(0, 0, 1), (1, 0, 2), (0, FLUSH, 0), (0, 0, 3), (2, FUA, 4)])).unwrap();
        let log = WriteLog::read(&log).unwrap();
        assert_eq!((log.len(), log.flushes(0..5), log.flushes(3..9)), (5, 1, 0));
        let mut random = Rng::with_seed(1);
        let (mut old, mut new) = (0, 0);
        for _ in 0..50 {
            std::fs::write(&disk, [0; 3 * SECTOR as usize]).unwrap();
            let replayed = log.replay(5, &disk, &mut random).unwrap();
            assert_eq!((replayed.durable, replayed.kept + replayed.lost), (3, 2));
            let bytes = std::fs::read(&disk).unwrap();
            assert_eq!((bytes[512], bytes[1024]), (2, 4), "flushed, and durable by itself");
            match bytes[0] {
                1 => old += 1,
                3 => new += 1,
                other => panic!("{other}"),
            }
        }
        assert!(old > 0 && new > 0);
        std::fs::write(&disk, [0; 3 * SECTOR as usize]).unwrap();
        log.replay(1, &disk, &mut random).unwrap();
        assert_eq!(std::fs::read(&disk).unwrap()[512], 0, "it has not been asked for yet");
    }
}
