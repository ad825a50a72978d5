//! The jsonrpc dialect, as measured on zinit 0.2.28.
//!
//! A connection takes many requests; each is answered by its id when it is done, in any order. A client that
//! closes its sending side gets no more answers. Requests end with a line end here; zinit finds their end by
//! itself.

use std::io;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

use crate::protocol::{Refusal, Request};
use crate::ring::Ring;
use crate::supervisor::Message;

/// Longest request, in bytes.
const MAX_REQUEST_BYTES: u64 = 64 << 10;

/// How long a stop looks at the processes before it signals, and how long it then waits before it kills.
const HALF_A_SECOND: Duration = Duration::from_millis(500);

/// How many times a stop looks whether what it has killed is gone, and the pause between.
const LOOKS: (u32, Duration) = (5, Duration::from_millis(100));

#[derive(Deserialize)]
struct Call {
    id: Option<Value>,
    method: String,
    #[serde(default)]
    params: Value,
}

/// Serves one connection.
pub(crate) async fn converse(
    stream: UnixStream,
    messages: mpsc::Sender<Message>,
    ring: Ring,
) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let (answers, mut done) = mpsc::channel::<String>(64);
    let requests = async {
        let mut reader = BufReader::new(reader);
        loop {
            let mut line = Vec::new();
            let read = (&mut reader).take(MAX_REQUEST_BYTES).read_until(b'\n', &mut line).await;
            if !read.is_ok_and(|read| read > 0) || line.last() != Some(&b'\n') {
                return;
            }
            let (messages, ring, answers) = (messages.clone(), ring.clone(), answers.clone());
            tokio::spawn(async move {
                if let Some(answer) = answer(&line, messages, ring).await {
                    // A client that hung up needs none.
                    let _ = answers.send(answer).await;
                }
            });
        }
    };
    tokio::pin!(requests);
    loop {
        tokio::select! {
            () = &mut requests => return Ok(()),
            Some(answer) = done.recv() => writer.write_all(answer.as_bytes()).await?,
        }
    }
}

async fn answer(line: &[u8], messages: mpsc::Sender<Message>, ring: Ring) -> Option<String> {
    let Ok(call) = serde_json::from_slice::<Call>(line) else {
        let error = json!({"code": -32700, "message": "Parse error"});
        return Some(format!("{}\n", json!({"jsonrpc": "2.0", "id": null, "error": error})));
    };
    let id = call.id.clone()?;
    Some(match perform(&call, &messages, &ring).await {
        Ok(result) => format!("{}\n", json!({"jsonrpc": "2.0", "id": id, "result": result})),
        Err((code, message)) => {
            let error = json!({"code": code, "message": message});
            format!("{}\n", json!({"jsonrpc": "2.0", "id": id, "error": error}))
        }
    })
}

type Failure = (i64, String);

async fn perform(call: &Call, messages: &mpsc::Sender<Message>, ring: &Ring) -> Result<Value, Failure> {
    let name = || parameter(&call.params, 0, "name");
    let request = match call.method.as_str() {
        "service_list" => Request::List,
        "service_status" => Request::Status(name()?),
        "service_start" => Request::Start(name()?),
        "service_forget" => Request::Forget(name()?),
        "service_monitor" => {
            let name = name()?;
            if name.contains(['/', '\\', '.']) {
                return Err((-32602, format!("monitoring service: invalid service name '{name}'")));
            }
            Request::Monitor(name)
        }
        "service_kill" => Request::Kill { name: name()?, signal: parameter(&call.params, 1, "signal")? },
        "service_stop" => return stop(messages, name()?).await,
        "stream_currentLogs" => {
            return Ok(ring.follow().0.into_iter().map(|line| line.to_string()).collect());
        }
        "system_shutdown" | "system_reboot" => Request::Shutdown,
        _ => return Err((-32601, "Method not found".to_owned())),
    };
    ask(messages, request).await
}

/// Wants it down, looks at its processes, signals them, and kills what has not ended half a second later.
async fn stop(messages: &mpsc::Sender<Message>, name: String) -> Result<Value, Failure> {
    ask(messages, Request::Lower(name.clone())).await?;
    if !has_process(messages, &name).await? {
        return Ok(Value::Null);
    }
    sleep(HALF_A_SECOND).await;
    ask(messages, Request::Stop(name.clone())).await?;
    sleep(HALF_A_SECOND).await;
    if has_process(messages, &name).await? {
        // It may have ended at this moment.
        let _ = ask(messages, Request::Kill { name: name.clone(), signal: "SIGKILL".to_owned() }).await;
    }
    for _ in 0..LOOKS.0 {
        if !has_process(messages, &name).await? {
            break;
        }
        sleep(LOOKS.1).await;
    }
    Ok(Value::Null)
}

async fn has_process(messages: &mpsc::Sender<Message>, name: &str) -> Result<bool, Failure> {
    let status = ask(messages, Request::Status(name.to_owned())).await?;
    Ok(status["pid"] != json!(0))
}

async fn ask(messages: &mpsc::Sender<Message>, request: Request) -> Result<Value, Failure> {
    let ((reply, answer), (_written, written)) = (oneshot::channel(), oneshot::channel());
    let gone = || (-32603, "the supervisor has ended".to_owned());
    messages.send(Message { request, reply, written }).await.map_err(|_| gone())?;
    answer.await.map_err(|_| gone())?.map_err(failure)
}

fn failure(refusal: Refusal) -> Failure {
    match refusal {
        Refusal::UnknownService(name) => (-32000, format!("asking: service '{name}' not found")),
        Refusal::AlreadyMonitored(name) => {
            (-32001, format!("monitoring service: service '{name}' already monitored"))
        }
        Refusal::IsUp(name) => (-32002, format!("forgetting service: service '{name}' is up")),
        Refusal::IsDown(name) => (-32003, format!("sending signal: service '{name}' is down")),
        Refusal::BadSignal => (-32004, "parsing signal: invalid signal".to_owned()),
        Refusal::ConfigLoad => (-32005, "monitoring service: failed to load".to_owned()),
        Refusal::ShuttingDown => (-32006, "system is shutting down".to_owned()),
        other => (-32603, other.to_string()),
    }
}

/// A parameter by its place or its name.
fn parameter(params: &Value, at: usize, name: &str) -> Result<String, Failure> {
    let value = params.get(at).or_else(|| params.get(name)).and_then(Value::as_str);
    value.map(str::to_owned).ok_or_else(|| (-32602, "Invalid params".to_owned()))
}
