//! `identityd apply` and `identityd retry`

use identityd::agent::{Asked, Outcome, Progress, ServiceEvent, Upgraded, Verb};
use identityd::control::{self, Heard};

use super::{Asking, CommandResult, bytes, print, print_line, wait, wrong_answer};

/// Install what the channel offers now, and follow the upgrade to its end.
///
/// An upgrade that runs already is followed. With --json, one line for each thing that happens, the
/// last with `ok` or `error`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Do not wait for a maintenance window
    #[arg(long)]
    now: bool,
    #[command(flatten)]
    asking: Asking,
}

const EXAMPLES: &str = "Examples:
  identityd apply
  identityd apply --now --json";

/// Forget that a release failed or was cancelled, try it now, and follow the upgrade to its end.
#[derive(clap::Args)]
#[command(after_help = RETRY)]
pub(super) struct RetryArguments {
    /// A version that the channel offers, or at least 8 digits of a release's id; what the channel offers if
    /// nothing is given
    #[arg(value_name = "RELEASE-ID|VERSION")]
    release: Option<String>,
    /// Do not wait for a maintenance window
    #[arg(long)]
    now: bool,
    #[command(flatten)]
    asking: Asking,
}

const RETRY: &str = "Examples:
  identityd retry
  identityd retry 2.0.0 --now";

pub(super) fn run(Arguments { now, asking }: Arguments) -> CommandResult {
    follow(&asking, Asked { now, ..Verb::Apply.into() })
}

pub(super) fn retry(RetryArguments { release, now, asking }: RetryArguments) -> CommandResult {
    follow(&asking, Asked { release, now, ..Verb::Retry.into() })
}

fn follow(asking: &Asking, asked: Asked) -> CommandResult {
    let json = asking.json;
    let answer = wait(control::follow_upgrade(&asking.socket, asked, |heard| {
        // Output that nobody reads is no reason to leave an upgrade unfollowed.
        let _unread = match (json, heard) {
            (false, heard) => print(&line(heard)),
            (true, Heard::Progress(progress)) => print_line("progress", progress),
            (true, Heard::Handover) => print_line("progress", "handover"),
        };
    }));
    match answer {
        Ok(Outcome::Apply(upgraded)) if json => print_line("ok", &upgraded),
        Ok(Outcome::Apply(upgraded)) => print(&end(&upgraded)),
        Ok(_) => Err(wrong_answer(asking)),
        Err(failure) => Err(failure),
    }
}

fn line(heard: Heard<'_>) -> String {
    match heard {
        Heard::Progress(Progress::Stage(stage)) => stage.to_string(),
        Heard::Progress(Progress::Fetched { bytes: fetched, total }) => {
            format!("  fetched {} of {}", bytes(*fetched), bytes(*total))
        }
        Heard::Progress(Progress::Service { name, event: ServiceEvent::Stopped }) => {
            format!("  {name} stopped")
        }
        Heard::Progress(Progress::Service { name, event: ServiceEvent::Started { down_ms } }) => {
            format!("  {name} started, was down for {down_ms} ms")
        }
        Heard::Handover => "identityd went away, most likely to replace itself; waiting for it".to_owned(),
    }
}

fn end(upgraded: &Upgraded) -> String {
    let version = upgraded.version.as_deref().unwrap_or("the release");
    let generation = upgraded.generation.map(|number| format!(" as generation {number}")).unwrap_or_default();
    if upgraded.committed {
        format!("Committed: {version} is installed{generation}.")
    } else {
        format!("Nothing to do: {version} is installed{generation}, and the channel offers the same.")
    }
}
