//! The service dialect, as measured on zinit 0.3.9.
//!
//! What this supervisor does otherwise than its ancestors:
//! * It has no targets: what a service shall be is read from what it is.
//! * It reads no units of ours: `monitor` translates the unit file and sets it.
//! * A `set` over a name that it has locks it up for ever, so names are looked up first.
//! * `delete` deletes everything that depends on the service, and moves the last service of its table to
//!   the place that becomes free without telling the task that waits for its process: it never learns of
//!   that process's end. Here that is an [`Error::Unsafe`] beforehand.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read};
use std::path::Path;

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::{Value, json};

use super::rpc::{Conversation, RpcError};
use super::service_unit::{Loaded, translate};
use super::{MAX_ANSWER_BYTES, MAX_LOG_BYTES, MAX_SERVICES, Order, Peer, Request, check_name, cut_to_tail};
use crate::error::{Error, Hazard, Refusal, Untranslatable};
use crate::status::{ExitCause, ServiceStatus, State, Target};
use crate::unit::{MAX_UNIT_BYTES, ServiceUnit, SignalName, UnitName};

/// Lines of log that are asked for of each service.
const LOG_LINES: u32 = 1000;

/// `service.status` and the state in `service.list_full`.
#[derive(Clone, Debug, Deserialize)]
struct Status {
    #[serde(default)]
    name: String,
    #[serde(default)]
    pid: u32,
    state: String,
    exit_code: Option<i32>,
    error: Option<String>,
}

#[derive(Deserialize)]
struct Listed {
    name: String,
    state: ListedState,
}

#[derive(Deserialize)]
struct ListedState {
    state: String,
    #[serde(default)]
    pid: u32,
    exit_code: Option<i32>,
    reason: Option<Reason>,
}

/// Why a service has failed, in `service.list_full`; `service.status` has a sentence.
#[derive(Deserialize)]
struct Reason {
    #[serde(rename = "type")]
    kind: String,
    code: Option<i32>,
    signal: Option<i32>,
}

/// A row of the supervisor's table, in its order.
struct Row {
    name: String,
    active: bool,
    waits_for: BTreeSet<String>,
    loaded: Option<Loaded>,
}

/// A conversation in which refusals become errors about one request.
struct Talk<'r> {
    conversation: Conversation<'r>,
    request: Request<'r>,
}

pub(super) async fn list(socket: &Path) -> Result<Vec<(String, State)>, Error> {
    let mut talk = Talk::begin(socket, Request::List).await?;
    let listed: Vec<Listed> = talk.call("service.list_full", json!({})).await?;
    Ok(listed.into_iter().map(|Listed { name, state }| (name, state.into_status().state().0)).collect())
}

pub(super) async fn status(socket: &Path, name: &UnitName) -> Result<ServiceStatus, Error> {
    let mut talk = Talk::begin(socket, Request::Status(name)).await?;
    let status: Status = talk.call("service.status", json!({"name": name.as_str()})).await?;
    check_name(name, &status.name)?;
    let loaded = talk.loaded(name.as_str()).await?;
    let (state, target) = status.state();
    let oneshot = loaded.as_ref().is_some_and(Loaded::is_oneshot);
    let mut after = BTreeMap::new();
    if loaded.as_ref().is_some_and(|loaded| loaded.waits_for().next().is_some()) {
        let states: BTreeMap<String, State> = list(socket).await?.into_iter().collect();
        for dependency in loaded.iter().flat_map(Loaded::waits_for) {
            after.insert(dependency.to_owned(), states.get(dependency).cloned().unwrap_or(State::Unknown));
        }
    }
    // What runs once and has ended is as it shall be.
    let target = if oneshot && status.state == "exited" { Target::Up } else { target };
    let pid = (status.pid != 0).then_some(status.pid);
    Ok(ServiceStatus { name: name.clone(), pid, state, target, after })
}

