//! `identityd check`

use identityd::agent::{Offer, Outcome, Verb};

use super::{Asking, CommandResult, ask, kept_back, print, print_json, release, wrong_answer};

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
    let text = match &offer.candidate {
        None if offer.withheld.is_some() => format!("installed  {installed}"),
        None => format!("installed  {installed}\noffered    the same; nothing to do"),
        Some(candidate) => {
            let next = match &offer.waits {
                None => "The upgrade begins; follow it with `identityd apply`.".to_owned(),
                Some(problem) => format!("It is not installed now: {problem}."),
            };
            let offered = release(&candidate.version, &candidate.release);
            format!("installed  {installed}\noffered    {offered}\n{next}")
        }
    };
    match &offer.withheld {
        None => text,
        Some(withheld) => format!("{text}\nwithheld   {}", kept_back(withheld)),
    }
}

#[cfg(test)]
mod tests {
    use identityd::agent::{Candidate, Installed, Withheld};
    use identityd::timestamp::Timestamp;

    use super::*;

    #[test]
    fn what_the_director_keeps_back_is_not_told_as_the_same() {
        let id = |digit: &str| digit.repeat(64);
        let (channel, version) = ("r/c.flist".to_owned(), "1.0.0".to_owned());
        let installed = Installed { channel: channel.clone(), version, release: id("1"), generation: 1 };
        let withheld = Withheld {
            version: "3.0.0".into(),
            release: id("3"),
            why: "this node's turn comes at x".into(),
            turn: Some(Timestamp::from_unix(0)),
            node: "n1".into(),
            group: Some("canary".into()),
            place: "1.00".into(),
        };
        let mut offer = Offer {
            installed: Some(installed),
            candidate: None,
            waits: None,
            withheld: Some(Box::new(withheld)),
        };
        assert_eq!(
            text(&offer),
            "installed  1.0.0 (release 111111111111)\nwithheld   the director keeps 3.0.0 (release 333333333333) from this node (n1, group canary) until 1970-01-01T00:00:00Z: this node's turn comes at x"
        );
        // It may have chosen an older one of two.
        offer.candidate = Some(Candidate { channel, version: "2.0.0".into(), release: id("2") });
        let both = text(&offer);
        assert!(
            both.contains("offered    2.0.0") && both.contains("withheld   the director keeps 3.0.0"),
            "{both}"
        );
        (offer.candidate, offer.withheld) = (None, None);
        assert!(text(&offer).contains("the same; nothing to do"));
    }
}
