//! What happens in the node, told while it happens.

use std::time::{Duration, Instant};

use molt_tests::{Error, Node};

/// Columns of one line of the timeline.
const WIDTH: usize = 132;

/// Prints events with the time since its start.
pub(super) struct Timeline {
    start: Instant,
    console_lines: usize,
    stage: String,
}

impl Timeline {
    /// Starts the clock.
    pub(super) fn start() -> Self {
        println!("\n   seconds  what happened");
        Self { start: Instant::now(), console_lines: 0, stage: String::new() }
    }

    /// Something happened just now.
    pub(super) fn now(&self, who: &str, what: &str) {
        self.at(Instant::now(), who, what);
    }

    /// Something happened at `when`.
    pub(super) fn at(&self, when: Instant, who: &str, what: &str) {
        let seconds = when.saturating_duration_since(self.start).as_secs_f64();
        let line: String = what.chars().take(WIDTH).collect();
        println!("{seconds:>10.3}  {who:<9}  {line}");
    }

    /// Waits as [`Node::wait_for`] does, and tells meanwhile what the node does.
    pub(super) fn wait<T>(
        &mut self,
        node: &Node,
        what: &str,
        limit: Duration,
        mut look: impl FnMut() -> Result<T, String>,
    ) -> Result<T, Error> {
        node.wait_for(what, limit, || {
            self.follow(node);
            look()
        })
    }

    /// Tells what the node did since the last call.
    pub(super) fn follow(&mut self, node: &Node) {
        let lines = node.console().lines();
        for line in lines.iter().skip(self.console_lines) {
            if let Some((who, what)) = spoken(&line.text) {
                self.at(line.at, who, &what);
            }
        }
        self.console_lines = lines.len();
        // Before identityd has started there is none.
        let Ok(status) = node.status() else { return };
        let stage = status["stage"].as_str().unwrap_or_default();
        if stage != self.stage {
            self.now("node", &format!("identityd is {stage}"));
            stage.clone_into(&mut self.stage);
        }
    }
}

/// Who of our two programs wrote this line of the console, and what.
fn spoken(line: &str) -> Option<(&'static str, String)> {
    let plain = without_colours(line);
    ["bootstrap", "identityd"].into_iter().find_map(|who| {
        let (_, what) = plain.split_once(&format!("] {who}: "))?;
        Some((who, what.trim().to_owned()))
    })
}

/// Drops terminal escape sequences (ECMA-48 CSI).
fn without_colours(line: &str) -> String {
    let mut plain = String::new();
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("\u{1b}[") {
        plain.push_str(before);
        rest = after.find(|c: char| c.is_ascii_alphabetic()).map_or("", |end| &after[end + 1..]);
    }
    plain + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_programs_are_heard() {
        let line = "[+] identityd: \u{1b}[2m12:00\u{1b}[0m  INFO fetching";
        assert_eq!(spoken(line), Some(("identityd", "12:00  INFO fetching".to_owned())));
        assert_eq!(spoken("[-] redis: ready"), None);
    }
}
