//! Whether there is the state of a node where a subcommand looks for it, and whether its user may look.

use std::path::{Path, PathBuf};

use bootstrap::generation::GENERATIONS;
use bootstrap::state_place::StatePlace;

use super::failure::{CommandResult, Failure};

/// There is no state of a node where it was looked for.
#[derive(Debug, thiserror::Error)]
#[error(
    "there is no directory {}, where the state of a node is kept; on a node with another one give --state-dir; \
     one that bootstrap has never booted has none",
    .directory.display()
)]
struct NoState {
    directory: PathBuf,
}

/// A directory is none with the state of a node.
#[derive(Debug, thiserror::Error)]
#[error(
    "there is no {GENERATIONS} in {}, so this is not the directory with the state of a node; give the right one with --state-dir",
    .directory.display()
)]
struct NoGenerations {
    directory: PathBuf,
}

/// What says something of a node is not for everybody.
#[derive(Debug, thiserror::Error)]
#[error(
    "user {user} may not look into {}, so nothing can be said of this node; do it again as root, or as the user whose that is",
    .path.display()
)]
struct Forbidden {
    user: u32,
    path: PathBuf,
}

/// Refuses where this is not for the user of this program: what is not seen is not missing.
pub(super) fn require_readable(forbidden: Option<&Path>) -> CommandResult {
    let user = nix::unistd::geteuid().as_raw();
    let refused = |path: &Path| Failure::Refused(Box::new(Forbidden { user, path: path.to_owned() }));
    forbidden.map_or(Ok(()), |path| Err(refused(path)))
}

/// Refuses to look for what is recorded of a node where there is none: what is found empty would be a mistyped directory.
/// Every node that was ever booted has a place for generations.
pub(super) fn require_generations(place: &StatePlace) -> CommandResult {
    require_readable(place.forbidden().as_deref())?;
    match place.directory() {
        directory if !directory.is_dir() => Err(Failure::Usage(Box::new(NoState { directory }))),
        directory if !directory.join(GENERATIONS).is_dir() => {
            Err(Failure::Usage(Box::new(NoGenerations { directory })))
        }
        _ => Ok(()),
    }
}
