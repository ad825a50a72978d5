//! What is to be done about the kernel of the installed release, and what is to be said. Pure.
//!
//! ```text
//! another kernel is installed ──► reboot-required ──► Start, where policy and window allow it
//!                                        ▲                │
//!          the old one runs: bad ────────┤                ▼
//!          the new one is not well: back ┴──────────── on-trial ──► well: good
//! ```

use bootstrap::settings::KernelPolicy;
use serde::{Deserialize, Serialize};
use zinit_client::UnitName;

use super::image::KernelId;

/// What people and programs are told about kernels; nothing where the kernel that runs is that of the release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelStatus {
    /// What is the matter.
    pub state: KernelState,
    /// The kernel of the installed release; `None`: it brings none, or nobody can tell.
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
    /// The new kernel runs, and it is not certain yet that all is well with it.
    OnTrial,
    /// Nobody can tell which kernel the release brings, or what was tried.
    Unknown,
}

/// How a kernel is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// By the running one.
    Kexec,
    /// By the boot loader.
    Reboot,
}

/// One attempt to start a kernel. It is on the state disk before the attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// The kernel.
    pub kernel: KernelId,
    /// How it is started.
    pub how: How,
    /// The boot in which that was decided.
    pub from_boot: String,
    /// Services that were well before it, and have to be after it.
    #[serde(default)]
    pub services: Vec<UnitName>,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a trial.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Nobody knows yet.
    Pending,
    /// It runs and the services are well.
    Good,
    /// It is not tried again; why.
    Bad(String),
}

/// What is known.
#[derive(Debug, Clone, Copy)]
pub struct View<'v> {
    /// The kernel of the installed release: `None` where it brings none, an error where nobody can tell which.
    pub installed: Result<Option<&'v KernelId>, &'v str>,
    /// The one that runs.
    pub running: &'v KernelId,
    /// What was tried, the last one last; an error where nobody can tell.
    pub trials: Result<&'v [Trial], &'v str>,
    /// What the administrator allows.
    pub policy: KernelPolicy,
    /// This boot.
    pub boot: &'v str,
    /// What keeps a kernel from being started now; `None`: nothing does.
    pub obstacle: Option<&'v str>,
    /// How the services are, as far as that is known.
    pub health: Health<'v>,
}

/// How the services are after a kernel was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health<'v> {
    /// They are still coming up.
    Unknown,
    /// All that were well before have been so for the health window.
    Well,
    /// They had enough time; what is wrong.
    Ill(&'v str),
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Nothing.
    Wait,
    /// Start the installed kernel.
    Start(How),
    /// Remember what became of the trial.
    Settle(Outcome),
    /// Remember that the trial was bad, for this reason, and go back to the old kernel by rebooting.
    GoBack(String),
}

/// Decides what to do and what to say.
pub fn decide(view: &View<'_>) -> (Decision, Option<KernelStatus>) {
    let say = |state, installed: Option<&KernelId>, reason| {
        Some(KernelStatus { state, installed: installed.cloned(), running: view.running.clone(), reason })
    };
    let trials = match view.trials {
        Ok(trials) => trials,
        // Nobody knows what was tried, so nothing is.
        Err(trouble) => {
            let reason = format!("nobody can tell which kernels were tried, so none is started: {trouble}");
            return (Decision::Wait, say(KernelState::Unknown, view.installed.unwrap_or_default(), reason));
        }
    };
    if let Some(trial) = trials.last().filter(|trial| trial.outcome == Outcome::Pending) {
        let reason = format!("{} was started, and has to show that all is well with it", trial.kernel);
        return (pending(view, trial), say(KernelState::OnTrial, view.installed.unwrap_or_default(), reason));
    }
    match view.installed {
        Err(trouble) => {
            let reason = format!("nobody can tell whether the kernel of the release runs: {trouble}");
            (Decision::Wait, say(KernelState::Unknown, None, reason))
        }
        Ok(Some(installed)) if installed != view.running => {
            let what = format!("the release brings {installed}, and {} runs", view.running);
            let tried = trials.iter().rev().find(|trial| trial.kernel == *installed);
            let (decision, why) = another(view, tried);
            (decision, say(KernelState::RebootRequired, Some(installed), format!("{what}; {why}")))
        }
        Ok(_) => (Decision::Wait, None),
    }
}

/// What is done about another kernel than the one that runs, which was tried already or not, and why no more.
fn another(view: &View<'_>, tried: Option<&Trial>) -> (Decision, String) {
    let wait = |why: String| (Decision::Wait, why);
    match tried.map(|trial| &trial.outcome) {
        Some(Outcome::Bad(reason)) => return wait(format!("it was tried and is not tried again: {reason}")),
        Some(_) => {
            let why = "it was started once and was well, and something has started the old one since";
            return wait(format!("{why}; each kernel is started by itself once"));
        }
        None => {}
    }
    let how = match view.policy {
        KernelPolicy::Never => return wait("kernel.policy is never, so somebody has to reboot".to_owned()),
        KernelPolicy::Kexec => How::Kexec,
        KernelPolicy::Reboot => How::Reboot,
    };
    match view.obstacle {
        Some(obstacle) => wait(format!("it is not started now: {obstacle}")),
        None => (Decision::Start(how), "it is being started".to_owned()),
    }
}

