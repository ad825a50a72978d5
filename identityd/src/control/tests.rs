//! Conversations over real sockets, with a scripted agent behind them.

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

use super::*;
use crate::agent::{
    Answer, Candidate, Gate, Inbox, Installed, Offer, Outcome, Problem, ProblemKind, Progress, Request,
    Stage, Upgraded, channel,
};
use crate::status::{Daemon, Status};
use crate::timestamp::Timestamp;

fn status(stage: Stage, gate: Option<Gate>) -> Status {
    let daemon = Daemon { version: "1".into(), pid: 1, started: Timestamp::from_unix(0), polled: false };
    Status { stage, gate, ..Status::new(daemon, true) }
}

fn candidate() -> Candidate {
    Candidate { channel: "r/c.flist".into(), version: "2".into(), release: "ab".into() }
}

fn upgraded() -> Outcome {
    Outcome::Apply(Upgraded {
        committed: true,
        version: Some("2".into()),
        generation: Some(4),
        withheld: None,
    })
}

/// A server whose agent answers every request with these lines.
struct Served {
    socket: PathBuf,
    task: JoinHandle<()>,
    _directory: TempDir,
}

impl Served {
    async fn with(answers: Vec<Answer>) -> Self {
        Self::for_users(answers, vec![nix::unistd::geteuid().as_raw()]).await
    }

    async fn for_users(answers: Vec<Answer>, allowed: Vec<u32>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join(SOCKET);
        let (handle, inbox) = channel(status(Stage::Idle, None));
        let server = Server::bind_for(&socket, allowed).await.unwrap();
        let task = tokio::spawn(async move {
            tokio::join!(server.serve(handle), scripted(inbox, answers));
        });
        Self { socket, task, _directory: directory }
    }

    async fn ask(&self, verb: Verb) -> (Result<Outcome, AskError>, Vec<Progress>) {
        let mut all = Vec::new();
        let answer = ask(&self.socket, verb, |heard| {
            if let Heard::Progress(progress) = heard {
                all.push(progress.clone());
            }
        });
        (answer.await, all)
    }

    /// Sends these bytes and ends the stream; what comes back.
    async fn send_raw(&self, bytes: &[u8]) -> String {
        let mut stream = UnixStream::connect(&self.socket).await.unwrap();
        // The server may have answered and gone before it has read everything.
        let _cut_short = stream.write_all(bytes).await;
        let _gone = stream.shutdown().await;
        let mut answer = Vec::new();
        let _reset = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn scripted(mut inbox: Inbox, answers: Vec<Answer>) {
    while let Some(Request { answers: to, .. }) = inbox.requests.recv().await {
        for answer in &answers {
            to.send(answer.clone()).unwrap();
        }
    }
}

#[tokio::test]
async fn verbs_and_their_answers_cross_the_socket() {
    let offer = Offer { installed: None, candidate: Some(candidate()), waits: None, withheld: None };
    let served = Served::with(vec![Answer::Ok(Outcome::Check(offer.clone()))]).await;
    assert_eq!(served.ask(Verb::Check).await.0.unwrap(), Outcome::Check(offer));
    let Outcome::Status(found) = served.ask(Verb::Status).await.0.unwrap() else { panic!("no status") };
    // It is so when it is asked for.
    assert!(found.at.is_some());
    assert_eq!(Status { at: None, ..*found }, status(Stage::Idle, None));
}

#[tokio::test]
async fn an_upgrade_streams_its_progress() {
    let said = [Progress::Stage(Stage::Fetching), Progress::Fetched { bytes: 1, total: 2 }];
    let mut answers = said.clone().map(Answer::Progress).to_vec();
    answers.push(Answer::Ok(upgraded()));
    let served = Served::with(answers).await;
    let (answer, heard) = served.ask(Verb::Apply).await;
    assert_eq!((answer.unwrap(), heard), (upgraded(), said.to_vec()));
    assert_eq!(
        served.send_raw(b"{\"verb\":\"apply\"}\n").await,
        "{\"progress\":{\"stage\":\"Fetching\"}}\n\
         {\"progress\":{\"fetched\":{\"bytes\":1,\"total\":2}}}\n\
         {\"ok\":{\"apply\":{\"committed\":true,\"version\":\"2\",\"generation\":4}}}\n"
    );
}

#[tokio::test]
async fn a_problem_reaches_the_client_as_it_is() {
    let problem = Problem::new(ProblemKind::Refused, "no");
    let served = Served::with(vec![Answer::Error(problem.clone())]).await;
    let error = served.ask(Verb::Plan).await.0.unwrap_err();
    assert!(matches!(&error, AskError::Refused(found) if *found == problem), "{error:?}");
    assert!(!error.is_unreachable());
}

#[tokio::test]
async fn bad_requests_are_refused_by_name_and_the_next_one_is_served() {
    let served = Served::with(vec![Answer::Ok(upgraded())]).await;
    for (request, complaint) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], "the request is not {"),
        (b"{\"verb\":\"reboot\"}\n", "reboot"),
        (b"{\"verb\":\"status\",\"force\":true}\n", "force"),
        (b"{\"verb\":\"status\"}", "without a line feed"),
        (b"\xff\x00\n", "the request is not {"),
        (b"\n", "the request is not {"),
    ] {
        let answer = served.send_raw(request).await;
        assert!(answer.starts_with("{\"error\":{\"message\":\"") && answer.ends_with("}\n"), "{answer}");
        assert!(answer.contains(complaint), "{request:?}: {answer}");
    }
    assert_eq!(served.send_raw(b"").await, "");
    assert_eq!(served.ask(Verb::Apply).await.0.unwrap(), upgraded());
}

