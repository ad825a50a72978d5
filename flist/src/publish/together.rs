//! Several packages as one release: a tag.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::{Publication, PublishError, Published, packed};
use crate::hub::{FlistName, Sha256, TagName, TaglinkName};
use crate::merge::merge;
use crate::progress::Observer;
use crate::tree::Limits;

/// What was published.
#[derive(Debug, Clone)]
pub struct PublishedTag {
    /// The tag.
    pub tag: TagName,
    /// The taglink that was moved.
    pub link: Option<TaglinkName>,
    /// The packages, by name.
    pub packages: BTreeMap<String, Published>,
}

/// Packs directories and publishes them as the packages of one tag, `<repo>/tags/<version>`: missing blocks first,
/// then the versioned flists, then the tag, then the taglink of the run mode. Packages that do not fit together are
/// refused before any flist is published. Must not be called from within an async runtime.
///
/// # Errors
/// [`PublishError`]; what it says is what was done until then.
pub fn publish_tag(
    publication: &Publication,
    packages: &BTreeMap<String, PathBuf>,
    observer: &dyn Observer,
) -> Result<PublishedTag, PublishError> {
    let Publication { repo, version, replace, .. } = publication;
    let tag = TagName::new(repo, &version.to_string()).map_err(PublishError::TagName)?;
    let link = publication.run_mode.map(|mode| TaglinkName::new(repo, mode.hub_name())).transpose();
    let link = link.map_err(PublishError::TagName)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(PublishError::Runtime)?;
    let client = publication.client()?;
    runtime.block_on(client.repos()).map_err(|source| publication.unusable(source))?;

    let mut made = BTreeMap::new();
    for (package, directory) in packages {
        let flist = FlistName::versioned(repo, package, version).map_err(PublishError::Name)?;
        let (tree, bytes, summary) = packed(publication, directory, observer)?;
        made.insert(package.clone(), (flist, tree, bytes, summary));
    }
    let trees: Vec<_> = made.iter().map(|(package, (_, tree, ..))| (package.as_str(), tree)).collect();
    merge(&trees, &Limits::default()).map_err(PublishError::Merge)?;

    runtime.block_on(async {
        let (mut published, mut entries) = (BTreeMap::new(), BTreeMap::new());
        for (package, (flist, tree, bytes, summary)) in made {
            let (length, sha256) = (bytes.len() as u64, Sha256::of(&bytes));
            let uploaded = match replace {
                true => client.replace(&flist, bytes).await,
                false => client.upload(&flist, bytes).await,
            };
            uploaded.map_err(|source| PublishError::Upload { flist: flist.clone(), source })?;
            entries.insert(format!("{package}.flist"), flist.clone());
            published.insert(
                package,
                Published { flist, link: None, length, sha256, entries: tree.len(), summary },
            );
        }
        let put = client.put_tag(&tag, &entries, *replace).await;
        put.map_err(|source| PublishError::Tag { tag: tag.clone(), source })?;
        if let Some(link) = &link {
            let put = client.put_taglink(link, &tag).await;
            put.map_err(|source| PublishError::Taglink { tag: tag.clone(), link: link.clone(), source })?;
        }
        Ok(PublishedTag { tag, link, packages: published })
    })
}
