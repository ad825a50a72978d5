//! The service dialect, as measured on zinit 0.3.9.
//!
//! What this supervisor does otherwise than its ancestors:
//! * It does not say what a service shall be: that is read from what it is, and sometimes from what becomes of it
//!   ([`stopped`]).
//! * It reads no units of ours: `monitor` translates the unit file and sets it.
//! * A `set` over a name that it has locks it up for ever, so names are looked up first.
//! * `delete` deletes everything that depends on the service, and moves the last service of its table to
//!   the place that becomes free without telling the task that waits for its process: it never learns of
//!   that process's end. Here that is an [`Error::Unsafe`] beforehand.

mod log;
mod status;
mod stopped;
mod table;
mod unit;

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::rpc::{Conversation, RpcError};
use super::{MAX_ANSWER_BYTES, MAX_SERVICES, Order, Peer, Request, check_name};
use crate::error::{Error, Refusal, Untranslatable};
use crate::status::{ServiceStatus, State, Target};
use crate::unit::{ServiceUnit, UnitName};
use crate::unit_file::read_unit_file;

use log::Tail;
use status::{Listed, Status};
use table::{Row, hazard};
use unit::{Loaded, translate};

pub(super) use stopped::PATIENCE as STATUS_TAKES;
pub(crate) use stopped::Stopped;

/// Lines of log that are asked for of each service.
const LOG_LINES: u32 = 1000;

/// How long a process may be young that cannot be signalled yet: on a node at rest, less than a millisecond.
const YOUNG: Duration = Duration::from_secs(2);

/// Pause between two attempts to signal it.
const POLL: Duration = Duration::from_millis(20);

/// A conversation in which refusals become errors about one request.
struct Talk<'r> {
    conversation: Conversation<'r>,
    request: Request<'r>,
}

/// Of `service.status_full`, what a target waits for; of a service, its unit says so.
#[derive(Deserialize)]
struct Full {
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
}

pub(super) async fn list(socket: &Path) -> Result<Vec<(String, State)>, Error> {
    Talk::begin(socket, Request::List).await?.list().await
}

pub(super) async fn status(peer: Peer<'_>, name: &UnitName) -> Result<ServiceStatus, Error> {
    let mut talk = Talk::begin(peer.socket, Request::Status(name)).await?;
    let first = talk.status(name).await?;
    let loaded = talk.loaded(name.as_str()).await?;
    let (status, wanted) = match &loaded {
        Some(loaded) if loaded.is_started_again() => talk.wanted(first, name, peer.stopped).await?,
        // What runs once and has ended by itself is as it shall be.
        Some(loaded) if loaded.is_oneshot() && first.has_exited_by_itself() => (first, Target::Up),
        _ => {
            let target = first.state().1;
            (first, target)
        }
    };
    let mut after = BTreeMap::new();
    let waits_for = talk.waits_for(name.as_str(), loaded.as_ref()).await?;
    if !waits_for.is_empty() {
        let states: BTreeMap<String, State> = talk.list().await?.into_iter().collect();
        for dependency in waits_for {
            let state = states.get(&dependency).cloned().unwrap_or(State::Unknown);
            after.insert(dependency, state);
        }
    }
    let (state, pid) = (status.state().0, status.process());
    Ok(ServiceStatus { name: name.clone(), pid, state, target: wanted, after })
}

pub(super) async fn order(peer: Peer<'_>, order: Order<'_>) -> Result<(), Error> {
    let mut talk = Talk::begin(peer.socket, Request::Order(order)).await?;
    let name = order.service();
    match order {
        Order::Stop(_) => return talk.stop(name, peer.stopped).await,
        Order::Start(_) | Order::Monitor(_) | Order::Forget(_) => peer.stopped.forget(name),
        Order::Kill(..) => {}
    }
    let (method, params) = match order {
        Order::Forget(_) => return talk.forget(name, &BTreeSet::from([name.as_str()])).await,
        Order::Monitor(_) => return talk.monitor(peer.units, name).await,
        Order::Kill(_, signal) => {
            let params = json!({"name": name, "signal": signal.as_str()});
            return talk.signal("service.kill", params, name).await;
        }
        Order::Start(_) | Order::Stop(_) => ("service.start", json!({"name": name})),
    };
    talk.call::<IgnoredAny>(method, params).await.map(drop)
}

