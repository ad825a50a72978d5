//! The logs of all services as one. Pure.

use super::super::{MAX_LOG_BYTES, cut_to_tail};

/// The newest lines, whatever comes in: never more than twice as many bytes as are asked for, and one line.
#[derive(Default)]
pub(super) struct Tail {
    lines: Vec<(u64, String)>,
    bytes: usize,
}

impl Tail {
    /// Takes a line of a service.
    pub(super) fn add(&mut self, name: &str, line: &str) {
        let line = log_line(name, line);
        self.bytes += line.1.len();
        self.lines.push(line);
        // Not at every line: sorting is dear.
        if self.bytes > 2 * MAX_LOG_BYTES {
            self.prune();
        }
    }

    /// All of it in the order of time, at most so many bytes as are asked for.
    pub(super) fn into_text(mut self) -> String {
        self.prune();
        let mut log: Vec<u8> = self.lines.into_iter().flat_map(|(_, line)| line.into_bytes()).collect();
        cut_to_tail(&mut log, MAX_LOG_BYTES, true);
        String::from_utf8_lossy(&log).into_owned()
    }

    /// Each service has a log of its own; the times put them in one order. The oldest go.
    fn prune(&mut self) {
        self.lines.sort_by_key(|(time, _)| *time);
        let mut beyond = self.bytes.saturating_sub(MAX_LOG_BYTES);
        let mut gone = 0;
        for (_, line) in &self.lines {
            if beyond == 0 {
                break;
            }
            beyond = beyond.saturating_sub(line.len());
            self.bytes -= line.len();
            gone += 1;
        }
        self.lines.drain(..gone);
    }
}

/// `1794195279123 [stdout] text` as the other dialects say it.
fn log_line(name: &str, line: &str) -> (u64, String) {
    let (time, rest) = line.split_once(' ').unwrap_or(("", line));
    let (mark, text) = match rest.split_once("] ") {
        Some(("[stderr", text)) => ("[-]", text),
        Some((stream, text)) if stream.starts_with('[') => ("[+]", text),
        _ => ("[+]", rest),
    };
    (time.parse().unwrap_or(0), format!("{mark} {name}: {}\n", text.trim_end_matches('\n')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_log() {
        assert_eq!(log_line("a", "12 [stdout] x [y] z"), (12, "[+] a: x [y] z\n".to_owned()));
        assert_eq!(log_line("a", "12 [stderr] no"), (12, "[-] a: no\n".to_owned()));
        assert_eq!(log_line("a", "odd"), (0, "[+] a: odd\n".to_owned()));
    }

    #[test]
    fn of_much_the_newest_is_kept_and_no_more_is_held_meanwhile() {
        let mut tail = Tail::default();
        let filler = "x".repeat(1000);
        // The service that is asked first wrote last.
        for (name, from) in [("late", 20_000), ("early", 0)] {
            for number in 0..10_000 {
                tail.add(name, &format!("{} [stdout] {filler} {number}", from + number));
                let held: usize = tail.lines.iter().map(|(_, line)| line.len()).sum();
                assert!(held == tail.bytes && held <= 2 * MAX_LOG_BYTES);
            }
        }
        let text = tail.into_text();
        assert!(text.len() <= MAX_LOG_BYTES && text.len() > MAX_LOG_BYTES - 2000, "{}", text.len());
        assert!(text.lines().all(|line| line.starts_with("[+] late: x")));
        assert!(text.ends_with(" 9999\n"));
        // One line that is too long is none, and does not take the others along.
        let mut tail = Tail::default();
        tail.add("a", "2 [stdout] short");
        tail.add("a", &format!("1 [stdout] {}", "y".repeat(3 * MAX_LOG_BYTES)));
        assert_eq!(tail.into_text(), "[+] a: short\n");
    }
}
