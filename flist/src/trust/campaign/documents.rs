//! What nodes say of themselves, as operators have collected it: the documents that `identityd status --json` prints, one
//! behind the other, each in one line or in several.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Read};

use serde::{Deserialize, Serialize};

use super::Report;
use crate::trust::director::Who;

/// Largest document, in bytes: a node's status file has the same limit.
const LARGEST_DOCUMENT: usize = 1 << 20;

/// Most documents.
pub const MOST_DOCUMENTS: u64 = 200_000;

/// Most documents that are named because they say nothing.
const MOST_NAMED: usize = 20;

/// Longest name of a node, group, channel, stage or gate, in bytes.
const LONGEST_NAME: usize = 512;

/// Longest reason that is told apart, in characters.
const LONGEST_REASON: usize = 200;

/// The layout of a status that is understood. Additions do not change it.
const SCHEMA: u64 = 1;

/// Why the documents cannot be counted.
#[derive(Debug, thiserror::Error)]
pub enum CollectedError {
    /// They cannot be read.
    #[error("cannot read {from}")]
    Read {
        /// Where they are.
        from: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// There are too many.
    #[error(
        "{from} has more than {MOST_DOCUMENTS} documents with those before it; count them in several parts"
    )]
    TooMany {
        /// Where they are.
        from: String,
    },
}

/// A document that says nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Damaged {
    /// Where it is: the file, and the line that it begins in.
    pub at: String,
    /// What is wrong with it.
    pub problem: String,
}

/// How many documents there were.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Collected {
    /// In all.
    pub documents: u64,
    /// Older ones of nodes of which there is a newer one.
    pub repeated: u64,
    /// Damaged or foreign ones.
    pub damaged: u64,
    /// The first of these.
    pub problems: Vec<Damaged>,
}

/// What has been read so far.
#[derive(Debug, Default)]
pub struct Reports {
    newest: BTreeMap<String, Report>,
    collected: Collected,
}

impl Reports {
    /// Reads documents to their end; `from` is where they are, for people.
    ///
    /// # Errors
    /// [`CollectedError`]. What is damaged or no status of a node is counted and named instead.
    pub fn read(&mut self, from: &str, mut reader: impl BufRead) -> Result<(), CollectedError> {
        let failed = |source| CollectedError::Read { from: from.to_owned(), source };
        let (mut parts, mut number) = (Parts::default(), 0);
        loop {
            let mut line = Vec::new();
            // What is longer is cut off here, and its rest comes as lines of their own.
            let limit = LARGEST_DOCUMENT as u64 + 1;
            let read = (&mut reader).take(limit).read_until(b'\n', &mut line).map_err(failed)?;
            number += 1;
            let ended = if read == 0 { parts.end() } else { parts.line(number, &line) };
            for (line, document) in ended {
                self.document(from, line, &document)?;
            }
            if read == 0 {
                return Ok(());
            }
        }
    }

    fn document(&mut self, from: &str, line: u64, document: &[u8]) -> Result<(), CollectedError> {
        if self.collected.documents >= MOST_DOCUMENTS {
            return Err(CollectedError::TooMany { from: from.to_owned() });
        }
        self.collected.documents += 1;
        match parse(document) {
            Ok(report) => self.add(report),
            Err(problem) => self.damaged(format!("{from}, line {line}"), problem),
        }
        Ok(())
    }

    /// Counts what says nothing, and names it if there is room.
    pub fn damaged(&mut self, at: String, problem: String) {
        self.collected.damaged += 1;
        if self.collected.problems.len() < MOST_NAMED {
            self.collected.problems.push(Damaged { at, problem });
        }
    }

    fn add(&mut self, report: Report) {
        let known = self.newest.get(&report.who.node);
        self.collected.repeated += u64::from(known.is_some());
        if known.is_none_or(|known| known.at <= report.at) {
            self.newest.insert(report.who.node.clone(), report);
        }
    }

    /// What each node said last, and how many documents there were.
    pub fn finish(self) -> (Vec<Report>, Collected) {
        (self.newest.into_values().collect(), self.collected)
    }
}

