//! Random pairs of releases, and what an oracle says of them that knows nothing of the planner.

use std::collections::{BTreeMap, BTreeSet};

use molt_model::scenario::{Act, FileSpec, Scenario, Stopped, upgrade_with};

/// A pseudo-random sequence (Knuth's MMIX), so that a failure can be run again by its seed.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }

    /// Whether something happens that does so in so many of a hundred cases.
    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn some_of(&mut self, all: &BTreeSet<usize>, percent: usize) -> BTreeSet<usize> {
        all.iter().copied().filter(|_| self.chance(percent)).collect()
    }
}

/// A service of a release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Service {
    unit: usize,
    program: usize,
    pub(crate) oneshot: bool,
    /// Services with lower numbers.
    after: BTreeSet<usize>,
    /// Libraries that its program maps.
    pub(crate) maps: BTreeSet<usize>,
    /// The directory of data that its unit declares to use.
    uses: Option<usize>,
}

/// A library: the file that its name leads to, and the version of each file that there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Library {
    leads_to: usize,
    pub(crate) files: BTreeMap<usize, usize>,
}

/// A release, made of services, libraries, data and configuration, by their numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Graph {
    pub(crate) services: BTreeMap<usize, Service>,
    pub(crate) libraries: BTreeMap<usize, Library>,
    /// Versions by directory and file.
    data: BTreeMap<(usize, usize), usize>,
    configuration: BTreeMap<usize, usize>,
}

/// Paths with mode and text, or `-> target`.
pub(crate) type Files = BTreeMap<String, (u32, String)>;

/// What is upgraded from and to.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) old: Graph,
    pub(crate) new: Graph,
    /// What somebody has changed or added since.
    pub(crate) edited: Files,
    pub(crate) stopped: Option<usize>,
    /// The first service is one that no plan stops.
    pub(crate) protected: bool,
}

impl Graph {
    fn random(dice: &mut Dice) -> Self {
        let mut graph = Self::default();
        for number in 0..1 + dice.below(6) {
            graph.libraries.insert(number, Library { leads_to: 1, files: [(1, 1)].into() });
        }
        for directory in 0..1 + dice.below(3) {
            graph.data.extend((0..1 + dice.below(3)).map(|file| ((directory, file), 1)));
        }
        graph.configuration = (0..dice.below(4)).map(|number| (number, 1)).collect();
        for number in 0..1 + dice.below(8) {
            graph.add_service(number, dice);
        }
        graph
    }

    fn add_service(&mut self, number: usize, dice: &mut Dice) {
        let libraries: BTreeSet<usize> = self.libraries.keys().copied().collect();
        let before = self.services.keys().copied().filter(|other| *other < number).collect();
        let service = Service {
            unit: 1,
            program: 1,
            oneshot: dice.chance(15),
            after: dice.some_of(&before, 30),
            maps: dice.some_of(&libraries, 40),
            uses: dice.chance(25).then(|| dice.below(4)),
        };
        self.services.insert(number, service);
    }

    /// The next release.
    fn changed(&self, dice: &mut Dice) -> Self {
        let mut next = self.clone();
        next.libraries.retain(|_, _| !dice.chance(8));
        for library in next.libraries.values_mut() {
            match dice.below(8) {
                0 | 1 => *library.files.get_mut(&1).unwrap() += 1,
                // Another file beside it: who has the old one mapped has what is still there.
                2 => (library.leads_to, library.files) = (2, [(1, 1), (2, 1)].into()),
                3 => (library.leads_to, library.files) = (2, [(2, 1)].into()),
                _ => {}
            }
        }
        let gone = dice.chance(25).then(|| dice.below(3));
        next.data.retain(|(directory, _), _| Some(*directory) != gone && !dice.chance(10));
        next.data.values_mut().filter(|_| dice.chance(15)).for_each(|version| *version += 1);
        next.data.extend(dice.chance(40).then(|| ((dice.below(4), 7), 1)));
        next.configuration.retain(|_, _| !dice.chance(15));
        next.configuration.values_mut().filter(|_| dice.chance(40)).for_each(|version| *version += 1);
        next.services.retain(|_, _| !dice.chance(12));
        for service in next.services.values_mut() {
            service.unit += usize::from(dice.chance(10));
            service.program += usize::from(dice.chance(15));
        }
        for number in 8..8 + dice.below(3) {
            next.add_service(number, dice);
        }
        let there: BTreeSet<usize> = next.services.keys().copied().collect();
        next.services.values_mut().for_each(|service| service.after.retain(|other| there.contains(other)));
        next
    }

    fn files(&self, protected: bool) -> Files {
        let mut files = Files::new();
        let mut put = |path: String, mode, text: String| {
            files.insert(path, (mode, text));
        };
        for (number, Library { leads_to, files }) in &self.libraries {
            put(format!("lib/l{number}.so"), 0o777, format!("-> l{number}.so.{leads_to}"));
            for (file, version) in files {
                put(format!("lib/l{number}.so.{file}"), 0o644, format!("library {number}.{file} {version}"));
            }
        }
        for ((directory, file), version) in &self.data {
            put(format!("usr/share/d{directory}/f{file}"), 0o644, format!("data {version}"));
        }
        for (number, version) in &self.configuration {
            put(format!("etc/c{number}.conf"), 0o644, format!("configuration {version}"));
        }
        for (number, service) in &self.services {
            let name = name(*number, protected);
            let maps: String =
                service.maps.iter().map(|number| format!("maps /lib/l{number}.so\n")).collect();
            let program = format!("#!/bin/sh\n{name} {}\n{maps}", service.program);
            put(format!("bin/{name}"), 0o755, program);
            let after: Vec<_> = service.after.iter().map(|other| self::name(*other, protected)).collect();
            let uses = service.uses.map(|directory| format!("molt:\n  uses: [/usr/share/d{directory}/*]\n"));
            let unit = format!(
                "# {}\nexec: /bin/{name}\noneshot: {}\nafter: [{}]\n{}",
                service.unit,
                service.oneshot,
                after.join(", "),
                uses.unwrap_or_default()
            );
            put(format!("etc/zinit/{name}.yaml"), 0o644, unit);
        }
        files
    }
}

