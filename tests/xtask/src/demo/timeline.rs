//! What happens in the node, told while it happens.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use molt_tests::{Error, Node};

/// Columns of one line of the timeline.
const WIDTH: usize = 132;

/// Prints events with the time since its start.
pub(super) struct Timeline {
    start: Instant,
    console_lines: usize,
    stage: String,
    news: Receiver<Event>,
    reporter: Sender<Event>,
}

/// Something that happened.
pub(super) struct Event {
    /// When.
    pub(super) at: Instant,
    /// To whom.
    pub(super) who: &'static str,
    /// What.
    pub(super) what: String,
}

impl Timeline {
    /// Starts the clock.
    pub(super) fn start() -> Self {
        println!("\n   seconds  what happened");
        let (reporter, news) = channel();
        Self { start: Instant::now(), console_lines: 0, stage: String::new(), news, reporter }
    }

    /// Takes events from other threads; they are told with the next look at the node.
    pub(super) fn reporter(&self) -> Sender<Event> {
        self.reporter.clone()
    }

    /// Something happened just now.
    pub(super) fn now(&self, who: &'static str, what: impl Into<String>) {
        self.tell(&Event { at: Instant::now(), who, what: what.into() });
    }

    fn tell(&self, event: &Event) {
        let seconds = event.at.saturating_duration_since(self.start).as_secs_f64();
        let line: String = event.what.chars().take(WIDTH).collect();
        println!("{seconds:>10.3}  {:<9}  {line}", event.who);
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

    /// Tells what happened since the last call.
    fn follow(&mut self, node: &Node) {
        let mut events: Vec<_> = self.news.try_iter().collect();
        let lines = node.console().lines();
        for line in lines.iter().skip(self.console_lines) {
            events.extend(spoken(&line.text).map(|(who, what)| Event { at: line.at, who, what }));
        }
        self.console_lines = lines.len();
        // Before identityd has started there is none.
        let status = node.status().unwrap_or_default();
        let stage = status["stage"].as_str().unwrap_or(&self.stage).to_owned();
        if stage != self.stage {
            events.push(Event { at: Instant::now(), who: "node", what: format!("identityd is {stage}") });
            self.stage = stage;
        }
        events.sort_by_key(|event| event.at);
        events.iter().for_each(|event| self.tell(event));
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
