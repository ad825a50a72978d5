//! Which services shall be down, of those that have ended with 0.
//!
//! A service that ends so by itself is started again after two seconds; one that was stopped and ends so stays
//! down. zinit 0.3 says the same of both. So it is looked what becomes of it; and what was stopped for sure is
//! remembered, because nobody waits twice for what he knows.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::status::Status;
use super::{MAX_SERVICES, Talk, is_down, is_unknown};
use crate::error::Error;
use crate::status::Target;
use crate::unit::UnitName;

/// How long a service is watched that may be started again: longer than units as we translate them wait for that.
const WATCHED: Duration = Duration::from_secs(3);

/// How much longer than another call a status may take because of it.
pub(in super::super) const PATIENCE: Duration = Duration::from_secs(5);

/// Pause between two looks.
const POLL: Duration = Duration::from_millis(50);

/// Services that were stopped for sure, and were not seen in another state since.
#[derive(Debug, Default)]
pub(crate) struct Stopped(Mutex<BTreeSet<UnitName>>);

impl Stopped {
    /// The service is no longer known to be stopped.
    pub(crate) fn forget(&self, name: &UnitName) {
        self.names(|names| names.remove(name));
    }

    /// Nothing is known any more.
    pub(crate) fn clear(&self) {
        self.names(BTreeSet::clear);
    }

    fn remember(&self, name: &UnitName) {
        self.names(|names| names.len() < MAX_SERVICES && names.insert(name.clone()));
    }

    fn has(&self, name: &UnitName) -> bool {
        self.names(|names| names.contains(name))
    }

    fn names<T>(&self, then: impl FnOnce(&mut BTreeSet<UnitName>) -> T) -> T {
        then(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The answer to `debug.state`: text for people.
#[derive(Deserialize)]
struct Shown {
    output: String,
}

impl Talk<'_> {
    /// What a service shall be that is started again whenever it has ended, and the latest that is said of it.
    pub(super) async fn wanted(
        &mut self,
        mut status: Status,
        name: &UnitName,
        stopped: &Stopped,
    ) -> Result<(Status, Target), Error> {
        if status.has_ended_well() {
            if stopped.has(name) {
                return Ok((status, Target::Down));
            }
            let (starts, since) = (self.starts(name).await?, Instant::now());
            while status.has_ended_well() && since.elapsed() < WATCHED {
                sleep(POLL).await;
                status = self.status(name).await?;
            }
            if status.has_ended_well() {
                // It may have come and gone between two looks.
                if self.starts(name).await? != starts {
                    return Ok((status, Target::Up));
                }
                stopped.remember(name);
                return Ok((status, Target::Down));
            }
        }
        if !status.is_stopping() {
            stopped.forget(name);
        }
        let target = status.state().1;
        Ok((status, target))
    }

    /// Tells a service to end.
    pub(super) async fn stop(&mut self, name: &UnitName, stopped: &Stopped) -> Result<(), Error> {
        stopped.forget(name);
        match self.signal("service.stop", json!({"name": name}), name).await {
            // It has ended by itself meanwhile.
            Err(error) if is_down(&error) && self.status(name).await?.process().is_none() => return Ok(()),
            answer => answer?,
        }
        // Only then it is sure that zinit does not take the end for one that is followed by a start.
        match self.status(name).await {
            Ok(status) if status.is_stopping() => stopped.remember(name),
            Ok(_) => {}
            Err(error) if is_unknown(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// How often it was started again, where zinit tells.
    async fn starts(&mut self, name: &UnitName) -> Result<Option<u32>, Error> {
        match self.call::<Shown>("debug.state", json!({})).await {
            Ok(Shown { output }) => Ok(starts_in(&output, name.as_str())),
            Err(Error::Refused { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// From a text with a paragraph for each service: `[.] NAME - STATE`, and beneath it, when it was started again,
/// `    restart_count: COUNT, …`.
fn starts_in(output: &str, name: &str) -> Option<u32> {
    let is_head = |line: &&str| {
        let rest = line.split_once("] ").filter(|(mark, _)| mark.starts_with('['));
        rest.and_then(|(_, rest)| rest.strip_prefix(name)).is_some_and(|rest| rest.starts_with(" - "))
    };
    let mut lines = output.lines().skip_while(|line| !is_head(line));
    lines.next()?;
    let mut paragraph = lines.take_while(|line| line.starts_with(' '));
    let count = paragraph.find_map(|line| line.trim_start().strip_prefix("restart_count: "));
    count.map_or(Some(0), |count| count.split(',').next()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_are_counted_in_the_paragraph_of_the_service() {
        let output = "=== Service Graph State ===\n\n[+] web - Running (pid=7, uptime=2s)\n    ← depends on:\n      ✓ requires db (running)\n\n[.] db - Exited (code=Some(0))\n    restart_count: 12, next_delay: 2000ms\n    → required by: web\n\n[X] web-2 - Failed (exit)\n    restart_count: 3, next_delay: 1ms\n";
        for (name, count) in
            [("db", Some(12)), ("web", Some(0)), ("web-2", Some(3)), ("we", None), ("", None)]
        {
            assert_eq!(starts_in(output, name), count, "{name}");
        }
        assert_eq!(starts_in("[.] a - Exited\n    restart_count: many\n", "a"), None);
        assert_eq!(starts_in("", "a"), None);
    }
}
