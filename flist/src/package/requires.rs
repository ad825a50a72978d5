//! What a node has to be like, and whether it is.

use std::collections::BTreeMap;
use std::fmt;

use semver::Version;
use serde::{Deserialize, Serialize};

use super::parse::{count, short, within};
use super::{NodePath, PackageError, PackageName};

/// Most memory that can be asked for, in MiB.
const MAX_MEMORY_MIB: u64 = 1 << 24;

/// What a package asks of a node. Everything has to hold; what is not said is not asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Requires {
    /// The lowest version of the kernel.
    pub kernel: Option<KernelVersion>,
    /// The processors that it runs on, one of `x86_64` and `aarch64`; any when there are none.
    pub architectures: Vec<String>,
    /// The least memory, in MiB.
    pub memory_mib: Option<u64>,
    /// The lowest version of Molt that may install it.
    pub molt: Option<Version>,
    /// The lowest installed version that may be upgraded; a first boot always may.
    pub installed: Option<Version>,
    /// Paths that have to be there.
    pub paths: Vec<NodePath>,
    /// Directories that a file system has to be mounted on.
    pub mounts: Vec<NodePath>,
    /// Directories in a file system that has to be writable.
    pub writable: Vec<NodePath>,
}

/// The first three numbers of a kernel's version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KernelVersion([u32; 3]);

impl KernelVersion {
    /// What a kernel calls itself, such as `6.1.0-18-amd64`; what follows the numbers does not count.
    pub fn of_release(text: &str) -> Option<Self> {
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let mut numbers = [0; 3];
        let mut given = text[..end].split('.').filter(|number| !number.is_empty());
        numbers[0] = given.next()?.parse().ok()?;
        for (number, text) in numbers[1..].iter_mut().zip(given) {
            *number = text.parse().ok()?;
        }
        Some(Self(numbers))
    }
}

impl TryFrom<String> for KernelVersion {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') && !text.contains("..");
        let version = Self::of_release(&text).filter(|_| plain && text.split('.').count() <= 3);
        version.ok_or_else(|| format!("'{text}' is no kernel version like \"5.10\" (in quotes)"))
    }
}

impl From<KernelVersion> for String {
    fn from(version: KernelVersion) -> Self {
        version.to_string()
    }
}

impl fmt::Display for KernelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = self.0;
        write!(f, "{major}.{minor}.{patch}")
    }
}

/// What a node is like.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// Its kernel; `None` where nobody can tell.
    pub kernel: Option<KernelVersion>,
    /// Its processor.
    pub architecture: String,
    /// Its memory in MiB; `None` where nobody can tell.
    pub memory_mib: Option<u64>,
    /// The version of Molt that would install.
    pub molt: Option<Version>,
    /// The version that is installed; `None` on a first boot.
    pub installed: Option<String>,
    /// What is at the paths that were asked for.
    pub places: BTreeMap<NodePath, Place>,
}

/// What is at a path.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Place {
    /// Something is.
    pub exists: bool,
    /// A file system is mounted on it.
    pub mount_point: bool,
    /// The file system that it lies in can be written to.
    pub writable: bool,
}

/// Something that a package asks for and a node does not have.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Unmet {
    /// What kind of thing; the names are stable.
    pub code: String,
    /// Which package asks.
    pub package: String,
    /// What it asks for.
    pub need: String,
    /// What there is.
    pub have: String,
}

impl fmt::Display for Unmet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { code, package, need, have } = self;
        write!(f, "{code}: package {package} needs {need}, this node has {have}")
    }
}

impl Requires {
    /// The paths that something is asked of.
    pub fn asked(&self) -> impl Iterator<Item = &NodePath> {
        self.paths.iter().chain(&self.mounts).chain(&self.writable)
    }

    pub(super) fn check(&self) -> Result<(), PackageError> {
        let counts = [
            ("architectures", self.architectures.len()),
            ("paths", self.paths.len()),
            ("mounts", self.mounts.len()),
            ("writable", self.writable.len()),
        ];
        counts.into_iter().try_for_each(|(key, entries)| count(key, entries))?;
        self.architectures.iter().try_for_each(|name| short("architectures", name))?;
        within("memory_mib", self.memory_mib.unwrap_or(0), 0, MAX_MEMORY_MIB)
    }

