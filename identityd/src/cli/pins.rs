//! `identityd pin` and `identityd unpin`

use bootstrap::engine::{Engine, EngineError};
use bootstrap::settings::{Overrides, Settings};
use bootstrap::state_place::StatePlace;
use identityd::agent::{Problem, ProblemKind};
use identityd::control::AskError;
use serde_json::json;

use super::generations::take_lock;
use super::{CommandResult, Failure, other, print, print_json, require_generations};

/// Keep a generation until `unpin`, so that it can be gone back to. Works without a running identityd.
///
/// It stays whatever `keep_generations` says and `gc --keep` asks for, and so does what was installed since: what that
/// replaced leads back to it. `generations` shows what all that takes. At most 16 can be pinned; a root that is lost takes its
/// generations and their pins with it.
#[derive(clap::Args)]
#[command(after_help = PIN)]
pub(super) struct PinArguments {
    #[command(flatten)]
    which: Which,
}

const PIN: &str = "Examples:
  identityd pin 3
  identityd pin 3 --json";

/// Let a pinned generation go: it is forgotten with others of its age. Works without a running identityd.
///
/// Nothing is forgotten at once: the next upgrade does it, or `gc`.
#[derive(clap::Args)]
#[command(after_help = UNPIN)]
pub(super) struct UnpinArguments {
    #[command(flatten)]
    which: Which,
}

const UNPIN: &str = "Examples:
  identityd unpin 3
  identityd unpin 3 --json";

#[derive(clap::Args)]
struct Which {
    /// Its number, as `generations` shows it
    #[arg(value_name = "N")]
    generation: u64,
    /// As JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    overrides: Overrides,
}

pub(super) fn pin(PinArguments { which }: &PinArguments) -> CommandResult {
    let number = which.generation;
    let changed = change(which, "identityd pin", |engine, lock| engine.pin(lock, number))?;
    let text = match changed {
        true => format!("Generation {number} is pinned: it stays until `identityd unpin {number}`."),
        false => format!("Generation {number} is pinned already."),
    };
    say(which, (true, changed), &text)
}

pub(super) fn unpin(UnpinArguments { which }: &UnpinArguments) -> CommandResult {
    let number = which.generation;
    change(which, "identityd unpin", |engine, lock| engine.unpin(lock, number))?;
    let text = format!(
        "Generation {number} is not pinned any more; nothing is forgotten before the next upgrade, or `identityd gc`."
    );
    say(which, (false, true), &text)
}

fn change<T>(
    which: &Which,
    who: &str,
    change: impl FnOnce(&Engine, &bootstrap::lock::EngineLock) -> Result<T, EngineError>,
) -> Result<T, Failure> {
    let settings = Settings::load_without_secrets(&which.overrides).map_err(Failure::Settings)?;
    require_generations(&StatePlace::of(&settings))?;
    // Nobody forgets anything meanwhile.
    let lock = take_lock(&settings, who)?;
    let engine = Engine::open(&settings).map_err(other)?;
    change(&engine, &lock).map_err(failed)
}

/// What is not there is told as the daemon tells it.
fn failed(error: EngineError) -> Failure {
    match error {
        EngineError::NotToBePinned(_) | EngineError::NotPinned(_) => {
            let problem = Problem::absent(ProblemKind::Local, error.to_string());
            Failure::Ask(AskError::Refused(problem))
        }
        error => other(error),
    }
}

fn say(which: &Which, (pinned, changed): (bool, bool), text: &str) -> CommandResult {
    match which.json {
        true => print_json(&json!({ "generation": which.generation, "pinned": pinned, "changed": changed })),
        false => print(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_or_a_pin_that_is_not_there_is_not_found() {
        for (error, code) in [
            (EngineError::NotToBePinned(vec![1]), 4),
            (EngineError::NotPinned(vec![]), 4),
            (EngineError::Unfinished, 1),
        ] {
            assert_eq!(failed(error).exit().code(), code);
        }
    }
}
