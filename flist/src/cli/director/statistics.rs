//! `flist director statistics`

use std::fmt::Write;
use std::fs::{self, File};
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::time::Duration;

use flist::span;
use flist::trust::campaign::{
    Collected, CollectedError, Counts, ReleaseStatistics, Reports, Statistics, campaigns, statistics,
};
use flist::trust::repository::RoleName;
use jiff::Timestamp;
use serde::Serialize;

use super::{choice_of, rule_text, time_text};
use crate::cli::output::Output;
use crate::cli::trust::DirectorAccess;

/// Most problems with documents, and most reasons of failures, that are shown to people.
const MOST_SHOWN: usize = 5;

/// How a campaign goes, by what nodes say of themselves.
#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    access: DirectorAccess,
    /// What `identityd status --json` prints on the nodes: a file with one after the other, `-` for standard input, or a
    /// directory of such files; of several of one node the newest counts
    #[arg(long, value_name = "FILE|DIR|-")]
    nodes: PathBuf,
    /// What a node said longer ago than this is stale, such as 90m or 2d
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = span::parse)]
    stale: Duration,
}

/// The statistics file.
#[derive(Serialize)]
struct Written {
    #[serde(flatten)]
    statistics: Statistics,
    collected: Collected,
}

pub(super) fn run(Arguments { access, nodes, stale }: &Arguments, output: &Output) -> crate::cli::Outcome {
    let directory = access.open()?;
    let mut targets = Vec::new();
    for (path, target) in directory.targets(RoleName::Targets)? {
        match choice_of(&target) {
            Ok(choice) => targets.push((path, choice)),
            Err(failure) => tracing::warn!(path, error = %failure.error, "this target chooses nothing"),
        }
    }
    let (campaigns, unnamed) = campaigns(targets);
    let (reports, collected) = read(nodes)?.finish();
    let now = Timestamp::now().as_second();
    let statistics = statistics((&campaigns, unnamed), &reports, now, *stale);
    let written = Written { statistics, collected };
    output.data(&written, || text(&written))
}

fn read(nodes: &Path) -> Result<Reports, CollectedError> {
    let mut reports = Reports::default();
    let name = nodes.display().to_string();
    if nodes.as_os_str() == "-" {
        reports.read("standard input", io::stdin().lock())?;
        return Ok(reports);
    }
    let failed = |source| CollectedError::Read { from: name.clone(), source };
    if !nodes.is_dir() {
        reports.read(&name, BufReader::new(File::open(nodes).map_err(failed)?))?;
        return Ok(reports);
    }
    let mut paths: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(nodes).map_err(failed)? {
        paths.push(entry.map_err(failed)?.path());
    }
    paths.sort();
    for path in paths {
        let name = path.display().to_string();
        // One that cannot be read says nothing of its node, and the others do.
        let opened = match fs::metadata(&path) {
            // A pipe would be waited for.
            Ok(metadata) if !metadata.is_file() => Err(io::Error::other("it is no regular file")),
            Ok(_) => File::open(&path),
            Err(error) => Err(error),
        };
        match opened {
            Ok(file) => reports.read(&name, BufReader::new(file))?,
            Err(error) => reports.damaged(name, format!("cannot read it: {error}")),
        }
    }
    Ok(reports)
}

/// For people.
fn text(Written { statistics, collected }: &Written) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let mut line = |indent: usize, said: &str| {
        let _infallible = writeln!(text, "{:indent$}{said}", "");
    };
    line(0, &of_documents(statistics, collected));
    for damaged in collected.problems.iter().take(MOST_SHOWN) {
        line(2, &format!("{}: {}", damaged.at, damaged.problem));
    }
    for release in &statistics.releases {
        line(0, &of_release(release));
        of_counts(2, &release.all, &mut line);
        if release.kept > 0 {
            line(2, &format!("{} have it for whom it is not chosen now", nodes(release.kept)));
        }
        for rule in &release.rules {
            line(2, &rule_text(&rule.rule));
            of_counts(4, &rule.counts, &mut line);
        }
    }
    if statistics.releases.is_empty() {
        line(0, "nothing is chosen for anybody");
    }
    for path in &statistics.unnamed {
        line(
            0,
            &format!(
                "{path}: chosen by an earlier version, which did not say of which release; choose it again"
            ),
        );
    }
    text
}

fn of_documents(statistics: &Statistics, collected: &Collected) -> String {
    let Statistics { stale, stale_after, undirected, without_release, .. } = statistics;
    let documents = format!("{} from {} documents", nodes(statistics.nodes), collected.documents);
    let stale_after = span::text(Duration::from_secs(*stale_after));
    let parts = [
        (*stale, format!("{stale} older than {stale_after}")),
        (*undirected, format!("{undirected} without a director")),
        (*without_release, format!("{without_release} on which nothing is installed")),
        (collected.damaged, format!("{} that cannot be read", collected.damaged)),
    ];
    let parts = parts.into_iter().filter(|(number, _)| *number > 0).map(|(_, part)| part);
    [documents].into_iter().chain(parts).collect::<Vec<_>>().join("; ")
}

fn of_release(release: &ReleaseStatistics) -> String {
    let id: String = release.of.release.to_string().chars().take(12).collect();
    let (channel, version) = (&release.of.channel, &release.of.version);
    let paused = release.paused.map(|since| format!(", waves stand still since {}", time_text(since)));
    let aborted = if release.aborted { ", called off" } else { "" };
    let on_channel = nodes(release.nodes);
    format!(
        "{channel} {version} (release {id}), {on_channel} on the channel{}{aborted}",
        paused.unwrap_or_default()
    )
}

fn of_counts(indent: usize, counts: &Counts, line: &mut impl FnMut(usize, &str)) {
    let Counts { share_planned, share_due, share_reached, .. } = counts;
    line(
        indent,
        &format!("reached {share_reached:.1} %, due {share_due:.1} %, planned {share_planned:.1} % of them"),
    );
    let waits: Vec<String> = counts.waits.iter().map(|(gate, number)| format!("{gate} {number}")).collect();
    let rows = [
        ("installed", counts.installed, String::new()),
        ("installing", counts.installing, String::new()),
        ("waiting", counts.waiting, format!(": {}", waits.join(", "))),
        ("failed", counts.failed, String::new()),
        ("degraded", counts.degraded, String::new()),
        ("superseded", counts.superseded, String::new()),
        ("stale", counts.stale, String::new()),
    ];
    for (name, number, more) in rows {
        if number > 0 {
            line(indent, &format!("{name:<11} {number}{more}"));
        }
        if name == "failed" {
            for failures in counts.failures.iter().take(MOST_SHOWN) {
                line(indent + 2, &format!("{} × {}", failures.nodes, failures.reason));
            }
        }
    }
}

fn nodes(number: u64) -> String {
    if number == 1 { "1 node".to_owned() } else { format!("{number} nodes") }
}
