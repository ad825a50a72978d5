//! What we want to reach, and whether we do.

use serde::Serialize;

use super::ours::{MOUNT_COLD, MOUNT_HUB, MOUNT_WARM, PACK, UNPACK_COLD, UNPACK_HUB, UNPACK_WARM};
use super::rounds::Measured;

/// Most multiples of the time of `cp -a`.
const RATIOS: [(&str, f64); 4] =
    [(UNPACK_COLD, 2.5), (UNPACK_WARM, 1.5), (MOUNT_WARM, 3.0), (MOUNT_COLD, 5.0)];

/// Least 10^6 bytes per second.
const PACK_RATE: f64 = 250.0;

/// Most memory in MiB.
const PEAK: f64 = 128.0;

/// One goal.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Goal {
    /// What it is about.
    pub(super) name: String,
    /// What was measured.
    pub(super) value: f64,
    /// The bound.
    pub(super) goal: f64,
    /// Unit of both numbers.
    pub(super) unit: &'static str,
    /// Whether the value is on the right side of the bound.
    pub(super) reached: bool,
    /// By how many percent of the goal it is missed; 0 when it is reached.
    pub(super) missed_by: f64,
}

/// All goals whose cases were measured.
pub(super) fn judge(measured: &[Measured]) -> Vec<Goal> {
    let find = |name: &str| measured.iter().find(|case| case.name == name);
    let ratios = RATIOS.iter().filter_map(|(name, bound)| {
        Some(Goal::at_most((*name).to_owned(), find(name)?.ratio, *bound, "x cp -a"))
    });
    let rate = find(PACK).map(|case| Goal::at_least(PACK.to_owned(), case.rate, PACK_RATE, "MB/s"));
    let memory = [PACK, UNPACK_COLD, UNPACK_HUB, UNPACK_WARM, MOUNT_COLD, MOUNT_HUB, MOUNT_WARM]
        .into_iter()
        .filter_map(find)
        .map(|case| Goal::at_most(format!("{}, memory", case.name), case.peak, PEAK, "MiB"));
    ratios.chain(rate).chain(memory).collect()
}

impl Goal {
    fn at_most(name: String, value: f64, goal: f64, unit: &'static str) -> Self {
        let missed_by = (value / goal - 1.0).max(0.0) * 100.0;
        Self { name, value, goal, unit, reached: value <= goal, missed_by }
    }

    fn at_least(name: String, value: f64, goal: f64, unit: &'static str) -> Self {
        let missed_by = (1.0 - value / goal).max(0.0) * 100.0;
        Self { name, value, goal, unit, reached: value >= goal, missed_by }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_has_two_sides() {
        let most = |value| Goal::at_most("x".to_owned(), value, 2.0, "");
        assert!(most(2.0).reached && !most(3.0).reached && (most(3.0).missed_by - 50.0).abs() < 1e-9);
        let least = |value| Goal::at_least("x".to_owned(), value, 200.0, "");
        assert!(least(200.0).reached && !least(150.0).reached);
        assert!((least(150.0).missed_by - 25.0).abs() < 1e-9 && least(300.0).missed_by.abs() < 1e-9);
    }
}
