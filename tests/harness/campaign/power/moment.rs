//! When the power is cut: by the journal, which tells how far an upgrade is.

use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::bench::{Bench, Found};
use crate::error::Error;
use crate::vm::Vm;

/// Lets the commands below pause without starting a process, which takes longer than they want to pause.
const CAN_PAUSE: &str = "[ -p /run/silence ] || mkfifo /run/silence; exec 9<>/run/silence";

/// Waits until a transaction has begun: the first record of its journal.
const AWAIT_BEGIN: &str = "until [ -s /var/lib/molt/journal ]; do read -t 0.005 -u 9 x; done";

/// Waits until all is staged: the second record, or no journal any more.
const AWAIT_STAGED: &str = "while [ -e /var/lib/molt/journal ]; do n=0
while read -r x; do n=$((n+1)); done </var/lib/molt/journal; [ $n -lt 2 ] || break; read -t 0.005 -u 9 x; done";

/// Waits until the transaction is over.
const AWAIT_END: &str = "while [ -e /var/lib/molt/journal ]; do read -t 0.005 -u 9 x; done";

/// How long after the commit a cut can come.
const AFTER: Duration = Duration::from_millis(500);

/// Tells on the console which stage identityd is in, whenever it changes.
const TELL_STAGES: &str = r#"[ -e /run/telling ] || { : >/run/telling; (while :; do s=; while read -r x; do
case $x in '"stage":'*) s=${x%,}; break;; esac; done </run/molt/status.json
[ "$s" = "$o" ] || echo "stage: $s" >/dev/console; o=$s; read -t 0.05 -u 9 x; done) >/dev/null 2>&1 & }"#;

/// Words before a stage in what that prints.
const STAGE: &str = "stage: \"stage\":";

/// A part of an upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    /// A release is offered, and no record is in the journal.
    Offered,
    /// After the first record: files are staged.
    Staging,
    /// After the record that all is staged: services stop, files are exchanged, services start and are watched.
    Swapping,
    /// The journal is gone.
    Committed,
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Offered => "before the journal",
            Self::Staging => "while staging",
            Self::Swapping => "before the commit",
            Self::Committed => "after the commit",
        })
    }
}

/// One turn of the moments: most cuts come between the first record and the commit.
const TURN: [Moment; 8] = [
    Moment::Staging,
    Moment::Swapping,
    Moment::Committed,
    Moment::Swapping,
    Moment::Staging,
    Moment::Offered,
    Moment::Swapping,
    Moment::Staging,
];

impl Moment {
    /// That of the cut with this number, from 0.
    pub(super) fn of_cut(number: usize) -> Self {
        TURN[number % TURN.len()]
    }
}

/// How long the parts of an upgrade last.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spans {
    offered: Duration,
    staging: Duration,
    swapping: Duration,
}

impl fmt::Display for Spans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { offered, staging, swapping } = self;
        write!(f, "the journal begins after {offered:.1?}, staging takes {staging:.1?}, ")?;
        write!(f, "from then to the commit it is {swapping:.1?}")
    }
}

impl Spans {
    /// Watches one upgrade.
    pub(super) fn measure(bench: &mut Bench, vm: &mut Vm) -> Result<Self, Error> {
        bench.offer_next()?;
        let start = Instant::now();
        let lap = |command: &str| {
            let before = start.elapsed();
            run(vm, command).map(|()| start.elapsed().saturating_sub(before))
        };
        let spans =
            Self { offered: lap(AWAIT_BEGIN)?, staging: lap(AWAIT_STAGED)?, swapping: lap(AWAIT_END)? };
        bench.await_release(vm, Found::New)?;
        Ok(spans)
    }

    /// Waits, after the next release was offered, until the moment is there, and a random part of it.
    pub(super) fn reach(&self, moment: Moment, vm: &Vm, random: &mut Rng) -> Result<(), Error> {
        let (waits, span): (&[&str], _) = match moment {
            Moment::Offered => (&[], self.offered),
            Moment::Staging => (&[AWAIT_BEGIN], self.staging),
            Moment::Swapping => (&[AWAIT_BEGIN, AWAIT_STAGED], self.swapping),
            Moment::Committed => (&[AWAIT_BEGIN, AWAIT_END], AFTER),
        };
        for command in waits {
            run(vm, command)?;
        }
        // The moment is what is random here; nothing is waited for.
        thread::sleep(span.mul_f64(random.f64()));
        Ok(())
    }
}

/// Lets a machine tell its stages on the console, if it does not yet.
pub(super) fn tell_stages(vm: &Vm) -> Result<(), Error> {
    run(vm, TELL_STAGES)
}

/// Runs one of the commands above.
fn run(vm: &Vm, command: &str) -> Result<(), Error> {
    // A pause that is over is a failure of `read`.
    vm.run(&format!("{CAN_PAUSE}; {command}; true")).map(drop)
}

/// Waits until a transaction has begun.
pub(super) fn await_begin(vm: &Vm) -> Result<(), Error> {
    run(vm, AWAIT_BEGIN)
}

/// Waits until the transaction is over.
pub(super) fn await_end(vm: &Vm) -> Result<(), Error> {
    run(vm, AWAIT_END)
}

/// The stage that the console told last.
pub(super) fn stage_of(vm: &Vm) -> String {
    let lines = vm.console().lines();
    let told = lines.iter().rev().find_map(|line| line.text.split_once(STAGE)).map(|(_, stage)| stage);
    told.map_or("unknown", |stage| stage.trim_matches(['"', ' '])).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_cuts_come_while_staging_before_the_commit_and_after_it() {
        let moments: Vec<_> = (0..3).map(Moment::of_cut).collect();
        assert_eq!(moments, [Moment::Staging, Moment::Swapping, Moment::Committed]);
        let before = (0..30).map(Moment::of_cut).filter(|moment| *moment == Moment::Offered).count();
        assert!(before > 0);
    }
}
