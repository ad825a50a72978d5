//! The order in which everything is stopped. Pure.

use std::collections::{BTreeMap, BTreeSet};

/// A shutdown in progress: who has to be stopped, and who has to be gone before.
#[derive(Debug)]
pub(crate) struct Shutdown {
    /// Services whose turn has not come, each with the services after it that are not done.
    waiting: BTreeMap<String, BTreeSet<String>>,
    stopping: BTreeSet<String>,
}

impl Shutdown {
    /// The shutdown of `services`, each given with what it comes after.
    pub(crate) fn new<'a>(services: impl Iterator<Item = (&'a str, &'a [String])> + Clone) -> Self {
        let mut waiting: BTreeMap<String, BTreeSet<String>> =
            services.clone().map(|(name, _)| (name.to_owned(), BTreeSet::new())).collect();
        for (name, after) in services {
            for dependency in after {
                if let Some(dependents) = waiting.get_mut(dependency) {
                    dependents.insert(name.to_owned());
                }
            }
        }
        Self { waiting, stopping: BTreeSet::new() }
    }

    /// The services whose turn it is: nothing after them is left. Of services after each other it
    /// is everybody's turn once nothing else is left.
    pub(crate) fn take_ready(&mut self) -> Vec<String> {
        let free = self.waiting.iter().filter(|(_, dependents)| dependents.is_empty());
        let mut ready: Vec<String> = free.map(|(name, _)| name.clone()).collect();
        if ready.is_empty() && self.stopping.is_empty() {
            ready = self.waiting.keys().cloned().collect();
        }
        for name in &ready {
            self.waiting.remove(name);
            self.stopping.insert(name.clone());
        }
        ready
    }

    /// Takes note that the service is gone, or that nobody waits for it any longer.
    pub(crate) fn done(&mut self, name: &str) {
        if self.stopping.remove(name) {
            for dependents in self.waiting.values_mut() {
                dependents.remove(name);
            }
        }
    }

    /// Whether the service was told to stop and is waited for.
    pub(crate) fn is_stopping(&self, name: &str) -> bool {
        self.stopping.contains(name)
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.waiting.is_empty() && self.stopping.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shutdown(services: &[(&str, &[&str])]) -> Shutdown {
        let owned: Vec<(&str, Vec<String>)> = services
            .iter()
            .map(|(name, after)| (*name, after.iter().map(|dep| (*dep).to_owned()).collect()))
            .collect();
        Shutdown::new(owned.iter().map(|(name, after)| (*name, after.as_slice())))
    }

    #[test]
    fn dependents_go_first_and_independents_together() {
        let mut shutdown =
            shutdown(&[("app", &["redis"]), ("net", &[]), ("redis", &["net", "nosuch"]), ("web", &["net"])]);
        assert_eq!(shutdown.take_ready(), ["app", "web"]);
        assert_eq!(shutdown.take_ready(), Vec::<String>::new());
        shutdown.done("app");
        assert_eq!(shutdown.take_ready(), ["redis"]);
        shutdown.done("redis");
        assert_eq!(shutdown.take_ready(), Vec::<String>::new());
        shutdown.done("web");
        assert_eq!(shutdown.take_ready(), ["net"]);
        assert!(!shutdown.is_finished() && shutdown.is_stopping("net"));
        shutdown.done("net");
        assert!(shutdown.is_finished());
    }

    #[test]
    fn a_death_before_its_turn_does_not_jump_the_queue() {
        let mut shutdown = shutdown(&[("app", &["redis"]), ("redis", &[])]);
        shutdown.done("redis");
        assert_eq!(shutdown.take_ready(), ["app"]);
        shutdown.done("app");
        assert_eq!(shutdown.take_ready(), ["redis"]);
    }

    #[test]
    fn services_after_each_other_go_together_at_last() {
        let mut shutdown = shutdown(&[("a", &["b"]), ("b", &["a"]), ("c", &["a"])]);
        assert_eq!(shutdown.take_ready(), ["c"]);
        shutdown.done("c");
        assert_eq!(shutdown.take_ready(), ["a", "b"]);
    }
}
