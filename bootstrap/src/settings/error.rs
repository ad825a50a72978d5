//! Why settings are not usable.

use std::path::PathBuf;

use flist::hub::{AccessError, HubError, NameError, TagNameError};
use flist::store::StoreError;

use crate::kernel_params::KernelParamsError;
use crate::maintenance::MaintenanceError;

/// Why the settings are not usable.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A file could not be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// A file that was named is not there.
    #[error("{option} names {path}, which is not there; make it, or leave the option out")]
    Absent {
        /// The option that names it.
        option: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// The configuration file is not valid.
    #[error("{path} is not valid")]
    File {
        /// The file.
        path: PathBuf,
        /// Line, column and reason.
        #[source]
        source: serde_yaml::Error,
    },
    /// The configuration file is absurdly long.
    #[error("{path} is longer than the {limit} bytes allowed")]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The limit in bytes.
        limit: u64,
    },
    /// A value of the configuration file is out of range.
    #[error("{path}: {key} is {value}, expected {expected}")]
    Range {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What is allowed.
        expected: String,
    },
    /// The maintenance windows are not usable.
    #[error("{path} is not valid")]
    Maintenance {
        /// The file.
        path: PathBuf,
        /// What is wrong with them.
        #[source]
        source: MaintenanceError,
    },
    /// The kernel command line is not usable.
    #[error("the kernel command line asks for something that cannot be")]
    KernelParams(#[source] KernelParamsError),
    /// The hub's address is none.
    #[error("the address of the hub is not usable")]
    Hub(#[source] HubError),
    /// What the hub is to be shown cannot be used.
    #[error("what the hub is to be shown cannot be used")]
    Access(#[source] AccessError),
    /// The store's address is none.
    #[error("the address of the store is not usable")]
    Store(#[source] StoreError),
    /// The channel's names do not form the name of a flist.
    #[error("the channel has no usable name")]
    Channel(#[source] NameError),
    /// The channel's names do not form the name of a taglink.
    #[error("the channel has no usable name")]
    Taglink(#[source] TagNameError),
    /// The version that was asked for is no tag's name.
    #[error("the version that was asked for cannot be a tag")]
    Tag(#[source] TagNameError),
}
