//! `identityd apply`, `identityd retry` and `identityd rollback`

use identityd::agent::{Asked, Outcome, Progress, ServiceEvent, Upgraded, Verb};
use identityd::control::{self, Heard};

use super::{Asking, CommandResult, Failure, bytes, kept_back, print, print_line, wait, wrong_answer};

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

/// Put an earlier generation back, without a reboot, and follow that to its end.
///
/// The release that is left behind is held, by its id, until `unhold` or `retry`; a newer one is installed.
/// Holds, a pause and maintenance windows do not keep anybody from going back. What was replaced is kept on
/// this node, so no hub is needed.
#[derive(clap::Args)]
#[command(after_help = ROLLBACK)]
pub(super) struct RollbackArguments {
    /// The generation, as `generations` shows it; if nothing is given, the newest one of another release
    #[arg(long, value_name = "N")]
    to: Option<u64>,
    /// As for `apply`. A rollback does not wait for a maintenance window anyway
    #[arg(long)]
    now: bool,
    #[command(flatten)]
    asking: Asking,
}

const ROLLBACK: &str = "Examples:
  identityd rollback
  identityd rollback --to 3 --json";

pub(super) fn run(Arguments { now, asking }: Arguments) -> CommandResult {
    let asked = Asked { now, ..Verb::Apply.into() };
    finish(&asking, wait(control::follow_upgrade(&asking.socket, asked, heard(asking.json))))
}

pub(super) fn rollback(RollbackArguments { to, now: _, asking }: RollbackArguments) -> CommandResult {
    finish(&asking, wait(control::follow_rollback(&asking.socket, to, heard(asking.json))))
}

pub(super) fn retry(RetryArguments { release, now, asking }: RetryArguments) -> CommandResult {
    let asked = Asked { release, now, ..Verb::Retry.into() };
    finish(&asking, wait(control::follow_upgrade(&asking.socket, asked, heard(asking.json))))
}

/// Shows what is heard on the way.
fn heard(json: bool) -> impl FnMut(Heard<'_>) + Send {
    move |heard| {
        // Output that nobody reads is no reason to leave an upgrade unfollowed.
        let _unread = match (json, heard) {
            (false, heard) => print(&line(heard)),
            (true, Heard::Progress(progress)) => print_line("progress", progress),
            (true, Heard::Handover) => print_line("progress", "handover"),
        };
    }
}

fn finish(asking: &Asking, answer: Result<Outcome, Failure>) -> CommandResult {
    match answer? {
        Outcome::Apply(upgraded) if asking.json => print_line("ok", &upgraded),
        Outcome::Apply(upgraded) => print(&end(&upgraded)),
        _ => Err(wrong_answer(asking)),
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
        Heard::Progress(Progress::Expected(expected)) => {
            expected.iter().map(|expected| format!("  expected of {expected}")).collect::<Vec<_>>().join("\n")
        }
        Heard::Progress(Progress::LeftBehind { processes }) => {
            let lines = processes
                .iter()
                .map(|process| format!("  {process}, and runs on with what was there before"));
            lines.collect::<Vec<_>>().join("\n")
        }
        Heard::Handover => "identityd went away, most likely to replace itself; waiting for it".to_owned(),
    }
}

fn end(upgraded: &Upgraded) -> String {
    let version = upgraded.version.as_deref().unwrap_or("the release");
    let generation = upgraded.generation.map(|number| format!(" as generation {number}")).unwrap_or_default();
    let withheld = upgraded.withheld.as_ref().map(|withheld| format!("\nwithheld: {}", kept_back(withheld)));
    let withheld = withheld.unwrap_or_default();
    if upgraded.committed {
        format!("Committed: {version} is installed{generation}.{withheld}")
    } else {
        format!("Nothing to do: {version} is installed{generation}.{withheld}")
    }
}
