//! Partition tables as UEFI wants them (UEFI specification, chapter 5). Pure.

/// Bytes of a sector.
pub(super) const SECTOR: u64 = 512;

/// Sectors with the entries of a table.
const ENTRY_SECTORS: u64 = 32;

/// Entries of a table, and bytes of each.
const ENTRIES: u32 = 128;
const ENTRY: usize = 128;

/// Bytes of a header that count.
const HEADER: u32 = 92;

/// Sectors before the first that a partition may have: a table for whoever knows no GPT, a header, the entries.
pub(super) const BEFORE: u64 = 2 + ENTRY_SECTORS;

/// Sectors behind the last: entries and header once more.
pub(super) const BEHIND: u64 = 1 + ENTRY_SECTORS;

/// Longest name of a partition, in UTF-16 units.
const NAME: usize = 36;

/// What a partition is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The firmware looks for programs there.
    EfiSystem,
    /// Data of Linux.
    Linux,
}

impl Kind {
    /// Its type: C12A7328-F81F-11D2-BA4B-00C04FC93EC8, 0FC63DAF-8483-4772-8E79-3D69D8477DE4.
    const fn guid(self) -> [u8; 16] {
        let (a, b, c, rest) = match self {
            Self::EfiSystem => (0xc12a_7328_u32, 0xf81f_u16, 0x11d2_u16, 0xba4b_00c0_4fc9_3ec8_u64),
            Self::Linux => (0x0fc6_3daf, 0x8483, 0x4772, 0x8e79_3d69_d847_7de4),
        };
        let ([a, b, c, d], [e, f], [g, h], [i, j, k, l, m, n, o, p]) =
            (a.to_le_bytes(), b.to_le_bytes(), c.to_le_bytes(), rest.to_be_bytes());
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
    }
}

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Partition {
    pub(super) kind: Kind,
    pub(super) name: &'static str,
    /// Its first sector.
    pub(super) first: u64,
    /// How many it has.
    pub(super) sectors: u64,
}

/// What is at the beginning and at the end of a disk with so many sectors. The ids of the disk and of its partitions
/// come from `seed`: whoever makes the same disk gets the same bytes.
pub(super) fn tables(sectors: u64, partitions: &[Partition], seed: [u8; 16]) -> (Vec<u8>, Vec<u8>) {
    let mut entries = Vec::new();
    for (number, partition) in (1..).zip(partitions) {
        entry(partition, id(seed, number), &mut entries);
    }
    entries.resize(ENTRIES as usize * ENTRY, 0);
    let last = sectors - 1;
    let header = |own: u64, other: u64, table: u64| {
        let mut header = Vec::new();
        header.extend(b"EFI PART\0\0\x01\0");
        header.extend(HEADER.to_le_bytes());
        // The checksum, and what is reserved.
        header.extend([0; 8]);
        for sector in [own, other, BEFORE, last - BEHIND] {
            header.extend(sector.to_le_bytes());
        }
        header.extend(id(seed, 0));
        header.extend(table.to_le_bytes());
        header.extend(ENTRIES.to_le_bytes());
        header.extend((ENTRY as u32).to_le_bytes());
        header.extend(crc32(&entries).to_le_bytes());
        let sum = crc32(&header).to_le_bytes();
        header[16..20].copy_from_slice(&sum);
        header.resize(SECTOR as usize, 0);
        header
    };
    let beginning = [protective(sectors), header(1, last, 2), entries.clone()].concat();
    let end = [entries.clone(), header(last, 1, last - ENTRY_SECTORS)].concat();
    (beginning, end)
}

fn entry(partition: &Partition, id: [u8; 16], entries: &mut Vec<u8>) {
    entries.extend(partition.kind.guid());
    entries.extend(id);
    entries.extend(partition.first.to_le_bytes());
    entries.extend((partition.first + partition.sectors - 1).to_le_bytes());
    // No attributes.
    entries.extend([0; 8]);
    let name = partition.name.encode_utf16().chain(std::iter::repeat(0)).take(NAME);
    entries.extend(name.flat_map(u16::to_le_bytes));
}

/// The first sector, for whoever knows no GPT: a disk with one partition of a kind that nobody touches.
fn protective(sectors: u64) -> Vec<u8> {
    let mut sector = vec![0; SECTOR as usize];
    let length = u32::try_from(sectors - 1).unwrap_or(u32::MAX);
    sector[446..458].copy_from_slice(&[0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0]);
    sector[458..462].copy_from_slice(&length.to_le_bytes());
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

/// A random id (RFC 9562, version 4) as far as the seed is.
fn id(seed: [u8; 16], number: u8) -> [u8; 16] {
    let mut id = seed;
    id[15] ^= number;
    id[7] = (id[7] & 0x0f) | 0x40;
    id[8] = (id[8] & 0x3f) | 0x80;
    id
}

/// The usual one: of Ethernet, zip, PNG.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ (0xedb8_8320 & (sum & 1).wrapping_neg()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_laid_out_as_firmware_wants_it() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        let partitions = [
            Partition { kind: Kind::EfiSystem, name: "boot", first: 2048, sectors: 100 },
            Partition { kind: Kind::Linux, name: "MOLT", first: 4096, sectors: 1 },
        ];
        let (beginning, end) = tables(10_000, &partitions, [7; 16]);
        assert_eq!((beginning.len() as u64, end.len() as u64), (BEFORE * SECTOR, BEHIND * SECTOR));
        assert_eq!(beginning[510..512], [0x55, 0xaa]);
        let number = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let (first, second) = (&beginning[512..1024], &end[end.len() - 512..]);
        for (header, own, other, table) in [(first, 1, 9999, 2), (second, 9999, 1, 9967)] {
            assert!(header.starts_with(b"EFI PART"));
            assert_eq!([number(header, 24), number(header, 32), number(header, 72)], [own, other, table]);
            assert_eq!([number(header, 40), number(header, 48)], [34, 9966]);
            let mut plain = header[..92].to_vec();
            plain[16..20].fill(0);
            assert_eq!(header[16..20], crc32(&plain).to_le_bytes());
            assert_eq!(header[88..92], crc32(&beginning[1024..]).to_le_bytes());
        }
        let entry = &beginning[1024..];
        // As it is written, and as it lies there: the first three parts are little-endian.
        assert_eq!(hex::encode(&entry[..16]), "28732ac11ff8d211ba4b00c04fc93ec8");
        assert_eq!([number(entry, 32), number(entry, 40)], [2048, 2147]);
        assert_eq!(&entry[56..64], b"b\0o\0o\0t\0");
        assert_eq!(hex::encode(&entry[128..144]), "af3dc60f838472478e793d69d8477de4");
        assert_ne!(entry[16..32], entry[144..160], "every partition has an id of its own");
        assert_eq!((entry[23] >> 4, entry[24] >> 6), (4, 2));
    }
}
