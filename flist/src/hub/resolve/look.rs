//! One flist of an offer: has it changed, and if so, what is it now.

use md5::{Digest, Md5};

use super::offer::Entry;
use super::{Described, SeenFlist};
use crate::hub::answer::{Download, Validators};
use crate::hub::client::HubClient;
use crate::hub::error::HubError;
use crate::hub::model::Light;
use crate::hub::name::FlistName;
use crate::hub::release::Sha256;

/// A flist, as the hub has it now.
pub(super) struct Looked {
    /// What to remember.
    pub(super) seen: SeenFlist,
    /// Its content, if that had to be downloaded.
    pub(super) bytes: Option<Vec<u8>>,
}

/// Looks at a flist; `None` when the hub describes another content than it sends.
pub(super) async fn look(
    client: &HubClient,
    entry: &Entry,
    known: Option<&SeenFlist>,
    limit: u64,
) -> Result<Option<Looked>, HubError> {
    let described = match (&entry.described, known) {
        (Some(described), _) => Some(described.clone()),
        // An ETag tells more than a description does.
        (None, Some(known)) if known.validators.etag.is_some() => None,
        (None, _) => {
            let answer = client.light(&entry.location).await.map_err(|error| entry.dangling(error))?;
            Some(Described::from(answer.light))
        }
    };
    // Where a description tells more than the time, which has a resolution of a second, a difference makes the
    // request unconditional.
    let conditional = known.filter(|known| described.is_none() || known.described == described);
    let validators = conditional.map(|known| &known.validators);
    let download = client.download(&entry.location, validators, limit).await;
    let (bytes, sha256, validators) = match (download.map_err(|error| entry.dangling(error))?, conditional) {
        (Download::NotModified, Some(known)) => (None, known.sha256, known.validators.clone()),
        // `download` never gives this answer unless it was given validators.
        (Download::NotModified, None) => return Err(unasked(client)),
        (Download::Content { bytes, validators }, _) => {
            if described.as_ref().is_some_and(|described| !described.is_of(&bytes)) {
                return Ok(None);
            }
            let sha256 = Sha256::of(&bytes);
            (Some(bytes), sha256, validators)
        }
    };
    let (package, location) = (entry.package.clone(), entry.location.clone());
    let seen = SeenFlist { package, location, sha256, described, validators };
    Ok(Some(Looked { seen, bytes }))
}

/// A content that is known not to have changed, and is needed all the same; `None` when it has changed by now.
pub(super) async fn whole(
    client: &HubClient,
    location: &FlistName,
    sha256: &Sha256,
    limit: u64,
) -> Result<Option<Vec<u8>>, HubError> {
    match client.download(location, None::<&Validators>, limit).await? {
        Download::Content { bytes, .. } => Ok(Some(bytes).filter(|bytes| Sha256::of(bytes) == *sha256)),
        Download::NotModified => Err(unasked(client)),
    }
}

fn unasked(client: &HubClient) -> HubError {
    let (url, message) = (client.url().to_owned(), String::new());
    HubError::Status { url, status: 304, message, overridable: false }
}

impl From<Light> for Described {
    fn from(Light { size, updated, md5, .. }: Light) -> Self {
        Self { size, updated, md5 }
    }
}

impl Described {
    /// Whether this content is the one that was described, as far as the description tells.
    fn is_of(&self, bytes: &[u8]) -> bool {
        let same = |md5: &String| md5.eq_ignore_ascii_case(&hex::encode(Md5::digest(bytes)));
        self.size == bytes.len() as u64 && self.md5.as_ref().is_none_or(same)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_fits_its_content_and_no_other() {
        let described = |size, md5: Option<&str>| Described { size, updated: 0, md5: md5.map(str::to_owned) };
        let right = "900150983cd24fb0d6963f7d28e17f72";
        for good in [described(3, None), described(3, Some(right)), described(3, Some(&right.to_uppercase()))]
        {
            assert!(good.is_of(b"abc"), "{good:?}");
        }
        for bad in [described(4, None), described(3, Some("aa")), described(2, Some(right))] {
            assert!(!bad.is_of(b"abc"), "{bad:?}");
        }
    }
}