pub(super) async fn order(peer: Peer<'_>, order: Order<'_>) -> Result<(), Error> {
    let mut talk = Talk::begin(peer.socket, Request::Order(order)).await?;
    let name = order.service();
    let (method, params) = match order {
        Order::Start(_) => ("service.start", json!({"name": name})),
        Order::Stop(_) => ("service.stop", json!({"name": name})),
        Order::Kill(_, signal) => ("service.kill", json!({"name": name, "signal": signal.as_str()})),
        Order::Forget(_) => return talk.forget(name).await,
        Order::Monitor(_) => return talk.monitor(peer.units, name).await,
    };
    talk.call::<IgnoredAny>(method, params).await.map(drop)
}

pub(super) async fn log_snapshot(socket: &Path) -> Result<String, Error> {
    let mut talk = Talk::begin(socket, Request::LogSnapshot).await?;
    let names: Vec<String> = talk.call("service.list", json!({})).await?;
    let mut lines: Vec<(u64, String)> = Vec::new();
    for name in names.iter().take(MAX_SERVICES) {
        let log: Vec<String> = match talk.call("logs.get", json!({"name": name, "lines": LOG_LINES})).await {
            // It was deleted meanwhile.
            Err(error) if matches!(error.refusal(), Some(Refusal::UnknownService { .. })) => continue,
            log => log?,
        };
        lines.extend(log.iter().map(|line| log_line(name, line)));
    }
    // Each service has a log of its own; the times put them in one order.
    lines.sort_by_key(|(time, _)| *time);
    let mut log = Vec::new();
    for (_, line) in lines {
        log.extend_from_slice(line.as_bytes());
        cut_to_tail(&mut log, 2 * MAX_LOG_BYTES, true);
    }
    cut_to_tail(&mut log, MAX_LOG_BYTES, true);
    Ok(String::from_utf8_lossy(&log).into_owned())
}

pub(super) async fn discard(peer: Peer<'_>, stopped: &[UnitName]) -> Result<(), Error> {
    let mut talk = Talk::begin(peer.socket, Request::Discard).await?;
    let table = talk.table().await?;
    let wanted: BTreeSet<&str> = stopped.iter().map(UnitName::as_str).collect();
    let mut gone = Vec::new();
    // Last in, first out: then nothing is moved that is not deleted itself, as far as that is possible.
    for row in table.iter().rev().filter(|row| wanted.contains(row.name.as_str())) {
        let Ok(name) = UnitName::try_from(row.name.as_str()) else { continue };
        let same = match unit_file(peer.units, &name)? {
            Some(unit) => row.loaded.as_ref().is_some_and(|loaded| loaded.is(&unit)),
            None => false,
        };
        if !same {
            gone.push(name);
        }
    }
    for name in gone {
        match talk.forget(&name).await {
            // It went with something that it depends on.
            Err(error) if matches!(error.refusal(), Some(Refusal::UnknownService { .. })) => {}
            other => other?,
        }
    }
    Ok(())
}

impl<'r> Talk<'r> {
    async fn begin(socket: &Path, request: Request<'r>) -> Result<Self, Error> {
        let conversation = Conversation::begin(socket, request, MAX_ANSWER_BYTES).await?;
        Ok(Self { conversation, request })
    }

    async fn call<T: DeserializeOwned>(&mut self, method: &str, params: Value) -> Result<T, Error> {
        let about = params.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        let answer = self.conversation.call(method, params).await?;
        answer.map_err(|error| Error::Refused {
            command: self.request.to_string(),
            reason: refusal(about, error),
        })
    }

    /// The unit as it is loaded; `None` of a target, which has none.
    async fn loaded(&mut self, name: &str) -> Result<Option<Loaded>, Error> {
        let config: Value = self.call("service.get", json!({"name": name})).await?;
        Ok(serde_json::from_value(config).ok())
    }

