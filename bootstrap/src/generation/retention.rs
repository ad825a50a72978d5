//! Which generations are kept. Pure.

use std::collections::BTreeSet;

use super::Cause;

/// What decides about one generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Its number.
    pub number: u64,
    /// What it came from.
    pub cause: Cause,
    /// It was installed into the root that is here now.
    pub here: bool,
    /// Somebody wants to be able to go back to it.
    pub pinned: bool,
}

/// What is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retained {
    /// The generations whose record is kept, the current one among them.
    pub numbers: BTreeSet<u64>,
    /// The oldest of them: what it replaced is needed by nobody any more.
    pub oldest: u64,
}

/// The current generation, before it so many others that can be gone back to, and those that are pinned. What lies
/// between is kept with them, pinned or of a self-update or not, because what it replaced is on the way.
/// What a self-update is gone back to if the new identityd does not stand its trial is kept in any case.
/// Generations after the current one were never committed, and those of another root are gone with it.
pub fn retained(all: &[Candidate], current: u64, previous: usize) -> Retained {
    let is_self_update =
        |candidate: &Candidate| candidate.number == current && candidate.cause == Cause::SelfUpdate;
    let previous = if all.iter().any(is_self_update) { previous.max(1) } else { previous };
    let mut before: Vec<_> =
        all.iter().filter(|candidate| candidate.here && candidate.number < current).collect();
    before.sort_unstable_by_key(|candidate| std::cmp::Reverse(candidate.number));
    let mut targets = before.iter().filter(|candidate| candidate.cause != Cause::SelfUpdate);
    let oldest = match previous {
        0 => current,
        _ => targets.by_ref().take(previous).last().map_or(current, |candidate| candidate.number),
    };
    let pinned = before.iter().filter(|candidate| candidate.pinned).map(|candidate| candidate.number);
    let oldest = pinned.fold(oldest, u64::min);
    let numbers = before.iter().map(|candidate| candidate.number).filter(|number| *number >= oldest);
    Retained { numbers: numbers.chain([current]).collect(), oldest }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(number: u64, cause: Cause) -> Candidate {
        Candidate { number, cause, here: true, pinned: false }
    }

    #[test]
    fn self_updates_stay_with_what_they_lead_to() {
        let all = [
            of(1, Cause::FirstBoot),
            of(2, Cause::SelfUpdate),
            of(3, Cause::Release),
            of(4, Cause::SelfUpdate),
            of(5, Cause::Release),
            of(6, Cause::Release),
        ];
        let kept = |current, previous| {
            let Retained { numbers, oldest } = retained(&all, current, previous);
            (numbers.into_iter().collect::<Vec<_>>(), oldest)
        };
        assert_eq!(kept(5, 1), (vec![3, 4, 5], 3));
        assert_eq!(kept(5, 2), (vec![1, 2, 3, 4, 5], 1));
        assert_eq!(kept(5, 0), (vec![5], 5));
        assert_eq!(kept(5, 100), (vec![1, 2, 3, 4, 5], 1));
        assert_eq!(kept(4, 1), (vec![3, 4], 3));
        assert_eq!(kept(4, 0), (vec![3, 4], 3), "the trial of 4 may go back to 3");
        assert_eq!(kept(1, 1), (vec![1], 1));
    }

    #[test]
    fn a_pinned_one_stays_with_what_leads_back_to_it() {
        let of = |number, here, pinned| Candidate { number, cause: Cause::Release, here, pinned };
        let kept = |all: &[Candidate], previous| {
            let Retained { numbers, oldest } = retained(all, 5, previous);
            (numbers.into_iter().collect::<Vec<_>>(), oldest)
        };
        let all =
            |pin: u64, here: bool| (1..=6).map(|n| of(n, here || n != pin, n == pin)).collect::<Vec<_>>();
        assert_eq!(kept(&all(2, true), 1), (vec![2, 3, 4, 5], 2));
        assert_eq!(kept(&all(2, true), 0), (vec![2, 3, 4, 5], 2));
        assert_eq!(kept(&all(2, true), 4), (vec![1, 2, 3, 4, 5], 1));
        assert_eq!(kept(&all(2, false), 1), (vec![4, 5], 4), "it was of another root");
        assert_eq!(kept(&all(5, true), 0), (vec![5], 5), "it is current");
        assert_eq!(kept(&all(6, true), 1), (vec![4, 5], 4), "it was never committed");
    }

    #[test]
    fn whatever_happens_the_current_one_and_enough_before_it_and_all_pinned_ones_are_kept() {
        // Every assignment of causes, roots and pins to six generations; the last one is never kept.
        for bits in 0..1_u32 << 17 {
            let cause = |number: u32| match bits >> number & 1 {
                0 => Cause::Release,
                _ => Cause::SelfUpdate,
            };
            let here = |number: u32| bits >> (6 + number) & 1 == 0;
            let pinned = |number: u32| number == 5 || bits >> (12 + number) & 1 == 1;
            let one = |number: u32| {
                let (cause, here, pinned) = (cause(number), here(number), pinned(number));
                Candidate { number: number.into(), cause, here, pinned }
            };
            let all: Vec<_> = (0..6).map(one).collect();
            for previous in 0..4 {
                let Retained { numbers, oldest } = retained(&all, 4, previous);
                let targets = all.iter().filter(|c| c.here && c.number < 4 && c.cause != Cause::SelfUpdate);
                let at_least = usize::from(cause(4) == Cause::SelfUpdate);
                let wanted = targets.rev().take(previous.max(at_least)).map(|c| c.number);
                let pinned = all.iter().filter(|c| c.here && c.number < 4 && c.pinned).map(|c| c.number);
                let wanted: Vec<_> = wanted.chain(pinned).collect();
                assert!(numbers.contains(&4) && numbers.contains(&oldest));
                assert!(wanted.iter().all(|number| numbers.contains(number)), "{all:?} {previous}");
                let needed = wanted.into_iter().min().unwrap_or(4);
                assert_eq!(oldest, needed, "nothing is kept for nobody: {all:?} {previous}");
                assert!(numbers.iter().all(|number| *number <= 4 && *number >= oldest));
                let foreign = all.iter().filter(|c| !c.here && c.number != 4);
                assert!(foreign.clone().all(|c| !numbers.contains(&c.number)), "{all:?} {previous}");
                // What was replaced on the way back to any of them.
                let on_the_way = all.iter().filter(|c| c.here && c.number > oldest && c.number < 4);
                assert!(on_the_way.clone().all(|c| numbers.contains(&c.number)), "{all:?} {previous}");
            }
        }
    }
}
