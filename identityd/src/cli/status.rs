//! `identityd status`

use std::fmt::Write;
use std::time::SystemTime;

use identityd::agent::{Outcome, Verb};
use identityd::kernel::{KernelState, KernelStatus};
use identityd::status::Status;
use identityd::timestamp::Timestamp;

use super::{Asking, CommandResult, ask, bytes, print, print_json, release, wrong_answer};

/// Show what identityd is doing and what is installed.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    #[command(flatten)]
    asking: Asking,
}

const EXAMPLES: &str = "Examples:
  identityd status
  identityd status --json";

pub(super) fn run(Arguments { asking }: &Arguments) -> CommandResult {
    match ask(asking, Verb::Status)? {
        Outcome::Status(status) if asking.json => print_json(&status),
        Outcome::Status(status) => print(&text(&status, Timestamp::from(SystemTime::now()).unix)),
        _ => Err(wrong_answer(asking)),
    }
}

/// A name and its value in each line, for somebody who reads it at this second.
fn text(status: &Status, now: u64) -> String {
    let mut lines = Lines::default();
    add_standing(&mut lines, status, now);
    add_orders(&mut lines, status, now);
    add_work(&mut lines, status);
    add_outdated(&mut lines, status);
    add_conflicts(&mut lines, status);
    add_node(&mut lines, status, now);
    lines.0
}

/// Where the upgrade is, what is installed, and what the channel offers.
fn add_standing(lines: &mut Lines, status: &Status, now: u64) {
    match status.gate {
        Some(gate) => lines.add("stage", format!("{} ({gate})", status.stage)),
        None => lines.add("stage", status.stage.to_string()),
    }
    if let Some(reason) = &status.reason {
        lines.add("reason", reason.clone());
    }
    match &status.installed {
        Some(installed) => {
            lines.add("channel", installed.channel.clone());
            let what = release(&installed.version, &installed.release);
            lines.add("installed", format!("{what}, generation {}", installed.generation));
        }
        None => lines.add("installed", "unknown".to_owned()),
    }
    if let Some(asked) = &status.asked_channel {
        lines.add("asked for", asked.clone());
    }
    if let Some(candidate) = &status.candidate {
        lines.add("candidate", release(&candidate.version, &candidate.release));
    }
    lines.add("last check", status.last_check.as_ref().map_or("never".to_owned(), |at| past(at, now)));
    if let Some(at) = &status.next_check {
        lines.add("next check", format!("in {}", span(at.unix.saturating_sub(now))));
    }
    if let Some(error) = &status.last_error {
        let times = if error.attempts == 1 { "once".to_owned() } else { format!("{} times", error.attempts) };
        let when = past(&error.at, now);
        // It may be long, and stands above already.
        let is_told = status.reason.as_ref() == Some(&error.message);
        let message = if is_told { "the reason above" } else { &error.message };
        lines.add("last error", format!("{message} ({}, {times}, {when})", error.kind.as_str()));
    }
}

/// What keeps it from going on: gates, and what somebody has ordered.
fn add_orders(lines: &mut Lines, status: &Status, now: u64) {
    for gate in &status.gates {
        lines.add("closed", format!("{}: {}", gate.gate, gate.why));
    }
    if let Some(pause) = &status.pause {
        lines.add("paused", order(&pause.since, pause.by, pause.reason.as_deref(), now));
    }
    if let Some(rollback) = &status.rollback {
        let wanted = order(&rollback.since, rollback.by, None, now);
        lines.add("rolls back", format!("to generation {}, {wanted}", rollback.to));
    }
    for hold in &status.holds {
        let what = hold.release.as_deref().unwrap_or("every release");
        let until = hold.until.as_ref().map(|until| format!("until {}, ", until.at)).unwrap_or_default();
        let name = if hold.until.is_some() { "postponed" } else { "held" };
        lines.add(
            name,
            format!("{what}, {until}{}", order(&hold.since, hold.by, hold.reason.as_deref(), now)),
        );
    }
}