    async fn is_known(&mut self, name: &UnitName) -> Result<bool, Error> {
        match self.call::<Status>("service.status", json!({"name": name.as_str()})).await {
            Ok(_) => Ok(true),
            Err(error) if matches!(error.refusal(), Some(Refusal::UnknownService { .. })) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn table(&mut self) -> Result<Vec<Row>, Error> {
        let listed: Vec<Listed> = self.call("service.list_full", json!({})).await?;
        if listed.len() > MAX_SERVICES {
            return Err(Error::TooMany { command: self.request.to_string(), limit: MAX_SERVICES });
        }
        let mut rows = Vec::with_capacity(listed.len());
        for Listed { name, state } in listed {
            let loaded = self.loaded(&name).await?;
            let waits_for = loaded.iter().flat_map(Loaded::waits_for).map(str::to_owned).collect();
            let active = matches!(state.state.as_str(), "starting" | "running" | "stopping");
            rows.push(Row { name, active, waits_for, loaded });
        }
        Ok(rows)
    }

    async fn monitor(&mut self, units: &Path, name: &UnitName) -> Result<(), Error> {
        if self.is_known(name).await? {
            let reason = Refusal::AlreadyMonitored { name: name.to_string() };
            return Err(Error::Refused { command: self.request.to_string(), reason });
        }
        let Some(unit) = unit_file(units, name)? else {
            let reason = Refusal::ConfigLoad;
            return Err(Error::Refused { command: self.request.to_string(), reason });
        };
        self.call::<IgnoredAny>("service.set", unit).await.map(drop)
    }

    /// Deletes a service that has ended, unless that would take others along.
    async fn forget(&mut self, name: &UnitName) -> Result<(), Error> {
        let status: Status = self.call("service.status", json!({"name": name.as_str()})).await?;
        if status.pid != 0 {
            let reason = Refusal::IsUp { name: name.to_string() };
            return Err(Error::Refused { command: self.request.to_string(), reason });
        }
        let table = self.table().await?;
        if let Some(hazard) = hazard(&table, name.as_str()) {
            return Err(Error::Unsafe { command: self.request.to_string(), hazard });
        }
        self.call::<IgnoredAny>("service.delete", json!({"name": name.as_str()})).await.map(drop)
    }
}

/// What would happen to others if this service were deleted; `None` when nothing would.
fn hazard(table: &[Row], name: &str) -> Option<Hazard> {
    let mut deleted = BTreeSet::from([name]);
    // Whatever depends on what is deleted is deleted too, and so on.
    while let Some(row) = table.iter().find(|row| {
        !deleted.contains(row.name.as_str()) && row.waits_for.iter().any(|dep| deleted.contains(dep.as_str()))
    }) {
        if row.active {
            return Some(Hazard::Deletes { dependant: row.name.clone() });
        }
        deleted.insert(&row.name);
    }
    // Each deletion moves whoever is last then: none of those may have a process.
    let kept = table.len() - deleted.len();
    let moved = table.iter().skip(kept).find(|row| row.active && !deleted.contains(row.name.as_str()));
    moved.map(|row| Hazard::LosesTrack { service: row.name.clone() })
}

/// The parameters that the unit file `NAME.yaml` gives; `None` when there is none.
fn unit_file(units: &Path, name: &UnitName) -> Result<Option<Value>, Error> {
    let path = units.join(format!("{name}.yaml"));
    let failed = |source| Error::UnitFile { path: path.clone(), source };
    let mut text = String::new();
    let read = std::fs::File::open(&path)
        .and_then(|file| file.take(MAX_UNIT_BYTES as u64 + 1).read_to_string(&mut text));
    match read {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(Untranslatable::Read(error))),
        Ok(_) => {}
    }
    let unit = ServiceUnit::parse(name, &text).map_err(|error| failed(Untranslatable::Unit(error)))?;
    translate(name, &unit).map(Some).map_err(failed)
}

impl ListedState {
    fn into_status(self) -> Status {
        let code = self.reason.as_ref().and_then(|reason| reason.code);
        let error = self.reason.map(|reason| match (reason.kind.as_str(), reason.signal) {
            ("signal", Some(signal)) => format!("killed by signal {signal}"),
            ("missing_dependency" | "dependency_failed", _) => "dependency".to_owned(),
            (kind, _) => kind.replace('_', " "),
        });
        let exit_code = self.exit_code.or(code);
        Status { name: String::new(), pid: self.pid, state: self.state, exit_code, error }
    }
}

impl Status {
    /// What 0.2 would say of it.
    fn state(&self) -> (State, Target) {
        match self.state.as_str() {
            "running" => (State::Running, Target::Up),
            "starting" => (State::Spawned, Target::Up),
            "blocked" => (State::Blocked, Target::Up),
            "failed" => (self.failure(), Target::Up),
            // Until its process has ended.
            "stopping" => (State::Running, Target::Down),
            "inactive" => (State::Unknown, Target::Down),
            // Of its own accord it is started again at once, so somebody has stopped it.
            "exited" => match self.exit_code {
                None | Some(0) => (State::Success, Target::Down),
                Some(code) => (State::Error(ExitCause::Exited { pid: 0, code }), Target::Down),
            },
            other => (State::Other(other.to_owned()), Target::Up),
        }
    }