pub(crate) fn name(number: usize, protected: bool) -> String {
    if protected && number == 0 { "identityd".to_owned() } else { format!("s{number}") }
}

impl Case {
    pub(crate) fn random(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let old = Graph::random(&mut dice);
        let new = old.changed(&mut dice);
        let mut edited = Files::new();
        let there = old.files(false);
        let editable = there.keys().filter(|path| path.ends_with(".conf") || path.starts_with("usr/share/"));
        for path in editable.filter(|_| dice.chance(20)) {
            edited.insert(path.clone(), (0o644, "mine".to_owned()));
        }
        if dice.chance(30) {
            edited.insert("usr/share/d0/mine".to_owned(), (0o600, "mine".to_owned()));
        }
        // Nobody waits for it, or the release would be refused.
        let is_waited_for = |number: &usize| {
            [&old, &new].iter().any(|graph| graph.services.values().any(|other| other.after.contains(number)))
        };
        let can_be_stopped = |(number, service): &(&usize, &Service)| {
            let oneshot =
                [&old, &new].iter().any(|graph| graph.services.get(number).is_some_and(|of| of.oneshot));
            !oneshot && !is_waited_for(number) && **number > 0 && service.unit > 0
        };
        let stopped = old.services.iter().filter(can_be_stopped).map(|(number, _)| *number).next();
        let stopped = stopped.filter(|_| dice.chance(40));
        Self { old, new, edited, stopped, protected: dice.chance(25) }
    }

    /// What the node holds before the upgrade.
    fn there(&self) -> Files {
        let mut files = self.old.files(self.protected);
        files.extend(self.edited.clone());
        files
    }

    pub(crate) fn scenario(&self) -> Scenario {
        let stopped = self.stopped.map(|number| Stopped::Before(leaked(name(number, self.protected))));
        Scenario {
            act: Act::Upgrade,
            installed: Some(specs(&self.old.files(self.protected))),
            edited: specs(&self.edited),
            release: specs(&self.new.files(self.protected)),
            stopped,
            ..upgrade_with(&[])
        }
    }

    /// Paths whose content somebody loses: they are there, and are taken away or become something else.
    fn lost(&self) -> BTreeSet<String> {
        let (there, new) = (self.there(), self.new.files(self.protected));
        let old = self.old.files(self.protected);
        let is_lost = |path: &&String| {
            // Configuration of the node's own stays, and what nobody ships.
            let kept = path.starts_with("etc/c") && self.edited.contains_key(*path);
            old.contains_key(*path) && !kept && new.get(*path) != there.get(*path)
        };
        there.keys().filter(is_lost).cloned().collect()
    }

    /// What is to become of each service that something becomes of: a brute force over the files.
    pub(crate) fn oracle(&self) -> BTreeMap<String, &'static str> {
        let (lost, old, new) = (self.lost(), self.old.files(self.protected), self.new.files(self.protected));
        let mut expected = BTreeMap::new();
        for number in 0..16 {
            let name = name(number, self.protected);
            let (before, after) = (self.old.services.get(&number), self.new.services.get(&number));
            let stopped = self.stopped == Some(number);
            let protected = self.protected && number == 0;
            let unit = format!("etc/zinit/{name}.yaml");
            let other_unit = old.get(&unit) != new.get(&unit);
            let becomes = match (before, after) {
                (None, Some(_)) => Some("start"),
                (Some(_), _) if protected => None,
                (Some(_), None) => Some(if stopped { "forget" } else { "remove" }),
                (Some(_), Some(_)) if stopped => other_unit.then_some("forget"),
                (Some(was), Some(_)) if was.oneshot => other_unit.then_some("restart"),
                (Some(was), Some(_)) => {
                    let mut held = vec![format!("bin/{name}")];
                    held.extend(was.maps.iter().filter_map(|library| {
                        let leads_to = self.old.libraries.get(library)?.leads_to;
                        Some(format!("lib/l{library}.so.{leads_to}"))
                    }));
                    let declared = was.uses.map(|directory| format!("usr/share/d{directory}/"));
                    let uses_lost = declared
                        .is_some_and(|directory| lost.iter().any(|path| path.starts_with(&directory)));
                    let affected = other_unit || uses_lost || held.iter().any(|path| lost.contains(path));
                    affected.then_some("restart")
                }
                (None, None) => None,
            };
            expected.extend(becomes.map(|becomes| (name, becomes)));
        }
        expected
    }
}

/// Scenarios have texts that last; a test may keep them.
fn leaked(text: String) -> &'static str {
    text.leak()
}

fn specs(files: &Files) -> Vec<FileSpec> {
    files.iter().map(|(path, (mode, text))| (leaked(path.clone()), *mode, leaked(text.clone()))).collect()
}