/// Finds where documents begin and end: one begins with a line that begins with `{`, and ends with that line, or with the
/// next one that is `}`. So what is damaged takes nothing away from what comes after it.
#[derive(Debug, Default)]
struct Parts {
    first_line: u64,
    open: Vec<u8>,
}

impl Parts {
    /// Documents that end with this line, with the numbers of the lines that they begin in.
    fn line(&mut self, number: u64, line: &[u8]) -> Vec<(u64, Vec<u8>)> {
        let text = line.trim_ascii_end();
        let mut ended = Vec::new();
        if line.starts_with(b"{") {
            ended.extend(self.end());
        }
        if self.open.is_empty() {
            // Between documents: nothing, or something that is none.
            if text.starts_with(b"{") && !is_whole(text) {
                (self.first_line, self.open) = (number, text.to_vec());
            } else if !text.is_empty() {
                ended.push((number, text.to_vec()));
            }
            return ended;
        }
        self.open.push(b'\n');
        self.open.extend_from_slice(text);
        if text == b"}" || self.open.len() > LARGEST_DOCUMENT {
            ended.extend(self.end());
        }
        ended
    }

    /// The document that nothing follows.
    fn end(&mut self) -> Vec<(u64, Vec<u8>)> {
        match std::mem::take(&mut self.open) {
            open if open.is_empty() => Vec::new(),
            open => vec![(self.first_line, open)],
        }
    }
}

fn is_whole(text: &[u8]) -> bool {
    serde_json::from_slice::<serde::de::IgnoredAny>(text).is_ok()
}

/// The parts of a node's status that count here.
#[derive(Deserialize)]
struct Status {
    schema: u64,
    stage: String,
    gate: Option<String>,
    reason: Option<String>,
    installed: Option<Release>,
    candidate: Option<Release>,
    last_error: Option<LastError>,
    failed: Option<Failed>,
    last_check: Option<Moment>,
    at: Option<Moment>,
    node: Option<Node>,
}

#[derive(Deserialize)]
struct Release {
    channel: String,
    release: String,
}

#[derive(Deserialize)]
struct LastError {
    message: String,
}

#[derive(Deserialize)]
struct Failed {
    release: String,
    reason: String,
}

#[derive(Deserialize)]
struct Moment {
    unix: u64,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    group: Option<String>,
    #[serde(default)]
    directed: bool,
}

/// What a document says, or what is wrong with it. Pure.
fn parse(document: &[u8]) -> Result<Report, String> {
    if document.len() > LARGEST_DOCUMENT {
        return Err(format!("it is longer than {LARGEST_DOCUMENT} bytes"));
    }
    let status: Status = serde_json::from_slice(document)
        .map_err(|error| format!("it is no status of a node: {}", shortened(&error.to_string())))?;
    if status.schema != SCHEMA {
        return Err(format!("its layout is {}; this program knows {SCHEMA}", status.schema));
    }
    let node = status.node.ok_or("it does not say which node it is of")?;
    let names = [Some(&node.id), node.group.as_ref(), Some(&status.stage), status.gate.as_ref()];
    let installed = status.installed.as_ref().map(|installed| [&installed.channel, &installed.release]);
    let candidate = status.candidate.as_ref().map(|candidate| &candidate.release);
    let failed = status.failed.as_ref().map(|failed| &failed.release);
    let releases = installed.into_iter().flatten().chain(candidate).chain(failed);
    let is_bad =
        |name: &&String| name.is_empty() || name.len() > LONGEST_NAME || name.chars().any(char::is_control);
    if names.into_iter().flatten().chain(releases).any(|name| is_bad(&name)) {
        return Err("it has a name in it that is empty, too long or not readable".to_owned());
    }
    let (channel, installed) =
        status.installed.map(|installed| (installed.channel, installed.release)).unzip();
    let problem = status.last_error.map(|error| error.message).or(status.reason);
    Ok(Report {
        who: Who { node: node.id, group: node.group },
        directed: node.directed,
        channel,
        installed,
        stage: status.stage,
        gate: status.gate,
        candidate: status.candidate.map(|candidate| candidate.release),
        failed: status.failed.map(|failed| (failed.release, shortened(&failed.reason))),
        problem: problem.map(|problem| shortened(&problem)),
        at: status.at.or(status.last_check).map_or(0, |at| at.unix),
    })
}

