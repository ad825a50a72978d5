//! Other programs that do the same, as Debian has them.

use std::fs;
use std::path::{Path, PathBuf};

use molt_tests::{Error, tools};

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
#[derive(Debug, Clone, serde::Serialize)]
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
    let (tree, out, packed) = (arena.tree(), arena.path("out"), arena.path("packed"));
    let places = Places { tree, out, packed, input: arena.path("input") };
    let mut missing = Vec::new();
    for (pack, unpack) in [places.squashfs(peers), places.casync(peers), places.tar(peers)] {
        cases.extend([places.pack(pack.0, pack.1(&places.packed))?, places.unpack(unpack.0, unpack.1)]);
        measure::measure(&places.prepare(pack.0, pack.1(&places.input)))?;
    }
    let (name, make) = places.erofs(peers);
    cases.push(places.pack(name, make(&places.packed))?);
    measure::measure(&places.prepare(name, make(&places.input)))?;
    for (name, kind, image) in [
        ("squashfs mount + cp -a", "squashfs", "tree.squashfs"),
        ("erofs mount + cp -a", "erofs", "tree.erofs"),
    ] {
        let case = places.mounted(name, kind, image, &arena.path("mnt"));
        match why_not(kind, &case) {
            None => cases.push(case),
            Some(reason) => missing.push(Missing { name, reason }),
        }
    }
    Ok(missing)
}
