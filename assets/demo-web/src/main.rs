//! `demo-web`: a small HTTP service that tells its version and its pid. It is the part of the demo's
//! payload that changes between releases.
//!
//! Its version is, in this order: the text of the file beside the program that has its name with
//! `.version` at the end, read once at the start; the environment variable `MOLT_VERSION` at compile time;
//! the version of the crate.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};

const DEFAULT_ADDRESS: &str = "127.0.0.1:8000";

/// Most bytes of a request's head.
const MAX_HEAD: u64 = 8 << 10;

/// Most requests at one time; more are turned away.
const MAX_REQUESTS: usize = 64;

/// How long a client may take for its request or for reading the answer.
const PATIENCE: Duration = Duration::from_secs(10);

const USAGE: &str = "usage: demo-web [--version] [--listen ADDRESS:PORT]";

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let address = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => DEFAULT_ADDRESS,
        ["--listen", address] => address,
        ["--version"] => {
            println!("demo-web {}", version());
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match serve_until_stopped(address) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo-web: cannot serve on {address}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve_until_stopped(address: &str) -> io::Result<()> {
    // Blocked before any thread starts, so that only the wait below gets them.
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
    signals.thread_block()?;
    let listener = TcpListener::bind(address)?;
    let version: Arc<str> = version().into();
    println!("demo-web {version} serves on {address}");
    thread::spawn(move || accept(&listener, &version));
    let signal = signals.wait()?;
    println!("demo-web ends: {signal}");
    Ok(())
}

fn accept(listener: &TcpListener, version: &Arc<str>) {
    let busy = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming().flatten() {
        if busy.fetch_add(1, Ordering::Relaxed) >= MAX_REQUESTS {
            busy.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let (busy, version) = (Arc::clone(&busy), Arc::clone(version));
        thread::spawn(move || {
            // A client that went away is no news.
            let _ = answer(&stream, &version);
            busy.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

fn answer(stream: &TcpStream, version: &str) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut head = BufReader::new(stream.take(MAX_HEAD));
    let mut request = String::new();
    head.read_line(&mut request)?;
    // The rest of the head is read, or closing would reset the connection before the answer has arrived.
    let mut line = String::new();
    while head.read_line(&mut line)? > 0 && !line.trim_end().is_empty() {
        line.clear();
    }
    let (status, kind, body) = page(&request, version);
    let mut stream = stream;
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}; charset=utf-8\r\nContent-Length: {}\r\n\
         Cache-Control: no-store\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// Status, media type and body for a request line.
fn page(request: &str, version: &str) -> (&'static str, &'static str, String) {
    let mut words = request.split_whitespace();
    match (words.next(), words.next()) {
        (Some("GET"), Some("/")) => ("200 OK", "text/html", html(version)),
        (Some("GET"), Some("/version")) => ("200 OK", "text/plain", format!("{version}\n")),
        (Some("GET"), Some("/pid")) => ("200 OK", "text/plain", format!("{}\n", std::process::id())),
        (Some("GET"), Some(_)) => {
            ("404 Not Found", "text/plain", "there are /, /version and /pid\n".to_owned())
        }
        (Some(_), Some(_)) => ("405 Method Not Allowed", "text/plain", "only GET\n".to_owned()),
        _ => ("400 Bad Request", "text/plain", "no request\n".to_owned()),
    }
}

fn html(version: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>demo-web {version}</title>\n\
         <h1>Version {version}</h1>\n<p>Served by process {}.</p>\n</html>\n",
        std::process::id()
    )
}

fn version() -> String {
    let beside = std::env::current_exe().ok().and_then(|program| {
        let mut name = program.into_os_string();
        name.push(".version");
        std::fs::read_to_string(name).ok()
    });
    let built = option_env!("MOLT_VERSION").unwrap_or(env!("CARGO_PKG_VERSION"));
    beside.map_or_else(|| built.to_owned(), |text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages() {
        assert_eq!(page("GET /version HTTP/1.1\r\n", "1.2.3").2, "1.2.3\n");
        assert!(page("GET / HTTP/1.1\r\n", "1.2.3").2.contains("Version 1.2.3"));
        assert!(page("GET /x HTTP/1.1\r\n", "1").0.starts_with("404"));
        assert!(page("POST / HTTP/1.1\r\n", "1").0.starts_with("405"));
        assert!(page("", "1").0.starts_with("400"));
    }
}