/// One line, and not too long.
fn shortened(reason: &str) -> String {
    reason.chars().map(|char| if char.is_control() { ' ' } else { char }).take(LONGEST_REASON).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn status(node: &str, at: u64) -> Value {
        json!({
            "schema": 1, "stage": "Idle", "gate": null, "reason": null, "insecure": false, "at": {"at": "", "unix": at},
            "installed": {"channel": "r/c.flist", "version": "1.0.0", "release": "01", "generation": 1},
            "node": {"id": node, "id_from": "config", "group": "canary", "directed": true, "place": "1.00"},
        })
    }

    fn read(text: &str) -> (Vec<Report>, Collected) {
        let mut reports = Reports::default();
        reports.read("all.jsonl", text.as_bytes()).unwrap();
        reports.finish()
    }

    #[test]
    fn documents_in_one_line_or_in_several_are_told_apart_and_the_newest_of_a_node_counts() {
        let pretty = serde_json::to_string_pretty(&status("n1", 7)).unwrap();
        let text = format!("{}\n{pretty}\n\n{}\n{pretty}", status("n1", 9), status("n2", 1));
        let (reports, collected) = read(&text);
        let seen: Vec<_> = reports.iter().map(|report| (report.who.node.as_str(), report.at)).collect();
        assert_eq!(seen, [("n1", 9), ("n2", 1)]);
        assert_eq!((collected.documents, collected.repeated, collected.damaged), (4, 2, 0));
        assert_eq!(reports[0].who.group.as_deref(), Some("canary"));
    }

    #[test]
    fn what_is_damaged_or_foreign_is_named_and_takes_nothing_with_it() {
        let whole = status("n1", 1).to_string();
        let pretty = serde_json::to_string_pretty(&status("n2", 1)).unwrap();
        let cut = &pretty[..pretty.len() / 2];
        let foreign = json!({"schema": 1, "stage": "Idle", "node": null}).to_string();
        let later = whole.replacen("\"schema\":1", "\"schema\":2", 1);
        let nameless = status("", 1);
        let text = format!(
            "{whole}\nssh: connect to host n3 port 22\n{}\n{cut}\n{foreign}\n{later}\n{nameless}\n[1]\n{}\n{{\"a\":",
            &whole[..40],
            status("n4", 1),
        );
        let (reports, collected) = read(&text);
        let nodes: Vec<_> = reports.iter().map(|report| report.who.node.as_str()).collect();
        assert_eq!(nodes, ["n1", "n4"]);
        let lines: Vec<_> = collected.problems.iter().map(|damaged| damaged.at.as_str()).collect();
        assert_eq!(collected.damaged, 8, "{:?}", collected.problems);
        assert_eq!(lines[..3], ["all.jsonl, line 2", "all.jsonl, line 3", "all.jsonl, line 4"]);
        assert!(collected.problems[3].problem.contains("which node"), "{:?}", collected.problems);
        assert!(collected.problems[4].problem.contains("layout is 2"), "{:?}", collected.problems);
    }

    #[test]
    fn what_is_too_long_is_damaged_and_the_next_one_counts() {
        let mut long = status("n1", 1);
        long["reason"] = "x".repeat(LARGEST_DOCUMENT).into();
        let pretty = serde_json::to_string_pretty(&long).unwrap();
        for long in [long.to_string(), pretty] {
            let (reports, collected) = read(&format!("{long}\n{}\n", status("n2", 1)));
            assert_eq!(reports.len(), 1, "{:?}", collected.problems);
            assert!(collected.damaged >= 1 && collected.problems.len() <= MOST_NAMED);
        }
        let many = "x\n".repeat(100);
        let (_, collected) = read(&many);
        assert_eq!((collected.damaged, collected.problems.len()), (100, MOST_NAMED));
    }

    #[test]
    fn a_status_of_an_earlier_version_is_as_old_as_its_last_check() {
        let mut earlier = status("n1", 1);
        earlier.as_object_mut().unwrap().remove("at");
        earlier["last_check"] = json!({"at": "", "unix": 5});
        assert_eq!(read(&earlier.to_string()).0[0].at, 5);
    }
}
