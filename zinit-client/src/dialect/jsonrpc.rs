//! The jsonrpc dialect, as measured on zinit 0.2.28.

use std::collections::BTreeMap;
use std::path::Path;

use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::{Value, json};

use super::rpc::{Conversation, RpcError};
use super::{MAX_ANSWER_BYTES, MAX_LOG_BYTES, Order, Request, StatusBody, cut_to_tail};
use crate::error::{Error, Refusal};
use crate::status::{ServiceStatus, State};
use crate::unit::UnitName;

/// Largest log that is read: 2000 lines are kept, each as long as its service likes.
const MAX_LOG_ANSWER_BYTES: usize = 32 << 20;

pub(super) async fn list(socket: &Path) -> Result<BTreeMap<String, State>, Error> {
    call(socket, Request::List, "service_list", json!([])).await
}

pub(super) async fn status(socket: &Path, name: &UnitName) -> Result<ServiceStatus, Error> {
    let body: StatusBody = call(socket, Request::Status(name), "service_status", json!([name])).await?;
    body.about(name)
}

pub(super) async fn order(socket: &Path, order: Order<'_>) -> Result<(), Error> {
    let name = order.service();
    let (method, params) = match order {
        Order::Start(_) => ("service_start", json!([name])),
        Order::Stop(_) => ("service_stop", json!([name])),
        Order::Forget(_) => ("service_forget", json!([name])),
        Order::Monitor(_) => ("service_monitor", json!([name])),
        Order::Kill(_, signal) => ("service_kill", json!([name, signal.as_str()])),
    };
    call::<IgnoredAny>(socket, Request::Order(order), method, params).await.map(drop)
}

pub(super) async fn log_snapshot(socket: &Path) -> Result<String, Error> {
    let request = Request::LogSnapshot;
    let mut conversation = Conversation::begin(socket, request, MAX_LOG_ANSWER_BYTES).await?;
    let lines: Vec<String> =
        conversation.call("stream_currentLogs", json!([])).await?.map_err(|error| refused(request, error))?;
    let mut log = Vec::new();
    for line in lines {
        log.extend_from_slice(line.trim_end_matches('\n').as_bytes());
        log.push(b'\n');
    }
    cut_to_tail(&mut log, MAX_LOG_BYTES, true);
    Ok(String::from_utf8_lossy(&log).into_owned())
}

async fn call<T: DeserializeOwned>(
    socket: &Path,
    request: Request<'_>,
    method: &str,
    params: Value,
) -> Result<T, Error> {
    let mut conversation = Conversation::begin(socket, request, MAX_ANSWER_BYTES).await?;
    conversation.call(method, params).await?.map_err(|error| refused(request, error))
}

fn refused(request: Request<'_>, RpcError { code, message, .. }: RpcError) -> Error {
    let name = || match request {
        Request::Status(name) => name.to_string(),
        Request::Order(order) => order.service().to_string(),
        Request::Detect | Request::List | Request::LogSnapshot | Request::Discard => String::new(),
    };
    let reason = match code {
        -32000 => Refusal::UnknownService { name: name() },
        -32001 => Refusal::AlreadyMonitored { name: name() },
        -32002 => Refusal::IsUp { name: name() },
        -32003 => Refusal::IsDown { name: name() },
        -32004 => Refusal::BadSignal,
        -32005 => Refusal::ConfigLoad,
        -32006 => Refusal::ShuttingDown,
        _ => Refusal::Other(message),
    };
    Error::Refused { command: request.to_string(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_classes() {
        let name: UnitName = "long".parse().unwrap();
        let refusal = |code| {
            let error = RpcError { code, message: "words".to_owned(), data: Value::Null };
            refused(Request::Order(Order::Start(&name)), error).refusal().cloned()
        };
        let long = || "long".to_owned();
        for (code, class) in [
            (-32000, Refusal::UnknownService { name: long() }),
            (-32001, Refusal::AlreadyMonitored { name: long() }),
            (-32002, Refusal::IsUp { name: long() }),
            (-32003, Refusal::IsDown { name: long() }),
            (-32004, Refusal::BadSignal),
            (-32005, Refusal::ConfigLoad),
            (-32006, Refusal::ShuttingDown),
            (-32011, Refusal::Other("words".to_owned())),
            (-32602, Refusal::Other("words".to_owned())),
        ] {
            assert_eq!(refusal(code), Some(class));
        }
    }
}
