//! What is to be said about the kernel of the installed release. Pure.

use serde::{Deserialize, Serialize};

use super::image::KernelId;

/// What people and programs are told about kernels; nothing where the kernel that runs is that of the release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelStatus {
    /// What is the matter.
    pub state: KernelState,
    /// The kernel of the installed release; `None`: nobody can tell.
    pub installed: Option<KernelId>,
    /// The one that runs.
    pub running: KernelId,
    /// Why, in words.
    pub reason: String,
}

/// What is the matter with the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KernelState {
    /// The release brings another kernel than the one that runs.
    RebootRequired,
    /// Nobody can tell which kernel the release brings.
    Unknown,
}

/// What is known.
#[derive(Debug, Clone, Copy)]
pub struct View<'v> {
    /// The kernel of the installed release: `None` where it brings none, an error where nobody can tell which.
    pub installed: Result<Option<&'v KernelId>, &'v str>,
    /// The one that runs.
    pub running: &'v KernelId,
}

/// Decides.
pub fn decide(view: &View<'_>) -> Option<KernelStatus> {
    let View { installed, running } = *view;
    let (state, installed, reason) = match installed {
        Ok(None) => return None,
        Ok(Some(installed)) if installed == running => return None,
        Ok(Some(installed)) => {
            let reason =
                format!("the release brings {installed}, and {running} runs; it counts after a reboot");
            (KernelState::RebootRequired, Some(installed.clone()), reason)
        }
        Err(trouble) => {
            let reason = format!("nobody can tell whether the kernel of the release runs: {trouble}");
            (KernelState::Unknown, None, reason)
        }
    };
    Some(KernelStatus { state, installed, running: running.clone(), reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(release: &str) -> KernelId {
        KernelId { release: release.to_owned(), build: "#1".to_owned() }
    }

    #[test]
    fn only_another_kernel_requires_a_reboot() {
        let (old, new) = (kernel("1"), kernel("2"));
        let decided = |installed| decide(&View { installed, running: &old });
        assert_eq!(decided(Ok(None)), None);
        assert_eq!(decided(Ok(Some(&old))), None);
        let shown = decided(Ok(Some(&new))).unwrap();
        assert_eq!((shown.state, shown.installed.as_ref()), (KernelState::RebootRequired, Some(&new)));
        assert!(shown.reason.contains("Linux 2 (#1), and Linux 1 (#1) runs"), "{}", shown.reason);
        let rebuilt = KernelId { build: "#2".to_owned(), ..kernel("1") };
        assert_eq!(decided(Ok(Some(&rebuilt))).unwrap().state, KernelState::RebootRequired);
        let shown = decided(Err("it is no bzImage")).unwrap();
        assert_eq!((shown.state, shown.installed.as_ref()), (KernelState::Unknown, None));
        assert!(shown.reason.contains("it is no bzImage"), "{}", shown.reason);
    }
}
