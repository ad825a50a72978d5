//! What a supervisor must do for the engine to work with it, as one set of cases for every zinit.
//!
//! Each case has a supervisor of its own, with real processes, driven by `zinit-client` and by the engine's own
//! stopping and starting. Where a dialect does otherwise, the case says what it does instead.

mod cases;
mod life;
mod stage;

use std::time::{Duration, Instant};

use crate::error::{Doing, Error};
use crate::{Zinit, require_root};
use stage::{Fault, Stage};

/// What came of one case.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The case.
    pub name: &'static str,
    /// `Ok` with a remark, which may be empty, or why it failed.
    pub result: Result<String, String>,
    /// How long it took.
    pub took: Duration,
}

/// Runs every case whose name contains `filter`; `report` hears of each as soon as it is over.
///
/// # Errors
/// When it cannot be run at all.
pub fn run(zinit: &Zinit, filter: &str, mut report: impl FnMut(&Outcome)) -> Result<Vec<Outcome>, Error> {
    require_root("the conformance suite")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .doing(|| "start a runtime".to_owned())?;
    let mut outcomes = Vec::new();
    let all = cases::ALL.iter().chain(life::ALL).copied();
    for (name, case) in all.filter(|(name, _)| name.contains(filter)) {
        let started = Instant::now();
        let result = runtime.block_on(one(zinit, case));
        let outcome = Outcome { name, result, took: started.elapsed() };
        report(&outcome);
        outcomes.push(outcome);
    }
    Ok(outcomes)
}

/// Makes the table of a module's cases.
macro_rules! table {
    ($($name:literal => $case:ident,)*) => {
        pub(super) const ALL: &[(&str, super::Case)] = &[$(($name, |stage| Box::pin($case(stage)))),*];
    };
}
use table;

/// A case: what it does with a supervisor, and what is remarkable about it.
type Case = fn(&mut Stage) -> std::pin::Pin<Box<dyn Future<Output = Result<String, Fault>> + '_>>;

async fn one(zinit: &Zinit, case: Case) -> Result<String, String> {
    let mut stage = Stage::set_up(zinit).await.map_err(|error| chain(error.as_ref()))?;
    case(&mut stage).await.map_err(|error| chain(error.as_ref()))
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
