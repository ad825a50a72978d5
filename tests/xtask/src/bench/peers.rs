//! Other programs that do the same, as Debian has them.

use std::path::Path;

use molt_tests::{Error, tools};
use serde::Serialize;

use super::arena::Arena;
use super::case::{Case, Invocation, Outcome, Step, copy};
use super::measure;

/// The programs, unpacked from their packages.
pub(super) struct Peers {
    squashfs: tools::Package,
    erofs: tools::Package,
    casync: tools::Package,
    zstd: tools::Package,
}

/// A case that cannot be measured here.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Missing {
    /// What it would be.
    pub(super) name: &'static str,
    /// Why not.
    pub(super) reason: String,
}

/// Downloads what is not there yet.
///
/// # Errors
/// When a package cannot be downloaded.
pub(super) fn bring() -> Result<Peers, Error> {
    Ok(Peers {
        squashfs: tools::package("squashfs-tools")?,
        erofs: tools::package("erofs-utils")?,
        casync: tools::package("casync")?,
        zstd: tools::package("zstd")?,
    })
}

/// Adds the cases of all peers; those that this machine cannot do are returned.
///
/// # Errors
/// When a program fails that should not.
pub(super) fn add_cases(arena: &Arena, peers: &Peers, cases: &mut Vec<Case>) -> Result<Vec<Missing>, Error> {
    let mut missing = Vec::new();
    for (name, unpack_name, peer) in [
        ("mksquashfs, zstd 3", Some("unsquashfs"), peers.squashfs()),
        ("mkfs.erofs, lz4", None, peers.erofs()),
        ("casync make", Some("casync extract"), peers.casync()),
        ("tar + zstd -3", Some("tar, zstd -d"), peers.tar()),
    ] {
        let pack = |to: &Path| vec![Step::Run((peer.pack)(&arena.tree(), to))];
        let (packed, input) = (arena.path("packed"), arena.path("peers"));
        let once = Case { name, fresh: Vec::new(), steps: pack(&input), outcome: Outcome::Packed };
        std::fs::create_dir_all(&input)
            .map_err(|source| Error::System { action: format!("make {}", input.display()), source })?;
        measure::measure(&once)?;
        cases.push(Case {
            name,
            fresh: vec![packed.clone()],
            steps: pack(&packed),
            outcome: Outcome::Packed,
        });
        let out = arena.path("out");
        if let (Some(name), Some(unpack)) = (unpack_name, &peer.unpack) {
            let steps = vec![Step::Run(unpack(&input, &out))];
            cases.push(Case { name, fresh: vec![out.clone()], steps, outcome: Outcome::Copy(out.clone()) });
        }
    }
    for (name, kind) in [("squashfs mount + cp -a", "squashfs"), ("erofs mount + cp -a", "erofs")] {
        let case = mounted(arena, name, kind);
        match measure::measure(&case) {
            Ok(_) => cases.push(case),
            Err(error) => missing.push(Missing { name, reason: format!("{error:?}") }),
        }
    }
    Ok(missing)
}

/// From the first directory to the second.
type Transfer = Box<dyn Fn(&Path, &Path) -> Invocation>;

/// A program by its two directions, from directory to directory.
struct Peer {
    /// Packs a tree to files in a directory.
    pack: Transfer,
    /// Unpacks from that directory.
    unpack: Option<Transfer>,
}

impl Peers {
    fn squashfs(&self) -> Peer {
        let (make, unmake) = (tool(&self.squashfs, "mksquashfs"), tool(&self.squashfs, "unsquashfs"));
        Peer {
            pack: Box::new(move |tree, to| {
                let zstd = ["-comp", "zstd", "-Xcompression-level", "3", "-noappend", "-no-progress"];
                make.clone().arg(tree).arg(to.join("tree.squashfs")).args(zstd)
            }),
            unpack: Some(Box::new(move |from, to| {
                unmake
                    .clone()
                    .args(["-no-progress", "-force", "-dest"])
                    .arg(to)
                    .arg(from.join("tree.squashfs"))
            })),
        }
    }

    fn erofs(&self) -> Peer {
        let make = tool(&self.erofs, "mkfs.erofs");
        let pack =
            move |tree: &Path, to: &Path| make.clone().arg("-zlz4").arg(to.join("tree.erofs")).arg(tree);
        Peer { pack: Box::new(pack), unpack: None }
    }

    fn casync(&self) -> Peer {
        let (make, extract) = (tool(&self.casync, "casync"), tool(&self.casync, "casync"));
        let store = |at: &Path| format!("--store={}", at.join("tree.castr").display());
        Peer {
            pack: Box::new(move |tree, to| {
                make.clone().arg("make").arg(store(to)).arg(to.join("tree.caidx")).arg(tree)
            }),
            unpack: Some(Box::new(move |from, to| {
                extract.clone().arg("extract").arg(store(from)).arg(from.join("tree.caidx")).arg(to)
            })),
        }
    }

    fn tar(&self) -> Peer {
        let zstd = self.zstd.directory.join("usr/bin/zstd");
        let (pack, unpack) = (format!("{} -3 -T0", zstd.display()), format!("{} -d", zstd.display()));
        let tar = Invocation::new("tar").libraries(&self.zstd.libraries);
        let (create, extract) = (tar.clone(), tar);
        Peer {
            pack: Box::new(move |tree, to| {
                let archive =
                    create.clone().args(["--create", "-I", &pack, "--file"]).arg(to.join("tree.tar.zst"));
                archive.arg("--directory").arg(tree).arg(".")
            }),
            unpack: Some(Box::new(move |from, to| {
                let archive = extract.clone().args(["--extract", "-I", &unpack, "--file"]);
                archive.arg(from.join("tree.tar.zst")).arg("--directory").arg(to)
            })),
        }
    }
}

fn tool(package: &tools::Package, program: &str) -> Invocation {
    Invocation::new(package.directory.join("usr/bin").join(program)).libraries(&package.libraries)
}

/// A copy out of an image that the kernel itself reads, through a loop device.
fn mounted(arena: &Arena, name: &'static str, kind: &str) -> Case {
    let (image, at, out) =
        (arena.path("peers").join(format!("tree.{kind}")), arena.path("mnt"), arena.path("out"));
    Case {
        name,
        fresh: vec![out.clone(), at.clone()],
        steps: vec![
            Step::Run(Invocation::new("mount").args(["-t", kind, "-o", "loop,ro"]).arg(image).arg(&at)),
            Step::Run(copy(&at, &out)),
            Step::Run(Invocation::new("umount").arg(&at)),
        ],
        outcome: Outcome::Copy(out),
    }
}