    fn failure(&self) -> State {
        let error = self.error.as_deref().unwrap_or_default();
        let signal = error.strip_prefix("killed by signal ").and_then(|number| number.parse().ok());
        match (self.exit_code, signal.and_then(SignalName::from_number)) {
            (Some(code), _) => State::Error(ExitCause::Exited { pid: 0, code }),
            (None, Some(signal)) => {
                State::Error(ExitCause::Signaled { pid: 0, signal: signal.to_string(), core_dumped: false })
            }
            _ if error.starts_with("spawn error") => State::Failure,
            _ if error.starts_with("health check failed") || error == "start timeout" => State::TestFailure,
            _ if error.contains("dependency") => State::Blocked,
            _ => State::Error(ExitCause::Other(error.to_owned())),
        }
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

fn refusal(name: String, RpcError { code, message, data }: RpcError) -> Refusal {
    match code {
        -32000 => Refusal::UnknownService { name },
        _ if message.starts_with("service not found") => Refusal::UnknownService { name },
        _ if message.starts_with("service not running") => Refusal::IsDown { name },
        _ if message.contains("unknown signal") || message.contains("invalid signal") => Refusal::BadSignal,
        // Of `set`: invalid, a dependency or the program is not there.
        -32602 | -32011 | -32012 | -32013 => {
            let errors = data.get("errors").and_then(Value::as_array);
            let errors =
                errors.into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>().join("; ");
            Refusal::Unit(if errors.is_empty() { message } else { format!("{message}: {errors}") })
        }
        _ => Refusal::Other(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, active: bool, waits_for: &[&str]) -> Row {
        let waits_for = waits_for.iter().map(|name| (*name).to_owned()).collect();
        Row { name: name.to_owned(), active, waits_for, loaded: None }
    }

    #[test]
    fn a_deletion_that_hits_others_is_known_beforehand() {
        let table = |active: [bool; 4]| {
            vec![
                row("redis", active[0], &[]),
                row("web", active[1], &["redis"]),
                row("page", active[2], &["web"]),
                row("log", active[3], &[]),
            ]
        };
        let deletes = |name: &str| Some(Hazard::Deletes { dependant: name.to_owned() });
        let loses = |name: &str| Some(Hazard::LosesTrack { service: name.to_owned() });
        // The last one can always go.
        assert_eq!(hazard(&table([true, true, true, false]), "log"), None);
        assert_eq!(hazard(&table([false, true, true, true]), "redis"), deletes("web"));
        assert_eq!(hazard(&table([false, false, true, true]), "redis"), deletes("page"));
        // Three rows go, and the last one would be moved.
        assert_eq!(hazard(&table([false, false, false, true]), "redis"), loses("log"));
        assert_eq!(hazard(&table([false, false, false, false]), "redis"), None);
        assert_eq!(hazard(&table([true, true, false, true]), "page"), loses("log"));
        assert_eq!(hazard(&table([true, true, true, true]), "nosuch"), loses("log"));
    }

    #[test]
    fn states_as_zinit_0_2_says_them() {
        let status = |text: &str| {
            let status: Status = serde_json::from_str(text).unwrap();
            let (state, target) = status.state();
            format!("{state} {target}")
        };
        for (text, expected) in [
            (r#"{"name":"a","pid":7,"state":"running"}"#, "Running Up"),
            (r#"{"name":"a","pid":7,"state":"starting"}"#, "Spawned Up"),
            (r#"{"name":"a","pid":7,"state":"stopping"}"#, "Running Down"),
            (r#"{"name":"a","pid":0,"state":"inactive"}"#, "Unknown Down"),
            (r#"{"name":"a","pid":0,"state":"blocked","error":"waiting on: b"}"#, "Blocked Up"),
            (r#"{"name":"a","pid":0,"state":"exited"}"#, "Success Down"),
            (r#"{"name":"a","pid":0,"state":"exited","exit_code":3}"#, "Error(Exited(Pid(0), 3)) Down"),
            (r#"{"name":"a","pid":0,"state":"failed","exit_code":3}"#, "Error(Exited(Pid(0), 3)) Up"),
            (
                r#"{"name":"a","pid":0,"state":"failed","error":"killed by signal 9"}"#,
                "Error(Signaled(Pid(0), SIGKILL, false)) Up",
            ),
            (r#"{"name":"a","pid":0,"state":"failed","error":"spawn error: no"}"#, "Failure Up"),
            (r#"{"name":"a","pid":0,"state":"failed","error":"start timeout"}"#, "TestFailure Up"),
            (r#"{"name":"a","pid":0,"state":"failed","error":"missing dependency 'b'"}"#, "Blocked Up"),
            (r#"{"name":"a","pid":0,"state":"napping"}"#, "napping Up"),
        ] {
            assert_eq!(status(text), expected, "{text}");
        }
    }

    #[test]
    fn a_list_says_what_a_status_says() {
        let state = |text: &str| {
            let listed: Listed = serde_json::from_str(text).unwrap();
            listed.state.into_status().state().0.to_string()
        };
        for (text, expected) in [
            (r#"{"name":"a","is_target":false,"state":{"exit_code":null,"state":"exited"}}"#, "Success"),
            (
                r#"{"name":"a","state":{"reason":{"code":3,"type":"exit_code"},"state":"failed"}}"#,
                "Error(Exited(Pid(0), 3))",
            ),
            (
                r#"{"name":"a","state":{"reason":{"signal":9,"type":"signal"},"state":"failed"}}"#,
                "Error(Signaled(Pid(0), SIGKILL, false))",
            ),
            (
                r#"{"name":"a","state":{"reason":{"message":"x","type":"spawn_error"},"state":"failed"}}"#,
                "Failure",
            ),
            (r#"{"name":"a","state":{"reason":{"type":"start_timeout"},"state":"failed"}}"#, "TestFailure"),
            (r#"{"name":"a","state":{"state":"blocked","waiting_on":["b"]}}"#, "Blocked"),
        ] {
            assert_eq!(state(text), expected, "{text}");
        }
    }

    #[test]
    fn lines_of_log() {
        assert_eq!(log_line("a", "12 [stdout] x [y] z"), (12, "[+] a: x [y] z\n".to_owned()));
        assert_eq!(log_line("a", "12 [stderr] no"), (12, "[-] a: no\n".to_owned()));
        assert_eq!(log_line("a", "odd"), (0, "[+] a: odd\n".to_owned()));
    }
}