/// What was done since the boot.
fn add_work(lines: &mut Lines, status: &Status) {
    if let Some(fetch) = status.fetch {
        lines.add("fetched", format!("{} of {}", bytes(fetch.bytes), bytes(fetch.total)));
    }
    let sums = &status.counters;
    lines.add(
        "since boot",
        format!("{} checks, {} upgrades, {} fetched", sums.checks, sums.upgrades, bytes(sums.bytes_fetched)),
    );
    for (name, service) in &status.services {
        let down = service.down_ms.map(|down| format!(", was down for {down} ms")).unwrap_or_default();
        lines.add("service", format!("{name} {}{down}", service.last_event));
    }
    if status.more_services > 0 {
        lines.add("service", format!("others were stopped or started {} times", status.more_services));
    }
}

/// Who runs what is no longer installed.
fn add_outdated(lines: &mut Lines, status: &Status) {
    for old in &status.outdated {
        let files: Vec<_> = old.files.iter().map(|path| format!("/{path}")).collect();
        let files = if files.is_empty() { "files that are gone".to_owned() } else { files.join(", ") };
        let more = more(old.more_files, "file");
        lines.add("runs old", format!("{}: {files}{more}, until {}", old.service, old.until));
    }
    if status.more_outdated > 0 {
        lines.add("runs old", format!("{} more services", status.more_outdated));
    }
    for process in &status.left_behind {
        lines.add("left behind", format!("{process}, and runs on with what was there before"));
    }
    if status.more_left_behind > 0 {
        lines.add("left behind", format!("{} more processes", status.more_left_behind));
    }
}

/// What a person has to look at: configuration that two have changed.
fn add_conflicts(lines: &mut Lines, status: &Status) {
    for conflict in &status.conflicts {
        lines.add("conflict", conflict.to_string());
    }
    if status.more_conflicts > 0 {
        lines.add("conflict", format!("{} more files", status.more_conflicts));
    }
}

/// The node itself: its kernel, its state, its daemon, and whom it trusts.
fn add_node(lines: &mut Lines, status: &Status, now: u64) {
    if let Some(KernelStatus { state, installed, running, .. }) = &status.kernel {
        let installed = installed.as_ref().map_or("another one", |installed| &installed.release);
        let what = match state {
            KernelState::RebootRequired => format!("REBOOT REQUIRED: {installed} is installed"),
            KernelState::OnTrial => "ON TRIAL".to_owned(),
            KernelState::Unknown => "UNKNOWN whether it is the release's".to_owned(),
        };
        lines.add("kernel", format!("{} runs; {what}", running.release));
    }
    if let Some(in_ram) = &status.state_in_ram {
        let unread = match in_ram.unread.as_slice() {
            [] => String::new(),
            files => format!("; could not be read: {}", files.join(", ")),
        };
        let since = past(&in_ram.since, now);
        lines.add("state", format!("IN RAM since {since}, lost at a reboot: {}{unread}", in_ram.reason));
    }
    if let Some(why) = &status.records_lost {
        lines.add("records", format!("LOST: {why}"));
    }
    let daemon = &status.identityd;
    let started = past(&daemon.started, now);
    lines.add("identityd", format!("{}, pid {}, started {started}", daemon.version, daemon.pid));
    if let Some(node) = &status.node {
        lines.add("node", format!("{} ({})", node.id, node.id_from.explanation()));
        let group = match (&node.group, node.group_from) {
            (Some(group), Some(from)) => format!("{group} ({})", from.explanation()),
            (Some(group), None) => group.clone(),
            (None, _) => "none".to_owned(),
        };
        lines.add("group", group);
        let director = match (&node.director_missed, node.directed) {
            (Some(why), _) => format!("MISSED: {why}"),
            (None, true) => "followed".to_owned(),
            (None, false) => "none is followed".to_owned(),
        };
        lines.add("director", director);
    }
    if status.insecure {
        lines.add("trust", "INSECURE: releases are not authenticated (no root of trust)".to_owned());
    }
}

#[derive(Default)]
struct Lines(String);

impl Lines {
    fn add(&mut self, name: &str, value: String) {
        // Writing to a String cannot fail.
        let _infallible = writeln!(self.0, "{name:<11} {value}");
    }
}

/// What a list was too long for.
fn more(number: usize, what: &str) -> String {
    match number {
        0 => String::new(),
        1 => format!(" and 1 more {what}"),
        _ => format!(" and {number} more {what}s"),
    }
}

/// Since when an order holds, who gave it, and why.
fn order(since: &Timestamp, by: u32, reason: Option<&str>, now: u64) -> String {
    let reason = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
    format!("since {} by user {by}{reason}", past(since, now))
}

