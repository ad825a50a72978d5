//! `identityd hold`, `unhold`, `pause`, `resume`, `cancel`: orders to the running identityd.

use std::time::Duration;

use identityd::agent::{Asked, Outcome, Verb};

use super::{Asking, CommandResult, ask, print, print_json, wrong_answer};

/// Do not install a release, or any, until `unhold`.
///
/// Without a release, everything is held. With `--for` it is postponed: it goes on by itself then. What runs is not
/// stopped; see `cancel`.
#[derive(clap::Args)]
#[command(after_help = HOLD)]
pub(super) struct HoldArguments {
    /// A version, or at least 8 digits of a release's id
    #[arg(value_name = "RELEASE-ID|VERSION")]
    release: Option<String>,
    /// Hold every release, as without a name
    #[arg(long, conflicts_with = "release")]
    all: bool,
    /// For so long, such as 6h or 2d; of one release not longer in all than `longest_postponement` in the configuration
    #[arg(long = "for", value_name = "DURATION", value_parser = flist::span::parse)]
    duration: Option<Duration>,
    #[command(flatten)]
    reason: Reason,
    #[command(flatten)]
    asking: Asking,
}

const HOLD: &str = "Examples:
  identityd hold 2.0.0 --reason 'breaks our printers'
  identityd hold 2.0.0 --for 2d --reason 'the fair'
  identityd hold --all";

/// Let go what `hold` or `cancel` holds back.
///
/// Without a release, all holds go.
#[derive(clap::Args)]
#[command(after_help = UNHOLD)]
pub(super) struct UnholdArguments {
    /// As it was given to `hold`; `status` shows it
    #[arg(value_name = "RELEASE-ID|VERSION")]
    release: Option<String>,
    /// Take all holds away, as without a name
    #[arg(long, conflicts_with = "release")]
    all: bool,
    #[command(flatten)]
    asking: Asking,
}

const UNHOLD: &str = "Examples:
  identityd unhold 2.0.0
  identityd unhold";

/// Stop before the swap, and begin no upgrade until `resume`; also after a restart.
///
/// What is being fetched or staged is given up and begins again later. From the swap on, an upgrade is
/// finished or undone first.
#[derive(clap::Args)]
#[command(after_help = PAUSE)]
pub(super) struct PauseArguments {
    #[command(flatten)]
    reason: Reason,
    #[command(flatten)]
    asking: Asking,
}

const PAUSE: &str = "Examples:
  identityd pause
  identityd pause --reason maintenance";

/// Go on after `pause`.
#[derive(clap::Args)]
#[command(after_help = RESUME)]
pub(super) struct ResumeArguments {
    #[command(flatten)]
    asking: Asking,
}

const RESUME: &str = "Examples:
  identityd resume
  identityd resume --json";

/// Give up the upgrade that is being fetched or staged; what is installed stays.
///
/// The release is held until `unhold` or `retry`, and does not count as failed. From the swap on nothing can
/// be cancelled.
#[derive(clap::Args)]
#[command(after_help = CANCEL)]
pub(super) struct CancelArguments {
    #[command(flatten)]
    reason: Reason,
    #[command(flatten)]
    asking: Asking,
}

const CANCEL: &str = "Examples:
  identityd cancel
  identityd cancel --reason 'not now'";

#[derive(clap::Args)]
struct Reason {
    /// Why, for others who wonder
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

pub(super) fn hold(arguments: HoldArguments) -> CommandResult {
    // Without a release it is everything, whether that is said or not.
    let HoldArguments { release, all: _, duration, reason, asking } = arguments;
    let vague = release.clone().filter(|text| is_vague(text));
    let seconds = duration.map(|duration| duration.as_secs());
    order(&asking, Asked { release, reason: reason.reason, seconds, ..Verb::Hold.into() })?;
    if let Some(text) = vague {
        eprintln!(
            "identityd: WARNING: {text} is no version of three numbers, and no 8 digits of an id: this holds only a release that is named exactly so"
        );
    }
    Ok(())
}

/// Whether a text can be meant for a release that it does not hold: `1.2` is not 1.2.0, and too few digits are no id.
fn is_vague(text: &str) -> bool {
    let is_id = text.len() >= 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let numbers: Vec<&str> = text.split(['-', '+']).next().unwrap_or_default().split('.').collect();
    let is_number = |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let is_version = numbers.len() == 3 && numbers.iter().all(is_number);
    !is_id && !is_version
}

pub(super) fn unhold(arguments: UnholdArguments) -> CommandResult {
    let UnholdArguments { release, all: _, asking } = arguments;
    order(&asking, Asked { release, ..Verb::Unhold.into() })
}

pub(super) fn pause(PauseArguments { reason, asking }: PauseArguments) -> CommandResult {
    order(&asking, Asked { reason: reason.reason, ..Verb::Pause.into() })
}

pub(super) fn resume(ResumeArguments { asking }: ResumeArguments) -> CommandResult {
    order(&asking, Verb::Resume.into())
}

pub(super) fn cancel(CancelArguments { reason, asking }: CancelArguments) -> CommandResult {
    order(&asking, Asked { reason: reason.reason, ..Verb::Cancel.into() })
}

fn order(asking: &Asking, asked: Asked) -> CommandResult {
    match ask(asking, asked)? {
        Outcome::Ordered(ordered) if asking.json => print_json(&ordered),
        Outcome::Ordered(ordered) => print(&ordered.message),
        _ => Err(wrong_answer(asking)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_hold_another_release_than_meant_is_told() {
        for vague in ["1.2", "v1.2.0", "559b20", "latest", "1.2.0.0"] {
            assert!(is_vague(vague), "{vague}");
        }
        for exact in ["1.2.0", "1.2.0-rc.1", "559b209c", "559b209cbbf07daaaa48abea074212ab02f7d8fd"] {
            assert!(!is_vague(exact), "{exact}");
        }
    }
}
