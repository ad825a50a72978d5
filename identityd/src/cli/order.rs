//! `identityd hold`, `unhold`, `pause`, `resume`, `cancel`: orders to the running identityd.

use identityd::agent::{Asked, Outcome, Verb};

use super::{Asking, CommandResult, ask, print, print_json, wrong_answer};

/// Do not install a release, or any, until `unhold`.
///
/// Without a release, everything is held. What runs is not stopped; see `cancel`.
#[derive(clap::Args)]
#[command(after_help = HOLD)]
pub(super) struct HoldArguments {
    /// A version, or at least 8 digits of a release's id
    #[arg(value_name = "RELEASE-ID|VERSION")]
    release: Option<String>,
    /// Hold every release, as without a name
    #[arg(long, conflicts_with = "release")]
    all: bool,
    #[command(flatten)]
    reason: Reason,
    #[command(flatten)]
    asking: Asking,
}

const HOLD: &str = "Examples:
  identityd hold 2.0.0 --reason 'breaks our printers'
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
    let HoldArguments { release, all: _, reason, asking } = arguments;
    order(&asking, Asked { release, reason: reason.reason, ..Verb::Hold.into() })
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
