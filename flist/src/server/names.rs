//! Names that may be given to things, by those who may give them.

use super::access::Writer;
use super::answer::Refusal;
use crate::hub::{FlistName, ReleaseVersion, TagName, TaglinkName};

/// Names that are not repos, because the hub's own addresses start with them.
const RESERVED: [&str; 2] = ["api", "store"];

/// A flist, or a link to one, that `writer` may change.
pub(super) fn flist(writer: &Writer, repo: &str, file: &str) -> Result<FlistName, Refusal> {
    let name = FlistName::new(repo, file).map_err(|error| Refusal::bad_request(error.to_string()))?;
    permitted(writer, name.repo()).map(|()| name)
}

/// A tag that `writer` may change.
pub(super) fn tag(writer: &Writer, repo: &str, tag: &str) -> Result<TagName, Refusal> {
    let name = TagName::new(repo, tag).map_err(|error| Refusal::bad_request(error.to_string()))?;
    permitted(writer, name.repo()).map(|()| name)
}

/// A taglink that `writer` may change.
pub(super) fn taglink(writer: &Writer, repo: &str, name: &str) -> Result<TaglinkName, Refusal> {
    let name = TaglinkName::new(repo, name).map_err(|error| Refusal::bad_request(error.to_string()))?;
    permitted(writer, name.repo()).map(|()| name)
}

/// Whether a flist's name is that of a version, whose content stays.
pub(super) fn is_versioned(name: &FlistName) -> bool {
    ReleaseVersion::in_name(name).semver().is_some()
}

/// Whether `<parameter>=1` is in the query of an address; no other parameter is known.
pub(super) fn flag(query: Option<&str>, parameter: &str) -> Result<bool, Refusal> {
    match query.unwrap_or_default() {
        "" => Ok(false),
        given if given.strip_suffix("=1") == Some(parameter) => Ok(true),
        _ => Err(Refusal::bad_request(format!("the only parameter is {parameter}=1"))),
    }
}

fn permitted(writer: &Writer, repo: &str) -> Result<(), Refusal> {
    if RESERVED.contains(&repo) {
        let message = format!("no repo can be called '{repo}': addresses of the hub start with it");
        return Err(Refusal::bad_request(message));
    }
    writer.may_change(repo)
}