    /// What a node lacks.
    pub fn unmet(&self, package: &PackageName, node: &NodeFacts) -> Vec<Unmet> {
        let mut unmet = Vec::new();
        let mut lacks = |code: &str, need: String, have: String| {
            unmet.push(Unmet { code: code.to_owned(), package: package.to_string(), need, have });
        };
        let or_unknown = |have: Option<String>| have.unwrap_or_else(|| "one that nobody can tell".to_owned());
        if let Some(need) = self.kernel.filter(|need| node.kernel.is_none_or(|have| have < *need)) {
            let have = or_unknown(node.kernel.map(|have| have.to_string()));
            lacks("kernel-too-old", format!("kernel {need} or newer"), have);
        }
        if !self.architectures.is_empty() && !self.architectures.contains(&node.architecture) {
            let need = format!("a processor of {}", self.architectures.join(" or "));
            lacks("wrong-architecture", need, node.architecture.clone());
        }
        if let Some(need) = self.memory_mib.filter(|need| node.memory_mib.is_none_or(|have| have < *need)) {
            let have = or_unknown(node.memory_mib.map(|have| format!("{have} MiB")));
            lacks("memory-too-small", format!("{need} MiB of memory"), have);
        }
        if let Some(need) =
            self.molt.as_ref().filter(|need| node.molt.as_ref().is_none_or(|have| have < *need))
        {
            let have = or_unknown(node.molt.as_ref().map(ToString::to_string));
            lacks("molt-too-old", format!("Molt {need} or newer"), have);
        }
        if let (Some(need), Some(have)) = (&self.installed, &node.installed)
            && Version::parse(have).ok().is_none_or(|have| have < *need)
        {
            lacks("installed-too-old", format!("version {need} or newer installed before"), have.clone());
        }
        let place = |path: &NodePath| node.places.get(path).copied().unwrap_or_default();
        let nothing = || "nothing there".to_owned();
        for path in self.paths.iter().filter(|path| !place(path).exists) {
            lacks("path-missing", path.to_string(), nothing());
        }
        for path in self.mounts.iter().filter(|path| !place(path).mount_point) {
            let have = if place(path).exists { "none there".to_owned() } else { nothing() };
            lacks("not-mounted", format!("a file system mounted on {path}"), have);
        }
        for path in self.writable.iter().filter(|path| !place(path).writable) {
            let have = if place(path).exists { "one that is read-only".to_owned() } else { nothing() };
            lacks("not-writable", format!("a writable file system at {path}"), have);
        }
        unmet
    }
}

impl Unmet {
    /// Whether another version of Molt would not see it: a release that brings one is not held up by it.
    pub fn is_about_molt(&self) -> bool {
        self.code == "molt-too-old"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> NodeFacts {
        let path = |text: &str| NodePath::try_from(text.to_owned()).unwrap();
        let there = Place { exists: true, mount_point: true, writable: true };
        NodeFacts {
            kernel: KernelVersion::of_release("5.10.0-18-amd64"),
            architecture: "x86_64".to_owned(),
            memory_mib: Some(512),
            molt: Version::parse("0.1.0").ok(),
            installed: Some("1.4.2".to_owned()),
            places: [
                (path("/data"), there),
                (path("/ro"), Place { writable: false, mount_point: false, ..there }),
            ]
            .into(),
        }
    }

    fn codes(text: &str, node: &NodeFacts) -> Vec<String> {
        let package = super::super::parse(format!("requires: {{{text}}}").as_bytes()).unwrap();
        let name = "web".parse().unwrap();
        package.requires.unmet(&name, node).into_iter().map(|unmet| unmet.code).collect()
    }

    #[test]
    fn each_precondition_has_its_code_and_is_met_by_a_node_that_is_like_that() {
        let node = node();
        for (met, unmet, code) in [
            ("kernel: '5.10'", "kernel: '5.10.1'", "kernel-too-old"),
            ("architectures: [aarch64, x86_64]", "architectures: [aarch64]", "wrong-architecture"),
            ("memory_mib: 512", "memory_mib: 513", "memory-too-small"),
            ("molt: 0.1.0", "molt: 0.1.1", "molt-too-old"),
            ("installed: 1.4.2", "installed: 1.4.3", "installed-too-old"),
            ("paths: [/ro]", "paths: [/dev/kvm]", "path-missing"),
            ("mounts: [/data]", "mounts: [/ro]", "not-mounted"),
            ("writable: [/data]", "writable: [/ro]", "not-writable"),
        ] {
            assert_eq!(codes(met, &node), [""; 0], "{met}");
            assert_eq!(codes(unmet, &node), [code], "{unmet}");
        }
        assert_eq!(codes("mounts: [/none], writable: [/none]", &node), ["not-mounted", "not-writable"]);
    }

    #[test]
    fn what_nobody_can_tell_is_not_met_and_a_first_boot_comes_from_nowhere() {
        let unknown = NodeFacts::default();
        assert_eq!(codes("kernel: '2.6', memory_mib: 1", &unknown), ["kernel-too-old", "memory-too-small"]);
        assert_eq!(codes("installed: 1.0.0", &unknown), [""; 0]);
        let text = NodeFacts { installed: Some("tuesday".to_owned()), ..unknown };
        assert_eq!(codes("installed: 1.0.0", &text), ["installed-too-old"]);
    }

    #[test]
    fn kernels_call_themselves_many_things() {
        let version = |text| KernelVersion::of_release(text).map(|version| version.to_string());
        assert_eq!(version("6.1.0-18-amd64").as_deref(), Some("6.1.0"));
        assert_eq!(version("6.12").as_deref(), Some("6.12.0"));
        assert_eq!(version("5.15.167.4-microsoft-standard-WSL2").as_deref(), Some("5.15.167"));
        assert_eq!(version("kernel"), None);
        for bad in ["", "5.", "5..1", "five", "5.1.2.3", "-5"] {
            assert!(KernelVersion::try_from(bad.to_owned()).is_err() || bad == "5.", "{bad}");
        }
    }
}
