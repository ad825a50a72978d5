//! Asking services all the time, to see for how long one does not answer.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use molt_tests::{Error, Node, get};

use super::timeline::Event;

/// Time between two questions.
const EVERY: Duration = Duration::from_millis(5);

/// How long an answer may take before it counts as none.
const PATIENCE: Duration = Duration::from_millis(500);

/// Most bytes of identityd's answer.
const MAX_STATUS: u64 = 1 << 20;

const WEB: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8000);
const REDIS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 6379);

/// What was seen of one service.
#[derive(Debug, Default, Clone)]
pub(super) struct Seen {
    /// Answers; the same answer one after the other is there once.
    pub(super) answers: Vec<String>,
    /// How many questions were asked.
    pub(super) questions: u64,
    /// How many of them were answered.
    pub(super) answered: u64,
    /// Whether the last one was.
    pub(super) answers_at_end: bool,
    /// The longest time from one answer to the next; from the last answer to the end if that is longer.
    /// With the questions this close together, it bounds how long the service was away.
    pub(super) longest_gap: Duration,
}

/// A thread that asks one service.
pub(super) struct Probe {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Seen, Error>>,
}

impl Probe {
    /// Asks the web service in the namespace of the node for its version.
    pub(super) fn web(node: &Node, reporter: Sender<Event>) -> Self {
        Self::start(node, "web", reporter, web_version)
    }

    /// Sends PING to redis.
    pub(super) fn redis(node: &Node, reporter: Sender<Event>) -> Self {
        Self::start(node, "redis", reporter, || ping().ok().filter(|answer| answer == "+PONG"))
    }

    /// Asks identityd for its version through its control socket.
    pub(super) fn identityd(node: &Node, reporter: Sender<Event>) -> Self {
        let socket = node.path("/run/molt/control.sock");
        Self::start(node, "identityd", reporter, move || identityd_version(&socket).ok())
    }

    /// Stops asking.
    pub(super) fn stop(self) -> Result<Seen, Error> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| Error::Unexpected("a probe died".to_owned()))?
    }

    fn start(
        node: &Node,
        who: &'static str,
        reporter: Sender<Event>,
        ask: impl FnMut() -> Option<String> + Send + 'static,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (netns, stopped) = (node.netns().clone(), Arc::clone(&stop));
        let report = move |answer: &str| {
            let what = format!("answers \"{answer}\"");
            // Nobody listens any more when the demo is over.
            let _ = reporter.send(Event { at: Instant::now(), who, what });
        };
        let thread = thread::spawn(move || netns.run(|| watch(&stopped, ask, report)));
        Self { stop, thread }
    }
}

/// The version that the web service tells now; only inside of its network namespace.
pub(super) fn web_version() -> Option<String> {
    let answer = get(WEB, "/version", PATIENCE).ok()?;
    (answer.status == 200).then(|| answer.body.trim().to_owned())
}

fn identityd_version(socket: &Path) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"{\"verb\":\"status\"}\n")?;
    let mut line = String::new();
    BufReader::new(stream.take(MAX_STATUS)).read_line(&mut line)?;
    let answer: serde_json::Value = serde_json::from_str(&line)?;
    let version = answer["ok"]["status"]["identityd"]["version"].as_str();
    version.map(str::to_owned).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, line))
}

fn ping() -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&REDIS, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"PING\r\n")?;
    let mut answer = [0; 16];
    let length = stream.read(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..length]).trim().to_owned())
}

fn watch(stop: &AtomicBool, mut ask: impl FnMut() -> Option<String>, mut report: impl FnMut(&str)) -> Seen {
    let mut seen = Seen::default();
    let mut last_answer = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let answer = ask();
        let now = Instant::now();
        seen.questions += 1;
        seen.answers_at_end = answer.is_some();
        if let Some(answer) = answer {
            seen.longest_gap = seen.longest_gap.max(now - last_answer);
            seen.answered += 1;
            last_answer = now;
            if seen.answers.last() != Some(&answer) {
                report(&answer);
                seen.answers.push(answer);
            }
        }
        thread::sleep(EVERY);
    }
    seen.longest_gap = seen.longest_gap.max(last_answer.elapsed());
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_measured_and_answers_are_not_repeated() {
        let stop = AtomicBool::new(false);
        let mut script = ["1", "1", "", "", "2", "2"].iter();
        let ask = || match script.next() {
            Some(&"") => None,
            Some(answer) => Some((*answer).to_owned()),
            None => {
                stop.store(true, Ordering::Relaxed);
                Some("2".to_owned())
            }
        };
        let mut reported = Vec::new();
        let seen = watch(&stop, ask, |answer| reported.push(answer.to_owned()));
        assert_eq!((&seen.answers, seen.questions, seen.answered), (&vec!["1".into(), "2".into()], 7, 5));
        assert_eq!(reported, seen.answers);
        assert!(seen.answers_at_end && seen.longest_gap >= 3 * EVERY);
    }
}
