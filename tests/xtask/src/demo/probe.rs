//! Asking services all the time, to see for how long one does not answer.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use molt_tests::{Error, NetNs, Node, get};

/// Time between two questions.
const EVERY: Duration = Duration::from_millis(5);

/// How long an answer may take before it counts as none.
const PATIENCE: Duration = Duration::from_millis(500);

const WEB: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8000);
const REDIS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 6379);

/// What was seen of one service.
#[derive(Debug, Default, Clone)]
pub(super) struct Seen {
    /// Answers, the same one after the other counted once: when it came first, and what it was.
    pub(super) answers: Vec<(Instant, String)>,
    /// How many questions were asked.
    pub(super) questions: u64,
    /// How many of them were answered.
    pub(super) answered: u64,
    /// Whether the last one was.
    pub(super) answers_at_end: bool,
    /// Times without an answer: from the last answer before to the first one after. One that has not
    /// ended when the probe stops lasts until then.
    pub(super) outages: Vec<Duration>,
}

impl Seen {
    /// The whole time without answers.
    pub(super) fn outage(&self) -> Duration {
        self.outages.iter().sum()
    }
}

/// A thread that asks one service.
pub(super) struct Probe {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Seen, Error>>,
}

impl Probe {
    /// Asks the web service in `netns` for its version.
    pub(super) fn web(netns: &NetNs) -> Self {
        Self::start(netns, web_version)
    }

    /// Sends PING to redis in `netns`.
    pub(super) fn redis(netns: &NetNs) -> Self {
        Self::start(netns, || ping().ok().filter(|answer| answer == "+PONG"))
    }

    /// Connects to the control socket of identityd.
    pub(super) fn identityd(node: &Node) -> Self {
        let socket = node.path("/run/molt/control.sock");
        Self::start(node.netns(), move || UnixStream::connect(&socket).ok().map(|_| "there".to_owned()))
    }

    /// Stops asking.
    pub(super) fn stop(self) -> Result<Seen, Error> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| Error::Unexpected("a probe died".to_owned()))?
    }

    fn start(netns: &NetNs, ask: impl FnMut() -> Option<String> + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (netns, stopped) = (netns.clone(), Arc::clone(&stop));
        let thread = thread::spawn(move || netns.run(|| watch(&stopped, ask)));
        Self { stop, thread }
    }
}

/// The version that the web service tells now; only inside of its network namespace.
pub(super) fn web_version() -> Option<String> {
    let answer = get(WEB, "/version", PATIENCE).ok()?;
    (answer.status == 200).then(|| answer.body.trim().to_owned())
}

fn ping() -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&REDIS, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"PING\r\n")?;
    let mut answer = [0; 16];
    let length = stream.read(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..length]).trim().to_owned())
}

fn watch(stop: &AtomicBool, mut ask: impl FnMut() -> Option<String>) -> Seen {
    let mut seen = Seen::default();
    let mut last_answer = Instant::now();
    let mut silent = false;
    while !stop.load(Ordering::Relaxed) {
        let answer = ask();
        let now = Instant::now();
        seen.questions += 1;
        if let Some(answer) = answer {
            if silent {
                seen.outages.push(now - last_answer);
            }
            if seen.answers.last().is_none_or(|(_, before)| *before != answer) {
                seen.answers.push((now, answer));
            }
            seen.answered += 1;
            (last_answer, silent) = (now, false);
        } else {
            silent = true;
        }
        thread::sleep(EVERY);
    }
    if silent {
        seen.outages.push(last_answer.elapsed());
    }
    seen.answers_at_end = !silent && seen.answered > 0;
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_counted_and_answers_are_not_repeated() {
        let stop = AtomicBool::new(false);
        let mut script = ["1", "1", "", "", "2", "2"].iter();
        let seen = watch(&stop, || match script.next() {
            Some(&"") => None,
            Some(answer) => Some((*answer).to_owned()),
            None => {
                stop.store(true, Ordering::Relaxed);
                Some("2".to_owned())
            }
        });
        let answers: Vec<_> = seen.answers.iter().map(|(_, answer)| answer.as_str()).collect();
        assert_eq!((answers, seen.outages.len()), (vec!["1", "2"], 1));
        assert!(seen.outage() >= 2 * EVERY);
    }
}
