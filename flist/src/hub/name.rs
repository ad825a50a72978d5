//! Names of flists on a hub.

use std::fmt;
use std::str::FromStr;

use semver::Version;
use serde::{Deserialize, Serialize};

/// Longest repo or file name, in bytes.
pub const MAX_COMPONENT: usize = 200;

const SUFFIX: &str = ".flist";

/// A text is not the name of a flist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not a flist name: {reason}; expected <repo>/<name>.flist")]
pub struct NameError {
    /// What was given, without control characters, cut to a printable length.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// The name of a flist on a hub, `<repo>/<name>.flist`. It is safe to use as a path of two components
/// and as two segments of a URL.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FlistName {
    repo: String,
    file: String,
}

impl FlistName {
    /// The flist `file` (with its `.flist`) of `repo`.
    ///
    /// # Errors
    /// One of the two is not a valid component, or `file` does not end in `.flist`.
    pub fn new(repo: &str, file: &str) -> Result<Self, NameError> {
        let refused = |reason| NameError { text: printable(&format!("{repo}/{file}")), reason };
        check_component(repo).map_err(refused)?;
        check_component(file).map_err(refused)?;
        if !file.ends_with(SUFFIX) {
            return Err(refused("it does not end in .flist"));
        }
        Ok(Self { repo: repo.to_owned(), file: file.to_owned() })
    }

    /// The flist of one version: `<repo>/<base>:v<version>.flist`.
    ///
    /// # Errors
    /// The repo or the base is not valid in a name.
    pub fn versioned(repo: &str, base: &str, version: &Version) -> Result<Self, NameError> {
        Self::new(repo, &format!("{base}:v{version}{SUFFIX}"))
    }

    /// The link that a run mode follows: `<repo>/<base>:<mode>:latest.flist`, where `mode` is the name
    /// that hubs use: `production`, `testing`, `development` or `qa`.
    ///
    /// # Errors
    /// One of the three is not valid in a name.
    pub fn channel_link(repo: &str, base: &str, mode: &str) -> Result<Self, NameError> {
        Self::new(repo, &format!("{base}:{mode}:latest{SUFFIX}"))
    }

    /// The namespace on the hub.
    pub fn repo(&self) -> &str {
        &self.repo
    }

    /// The file name, with its `.flist`.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The file name without `.flist`.
    pub fn stem(&self) -> &str {
        self.file.strip_suffix(SUFFIX).unwrap_or(&self.file)
    }

    /// The package in the flist: the stem up to its first `:`, or all of it.
    pub fn package(&self) -> &str {
        self.stem().split(':').next().filter(|package| !package.is_empty()).unwrap_or(self.stem())
    }
}

impl fmt::Display for FlistName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.repo, self.file)
    }
}

impl fmt::Debug for FlistName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FlistName({self})")
    }
}

impl FromStr for FlistName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        match text.split_once('/') {
            Some((repo, file)) => Self::new(repo, file),
            None => Err(NameError { text: printable(text), reason: "it has no '/'" }),
        }
    }
}

impl TryFrom<String> for FlistName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<FlistName> for String {
    fn from(name: FlistName) -> Self {
        name.to_string()
    }
}

/// Checks one component of a name: a repo, or the file name of a flist.
///
/// # Errors
/// The reason, as the end of a sentence.
pub fn check_component(text: &str) -> Result<(), &'static str> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._:+@- ".contains(&byte);
    if text.is_empty() {
        Err("a part of it is empty")
    } else if text.len() > MAX_COMPONENT {
        Err("a part of it is longer than 200 bytes")
    } else if text.starts_with('.') || text.contains("..") {
        Err("a part of it starts with '.' or contains '..'")
    } else if text.starts_with(' ') || text.ends_with(' ') {
        Err("a part of it starts or ends with a space")
    } else if !text.bytes().all(allowed) {
        Err("it has a character other than letters, digits, spaces and ._:+@-")
    } else {
        Ok(())
    }
}

/// A text from outside as it may stand in an error message.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_names_survive_a_round_trip() {
        for text in ["tf-zos/zos:v1.2.3.flist", "a/b.flist", "x y/z+1@2_3.flist", "tf-zos-bins.dev/c.flist"] {
            let name: FlistName = text.parse().unwrap();
            assert_eq!(name.to_string(), text);
            let json = serde_json::to_string(&name).unwrap();
            assert_eq!(json, format!("\"{text}\""));
            assert_eq!(serde_json::from_str::<FlistName>(&json).unwrap(), name);
        }
    }

    #[test]
    fn names_that_could_leave_their_directory_or_confuse_are_refused() {
        let long = format!("a/{}.flist", "x".repeat(MAX_COMPONENT));
        for text in [
            "",
            "x.flist",
            "/x.flist",
            "a/",
            "a/.flist",
            "a/x.fl",
            "../x.flist",
            "a/../x.flist",
            "a/b/x.flist",
            "a/.x.flist",
            "a/x..flist",
            "a/x\n.flist",
            "a/x\0.flist",
            "a/x%2f.flist",
            "a/x?.flist",
            "a/x#.flist",
            "a\\b/x.flist",
            " a/x.flist",
            "a/é.flist",
            &long,
        ] {
            assert!(text.parse::<FlistName>().is_err(), "{text:?} was accepted");
        }
        assert!(serde_json::from_str::<FlistName>("\"../etc/passwd\"").is_err());
    }

    #[test]
    fn an_error_says_what_is_wrong_and_prints_no_control_characters() {
        let error = "a/\u{1b}[31m.flist".parse::<FlistName>().unwrap_err().to_string();
        assert!(error.contains("character other than") && !error.contains('\u{1b}'), "{error}");
    }

    #[test]
    fn names_of_versions_and_channels() {
        let version = Version::new(1, 2, 3);
        let versioned = FlistName::versioned("tf-zos", "zos", &version).unwrap();
        assert_eq!(versioned.to_string(), "tf-zos/zos:v1.2.3.flist");
        assert_eq!((versioned.stem(), versioned.package()), ("zos:v1.2.3", "zos"));
        let channel = FlistName::channel_link("tf-zos", "zos", "development").unwrap();
        assert_eq!(channel.to_string(), "tf-zos/zos:development:latest.flist");
        assert!(FlistName::channel_link("tf-zos", "zos", "a/b").is_err());
        assert_eq!(FlistName::new("r", ":x.flist").unwrap().package(), ":x");
    }
}
