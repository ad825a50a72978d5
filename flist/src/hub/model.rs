//! What a hub answers, as JSON. The same structures are written by the embedded hub, so the order of
//! their fields is the 0-hub's. Unknown fields are ignored.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::tag::{TagName, TagNameError};

/// Most entries of a listing that are accepted.
const MAX_ENTRIES: usize = 100_000;

/// An answer is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// Not JSON, or a field is missing or of another type.
    #[error("the answer is not {what}")]
    Shape {
        /// What it should have been.
        what: &'static str,
        /// Where it differs.
        #[source]
        source: serde_json::Error,
    },
    /// A taglink to something that is no tag.
    #[error("the taglink does not point to a tag")]
    Tag(#[source] TagNameError),
    /// A listing with too many entries.
    #[error("the answer lists {found} entries, more than the {MAX_ENTRIES} accepted")]
    TooMany {
        /// How many there are.
        found: usize,
    },
}

/// What an entry of a repo is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A file.
    Regular,
    /// A link to a flist.
    Symlink,
    /// A link to a tag.
    Taglink,
    /// A set of links.
    Tag,
    /// Something this program does not know.
    #[serde(other)]
    Other,
}

/// One flist, without its content (`…/light`). For a link, size, time and MD5 are its destination's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Light {
    /// The file name.
    pub name: String,
    /// Length in bytes.
    #[serde(default)]
    pub size: u64,
    /// When the content changed, in seconds since 1970.
    #[serde(default)]
    pub updated: i64,
    /// A file or a link.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// MD5 of the content in hexadecimal; none for a dangling link. It proves nothing.
    #[serde(default)]
    pub md5: Option<String>,
    /// When the link was set, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub linktime: Option<i64>,
    /// Where the link points to, as it is stored: `file.flist` or `../repo/file.flist`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// One entry of a repo's listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListingEntry {
    /// The file name; for a tag, its name.
    pub name: String,
    /// Length for people, such as `3.79 KB`.
    #[serde(default)]
    pub size: String,
    /// When the content changed, in seconds since 1970.
    #[serde(default)]
    pub updated: i64,
    /// When the link was set, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub linktime: Option<i64>,
    /// What it is.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// Where a link points to: `file.flist`, `repo/file.flist`, or `repo/tags/tag` for a taglink.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// One repo of a hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repository {
    /// Its name.
    pub name: String,
    /// Whether the hub's owner vouches for it.
    #[serde(default)]
    pub official: bool,
    /// When an entry was added, moved or removed, in seconds since 1970.
    #[serde(default)]
    pub updated: i64,
}

/// Parses a `light` answer, and keeps it as it was sent.
///
/// # Errors
/// It is not a JSON object with the fields of [`Light`].
pub fn parse_light(json: &[u8]) -> Result<(Light, Map<String, Value>), ModelError> {
    let shape = |source| ModelError::Shape { what: "the description of a flist", source };
    let raw: Map<String, Value> = serde_json::from_slice(json).map_err(shape)?;
    let light = Light::deserialize(&raw).map_err(shape)?;
    Ok((light, raw))
}

/// Parses the listing of a repo.
///
/// # Errors
/// It is not a JSON list of entries, or there are too many of them.
pub fn parse_listing(json: &[u8]) -> Result<Vec<ListingEntry>, ModelError> {
    parse_list(json, "the listing of a repo")
}

/// Parses the list of repos.
///
/// # Errors
/// It is not a JSON list of repos, or there are too many of them.
pub fn parse_repositories(json: &[u8]) -> Result<Vec<Repository>, ModelError> {
    parse_list(json, "a list of repos")
}

/// Parses where a taglink points to: `{"target": "<repo>/tags/<tag>"}`.
///
/// # Errors
/// It is not such an object.
pub fn parse_taglink(json: &[u8]) -> Result<TagName, ModelError> {
    let answer: TaglinkTarget =
        serde_json::from_slice(json).map_err(|source| ModelError::Shape { what: "a taglink", source })?;
    answer.target.parse().map_err(ModelError::Tag)
}

/// Where a taglink points to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaglinkTarget {
    /// `<repo>/tags/<tag>`.
    pub target: String,
}

fn parse_list<T: for<'a> Deserialize<'a>>(json: &[u8], what: &'static str) -> Result<Vec<T>, ModelError> {
    let list: Vec<T> = serde_json::from_slice(json).map_err(|source| ModelError::Shape { what, source })?;
    if list.len() > MAX_ENTRIES {
        return Err(ModelError::TooMany { found: list.len() });
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_as_the_public_hub_describes_it() {
        let json = br#"{"name": "zos:development:latest.flist", "size": 3876, "updated": 1704164645,
            "type": "symlink", "md5": "aa94", "linktime": 1704164700, "target": "../tf-autobuilder/zos-a-1.0.0.flist",
            "new field": [1]}"#;
        let (light, raw) = parse_light(json).unwrap();
        assert_eq!((light.kind, light.size, light.linktime), (Kind::Symlink, 3876, Some(1_704_164_700)));
        assert_eq!(light.target.as_deref(), Some("../tf-autobuilder/zos-a-1.0.0.flist"));
        assert!(raw.contains_key("new field"));
    }

    #[test]
    fn a_dangling_link_has_no_md5() {
        let json = br#"{"name": "x.flist", "size": 5, "updated": 1, "type": "symlink", "md5": null}"#;
        assert_eq!(parse_light(json).unwrap().0.md5, None);
    }

    #[test]
    fn a_listing_as_the_public_hub_sends_it() {
        let json = br#"[{"name": "a.flist", "size": "3.79 KB", "updated": 1, "type": "regular"},
            {"name": "production", "size": "0.01 KB", "updated": 1, "linktime": 2, "type": "taglink", "target": "tf-zos/tags/1.0.0"},
            {"name": "1.0.0", "size": "0 KB", "updated": 1, "type": "tag"},
            {"name": "x", "size": "0 KB", "updated": 1, "type": "hologram"}]"#;
        let kinds: Vec<Kind> = parse_listing(json).unwrap().iter().map(|entry| entry.kind).collect();
        assert_eq!(kinds, [Kind::Regular, Kind::Taglink, Kind::Tag, Kind::Other]);
    }

    #[test]
    fn other_answers_are_errors() {
        for json in
            [&b""[..], b"[]", b"\"x\"", b"{}", b"{\"name\": 3, \"type\": \"regular\"}", b"<html>", b"\xff"]
        {
            assert!(parse_light(json).is_err(), "{json:?} was accepted");
        }
        assert!(parse_listing(b"{}").is_err());
        let many = format!("[{}]", vec![r#"{"name":"x"}"#; MAX_ENTRIES + 1].join(","));
        assert!(matches!(parse_repositories(many.as_bytes()), Err(ModelError::TooMany { .. })));
    }
}
