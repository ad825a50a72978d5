//! The engine's progress in the agent's words.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bootstrap::transaction::Progress as Step;
use tokio::sync::mpsc::UnboundedSender;

use crate::agent::model::{Progress, ServiceEvent};
use crate::agent::stage::Stage;

/// Reports what the engine does, and the bytes that have been `fetched` until then.
pub(super) fn observer(
    progress: UnboundedSender<Progress>,
    fetched: Arc<AtomicU64>,
) -> impl Fn(Step) + Send + Sync {
    let last = Mutex::new(Stage::Fetching);
    move |step| {
        let stage = match &step {
            Step::Staged { .. } => Some(Stage::Staging),
            Step::Verifying => Some(Stage::Verifying),
            Step::Swapping => Some(Stage::Swapping),
            Step::Soaking => Some(Stage::Soaking),
            Step::Stopped(_) | Step::LeftDown(_) | Step::Started { .. } | Step::LeftBehind(_) => None,
        };
        let mut last = last.lock().unwrap_or_else(|poison| poison.into_inner());
        // Nobody listening is no reason not to upgrade.
        if let Some(stage) = stage.filter(|stage| *stage != *last) {
            *last = stage;
            let _ = progress.send(Progress::Stage(stage));
        }
        let _ = match step {
            Step::Staged { .. } => {
                let bytes = fetched.load(Ordering::Relaxed);
                progress.send(Progress::Fetched { bytes, total: bytes })
            }
            Step::Stopped(unit) => {
                progress.send(Progress::Service { name: unit.to_string(), event: ServiceEvent::Stopped })
            }
            Step::Started { unit, down } => {
                let down_ms = down.map_or(0, |down| u64::try_from(down.as_millis()).unwrap_or(u64::MAX));
                progress.send(Progress::Service {
                    name: unit.to_string(),
                    event: ServiceEvent::Started { down_ms },
                })
            }
            Step::LeftBehind(processes) => progress.send(Progress::LeftBehind { processes }),
            // The log names it.
            Step::LeftDown(_) | Step::Verifying | Step::Swapping | Step::Soaking => Ok(()),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stages_of_an_upgrade_are_told_once_each_in_their_order() {
        let (progress, mut told) = tokio::sync::mpsc::unbounded_channel();
        let observe = observer(progress, Arc::default());
        for step in [
            Step::Staged { done: 1, total: 2 },
            Step::Staged { done: 2, total: 2 },
            Step::Verifying,
            Step::Swapping,
            Step::Soaking,
        ] {
            observe(step);
        }
        drop(observe);
        let stages = std::iter::from_fn(|| told.blocking_recv()).filter_map(|progress| match progress {
            Progress::Stage(stage) => Some(stage),
            _ => None,
        });
        let stages: Vec<_> = stages.collect();
        assert_eq!(stages, [Stage::Staging, Stage::Verifying, Stage::Swapping, Stage::Soaking]);
        assert!(stages.is_sorted(), "a status never goes back: {stages:?}");
    }
}
