//! `identityd plan`

use identityd::agent::{Outcome, Planned, Verb};

use super::{Asking, CommandResult, ask, kept_back, print, print_json, release, wrong_answer};

/// Show what installing what the channel offers would do; changes nothing.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    #[command(flatten)]
    asking: Asking,
}

const EXAMPLES: &str = "Examples:
  identityd plan
  identityd plan --json";

pub(super) fn run(Arguments { asking }: &Arguments) -> CommandResult {
    match ask(asking, Verb::Plan)? {
        Outcome::Plan(planned) if asking.json => print_json(&planned),
        Outcome::Plan(planned) => print(&text(&planned)),
        _ => Err(wrong_answer(asking)),
    }
}

fn text(planned: &Planned) -> String {
    let withheld = planned.withheld.as_ref().map(|withheld| format!("withheld   {}\n", kept_back(withheld)));
    let withheld = withheld.unwrap_or_default();
    match planned {
        Planned { candidate: Some(candidate), plan: Some(plan), .. } => {
            format!("{withheld}offered    {}\n{}", release(&candidate.version, &candidate.release), plan.text)
        }
        _ if !withheld.is_empty() => {
            format!("{withheld}What is chosen for this node is installed; nothing to do.")
        }
        _ => "The channel offers what is installed; nothing to do.".to_owned(),
    }
}
