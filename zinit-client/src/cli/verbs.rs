//! What each verb does.

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};
use zinit_client::{
    Client, Dialect, Error, Refusal, ServiceStatus, ServiceUnit, SignalName, Target, UnitName, read_unit_file,
};

use super::failure::Failure;
use super::{Arguments, Verb};

/// Pause between two looks whether a service has ended.
const POLL: Duration = Duration::from_millis(50);

pub(super) async fn run(arguments: &Arguments) -> Result<(), Failure> {
    let client = arguments.client();
    match &arguments.verb {
        Verb::List => list(arguments, &client).await,
        Verb::Status { service } => {
            let status = client.status(service).await?;
            arguments.print(&status, || status_text(&status))
        }
        Verb::Start { services } => {
            for service in services {
                client.start(service).await?;
            }
            done(arguments, "start", services)
        }
        Verb::Stop { services } => {
            for service in services {
                client.stop(service).await?;
            }
            done(arguments, "stop", services)
        }
        Verb::Restart { services } => {
            for service in services {
                restart(&client, service, &arguments.units, arguments.timeout()).await?;
            }
            done(arguments, "restart", services)
        }
        Verb::Monitor { services } => {
            for service in services {
                client.monitor(service).await?;
            }
            done(arguments, "monitor", services)
        }
        Verb::Forget { services } => {
            for service in services {
                client.forget(service).await?;
            }
            done(arguments, "forget", services)
        }
        Verb::Kill { service, signal } => {
            client.kill(service, *signal).await?;
            done(arguments, "kill", std::slice::from_ref(service))
        }
        Verb::Log { service } => log(arguments, &client, service.as_ref()).await,
        Verb::Dialect => {
            let dialect = client.dialect().await?.to_string();
            arguments.print(&dialect, || format!("{dialect}\n"))
        }
    }
}

/// Prints all services with their states.
async fn list(arguments: &Arguments, client: &Client) -> Result<(), Failure> {
    let services = client.list().await?;
    arguments.print(&services, || {
        let width = services.keys().map(|name| name.chars().count()).max().unwrap_or(0);
        services.iter().map(|(name, state)| format!("{name:width$}  {state}\n")).collect()
    })
}

/// Prints the log so far; of one service only what it has written.
async fn log(arguments: &Arguments, client: &Client, service: Option<&UnitName>) -> Result<(), Failure> {
    let log = client.log_snapshot().await?;
    let marks = service.map(|name| [format!("[+] {name}: "), format!("[-] {name}: ")]);
    let wanted = |line: &&str| {
        marks.as_ref().is_none_or(|marks| marks.iter().any(|mark| line.starts_with(mark.as_str())))
    };
    let lines: Vec<&str> = log.lines().filter(wanted).collect();
    arguments.print(&lines, || lines.iter().map(|line| format!("{line}\n")).collect())
}

/// Stops, waits, starts. zinit 0.3 stops what depends on the service too; that is started again. zinit 0.2.20 to
/// 0.2.28 would kill it half a second after its signal, so it is signalled first.
async fn restart(
    client: &Client,
    service: &UnitName,
    units: &Path,
    timeout: Duration,
) -> Result<(), Failure> {
    let others = match client.dialect().await? {
        Dialect::Service => running(client).await?,
        Dialect::Jsonrpc => {
            end_gently(client, service, unit(units, service).as_ref(), timeout).await?;
            Vec::new()
        }
        Dialect::Line => Vec::new(),
    };
    client.stop(service).await?;
    await_end(client, service, timeout).await?;
    client.start(service).await?;
    for other in others.iter().filter(|other| *other != service) {
        if client.status(other).await?.target == Target::Down {
            await_end(client, other, timeout).await?;
            client.start(other).await?;
        }
    }
    Ok(())
}

/// Signals a service as its unit says, and gives it the time that its unit gives it. Whatever is still there then is
/// killed when it is stopped.
async fn end_gently(
    client: &Client,
    service: &UnitName,
    unit: Option<&ServiceUnit>,
    timeout: Duration,
) -> Result<(), Failure> {
    let Some(pid) = client.status(service).await?.pid else { return Ok(()) };
    match client.kill(service, unit.map_or(SignalName::TERM, |unit| unit.stop_signal)).await {
        // It has ended meanwhile.
        Err(error) if matches!(error.refusal(), Some(Refusal::IsDown { .. })) => return Ok(()),
        answer => answer?,
    }
    let end = Instant::now() + unit.map_or(timeout, |unit| unit.stop_timeout().min(timeout));
    while client.status(service).await?.pid == Some(pid) && Instant::now() < end {
        sleep(POLL).await;
    }
    Ok(())
}

/// The unit of a service, where it can be read.
fn unit(units: &Path, service: &UnitName) -> Option<ServiceUnit> {
    let text = read_unit_file(&units.join(format!("{service}.yaml"))).ok()?;
    ServiceUnit::parse(service, &text).ok()
}

async fn await_end(client: &Client, service: &UnitName, timeout: Duration) -> Result<(), Failure> {
    let end = Instant::now() + timeout;
    while client.status(service).await?.pid.is_some() {
        if Instant::now() >= end {
            return Err(Failure::StillUp { service: service.clone(), after: timeout });
        }
        sleep(POLL).await;
    }
    Ok(())
}

/// Services that have a process and shall have one.
async fn running(client: &Client) -> Result<Vec<UnitName>, Error> {
    let mut running = Vec::new();
    for (name, _) in client.table().await? {
        let Ok(name) = UnitName::try_from(name) else { continue };
        let status = client.status(&name).await?;
        if status.pid.is_some() && status.target == Target::Up {
            running.push(name);
        }
    }
    Ok(running)
}

fn done(arguments: &Arguments, verb: &str, services: &[UnitName]) -> Result<(), Failure> {
    arguments.print(&json!({"done": verb, "services": services}), String::new)
}

fn status_text(status: &ServiceStatus) -> String {
    let pid = status.pid.map_or_else(|| "none".to_owned(), |pid| pid.to_string());
    let mut text = format!(
        "name    {}\nstate   {}\ntarget  {}\npid     {pid}\n",
        status.name, status.state, status.target
    );
    for (name, state) in &status.after {
        text.push_str(&format!("after   {name}: {state}\n"));
    }
    text
}