#[tokio::test]
async fn a_request_may_not_be_larger_than_the_limit() {
    let served = Served::with(vec![Answer::Ok(upgraded())]).await;
    let limit = usize::try_from(LARGEST_REQUEST).unwrap();
    let answer = served.send_raw(&vec![b'x'; limit]).await;
    assert!(answer.contains("longer than 65536 bytes"), "{answer}");
    // Up to the limit, blanks are JSON.
    let mut request = b"{\"verb\":\"apply\"}".to_vec();
    request.resize(limit - 1, b' ');
    request.push(b'\n');
    assert!(served.send_raw(&request).await.starts_with("{\"ok\""));
}

#[tokio::test]
async fn other_users_are_refused() {
    // Nobody is user 4294967294.
    let served = Served::for_users(vec![Answer::Ok(upgraded())], vec![u32::MAX - 1]).await;
    for verb in [Verb::Status, Verb::Apply] {
        let error = served.ask(verb).await.0.unwrap_err();
        assert!(
            matches!(&error, AskError::Refused(problem) if problem.message.contains("only root")),
            "{error}"
        );
    }
}

#[tokio::test]
async fn the_socket_is_private_replaces_a_stale_one_and_goes_with_the_server() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join(SOCKET);
    // What a killed daemon leaves: a socket nobody listens on.
    drop(UnixListener::bind(&socket).unwrap());
    assert!(socket.exists());
    let server = Server::bind(&socket).await.unwrap();
    let metadata = std::fs::symlink_metadata(&socket).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    let second = Server::bind(&socket).await.unwrap_err();
    assert!(matches!(second, ServerError::AlreadyRunning { .. }), "{second:?}");
    drop(server);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_server_does_not_remove_what_is_not_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join(SOCKET);
    let server = Server::bind(&socket).await.unwrap();
    std::fs::remove_file(&socket).unwrap();
    std::fs::write(&socket, "mine").unwrap();
    let in_the_way = Server::bind(&socket).await.unwrap_err();
    assert!(matches!(in_the_way, ServerError::InTheWay { .. }), "{in_the_way:?}");
    drop(server);
    assert_eq!(std::fs::read(&socket).unwrap(), b"mine");
}

#[tokio::test]
async fn without_a_daemon_the_error_names_the_socket_and_how_to_start() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join(SOCKET);
    let missing = ask(&socket, Verb::Status, |_| {}).await.unwrap_err();
    drop(UnixListener::bind(&socket).unwrap());
    let stale = ask(&socket, Verb::Status, |_| {}).await.unwrap_err();
    for error in [missing, stale] {
        assert!(error.is_unreachable(), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(socket.to_str().unwrap()) && text.contains("identityd run"), "{text}");
    }
}