fn pending(view: &View<'_>, trial: &Trial) -> Decision {
    if trial.from_boot == view.boot {
        // Whoever starts a kernel does not come back to ask.
        return Decision::Settle(Outcome::Bad(
            "identityd was interrupted while it was starting it".to_owned(),
        ));
    }
    if trial.kernel != *view.running {
        let reason =
            format!("it did not come up, or not healthy: the machine came back with {}", view.running);
        return Decision::Settle(Outcome::Bad(reason));
    }
    match view.health {
        Health::Unknown => Decision::Wait,
        Health::Well => Decision::Settle(Outcome::Good),
        Health::Ill(reason) => Decision::GoBack(reason.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(release: &str) -> KernelId {
        KernelId { release: release.to_owned(), build: "#1".to_owned() }
    }

    fn trial(release: &str, from_boot: &str, outcome: Outcome) -> Trial {
        let (kernel, from_boot) = (kernel(release), from_boot.to_owned());
        Trial { kernel, how: How::Kexec, from_boot, services: Vec::new(), outcome }
    }

    /// The release brings 2, and 1 runs.
    fn with(test: impl FnOnce(View<'_>, &KernelId)) {
        let (old, new) = (kernel("1"), kernel("2"));
        let view = View {
            installed: Ok(Some(&new)),
            running: &old,
            trials: Ok(&[]),
            policy: KernelPolicy::Kexec,
            boot: "a",
            obstacle: None,
            health: Health::Unknown,
        };
        test(view, &new);
    }

    fn required(view: &View<'_>, part: &str) {
        let (decision, shown) = decide(view);
        let shown = shown.unwrap();
        assert_eq!((decision, shown.state), (Decision::Wait, KernelState::RebootRequired));
        assert!(shown.reason.starts_with("the release brings Linux 2 (#1), and Linux 1 (#1) runs; "));
        assert!(shown.reason.contains(part), "{}", shown.reason);
    }

    #[test]
    fn only_another_kernel_requires_a_reboot_and_the_policy_says_who_does_it() {
        with(|view, new| {
            let nothing = (Decision::Wait, None);
            assert_eq!(decide(&View { installed: Ok(None), ..view }), nothing);
            assert_eq!(decide(&View { running: new, ..view }), nothing);
            assert_eq!(decide(&view).0, Decision::Start(How::Kexec));
            assert_eq!(
                decide(&View { policy: KernelPolicy::Reboot, ..view }).0,
                Decision::Start(How::Reboot)
            );
            required(&View { policy: KernelPolicy::Never, ..view }, "kernel.policy is never");
            required(&View { obstacle: Some("the window is closed"), ..view }, "not started now: the window");
            let rebuilt = KernelId { build: "#2".to_owned(), ..new.clone() };
            assert_eq!(decide(&View { running: &rebuilt, ..view }).0, Decision::Start(How::Kexec));
            let (decision, shown) = decide(&View { installed: Err("it is no bzImage"), ..view });
            let shown = shown.unwrap();
            assert_eq!(
                (decision, shown.state, shown.installed),
                (Decision::Wait, KernelState::Unknown, None)
            );
            assert!(shown.reason.contains("it is no bzImage"), "{}", shown.reason);
        });
    }

    #[test]
    fn a_kernel_is_started_once_whatever_became_of_it() {
        with(|view, _| {
            let bad = trial("2", "b", Outcome::Bad("it panicked".to_owned()));
            let good = trial("2", "b", Outcome::Good);
            let other = trial("3", "b", Outcome::Bad("x".to_owned()));
            let after = |trials: &[Trial], part: &str| required(&View { trials: Ok(trials), ..view }, part);
            after(std::slice::from_ref(&bad), "not tried again: it panicked");
            after(&[bad.clone(), other.clone()], "not tried again: it panicked");
            after(&[bad.clone(), good.clone()], "started by itself once");
            let others = View { trials: Ok(std::slice::from_ref(&other)), ..view };
            assert_eq!(decide(&others).0, Decision::Start(How::Kexec));
            let (decision, shown) = decide(&View { trials: Err("cannot read kernel.json"), ..view });
            assert_eq!((decision, shown.unwrap().state), (Decision::Wait, KernelState::Unknown));
        });
    }

    #[test]
    fn a_trial_ends_well_or_with_the_old_kernel() {
        with(|view, new| {
            let begun = [trial("2", "x", Outcome::Good), trial("2", "a", Outcome::Pending)];
            let view = View { trials: Ok(&begun), ..view };
            let bad = |view: &View<'_>| match decide(view).0 {
                Decision::Settle(Outcome::Bad(reason)) => reason,
                other => panic!("{other:?}"),
            };
            assert!(bad(&view).contains("interrupted"));
            let after = View { boot: "b", ..view };
            assert!(bad(&after).contains("came back with Linux 1"));
            let runs = View { running: new, ..after };
            let (decision, shown) = decide(&runs);
            assert_eq!((decision, shown.unwrap().state), (Decision::Wait, KernelState::OnTrial));
            let well = View { health: Health::Well, ..runs };
            assert_eq!(decide(&well).0, Decision::Settle(Outcome::Good));
            let ill = View { health: Health::Ill("web is down"), ..runs };
            assert_eq!(decide(&ill).0, Decision::GoBack("web is down".to_owned()));
            // A release that came meanwhile changes nothing.
            assert_eq!(decide(&View { installed: Err("x"), ..well }).0, Decision::Settle(Outcome::Good));
        });
    }
}
