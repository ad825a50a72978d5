//! What a node does about another kernel in a release, as the configuration file says it.

use std::path::Path;
use std::time::Duration;

use flist::path::FlistPath;
use serde::Deserialize;

use super::error::SettingsError;
use super::file::seconds_within;

/// How long another kernel may take until everything is well with it.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(900);

/// Whoever waits longer than this for a kernel has made a mistake.
const MAX_DEADLINE_SECONDS: u64 = 24 * 3600;

/// What is done when the installed release brings another kernel than the one that runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KernelPolicy {
    /// It is reported, and that is all.
    #[default]
    Never,
    /// The running kernel starts it.
    Kexec,
    /// A program prepares the boot loader for it, and the machine reboots.
    Reboot,
}

/// The same with everything that belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelSettings {
    /// What is done.
    pub policy: KernelPolicy,
    /// The program that prepares the boot loader; there is one with [`KernelPolicy::Reboot`].
    pub boot_loader: Option<FlistPath>,
    /// How long after its start everything has to be well with another kernel.
    pub deadline: Duration,
}

/// What the file says.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct KernelNames {
    policy: KernelPolicy,
    boot_loader: Option<String>,
    deadline: Option<u64>,
}

impl KernelNames {
    pub(super) fn weigh(self, config: &Path) -> Result<KernelSettings, SettingsError> {
        let wrong = |key, value, expected: &str| SettingsError::Range {
            path: config.to_owned(),
            key,
            value,
            expected: expected.to_owned(),
        };
        let absolute = |text: String| match text.strip_prefix('/').map(str::parse::<FlistPath>) {
            Some(Ok(path)) if !path.is_root() => Ok(path),
            _ => Err(wrong("kernel.boot_loader", text, "the absolute path of a program")),
        };
        let boot_loader = self.boot_loader.map(absolute).transpose()?;
        if self.policy == KernelPolicy::Reboot && boot_loader.is_none() {
            let expected = "kernel.boot_loader beside it, a program that has the boot loader start the kernel of the \
                            release once (docs/operations.md), or the policy kexec or never";
            return Err(wrong("kernel.policy", "reboot".to_owned(), expected));
        }
        let deadline =
            seconds_within(config, "kernel.deadline", self.deadline, DEFAULT_DEADLINE, MAX_DEADLINE_SECONDS)?;
        Ok(KernelSettings { policy: self.policy, boot_loader, deadline })
    }
}
