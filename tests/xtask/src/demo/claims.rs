//! What the demo claims, each with what was measured.

use std::fs;
use std::path::Path;
use std::time::Duration;

use molt_tests::{Error, Process};
use serde::Serialize;

use super::observe::Facts;
use super::probe::Seen;
use super::releases::Release;

/// An interruption that is longer is no hot swap any more, however slow the machine.
const LONGEST_GAP: Duration = Duration::from_secs(10);

/// One claim.
#[derive(Debug, Serialize)]
pub(super) struct Claim {
    /// What is claimed.
    pub(super) name: &'static str,
    /// What was measured.
    pub(super) measured: String,
    /// Whether that bears the claim out.
    pub(super) holds: bool,
}

/// Everything that was measured.
pub(super) struct Evidence<'a> {
    pub(super) old: &'a Release,
    pub(super) new: &'a Release,
    pub(super) before: Facts,
    pub(super) after: Facts,
    pub(super) web: Seen,
    pub(super) redis: Seen,
    pub(super) identityd: Seen,
    /// Bytes, as stored, of all blocks of the new release.
    pub(super) release_bytes: u64,
    /// Bytes, as stored, of those blocks that the old release does not have.
    pub(super) new_bytes: u64,
}

impl Evidence<'_> {
    /// All claims.
    pub(super) fn claims(&self) -> Vec<Claim> {
        let mut claims =
            vec![self.page(), self.unaffected(), self.web_restarted(), self.identityd_runs_new()];
        claims.extend([self.identityd_in_place(), self.pid_one(), self.installed()]);
        claims.push(silence("the HTTP service was away only shortly", &self.web));
        claims.push(silence("identityd was away only shortly", &self.identityd));
        claims.extend([self.redis_answered(), self.fetched(), self.mounts()]);
        claims
    }

    fn page(&self) -> Claim {
        let versions = &self.web.answers;
        Claim {
            name: "the page shows the new version, after the old one",
            measured: versions.join(", then "),
            holds: *versions == [self.old.version, self.new.version] && self.after.page == self.new.version,
        }
    }

    fn unaffected(&self) -> Claim {
        let names = ["redis", "syslog"];
        Claim {
            name: "unaffected services keep their processes",
            measured: names.map(|name| format!("{name} {}", self.pids(name))).join(", "),
            holds: names.iter().all(|name| same(self.service(name))),
        }
    }

    fn web_restarted(&self) -> Claim {
        Claim {
            name: "the HTTP service is another process",
            measured: format!("web {}", self.pids("web")),
            holds: !same(self.service("web")),
        }
    }

    fn identityd_runs_new(&self) -> Claim {
        let short = |digest: &str| digest.chars().take(12).collect::<String>();
        Claim {
            name: "identityd's /proc/PID/exe is the new program",
            measured: format!("sha256 {} -> {}", short(&self.before.identityd), short(&self.after.identityd)),
            holds: self.before.identityd == self.old.identityd
                && self.after.identityd == self.new.identityd
                && self.old.identityd != self.new.identityd,
        }
    }

    fn identityd_in_place(&self) -> Claim {
        Claim {
            name: "identityd replaced itself in the same process",
            measured: format!("identityd {}", self.pids("identityd")),
            holds: same(self.service("identityd")),
        }
    }

    fn pid_one(&self) -> Claim {
        let (before, after) = (&self.before.init, &self.after.init);
        Claim {
            name: "the node did not reboot: its PID 1 is the same process",
            measured: format!("start time {} -> {} ticks", before.started, after.started),
            holds: same((Some(before), Some(after))),
        }
    }

    fn installed(&self) -> Claim {
        Claim {
            name: "identityd says that the new release is installed",
            measured: format!("{} -> {}", self.before.installed, self.after.installed),
            holds: self.before.installed == self.old.version && self.after.installed == self.new.version,
        }
    }

    fn redis_answered(&self) -> Claim {
        Claim {
            name: "redis answered every PING",
            measured: format!("{} of {} in time", self.redis.answered, self.redis.questions),
            holds: self.redis.answered == self.redis.questions && self.redis.questions > 0,
        }
    }

    fn fetched(&self) -> Claim {
        let fetched = self.after.fetched.saturating_sub(self.before.fetched);
        let kib = |bytes: u64| bytes.div_ceil(1024);
        Claim {
            name: "only new blocks were fetched",
            measured: format!(
                "{} KiB; new in the release {} KiB, whole release {} KiB",
                kib(fetched),
                kib(self.new_bytes),
                kib(self.release_bytes)
            ),
            holds: fetched > 0 && fetched <= self.new_bytes && self.new_bytes < self.release_bytes,
        }
    }

    fn mounts(&self) -> Claim {
        Claim {
            name: "no mount is left behind",
            measured: format!("{} -> {} mounts", self.before.mounts.len(), self.after.mounts.len()),
            holds: self.before.mounts == self.after.mounts,
        }
    }

    fn service(&self, name: &str) -> (Option<&Process>, Option<&Process>) {
        (self.before.services.get(name), self.after.services.get(name))
    }

    fn pids(&self, name: &str) -> String {
        let pid = |process: Option<&Process>| process.map_or("none".to_owned(), |p| p.pid_inside.to_string());
        let (before, after) = self.service(name);
        format!("pid {} -> {}", pid(before), pid(after))
    }
}

/// Prints them as a table, and a verdict.
pub(super) fn print(claims: &[Claim]) {
    let width = claims.iter().map(|claim| claim.name.len()).max().unwrap_or_default();
    println!("\n  {:width$}   measured", "claim");
    for claim in claims {
        let mark = if claim.holds { "+" } else { "-" };
        println!("{mark} {:width$}   {}", claim.name, claim.measured);
    }
    let failed = claims.iter().filter(|claim| !claim.holds).count();
    match failed {
        0 => println!("\nAll {} claims hold.", claims.len()),
        _ => println!("\n{failed} of {} claims do NOT hold.", claims.len()),
    }
}

/// Writes `{"claims":[…]}`.
pub(super) fn write(path: &Path, claims: &[Claim]) -> Result<(), Error> {
    let json = serde_json::json!({ "claims": claims });
    fs::write(path, format!("{json:#}\n"))
        .map_err(|source| Error::System { action: format!("write {}", path.display()), source })
}

/// A pid may be used again; a pid with its start time is one process.
fn same(processes: (Option<&Process>, Option<&Process>)) -> bool {
    match processes {
        (Some(before), Some(after)) => before.pid == after.pid && before.started == after.started,
        _ => false,
    }
}

fn silence(name: &'static str, seen: &Seen) -> Claim {
    let unanswered = seen.questions - seen.answered;
    Claim {
        name,
        measured: format!(
            "{} ms between answers at most; {unanswered} of {} questions without one",
            seen.longest_gap.as_millis(),
            seen.questions
        ),
        holds: seen.answers_at_end && seen.longest_gap < LONGEST_GAP,
    }
}
