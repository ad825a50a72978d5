//! `identityd check`

use identityd::agent::{Offer, Outcome, Verb};

use super::{Asking, CommandResult, ask, print, print_json, release, wrong_answer};

/// Poll the channel now, and show what it offers and what is installed.
///
/// This is the poll that would have come later anyway: what the channel offers is installed just as
/// it would have been then. To look without that, use `plan`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    #[command(flatten)]
    asking: Asking,
}

const EXAMPLES: &str = "Examples:
  identityd check
  identityd check --json";

pub(super) fn run(Arguments { asking }: &Arguments) -> CommandResult {
    match ask(asking, Verb::Check)? {
        Outcome::Check(offer) if asking.json => print_json(&offer),
        Outcome::Check(offer) => print(&text(&offer)),
        _ => Err(wrong_answer(asking)),
    }
}

fn text(offer: &Offer) -> String {
    let installed = match &offer.installed {
        Some(installed) => release(&installed.version, &installed.release),
        None => "unknown".to_owned(),
    };
    match &offer.candidate {
        None => format!("installed  {installed}\noffered    the same; nothing to do"),
        Some(candidate) => {
            let next = match &offer.waits {
                None => "The upgrade begins; follow it with `identityd apply`.".to_owned(),
                Some(problem) => format!("It is not installed now: {problem}."),
            };
            let offered = release(&candidate.version, &candidate.release);
            format!("installed  {installed}\noffered    {offered}\n{next}")
        }
    }
}
