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
        Self { start: Instant::now(), console_lines: 0, news, reporter }
    }

    /// Takes events from other threads; they are told with the next look at the node.
    pub(super) fn reporter(&self) -> Sender<Event> {
        self.reporter.clone()
    }

    /// Something happened just now.
    pub(super) fn now(&self, who: &'static str, what: impl Into<String>) {
        // What others saw before comes before.
        self.news.try_iter().for_each(|event| self.tell(&event));
        self.tell(&Event { at: Instant::now(), who, what: what.into() });
    }

    fn tell(&self, event: &Event) {
        let seconds = event.at.saturating_duration_since(self.start).as_secs_f64();
        let line: String = with_short_digests(&event.what).chars().take(WIDTH).collect();
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
            events.extend(logged(&line.text).map(|what| Event { at: line.at, who: "node", what }));
        }
        self.console_lines = lines.len();
        events.sort_by_key(|event| event.at);
        events.iter().for_each(|event| self.tell(event));
    }
}

/// What this line of the console says if it is of bootstrap or identityd: only they log to the console
/// directly, each line with a time and a level in front. That the agent looks for a new release every two
/// seconds is left out.
fn logged(line: &str) -> Option<String> {
    let plain = without_colours(line);
    let (time, rest) = plain.split_once(' ')?;
    let (level, message) = rest.trim_start().split_once(' ')?;
    let is_time = time.ends_with('Z') && time.starts_with(|c: char| c.is_ascii_digit());
    let told = match (is_time, level) {
        (true, "INFO") => message.trim().to_owned(),
        (true, "WARN" | "ERROR") => format!("{level} {}", message.trim()),
        _ => return None,
    };
    let only_a_poll =
        ["stage stage=Resolving from=Idle", "stage stage=Idle from=Resolving"].contains(&told.as_str());
    (!only_a_poll).then(|| for_people(&told))
}

/// A line of the log without its programmer's form: `message key=value …`.
fn for_people(line: &str) -> String {
    let is_key = |word: &str| {
        let key = word.split_once('=').map_or("", |(key, _)| key);
        !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    };
    let words: Vec<&str> = line.split(' ').collect();
    let fields = words.iter().position(|word| is_key(word)).unwrap_or(words.len());
    let (message, fields) = (words[..fields].join(" "), &words[fields..]);
    if let ("stage", [stage, ..]) = (message.as_str(), fields) {
        return format!("identityd is {}", stage.trim_start_matches("stage="));
    }
    let mut told = Vec::new();
    for word in fields {
        match told.last_mut() {
            Some(value) if !is_key(word) => *value = format!("{value} {word}"),
            _ => {
                let (key, value) = word.split_once('=').unwrap_or((word, ""));
                told.push(format!("{} {value}", key.replace('_', " ")));
            }
        }
    }
    if told.is_empty() { message } else { format!("{message} ({})", told.join(", ").replace('"', "")) }
}

/// Digests tell people nothing beyond their first digits.
fn with_short_digests(text: &str) -> String {
    let is_digest = |word: &str| word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let words = text.split_inclusive(|c: char| !c.is_ascii_alphanumeric());
    let short = words.map(|word| {
        let (digits, end) = word.split_at(word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric()).len());
        if is_digest(digits) { format!("{}…{end}", &digits[..8]) } else { word.to_owned() }
    });
    short.collect()
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
    fn digests_are_cut() {
        let digest = "6cff402c".repeat(8);
        assert_eq!(with_short_digests(&format!("a={digest} /x/{digest}")), "a=6cff402c… /x/6cff402c…");
        assert_eq!(with_short_digests("v1.0.0: none"), "v1.0.0: none");
    }

    #[test]
    fn our_programs_are_heard() {
        let line = "\u{1b}[2m2026-11-20T19:44:18.5Z\u{1b}[0m \u{1b}[33m WARN\u{1b}[0m INSECURE: nobody signs";
        assert_eq!(logged(line).unwrap(), "WARN INSECURE: nobody signs");
        assert_eq!(logged("2026-11-20T19:44:18.5Z  INFO mounted path=/x").unwrap(), "mounted (path /x)");
        let line = "2026-11-20T19:44:18.5Z  INFO installed it new_files=3 from=a b c";
        assert_eq!(logged(line).unwrap(), "installed it (new files 3, from a b c)");
        let line = "2026-11-20T19:44:18.5Z  INFO stage stage=Fetching from=Resolving";
        assert_eq!(logged(line).unwrap(), "identityd is Fetching");
        assert_eq!(logged("2026-11-20T19:44:18.5Z  INFO stage stage=Idle from=Resolving"), None);
        assert_eq!(logged("[+] redis: ready"), None);
    }
}
