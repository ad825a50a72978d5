//! The repository that nodes check releases against: its keys, its roles, and signing.
//!
//! ```text
//! DIR/settings.json          lifetimes
//! DIR/keys/<role>-<id>.key   sealed keys; they may lie elsewhere, and those of root and targets should
//! DIR/keys/signers.json      which keys are signed with by a command
//! DIR/metadata/              what is served: 1.root.json … timestamp.json
//! DIR/staged/                the next versions, while signatures are missing
//! DIR/.lock                  held while something is changed
//! ```
//!
//! A change is made in memory as a whole, signed with the keys that are at hand, and written in an order in which
//! whoever reads meanwhile finds the old state or the new one: timestamp last.
//!
//! Without its `keys` the directory travels to those who hold other keys. Nothing that then comes from it is run, and
//! what it says is shown to them, as a difference from what is in force, before they sign.

mod change;
mod change_lock;
mod commands;
mod difference;
mod directory;
mod envelope;
mod key;
mod release;
mod roles;
mod settle;
mod signer;
mod staged;
mod states;

use std::io;
use std::path::PathBuf;

pub use change::{Outcome, Waiting};
pub use commands::{CommandsError, keep_command};
pub use difference::{Edit, RoleDifference, Subject};
pub use directory::{Lifetimes, Settings, TrustDirectory};
pub use key::{KeyError, Passphrase, PublicKey, ROUNDS, SecretKey, is_key_file, public_of};
pub use release::{Conditions, SignedFlist, SignedRelease};
pub use roles::{Plan, RoleName, RoleNameError, RolePlan};
pub use signer::{SignerError, Signers};
pub use staged::Staged;
pub use states::RoleState;

/// Why the repository was not changed.
#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    /// A file of it cannot be used.
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
    /// A file of it is not what it should be.
    #[error("{path} is damaged")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// Its settings name commands, as those of earlier versions did.
    #[error(
        "{0} names commands that sign, which are not run from there, because it travels with copies of the repository; take `commands` out of it, and write them into signers.json in a directory of keys: flist trust key add --command does that, or name them with --signer"
    )]
    Commands(PathBuf),
    /// There is no repository.
    #[error("there is no trust repository in {0}; make one with: flist trust init")]
    None(PathBuf),
    /// There is one already.
    #[error("there is a trust repository in {0} already; choose another directory")]
    Exists(PathBuf),
    /// There is something else already, which would lie beside the keys.
    #[error("{0} is not empty; make the trust repository in a new directory")]
    NotEmpty(PathBuf),
    /// It is a director's.
    #[error("{0} is a director's repository, which signs no releases; name the other one with --dir")]
    Directors(PathBuf),
    /// A flist belongs to another release.
    #[error(
        "{flist} is signed as a part of version {version} of {channel}, which would be lost; publish it for this release under another name, or take that one back first: flist trust withdraw"
    )]
    Taken {
        /// The flist.
        flist: String,
        /// The version of the other release.
        version: semver::Version,
        /// Its channel.
        channel: String,
    },
    /// Something cannot be signed.
    #[error("cannot be put into the form that is signed")]
    Canonical(#[source] sigstore_tuf::Error),
    /// Signing failed.
    #[error("cannot sign {role}")]
    Sign {
        /// The role.
        role: RoleName,
        /// The reason.
        #[source]
        source: SignerError,
    },
    /// A key cannot be made.
    #[error("cannot make a key for {role}")]
    Key {
        /// The role.
        role: RoleName,
        /// The reason.
        #[source]
        source: KeyError,
    },
    /// A role would have fewer keys than signatures are needed.
    #[error("{role} would have {keys} keys and need {threshold} signatures")]
    Threshold {
        /// The role.
        role: RoleName,
        /// Its keys.
        keys: usize,
        /// Its threshold.
        threshold: usize,
    },
    /// A role does not have this key.
    #[error("{role} has no key whose id begins with {id}")]
    NoKey {
        /// The role.
        role: RoleName,
        /// What was asked for.
        id: String,
    },
    /// A role has this key already.
    #[error("{role} has the key {id} already")]
    HasKey {
        /// The role.
        role: RoleName,
        /// Its id.
        id: String,
    },
    /// Another command changes it.
    #[error("another command is changing the trust repository in {0}; try again when it has ended")]
    Busy(PathBuf),
    /// Changes of the same roles are waiting for signatures, or this one would have to wait beside others.
    #[error(
        "changes are waiting for signatures in {0}, and this one cannot be made before; add them with: flist trust sign, or give the changes up by removing that directory"
    )]
    Staged(PathBuf),
    /// Nothing is waiting for signatures.
    #[error("nothing is waiting for signatures in {0}")]
    NothingStaged(PathBuf),
    /// What waits in a copy is another change.
    #[error(
        "what waits of {role} in {copy} is another change than what waits in {directory}, and one can wait at a time; none of its signatures are taken: sign a copy of what waits, or give one of the two up by removing its directory"
    )]
    OtherChange {
        /// The role.
        role: RoleName,
        /// Where the other change waits.
        copy: PathBuf,
        /// Where this one does.
        directory: PathBuf,
    },
    /// What waits is not what follows what is in force.
    #[error(
        "what waits of {role} in {directory} is version {version}, and {before} is in force, which only {} may follow; nothing is signed: get a copy that is up to date, or give the change up by removing that directory",
        .before.saturating_add(1)
    )]
    NotNext {
        /// The role.
        role: RoleName,
        /// Where it waits.
        directory: PathBuf,
        /// Its version there.
        version: u64,
        /// The version that is in force.
        before: u64,
    },
    /// What is said to be in force was not signed by those who have to.
    #[error(
        "version {version} of {role} in {directory} is not signed by those who have to, so it is not in force, and nobody knows what this change would change; nothing is signed: ask whoever brought this where it comes from"
    )]
    NotInForce {
        /// The role.
        role: RoleName,
        /// Its version.
        version: u64,
        /// Where it is said to be in force.
        directory: PathBuf,
    },
    /// The chain of roots is not that of whoever signs.
    #[error(
        "the roots in {directory} do not follow from {root}; nothing is signed: ask whoever brought this where it comes from"
    )]
    OtherRoot {
        /// Where the roots are.
        directory: PathBuf,
        /// The root of whoever signs.
        root: PathBuf,
    },
    /// A role would count one key twice.
    #[error(
        "{role}, as it waits in {directory}, counts one key twice, which nodes refuse; nothing is signed"
    )]
    SameKeyTwice {
        /// The role.
        role: RoleName,
        /// Where it waits.
        directory: PathBuf,
    },
    /// None of the keys at hand could add a signature.
    #[error(
        "nothing was signed: none of the keys at hand is one that has to sign and has not; able to sign: {}",
        .missing.join(", ")
    )]
    NoKeyAtHand {
        /// The ids of those that could.
        missing: Vec<String>,
    },
    /// There is no such target.
    #[error("{role} has not signed for {target}")]
    NoTarget {
        /// The role.
        role: RoleName,
        /// The target.
        target: String,
    },
}
