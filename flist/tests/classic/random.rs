//! Arbitrary trees.

use flist::block::{BLOCK_SIZE, Codec};
use flist::path::FlistPath;
use flist::store::{DirStore, Store};
use flist::tree::{Block, Content, Entry, Kind, Meta, Route, Tree};
use flist::xattr::Xattrs;

/// SplitMix64: the same trees every time, and a failing seed can be run alone.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize].clone()
    }

    fn name(&mut self) -> Vec<u8> {
        let names: [&[u8]; 9] = [
            b"plain",
            b" ",
            b"new\nline",
            b"\xff\xfe raw",
            "文件".as_bytes(),
            b"...",
            b"-rf",
            b"\"q\"",
            b"%41",
        ];
        let mut name = [self.pick(&names), self.below(30).to_string().as_bytes()].concat();
        if self.below(12) == 0 {
            name.resize(255, b'n');
        }
        name
    }

    fn meta(&mut self) -> Meta {
        let owners = [0, 1, 1000, 65_534, 4_000_000_000, u32::MAX - 1];
        Meta {
            mode: self.pick(&[0o755, 0o644, 0, 0o4755, 0o2755, 0o1777, 0o7777, 0o400]),
            uid: self.pick(&owners),
            gid: self.pick(&owners),
            mtime: self.pick(&[0, 1, 1_600_000_000, i64::from(u32::MAX)]),
        }
    }

    fn content(&mut self, store: &DirStore) -> Content {
        let blocks = self.below(3) * BLOCK_SIZE as u64;
        let few = self.below(3000);
        let size = self.pick(&[few, few, few, blocks, blocks + 1]) as usize;
        let plain: Vec<u8> = match self.below(3) {
            0 => vec![0; size],
            1 => b"the same line again and again\n".iter().copied().cycle().take(size).collect(),
            _ => std::iter::repeat_with(|| self.next() as u8).take(size).collect(),
        };
        let block = |piece: &[u8]| {
            let sealed = Codec::Classic.seal(piece).unwrap();
            store.put(&sealed.id, &sealed.stored).unwrap();
            Block { id: sealed.id, key: sealed.key }
        };
        Content { size: plain.len() as u64, blocks: plain.chunks(BLOCK_SIZE).map(block).collect() }
    }

    fn kind(&mut self, store: &DirStore) -> Kind {
        let targets: [&[u8]; 4] = [b"plain", b"../..", b"/abs/olute", b"\xff raw\n"];
        match self.below(12) {
            0..4 => Kind::Directory,
            4..8 => Kind::File(self.content(store)),
            8 | 9 => Kind::Symlink(self.pick(&targets).to_vec()),
            10 => self.pick(&[Kind::Fifo, Kind::Socket]),
            _ => self.pick(&[Kind::CharDevice(0x103), Kind::BlockDevice(0x0800)]),
        }
    }
}

/// A tree with blocks of the classic format in `store`, and what of it a classic flist can carry.
pub(crate) fn tree(seed: u64, store: &DirStore) -> (Tree, Tree) {
    let mut random = Random(seed);
    let root = random.meta();
    let (mut tree, mut carried) = (Tree::new(root), Tree::new(root));
    let mut directories = vec![FlistPath::root()];
    for _ in 0..random.below(60) {
        let Ok(path) = random.pick(&directories).join(&random.name()) else { continue };
        let entry = Entry { meta: random.meta(), kind: random.kind(store) };
        if tree.insert(path.clone(), entry.clone()).is_err() {
            continue;
        }
        match entry.kind {
            Kind::Directory => directories.push(path.clone()),
            Kind::File(_) | Kind::Symlink(_) => {}
            // Its readers pass these over.
            _ => continue,
        }
        carried.insert(path.clone(), entry).unwrap();
        if random.below(8) == 0 {
            tree.set_xattrs(path, Xattrs::from([(b"user.note".to_vec(), vec![1, 2])])).unwrap();
        }
    }
    let all = Route::everything;
    let routes = [vec![], vec![all("zdb://a:9900/ns")], vec![all("dir:///a"), all("http://b/store")]];
    let routes = random.pick(&routes);
    for tree in [&mut tree, &mut carried] {
        tree.routes.clone_from(&routes);
        tree.tags.insert("environ".to_owned(), "{\"A\": \"b\"}".to_owned());
        tree.tags.insert("größe".to_owned(), String::new());
    }
    (tree, carried)
}
