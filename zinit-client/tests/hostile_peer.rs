//! The client against a scripted peer on a real socket: what zinit says, and what it never would.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::net::UnixListener as StdListener;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixListener;
use tokio::task::JoinHandle;
use zinit_client::{Client, Dialect, Error, Malformed, Refusal, SignalName, State, Target, UnitName};

/// A deadline that no answering peer comes near.
const AMPLE: Duration = Duration::from_secs(60);

/// A peer that takes one connection, reads one line, answers and hangs up.
struct Peer {
    directory: TempDir,
    request: JoinHandle<String>,
}

impl Peer {
    fn answering(answer: impl Into<Vec<u8>>) -> Self {
        let answer = answer.into();
        let directory = tempfile::tempdir().expect("temporary directory");
        let listener = UnixListener::bind(directory.path().join("sock")).expect("bind");
        let request = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.expect("accept");
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            stream.read_line(&mut line).await.expect("a request");
            // A client that has heard enough may be gone before the end.
            let _ = stream.write_all(&answer).await;
            line
        });
        Self { directory, request }
    }

    fn client(&self) -> Client {
        Client::new(self.directory.path().join("sock")).with_deadline(AMPLE).speaking(Dialect::Line)
    }

    async fn request(self) -> String {
        self.request.await.expect("the peer")
    }
}

fn redis() -> UnitName {
    "redis".parse().expect("a name")
}

#[tokio::test]
async fn list_and_status_as_zinit_words_them() {
    let peer = Peer::answering(r#"{"state":"ok","body":{"long":"Running","once":"Success"}}"#);
    let expected = BTreeMap::from([("long".into(), State::Running), ("once".into(), State::Success)]);
    assert_eq!(peer.client().list().await.unwrap(), expected);
    assert_eq!(peer.request().await, "list\n");

    let peer = Peer::answering(
        r#"{"state":"ok","body":{"after":{"long":"Running","once":"Success"},"name":"redis","pid":17766,"state":"Running","target":"Up"}}"#,
    );
    let status = peer.client().status(&redis()).await.unwrap();
    assert_eq!((status.pid, status.target, &status.state), (Some(17766), Target::Up, &State::Running));
    assert_eq!(status.after, expected);
    assert!(status.is_up());
    assert_eq!(peer.request().await, "status redis\n");

    let peer = Peer::answering(
        r#"{"state":"ok","body":{"after":{},"name":"redis","pid":0,"state":"Error(Signaled(Pid(5), SIGTERM, false))","target":"Down"}}"#,
    );
    let status = peer.client().status(&redis()).await.unwrap();
    assert!(status.pid.is_none() && status.is_stopped() && !status.has_failed());
}

#[tokio::test]
async fn orders_are_one_line_each() {
    let ok = r#"{"state":"ok","body":null}"#;
    let peer = Peer::answering(ok);
    peer.client().kill(&redis(), SignalName::KILL).await.unwrap();
    assert_eq!(peer.request().await, "kill redis SIGKILL\n");
    let peer = Peer::answering(ok);
    peer.client().monitor(&redis()).await.unwrap();
    assert_eq!(peer.request().await, "monitor redis\n");
}

#[tokio::test]
async fn refusals_have_classes() {
    let peer = Peer::answering(r#"{"state":"error","body":"service \"redis\" is up"}"#);
    let error = peer.client().forget(&redis()).await.unwrap_err();
    assert_eq!(error.refusal(), Some(&Refusal::IsUp { name: "redis".into() }));
    assert!(!error.is_retryable());
    assert!(error.to_string().contains("forget redis"), "{error}");

    let peer = Peer::answering(r#"{"state":"error","body":"unknown command 'restart'"}"#);
    let error = peer.client().list().await.unwrap_err();
    assert_eq!(error.refusal(), Some(&Refusal::Other("unknown command 'restart'".into())));
}

#[tokio::test]
async fn no_socket() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("sock");
    let client = Client::new(&socket);
    let error = client.list().await.unwrap_err();
    assert!(matches!(&error, Error::NoSocket { socket: named, .. } if *named == socket), "{error:?}");
    assert!(error.is_retryable());

    // The socket of a supervisor that died is refused, and may be taken over any moment.
    drop(StdListener::bind(&socket).unwrap());
    let error = client.list().await.unwrap_err();
    assert!(
        matches!(&error, Error::Connect { source, .. } if source.kind() == io::ErrorKind::ConnectionRefused)
    );
    assert!(error.is_retryable());
}

#[tokio::test]
async fn silence_ends_with_the_deadline() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("sock");
    let _listener = StdListener::bind(&socket).unwrap();
    let deadline = Duration::from_millis(50);
    let client = Client::new(&socket).with_deadline(deadline);
    for error in [client.list().await.unwrap_err(), client.log_snapshot().await.unwrap_err()] {
        assert!(matches!(error, Error::Deadline { after, .. } if after == deadline), "{error:?}");
        assert!(error.is_retryable());
    }
}

#[tokio::test]
async fn an_answer_that_never_ends_ends_with_the_deadline() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let peer = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        while stream.write_all(b"[+] redis: again\n").await.is_ok() {}
    });
    let client = Client::new(&socket).with_deadline(Duration::from_millis(200)).speaking(Dialect::Line);
    let error = client.log_snapshot().await.unwrap_err();
    assert!(matches!(error, Error::Deadline { .. }), "{error:?}");
    peer.await.unwrap();
}

