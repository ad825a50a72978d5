//! The smallest HTTP client that can ask whether a service answers.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Largest answer that is read, in bytes.
const MAX_ANSWER: u64 = 1 << 20;

/// An answer over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The body, as text.
    pub body: String,
}

/// Asks `server` for `path`. Each step (connecting, writing, one read) may take `limit`.
///
/// Call it inside of [`NetNs::run`](crate::NetNs::run) to reach what runs in a network namespace.
///
/// # Errors
/// When there is no complete HTTP answer.
pub fn get(server: SocketAddr, path: &str, limit: Duration) -> io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&server, limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.take(MAX_ANSWER).read_to_string(&mut text)?;
    parse(&text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no complete HTTP answer"))
}

fn parse(text: &str) -> Option<Answer> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    let promised = head.lines().filter_map(|line| line.split_once(':')).find_map(|(name, value)| {
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    // A service that dies while it answers has not answered.
    let complete = promised.is_none_or(|length| length == body.len());
    complete.then(|| Answer { status, body: body.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_answer_is_none() {
        let whole = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n1.0.0";
        assert_eq!(parse(whole), Some(Answer { status: 200, body: "1.0.0".into() }));
        assert_eq!(parse(&whole[..whole.len() - 1]), None);
        assert_eq!(parse("HTTP/1.1 200 OK\r\nContent-Le"), None);
        assert_eq!(parse(""), None);
    }
}
