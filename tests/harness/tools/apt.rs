//! Downloading packages with apt, without installing anything and without touching apt's own state.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::error::{Doing, Error};
use crate::job;

/// How long apt may take for one thing.
const LIMIT: Duration = Duration::from_secs(600);

/// Apt with its caches, and if necessary its lists of packages, in a directory of ours. The package sources
/// are the machine's.
pub(super) struct Apt {
    directory: PathBuf,
    own_lists: bool,
}

impl Apt {
    /// Uses the machine's lists of packages if there are any, or else fetches lists of our own.
    pub(super) fn new(tools: &Path) -> Result<Self, Error> {
        let directory = tools.join("apt");
        for part in ["lists/partial", "cache/archives/partial"] {
            let path = directory.join(part);
            fs::create_dir_all(&path).doing(|| format!("make {}", path.display()))?;
        }
        let mut apt = Self { directory, own_lists: false };
        if !apt.knows_packages()? {
            apt.own_lists = true;
        }
        if !apt.knows_packages()? {
            job::run(apt.command("apt-get").args(["--quiet", "update"]), LIMIT)?;
        }
        Ok(apt)
    }

    /// Downloads packages, each `name` or `name=version`, and unpacks them to one directory, which must not exist.
    pub(super) fn fetch<S: AsRef<str>>(&self, packages: &[S], to: &Path) -> Result<(), Error> {
        let packages: Vec<&str> = packages.iter().map(AsRef::as_ref).collect();
        let half = to.with_extension("half");
        if half.exists() {
            fs::remove_dir_all(&half).doing(|| format!("remove {}", half.display()))?;
        }
        fs::create_dir_all(&half).doing(|| format!("make {}", half.display()))?;
        match self.download(&packages, &half) {
            // What apt would take is what is installed; the archive may have gone on, or back.
            Err(Error::Command { .. }) if !packages.iter().any(|package| package.contains('=')) => {
                let newest = packages.iter().map(|package| self.newest_in_archive(package));
                self.download(&newest.collect::<Result<Vec<_>, _>>()?, &half)?;
            }
            other => other?,
        }
        let content = half.join("content");
        for archive in archives(&half)? {
            job::run(Command::new("dpkg-deb").arg("--extract").arg(&archive).arg(&content), LIMIT)?;
        }
        fs::rename(&content, to).doing(|| format!("make {}", to.display()))?;
        fs::remove_dir_all(&half).doing(|| format!("remove {}", half.display()))
    }

    /// The packages that a package directly depends on; of alternatives, the last.
    pub(super) fn dependencies(&self, package: &str) -> Result<Vec<String>, Error> {
        let text = job::run(self.command("apt-cache").args(["depends", "--important", package]), LIMIT)?;
        Ok(parse_depends(&text).remove(package).unwrap_or_default())
    }

    /// What a package, and everything that it depends on in any way, directly depends on.
    pub(super) fn all_dependencies(&self, package: &str) -> Result<BTreeMap<String, Vec<String>>, Error> {
        let mut depends = self.command("apt-cache");
        let text = job::run(depends.args(["depends", "--important", "--recurse", package]), LIMIT)?;
        Ok(parse_depends(&text))
    }

    /// The names of all packages that begin so.
    pub(super) fn names(&self, beginning: &str) -> Result<Vec<String>, Error> {
        let text = job::run(self.command("apt-cache").args(["pkgnames", beginning]), LIMIT)?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    fn download<S: AsRef<std::ffi::OsStr>>(&self, packages: &[S], to: &Path) -> Result<(), Error> {
        let mut download = self.command("apt-get");
        job::run(download.args(["--quiet", "download"]).args(packages).current_dir(to), LIMIT).map(drop)
    }

    /// `package=version` of the newest that there is.
    fn newest_in_archive(&self, package: &str) -> Result<String, Error> {
        let text = job::run(self.command("apt-cache").args(["madison", package]), LIMIT)?;
        let version = first_version(&text);
        let version =
            version.ok_or_else(|| Error::Unexpected(format!("the archive has no package {package}")))?;
        Ok(format!("{package}={version}"))
    }

    fn knows_packages(&self) -> Result<bool, Error> {
        let policy = job::run(self.command("apt-cache").args(["policy", "busybox-static"]), LIMIT)?;
        Ok(policy.lines().any(|line| {
            line.trim().strip_prefix("Candidate:").is_some_and(|version| version.trim() != "(none)")
        }))
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive");
        let mut option = |key: &str, value: &str| {
            command.arg("-o").arg(format!("{key}={value}"));
        };
        // The unprivileged user that apt downloads as may not write here.
        option("APT::Sandbox::User", "root");
        option("Dir::Cache", &self.directory.join("cache").to_string_lossy());
        if self.own_lists {
            option("Dir::State::lists", &self.directory.join("lists").to_string_lossy());
        }
        command
    }
}

fn archives(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = fs::read_dir(directory).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
    let entries = entries.doing(|| format!("list {}", directory.display()))?;
    if entries.is_empty() {
        return Err(Error::Unexpected(format!("apt left no package in {}", directory.display())));
    }
    Ok(entries.iter().map(fs::DirEntry::path).collect())
}

/// The names of packages are at the beginning of lines, what they depend on is indented.
fn parse_depends(text: &str) -> BTreeMap<String, Vec<String>> {
    let (mut found, mut package) = (BTreeMap::<_, Vec<_>>::new(), "");
    for line in text.lines() {
        if !line.starts_with([' ', '|']) {
            package = line.trim();
        }
        let depends = line.trim();
        let name = depends.strip_prefix("Depends: ").or_else(|| depends.strip_prefix("PreDepends: "));
        found.entry(package.to_owned()).or_default().extend(name.map(str::to_owned));
    }
    found
}

/// The version in the first line of `name | version | source`, which is the newest.
fn first_version(text: &str) -> Option<String> {
    let version = text.lines().next()?.split('|').nth(1)?.trim();
    (!version.is_empty()).then(|| version.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apt_cache_is_understood() {
        let text =
            "redis-tools\n |Depends: adduser\n  Depends: libc6\n  Depends: libsystemd0\n    libelogind0\n";
        assert_eq!(parse_depends(text)["redis-tools"], ["libc6", "libsystemd0"]);
        let found =
            parse_depends("a\n  Depends: b\n  Depends: <c>\nb\n |Depends: d\n  PreDepends: e\n<c>\n    f\n");
        assert_eq!(
            (&found["a"][..], &found["b"][..]),
            (&["b".to_owned(), "<c>".to_owned()][..], &["e".to_owned()][..])
        );
        assert!(found["<c>"].is_empty());
        let text = " runc | 1.1.5+ds1-1 | http://deb bookworm/main\n runc | 1.0 | http://deb bullseye/main\n";
        assert_eq!(first_version(text).as_deref(), Some("1.1.5+ds1-1"));
        assert_eq!(first_version(""), None);
    }
}