pub(super) async fn log_snapshot(socket: &Path) -> Result<String, Error> {
    let mut talk = Talk::begin(socket, Request::LogSnapshot).await?;
    let names: Vec<String> = talk.call("service.list", json!({})).await?;
    let mut tail = Tail::default();
    for name in names.iter().take(MAX_SERVICES) {
        let log: Vec<String> = match talk.call("logs.get", json!({"name": name, "lines": LOG_LINES})).await {
            // It was deleted meanwhile.
            Err(error) if is_unknown(&error) => continue,
            log => log?,
        };
        log.iter().for_each(|line| tail.add(name, line));
    }
    Ok(tail.into_text())
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
        match talk.forget(&name, &wanted).await {
            // It went with something that it depends on.
            Err(error) if is_unknown(&error) => {}
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
        answer.map_err(|error| self.refused(refusal(about, error)))
    }

    fn refused(&self, reason: Refusal) -> Error {
        Error::Refused { command: self.request.to_string(), reason }
    }

    async fn list(&mut self) -> Result<Vec<(String, State)>, Error> {
        let listed: Vec<Listed> = self.call("service.list_full", json!({})).await?;
        Ok(listed.into_iter().map(|Listed { name, state }| (name, state.into_status().state().0)).collect())
    }

    async fn status(&mut self, name: &UnitName) -> Result<Status, Error> {
        let status: Status = self.call("service.status", json!({"name": name.as_str()})).await?;
        check_name(name, &status.name)?;
        Ok(status)
    }

    /// The unit as it is loaded; `None` of a target, which has none.
    async fn loaded(&mut self, name: &str) -> Result<Option<Loaded>, Error> {
        let config: Value = self.call("service.get", json!({"name": name})).await?;
        Ok(serde_json::from_value(config).ok())
    }

    /// What is stopped and deleted together with each of these.
    async fn waits_for(&mut self, name: &str, loaded: Option<&Loaded>) -> Result<BTreeSet<String>, Error> {
        if let Some(loaded) = loaded {
            return Ok(loaded.waits_for().map(str::to_owned).collect());
        }
        let full: Full = self.call("service.status_full", json!({"name": name})).await?;
        Ok(full.dependencies.into_iter().map(|dependency| dependency.name).collect())
    }

    /// A call that signals the process group of a service. zinit 0.3 tells the number of a process before that leads
    /// a group, and finds nobody to signal then; so the call is repeated while there is a process.
    async fn signal(&mut self, method: &str, params: Value, name: &UnitName) -> Result<(), Error> {
        let started = Instant::now();
        loop {
            match self.call::<IgnoredAny>(method, params.clone()).await {
                Err(error)
                    if is_down(&error)
                        && started.elapsed() < YOUNG
                        && self.status(name).await?.process().is_some() =>
                {
                    sleep(POLL).await;
                }
                answer => return answer.map(drop),
            }
        }
    }

    async fn is_known(&mut self, name: &UnitName) -> Result<bool, Error> {
        match self.call::<Status>("service.status", json!({"name": name.as_str()})).await {
            Ok(_) => Ok(true),
            Err(error) if is_unknown(&error) => Ok(false),
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
            let waits_for = self.waits_for(&name, loaded.as_ref()).await?;
            let oneshot = loaded.as_ref().is_some_and(Loaded::is_oneshot);
            let is_tracked = state.into_status().is_tracked(oneshot);
            rows.push(Row { name, is_tracked, waits_for, loaded });
        }
        Ok(rows)
    }

    async fn monitor(&mut self, units: &Path, name: &UnitName) -> Result<(), Error> {
        if self.is_known(name).await? {
            return Err(self.refused(Refusal::AlreadyMonitored { name: name.to_string() }));
        }
        let Some(unit) = unit_file(units, name)? else { return Err(self.refused(Refusal::ConfigLoad)) };
        self.call::<IgnoredAny>("service.set", unit).await.map(drop)
    }

    /// Deletes a service that has ended, unless that would take others along than these.
    async fn forget(&mut self, name: &UnitName, together: &BTreeSet<&str>) -> Result<(), Error> {
        if self.status(name).await?.process().is_some() {
            return Err(self.refused(Refusal::IsUp { name: name.to_string() }));
        }
        let table = self.table().await?;
        if let Some(hazard) = hazard(&table, name.as_str(), together) {
            return Err(Error::Unsafe { command: self.request.to_string(), hazard });
        }
        self.call::<IgnoredAny>("service.delete", json!({"name": name.as_str()})).await.map(drop)
    }
}

/// The parameters that the unit file `NAME.yaml` gives; `None` when there is none.
fn unit_file(units: &Path, name: &UnitName) -> Result<Option<Value>, Error> {
    let path = units.join(format!("{name}.yaml"));
    let failed = |source| Error::UnitFile { path: path.clone(), source };
    let text = match read_unit_file(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        text => text.map_err(|error| failed(Untranslatable::Read(error)))?,
    };
    let unit = ServiceUnit::parse(name, &text).map_err(|error| failed(Untranslatable::Unit(error)))?;
    translate(name, &unit).map(Some).map_err(failed)
}

fn is_unknown(error: &Error) -> bool {
    matches!(error.refusal(), Some(Refusal::UnknownService { .. }))
}

/// Whether nobody was there to be signalled.
fn is_down(error: &Error) -> bool {
    matches!(error.refusal(), Some(Refusal::IsDown { .. }))
}

fn refusal(name: String, RpcError { code, message, data }: RpcError) -> Refusal {
    match code {
        -32000 => Refusal::UnknownService { name },
        _ if message.starts_with("service not found") => Refusal::UnknownService { name },
        _ if message.starts_with("service not running") || message.contains("ESRCH") => {
            Refusal::IsDown { name }
        }
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