/// Answers one connection with these bytes, whatever it asks.
async fn answer_once(listener: &UnixListener, bytes: &[u8]) {
    let (mut stream, _) = listener.accept().await.unwrap();
    assert_ne!(stream.read(&mut [0; 1024]).await.unwrap(), 0);
    stream.write_all(bytes).await.unwrap();
}

fn listen(directory: &Path) -> (UnixListener, PathBuf) {
    let socket = directory.join(SOCKET);
    (UnixListener::bind(&socket).unwrap(), socket)
}

#[tokio::test]
async fn answers_that_are_none_are_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    let (listener, socket) = listen(directory.path());
    let (answer, ()) = tokio::join!(ask(&socket, Verb::Check, |_| {}), answer_once(&listener, b"hello\n"));
    assert!(matches!(answer, Err(AskError::Garbage { source: Some(_), .. })), "{answer:?}");
    let (answer, ()) = tokio::join!(ask(&socket, Verb::Check, |_| {}), answer_once(&listener, b"{\"ok\""));
    assert!(matches!(answer, Err(AskError::BrokenOff { .. })), "{answer:?}");
}

async fn answer_with(listener: &UnixListener, status: &Status) {
    let line = Answer::Ok(Outcome::Status(Box::new(status.clone())));
    let line = format!("{}\n", serde_json::to_string(&line).unwrap());
    answer_once(listener, line.as_bytes()).await;
}

/// What is installed before the upgrade.
fn before() -> Installed {
    Installed { release: "before".into(), ..candidate().installed_as(3) }
}

/// A daemon that breaks off the upgrade and comes back with these statuses, one a question.
async fn comes_back_as(statuses: &[Status]) -> (Result<Outcome, AskError>, Vec<String>) {
    let directory = tempfile::tempdir().unwrap();
    let (listener, socket) = listen(directory.path());
    let mut all = Vec::new();
    let follow = follow_upgrade(&socket, Verb::Apply, |heard| all.push(format!("{heard:?}")));
    let daemon = async {
        answer_with(&listener, &Status { installed: Some(before()), ..status(Stage::Idle, None) }).await;
        answer_once(&listener, b"{\"progress\":{\"stage\":\"Swapping\"}}\n").await;
        for status in statuses {
            answer_with(&listener, status).await;
        }
    };
    let (answer, ()) = tokio::join!(follow, daemon);
    (answer, all)
}

#[tokio::test]
async fn an_upgrade_is_followed_across_a_handover() {
    let installed = Some(candidate().installed_as(4));
    let (answer, heard) = comes_back_as(&[
        status(Stage::Waiting, Some(Gate::Starting)),
        status(Stage::Resolving, None),
        status(Stage::Swapping, None),
        Status { installed, ..status(Stage::Committed, None) },
    ])
    .await;
    assert_eq!(answer.unwrap(), upgraded());
    assert_eq!(heard, ["Progress(Stage(Swapping))", "Handover", "Progress(Stage(Swapping))"]);
}

/// It was killed, and nothing is offered any more.
#[tokio::test]
async fn a_daemon_that_comes_back_with_what_was_before_has_not_upgraded() {
    for stage in [Stage::Idle, Stage::Committed] {
        let (answer, _) = comes_back_as(&[Status { installed: Some(before()), ..status(stage, None) }]).await;
        assert!(matches!(answer, Err(AskError::Refused(_))), "{answer:?}");
    }
}

#[tokio::test]
async fn a_handover_that_ends_badly_is_a_failure() {
    let refused = Status { reason: Some("it is bad".into()), ..status(Stage::Waiting, Some(Gate::Refused)) };
    let (answer, _) = comes_back_as(&[refused]).await;
    let error = answer.unwrap_err();
    assert!(matches!(&error, AskError::Refused(problem) if problem.message == "it is bad"), "{error}");
}
