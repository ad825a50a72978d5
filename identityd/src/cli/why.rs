//! `identityd why`

use std::fmt::Write;

use identityd::agent::{Outcome, Verb};
use identityd::gates::GateReport;

use super::{Asking, CommandResult, ask, print, print_json, wrong_answer};

/// Show every reason to wait, the ones that hold first, with what it was judged by and when it may change.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    #[command(flatten)]
    asking: Asking,
}

const EXAMPLES: &str = "Examples:
  identityd why
  identityd why --json";

pub(super) fn run(Arguments { asking }: &Arguments) -> CommandResult {
    match ask(asking, Verb::Why)? {
        Outcome::Why(gates) if asking.json => print_json(&gates),
        Outcome::Why(gates) => print(&text(&gates)),
        _ => Err(wrong_answer(asking)),
    }
}

fn text(gates: &[GateReport]) -> String {
    let mut text = String::new();
    for GateReport { gate, open, why, may_change, inputs } in gates {
        let standing = if *open { "open" } else { "CLOSED" };
        // Writing to a String cannot fail.
        let _infallible = writeln!(text, "{standing:<6} {:<11} {why}", gate.as_str());
        if !open {
            let at = may_change.at.as_ref().map(|at| format!(" {} or", at.at)).unwrap_or_default();
            let _infallible = writeln!(text, "{:18} may change:{at} on {}", "", may_change.on);
            let _infallible = writeln!(text, "{:18} judged by: {inputs}", "");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use identityd::agent::Gate;
    use identityd::gates::MayChange;
    use identityd::timestamp::Timestamp;

    use super::*;

    #[test]
    fn a_closed_gate_says_what_it_was_judged_by_and_when_it_may_change() {
        let report = |open| GateReport {
            gate: Gate::Hold,
            open,
            why: "it is held".into(),
            inputs: serde_json::json!({"by": 0}),
            may_change: MayChange { at: Some(Timestamp::from_unix(0)), on: "`unhold`".into() },
        };
        assert_eq!(
            text(&[report(false), report(true)]),
            "CLOSED Hold        it is held\n                   may change: 1970-01-01T00:00:00Z or on `unhold`\n                   judged by: {\"by\":0}\nopen   Hold        it is held\n"
        );
    }
}