/// When, and how long ago.
fn past(at: &Timestamp, now: u64) -> String {
    format!("{} ({} ago)", at.at, span(now.saturating_sub(at.unix)))
}

/// A number of seconds in its largest unit.
fn span(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use bootstrap::offers::{GroupFrom, IdFrom};
    use identityd::agent::{Gate, Installed, NodeName, ProblemKind, ServiceEvent, Stage};
    use identityd::status::{Daemon, LastError};

    use super::*;

    fn status() -> Status {
        let daemon =
            Daemon { version: "1.0.0".into(), pid: 7, started: Timestamp::from_unix(1000), polled: false };
        Status::new(daemon, true)
    }

    #[test]
    fn a_node_that_was_not_booted_from_a_flist_says_so() {
        let status = Status {
            gate: Some(Gate::FlistName),
            reason: Some(Gate::FlistName.explanation().to_owned()),
            ..status()
        };
        let text = text(&status, 1060);
        assert!(
            text.starts_with("stage       Waiting (FlistName)\nreason      live upgrade is disabled"),
            "{text}"
        );
        assert!(text.contains("last check  never\n"), "{text}");
        assert!(
            text.contains("identityd   1.0.0, pid 7, started 1970-01-01T00:16:40Z (60 s ago)\n"),
            "{text}"
        );
        assert!(text.contains("trust       INSECURE"), "{text}");
    }

    #[test]
    fn who_the_node_is_and_how_that_is_known() {
        let mut node = NodeName {
            id: "rack7-3".into(),
            id_from: IdFrom::Config,
            group: Some("canary".into()),
            group_from: Some(GroupFrom::Kernel),
            place: "17.20".into(),
            directed: true,
            director_missed: None,
        };
        let shown = |node: &NodeName| text(&Status { node: Some(node.clone()), ..status() }, 1000);
        let told = "node        rack7-3 (node_id in the configuration file)\n\
                    group       canary (molt.group= or farmer_id= on the kernel command line)\n\
                    director    followed\n";
        assert!(shown(&node).contains(told), "{}", shown(&node));
        (node.id_from, node.group, node.group_from, node.directed) = (IdFrom::Own, None, None, false);
        let own = shown(&node);
        assert!(own.contains("rack7-3 (given by itself") && own.contains("group       none\n"), "{own}");
        assert!(own.contains("director    none is followed\n"), "{own}");
        node.director_missed = Some("its root is gone".into());
        let missed = shown(&node);
        assert!(missed.contains("director    MISSED: its root is gone\n"), "{missed}");
    }

    #[test]
    fn what_is_waited_for_is_not_told_twice() {
        let message = "cannot ask the hub";
        let error = LastError {
            message: message.into(),
            kind: ProblemKind::Network,
            at: Timestamp::from_unix(1000),
            attempts: 2,
        };
        let told = Status { reason: Some(message.into()), last_error: Some(error), ..status() };
        let shown = text(&told, 1000);
        assert_eq!(shown.matches(message).count(), 1, "{shown}");
        assert!(shown.contains("last error  the reason above (Network, 2 times, "), "{shown}");
        let other = text(&Status { reason: None, ..told }, 1000);
        assert!(other.contains("last error  cannot ask the hub (Network"), "{other}");
    }

    #[test]
    fn an_upgraded_node() {
        let mut status = Status {
            stage: Stage::Committed,
            gate: None,
            insecure: false,
            next_check: Some(Timestamp::from_unix(1000 + 600)),
            ..status()
        };
        status.installed = Some(Installed {
            channel: "tf-zos/zos:development:latest.flist".into(),
            version: "2.0.0".into(),
            release: "0123456789abcdef".repeat(4),
            generation: 4,
        });
        status.fetched(1024, 1024);
        status.service("web".into(), ServiceEvent::Started { down_ms: 12 });
        assert_eq!(
            text(&status, 1000),
            "stage       Committed\n\
             channel     tf-zos/zos:development:latest.flist\n\
             installed   2.0.0 (release 0123456789ab), generation 4\n\
             last check  never\n\
             next check  in 10 min\n\
             fetched     1.0 KiB of 1.0 KiB\n\
             since boot  0 checks, 0 upgrades, 1.0 KiB fetched\n\
             service     web started, was down for 12 ms\n\
             identityd   1.0.0, pid 7, started 1970-01-01T00:16:40Z (0 s ago)\n"
        );
    }
}
