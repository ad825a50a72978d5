//! `identityd doctor`

use bootstrap::settings::{Overrides, Settings};
use identityd::doctor::{self, Finding};
use serde_json::{Value, json};

use super::{CommandResult, Failure, other, print, print_json, require_readable};

/// Find what is wrong with upgrades on this node. Works without a running identityd.
///
/// Exit code 6 when something is wrong that is not repaired.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Repair what can be repaired without guessing. Nothing is deleted, only set aside
    #[arg(long)]
    fix: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    overrides: Overrides,
}

const EXAMPLES: &str = "Examples:
  identityd doctor
  identityd doctor --fix --json";

/// A finding, and whether it was repaired, or why not.
struct Line {
    finding: Finding,
    repaired: bool,
    problem: Option<String>,
}

pub(super) fn run(Arguments { fix, json, overrides }: &Arguments) -> CommandResult {
    // A configuration that identityd would not start with is what is looked for.
    let (settings, unusable) = Settings::load_what_can_be(overrides).map_err(Failure::Settings)?;
    require_readable(doctor::forbidden(&settings).as_deref())?;
    let unusable = unusable.as_ref();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(other)?;
    let lines: Vec<Line> = runtime.block_on(async {
        if !fix {
            let findings = doctor::examine(&settings, unusable).await.into_iter();
            let line = |finding| Line { finding, repaired: false, problem: None };
            return Ok::<_, Failure>(findings.map(line).collect());
        }
        let repaired = doctor::repair(&settings, unusable).await.map_err(other)?.into_iter();
        let line = |(finding, result): (Finding, Result<(), doctor::DoctorError>)| Line {
            repaired: finding.fix.is_some() && result.is_ok(),
            problem: result.err().map(|error| flist::report(&error)),
            finding,
        };
        Ok(repaired.map(line).collect())
    })?;
    if *json {
        print_json(&lines.iter().map(as_json).collect::<Vec<_>>())?;
    } else {
        print(&text(&lines, *fix))?;
    }
    match lines.iter().filter(|line| !line.repaired).count() {
        0 => Ok(()),
        left => Err(Failure::Ill(left)),
    }
}

fn as_json(Line { finding, repaired, problem }: &Line) -> Value {
    let Finding { code, what, fix, .. } = finding;
    json!({ "code": code, "what": what, "fix": fix, "repaired": repaired, "problem": problem })
}

fn text(lines: &[Line], fixing: bool) -> String {
    if lines.is_empty() {
        return "Nothing is wrong.".to_owned();
    }
    let line = |Line { finding, repaired, problem }: &Line| {
        let Finding { code, what, fix, .. } = finding;
        let then = match (fix, problem) {
            (_, Some(problem)) => format!("not repaired: {problem}"),
            (Some(fix), None) if *repaired => format!("repaired: {fix}"),
            (Some(fix), None) => format!("--fix {fix}"),
            (None, None) if fixing => "not repaired: only a person can".to_owned(),
            (None, None) => "--fix cannot help".to_owned(),
        };
        format!("{code}: {what}\n  {then}\n")
    };
    lines.iter().map(line).collect()
}
