//! Why a node is not provisioned.

use std::io;
use std::path::PathBuf;

use flist::hub::AccessError;
use flist::trust::TrustError;

use super::FILES;
use crate::root::RootError;
use crate::settings::SettingsError;

/// Why a node was not provisioned. But for [`ProvisionError::File`], nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ProvisionError {
    /// A file cannot be read or written.
    #[error("cannot {action} {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The directory that was named is none.
    #[error("there is no directory {path}; name the one with the files")]
    NoDirectory {
        /// What was named.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A link leads nowhere.
    #[error(
        "{0} is a link to something that is not there; nothing was changed; put the file there, or remove the link"
    )]
    Dangling(PathBuf),
    /// Something is no regular file.
    #[error(
        "{0} is no regular file; nothing was changed; move it away, and put the file itself there if there is one"
    )]
    NoFile(PathBuf),
    /// A file is longer than any such file.
    #[error("{path} is longer than {limit} bytes, as no such file is; nothing was changed")]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The limit.
        limit: usize,
    },
    /// A name that would not be found on the node.
    #[error(
        "{path} is not taken, because it has to be called {name}; nothing was changed; rename or remove it"
    )]
    Misnamed {
        /// The file.
        path: PathBuf,
        /// What it was meant to be.
        name: &'static str,
    },
    /// There is nothing to provision.
    #[error("{from} has none of {}; {}", names(), found(.not_taken))]
    Empty {
        /// The directory.
        from: PathBuf,
        /// What is in it.
        not_taken: Vec<String>,
    },
    /// A root of trust is none.
    #[error("{path} is no root of trust; nothing was changed")]
    Root {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: TrustError,
    },
    /// Releases and the choices among them would be signed by the same keys.
    #[error(
        "{root} and {director} are of the same repository, by their keys: the first has to be the root.json of the releases, the second that of the director; nothing was changed; take each from its own repository"
    )]
    SameRepository {
        /// The root of trust.
        root: PathBuf,
        /// The director's root.
        director: PathBuf,
    },
    /// The roots are exchanged.
    #[error(
        "root.json and director.json in {from} are exchanged: by their keys one is what {place} has as the other; nothing was changed; if they are exchanged in {place}, remove them there first"
    )]
    Exchanged {
        /// The directory with the files.
        from: PathBuf,
        /// Where the node has them.
        place: PathBuf,
    },
    /// The configuration is not usable.
    #[error("the configuration is not usable; nothing was changed")]
    Config(#[source] SettingsError),
    /// There is no such root.
    #[error("{0} is no directory, so it is no root file system; nothing was changed")]
    NoRoot(PathBuf),
    /// Something in the root cannot be looked at.
    #[error("the root file system cannot be used; nothing was changed")]
    InRoot(#[source] RootError),
    /// Something else is where the files have to go.
    #[error(
        "{0} is neither a directory nor a link to one in the root, so nothing can be put there; nothing was changed; remove it first"
    )]
    InTheWay(PathBuf),
    /// What hubs are to be shown cannot be used.
    #[error("what hubs are to be shown cannot be used; nothing was changed")]
    Access(#[source] AccessError),
    /// What the configuration names cannot be found by both programs.
    #[error(
        "the configuration says {option}: {path}, which is no absolute path, or has '..' in it; nothing was changed; write it as /etc/molt/… "
    )]
    NoPath {
        /// The option.
        option: &'static str,
        /// What it says.
        path: PathBuf,
    },
    /// What the configuration names is not there.
    #[error(
        "the configuration says {option}: {path}, which is not in the root and does not come with it, so the node would install nothing; nothing was changed; put it there first, or leave {option} out"
    )]
    Absent {
        /// The option.
        option: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// What is given would never be read.
    #[error(
        "the configuration says {option}: {path}, so {name} would never be read; nothing was changed; leave {option} out, or {name}"
    )]
    Unused {
        /// What was given.
        name: &'static str,
        /// The option.
        option: &'static str,
        /// The file that is read.
        path: PathBuf,
    },
}

fn names() -> String {
    FILES.map(|(name, _)| name).join(", ")
}

fn found(not_taken: &[String]) -> String {
    match not_taken {
        [] => "it is empty".to_owned(),
        names => format!(
            "what is there is not taken: {}; a file is known by its name, so rename those that are meant",
            names.join(", ")
        ),
    }
}