#[tokio::test]
async fn garbage() {
    for answer in ["HTTP/1.1 400 Bad Request\r\n\r\n", "[1,2]", r#"{"state":"ok","body":"yes"}"#] {
        let peer = Peer::answering(answer);
        let error = peer.client().list().await.unwrap_err();
        let Error::Garbage { command, excerpt, source } = &error else { panic!("{error:?}") };
        assert_eq!(command, "list");
        assert!(answer.starts_with(excerpt.split('\\').next().unwrap()), "{excerpt}");
        assert!(matches!(source, Malformed::Json(_)));
        assert!(!error.is_retryable());
    }
    let peer = Peer::answering(
        r#"{"state":"ok","body":{"after":{},"name":"nginx","pid":1,"state":"Running","target":"Up"}}"#,
    );
    let error = peer.client().status(&redis()).await.unwrap_err();
    assert!(matches!(&error, Error::Garbage { source: Malformed::OtherService { .. }, .. }), "{error:?}");
}

#[tokio::test]
async fn not_utf8() {
    let peer = Peer::answering(b"{\"state\":\"ok\",\"body\":{\"\xff\xfe\":\"Running\"}}".to_vec());
    let error = peer.client().list().await.unwrap_err();
    assert!(matches!(error, Error::Garbage { source: Malformed::Encoding(_), .. }), "{error:?}");
}

#[tokio::test]
async fn half_an_answer() {
    for answer in ["", r#"{"state":"ok","body":{"redis":"Run"#] {
        let peer = Peer::answering(answer);
        let error = peer.client().list().await.unwrap_err();
        let Error::BrokenOff { received, .. } = error else { panic!("{error:?}") };
        assert_eq!(received, answer.len());
        assert!(error.is_retryable());
    }
}

#[tokio::test]
async fn an_oversized_answer() {
    let mut answer = br#"{"state":"ok","body":{"redis":""#.to_vec();
    answer.resize(5 << 20, b'x');
    let peer = Peer::answering(answer);
    let error = peer.client().list().await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { limit, .. } if limit == 4 << 20), "{error:?}");
}

#[tokio::test]
async fn of_a_large_log_the_end_is_kept() {
    let mut log = String::new();
    for number in 0..200_000 {
        log.push_str(&format!("[+] redis: line {number}\n"));
    }
    let peer = Peer::answering(log.clone());
    let tail = peer.client().log_snapshot().await.unwrap();
    assert!(tail.len() <= 1 << 20 && tail.len() > 1 << 19, "{}", tail.len());
    assert!(log.ends_with(&tail) && tail.starts_with("[+] redis: line "));
    assert_eq!(peer.request().await, "log snapshot\n");
}

#[tokio::test]
async fn a_log_may_hold_any_bytes_and_may_be_refused() {
    let peer = Peer::answering(b"[-] redis: \xff\n".to_vec());
    assert_eq!(peer.client().log_snapshot().await.unwrap(), "[-] redis: \u{fffd}\n");
    let peer = Peer::answering(r#"{"state":"error","body":"invalid log command arguments"}"#);
    let error = peer.client().log_snapshot().await.unwrap_err();
    assert!(matches!(error.refusal(), Some(Refusal::Other(_))), "{error:?}");
}
