//! `identityd history`

use std::fmt::Write;
use std::path::PathBuf;

use bootstrap::state_place::StatePlace;
use identityd::history::{Cause, EndedBy, History, Record};

use super::{CommandResult, bytes, other, print, print_json, require_generations};

/// Show what became of the attempts to upgrade, the oldest first. Works without a running identityd.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// As JSON
    #[arg(long)]
    json: bool,
    /// So many of the newest at most
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
    /// Where the history is
    #[arg(long, value_name = "DIR", default_value = "/var/lib/molt")]
    state_dir: PathBuf,
    /// Where it is while that directory cannot be used
    #[arg(long, value_name = "DIR", default_value = "/run/molt")]
    run_dir: PathBuf,
}

const EXAMPLES: &str = "Examples:
  identityd history
  identityd history --json --limit 100";

pub(super) fn run(Arguments { json, limit, state_dir, run_dir }: &Arguments) -> CommandResult {
    let place = StatePlace::new(state_dir, run_dir);
    require_generations(&place)?;
    let past = History::at(place).read(*limit).map_err(other)?;
    if *json {
        return print_json(&past.records);
    }
    if past.records.is_empty() {
        return print("Nothing has been tried yet.");
    }
    print(&past.records.iter().map(text).collect::<String>())
}

fn text(record: &Record) -> String {
    let from = record.from.as_ref().map_or("nothing", |from| &from.version);
    let outcome = record.outcome.as_str();
    let cause = cause(&record.cause);
    let mut text = format!("{}  {from} → {}  {outcome}  ({cause})\n", record.started.at, record.to.version);
    let mut add = |name: &str, value: String| {
        // Writing to a String cannot fail.
        let _infallible = writeln!(text, "  {name:<9} {value}");
    };
    add("release", record.to.release.clone());
    if let Some(put_off) = &record.postponed {
        add("postponed", format!("since {} by user {}", put_off.first.at, put_off.by));
    }
    if let Some(reason) = &record.reason {
        add("reason", reason.clone());
    }
    if let Some(by) = record.ended_by {
        let by = match by {
            EndedBy::Killed => "identityd was killed; the node went on",
            EndedBy::PowerLoss => "the node went down: power loss, reset or reboot",
            EndedBy::Unknown => "something that a newer version knows",
        };
        add("ended by", by.to_owned());
    }
    if !record.stages.is_empty() {
        let stages = record.stages.iter().map(|time| format!("{} {} ms", time.stage, time.ms));
        add("stages", stages.collect::<Vec<_>>().join(", "));
    }
    for service in &record.services {
        let down = match service.down_ms {
            Some(down) => format!("was down for {down} ms"),
            None => "was stopped".to_owned(),
        };
        let predicted = match service.predicted {
            Some(prediction) => format!(" (predicted: {prediction})"),
            None => String::new(),
        };
        add("service", format!("{} {down}{predicted}", service.name));
    }
    add("fetched", bytes(record.bytes_fetched));
    text
}

fn cause(cause: &Cause) -> String {
    let now = |now: bool| if now { " --now" } else { "" };
    match cause {
        Cause::Poll => "by itself".to_owned(),
        Cause::Check { by } => format!("check by user {by}"),
        Cause::Apply { by, now: at_once } => format!("apply{} by user {by}", now(*at_once)),
        Cause::Retry { by, now: at_once } => format!("retry{} by user {by}", now(*at_once)),
        Cause::Rollback { by, to } => format!("rollback to generation {to} by user {by}"),
        Cause::Unknown => "a cause that a newer version knows".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use identityd::history::{Named, Outcome, PutOff};
    use identityd::timestamp::Timestamp;

    use super::*;

    #[test]
    fn a_directory_that_is_not_there_is_no_history_without_attempts() {
        let nowhere = PathBuf::from("/nowhere/at/all");
        let arguments = Arguments { json: false, limit: 1, state_dir: nowhere.clone(), run_dir: nowhere };
        let Err(failure) = run(&arguments) else { panic!("a history of nothing") };
        assert!(failure.to_string().contains("--state-dir"), "{failure}");
    }

    #[test]
    fn an_attempt_is_told_with_what_ended_it() {
        let named = |version: &str| Named { version: version.into(), release: "ab".into() };
        let what = (Some(named("1.0.0")), named("2.0.0"));
        let cause = Cause::Apply { by: 1000, now: true };
        let mut record = Record::begin(("id".into(), "boot".into()), cause, what, Timestamp::from_unix(0));
        record.service("web", Some(12));
        record.postponed = Some(PutOff { first: Timestamp::from_unix(0), by: 7 });
        record.ended_by = Some(EndedBy::PowerLoss);
        let record = record.end(Outcome::Interrupted, None, Some("it was cut off"), Timestamp::from_unix(1));
        assert_eq!(
            text(&record),
            "1970-01-01T00:00:00Z  1.0.0 → 2.0.0  interrupted  (apply --now by user 1000)\n  release   ab\n  postponed since 1970-01-01T00:00:00Z by user 7\n  reason    it was cut off\n  ended by  the node went down: power loss, reset or reboot\n  service   web was down for 12 ms\n  fetched   0 B\n"
        );
    }
}
