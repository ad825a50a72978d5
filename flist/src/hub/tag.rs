//! Names of tags and taglinks on a hub.

use std::fmt;
use std::str::FromStr;

use semver::Version;

use super::name::{check_component, printable};

/// A text is not the name of a tag or of a taglink.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not the name of a {what}: {reason}; expected {expected}")]
pub struct TagNameError {
    /// What was given, without control characters, cut to a printable length.
    pub text: String,
    /// `tag` or `taglink`.
    pub what: &'static str,
    /// What is wrong with it.
    pub reason: &'static str,
    /// The right form.
    pub expected: &'static str,
}

/// The name of a tag, `<repo>/tags/<tag>`: a set of links to flists. It is safe to use in paths and URLs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TagName {
    repo: String,
    tag: String,
}

impl TagName {
    /// The tag `tag` of `repo`.
    ///
    /// # Errors
    /// One of the two is not a valid component.
    pub fn new(repo: &str, tag: &str) -> Result<Self, TagNameError> {
        let refused = |reason| TagNameError {
            text: printable(&format!("{repo}/tags/{tag}")),
            what: "tag",
            reason,
            expected: "<repo>/tags/<tag>",
        };
        check_component(repo).map_err(refused)?;
        check_component(tag).map_err(refused)?;
        Ok(Self { repo: repo.to_owned(), tag: tag.to_owned() })
    }

    /// The namespace on the hub.
    pub fn repo(&self) -> &str {
        &self.repo
    }

    /// The name within the repo.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// The version that this tag is, if its name is one: `1.2.3` or `v1.2.3`.
    pub fn version(&self) -> Option<Version> {
        self.tag.strip_prefix('v').unwrap_or(&self.tag).parse().ok()
    }
}

impl fmt::Display for TagName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/tags/{}", self.repo, self.tag)
    }
}

impl FromStr for TagName {
    type Err = TagNameError;

    fn from_str(text: &str) -> Result<Self, TagNameError> {
        match text.split('/').collect::<Vec<_>>()[..] {
            [repo, "tags", tag] => Self::new(repo, tag),
            _ => Err(TagNameError {
                text: printable(text),
                what: "tag",
                reason: "it has not these three parts",
                expected: "<repo>/tags/<tag>",
            }),
        }
    }
}

/// The name of a taglink, `<repo>/<name>`: a movable name for a tag.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaglinkName {
    repo: String,
    name: String,
}

impl TaglinkName {
    /// The taglink `name` of `repo`.
    ///
    /// # Errors
    /// One of the two is not a valid component, or `name` would be mistaken for a flist or for the tags.
    pub fn new(repo: &str, name: &str) -> Result<Self, TagNameError> {
        let refused = |reason| TagNameError {
            text: printable(&format!("{repo}/{name}")),
            what: "taglink",
            reason,
            expected: "<repo>/<name>",
        };
        check_component(repo).map_err(refused)?;
        check_component(name).map_err(refused)?;
        if name.contains(".flist") {
            return Err(refused("names with .flist are for flists and links to them"));
        }
        if name == "tags" {
            return Err(refused("'tags' is where the tags are"));
        }
        Ok(Self { repo: repo.to_owned(), name: name.to_owned() })
    }

    /// The namespace on the hub.
    pub fn repo(&self) -> &str {
        &self.repo
    }

    /// The name within the repo.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for TaglinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.repo, self.name)
    }
}

impl FromStr for TaglinkName {
    type Err = TagNameError;

    fn from_str(text: &str) -> Result<Self, TagNameError> {
        let (repo, name) = text.split_once('/').unwrap_or((text, ""));
        Self::new(repo, name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_a_round_trip_and_tell_versions() {
        let tag: TagName = "tf-zos/tags/v1.2.3".parse().unwrap();
        assert_eq!(
            (tag.to_string(), tag.repo(), tag.tag()),
            ("tf-zos/tags/v1.2.3".into(), "tf-zos", "v1.2.3")
        );
        assert_eq!(tag.version(), Some(Version::new(1, 2, 3)));
        assert_eq!(TagName::new("tf-zos", "nightly").unwrap().version(), None);
        let link: TaglinkName = "tf-zos/production".parse().unwrap();
        assert_eq!((link.to_string(), link.name()), ("tf-zos/production".into(), "production"));
    }

    #[test]
    fn names_that_could_confuse_are_refused() {
        for bad in ["", "a", "a/b", "a/tags/", "a/tag/b", "a/tags/b/c", "a/tags/..", "../tags/b", "a/tags/.b"]
        {
            assert!(bad.parse::<TagName>().is_err(), "{bad:?} was accepted");
        }
        for bad in ["", "a", "a/", "a/x.flist", "a/x.flist.md", "a/tags", "a/.tag-1", "a/b/c", "a/\u{1b}"] {
            assert!(bad.parse::<TaglinkName>().is_err(), "{bad:?} was accepted");
        }
    }
}
