//! What a channel names: one destination for each package.

use std::collections::BTreeMap;

use super::{Described, SeenFlist};
use crate::hub::channel::{Channel, PackageRepo, Packages, TargetError, destination, target_name};
use crate::hub::client::{HubClient, LightAnswer};
use crate::hub::error::HubError;
use crate::hub::model::{Kind, ListingEntry};
use crate::hub::name::{FlistName, NameError, printable};
use crate::hub::release::ReleaseVersion;
use crate::hub::tag::TagName;

/// Most packages of a release.
const MAX_PACKAGES: usize = 256;

const SUFFIX: &str = ".flist";

/// Why what a tag or a repo lists is no release.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OfferError {
    /// There is nothing to install.
    #[error("it has no flists")]
    Empty,
    /// There is too much of it.
    #[error("it has {0} flists, more than the {MAX_PACKAGES} of which a release may consist")]
    TooMany(usize),
    /// An entry is not named as flists are.
    #[error("it has an entry that cannot be a package")]
    Name(#[source] NameError),
    /// An entry leads nowhere.
    #[error("its entry '{entry}' cannot be followed")]
    Entry {
        /// The entry, without control characters.
        entry: String,
        /// What is wrong with it.
        #[source]
        source: TargetError,
    },
    /// Nobody can tell which flist of a package counts.
    #[error(
        "package '{package}' could be {first} or {second}; remove one of them, or make a link <package>.flist"
    )]
    Ambiguous {
        /// The package.
        package: String,
        /// One flist.
        first: String,
        /// The other one.
        second: String,
    },
}

/// What a channel names.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Offer {
    /// What names the flists, other than a movable name for it.
    named_by: Channel,
    /// The version of all of it.
    pub(super) version: ReleaseVersion,
    /// The flists; the one that nodes boot from is the last one.
    pub(super) entries: Vec<Entry>,
    /// How the hub describes the flist that nodes boot from, where it was asked already.
    pub(super) light: Option<LightAnswer>,
}

/// One package.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    /// Its name.
    pub(super) package: String,
    /// The name by which the channel has it, for messages.
    name: String,
    /// Where its flist is.
    pub(super) location: FlistName,
    /// How the hub describes it, where it was asked already.
    pub(super) described: Option<Described>,
    /// What else a listing says of it; a difference tells that something has changed.
    listed: Option<ListingEntry>,
}

impl Offer {
    /// Asks what a channel names.
    pub(super) async fn ask(
        client: &HubClient,
        channel: &Channel,
        packages: &Packages,
    ) -> Result<Self, HubError> {
        match channel {
            Channel::Flist(name) => Self::of_flist(client, name, packages).await,
            Channel::Tag(tag) => Self::of_tag(client, tag, packages).await,
            Channel::Taglink(link) => {
                let tag = client.taglink(link).await?;
                Self::of_tag(client, &tag, packages).await.map_err(|error| match error {
                    HubError::NotFound { hub, .. } => {
                        HubError::Dangling { link: link.to_string(), target: tag.to_string(), hub }
                    }
                    other => other,
                })
            }
        }
    }

    /// Asks once more, without following a movable name again.
    pub(super) async fn again(&self, client: &HubClient, packages: &Packages) -> Result<Self, HubError> {
        Self::ask(client, &self.named_by, packages).await
    }

    async fn of_flist(client: &HubClient, name: &FlistName, packages: &Packages) -> Result<Self, HubError> {
        let answer = client.light(name).await?;
        let destination = destination(name, &answer.light)
            .map_err(|source| HubError::BadTarget { link: name.clone(), source })?;
        // The package is the channel's, which stays the same when the destination is renamed.
        let boot = Entry {
            package: name.package().to_owned(),
            name: name.to_string(),
            location: destination.flist,
            described: Some(answer.light.clone().into()),
            listed: None,
        };
        let mut entries = match &packages.repo {
            None => Vec::new(),
            Some(repo) => {
                let listing = client.list(&repo.repo).await?;
                of_repo(repo, listing).map_err(bad(format!("repo {}", repo.repo)))?
            }
        };
        if let Some(other) = entries.iter().find(|entry| entry.package == boot.package) {
            let (package, first, second) = (boot.package, boot.name, other.name.clone());
            let what = format!("repo {}", other.location.repo());
            return Err(bad(what)(OfferError::Ambiguous { package, first, second }));
        }
        entries.push(boot);
        let named_by = Channel::Flist(name.clone());
        Ok(Self { named_by, version: destination.version, entries, light: Some(answer) })
    }

    async fn of_tag(client: &HubClient, tag: &TagName, packages: &Packages) -> Result<Self, HubError> {
        let listing = client.tag(tag).await?;
        let entries = of_tag(tag, listing, &packages.boot).map_err(bad(format!("tag {tag}")))?;
        let version = match tag.version() {
            Some(version) => ReleaseVersion::Semver(version),
            None => ReleaseVersion::Text(tag.tag().to_owned()),
        };
        Ok(Self { named_by: Channel::Tag(tag.clone()), version, entries, light: None })
    }
}

impl Entry {
    /// Whether this is what was seen of it, by name.
    pub(super) fn is(&self, seen: &SeenFlist) -> bool {
        self.package == seen.package && self.location == seen.location
    }

    /// A destination that is not there is the link's fault.
    pub(super) fn dangling(&self, error: HubError) -> HubError {
        let location = self.location.to_string();
        match error {
            HubError::NotFound { hub, .. } if self.name != location => {
                HubError::Dangling { link: self.name.clone(), target: location, hub }
            }
            other => other,
        }
    }
}

fn bad(what: String) -> impl FnOnce(OfferError) -> HubError {
    move |source| HubError::BadOffer { what, source }
}

/// The packages of a tag: each entry is one, by its name without `.flist`.
fn of_tag(tag: &TagName, listing: Vec<ListingEntry>, boot: &str) -> Result<Vec<Entry>, OfferError> {
    let mut packages = BTreeMap::new();
    for listed in flists(listing) {
        let name = FlistName::new(tag.repo(), &listed.name).map_err(OfferError::Name)?;
        let location = followed(tag.repo(), &listed)?;
        let package = name.stem().to_owned();
        let entry = Entry {
            package: package.clone(),
            name: format!("{tag}/{}", listed.name),
            location,
            described: None,
            listed: Some(listed),
        };
        if let Some(other) = packages.insert(package.clone(), entry) {
            let (first, second) = (other.name.clone(), other.name);
            return Err(OfferError::Ambiguous { package, first, second });
        }
    }
    let last = packages.remove(boot);
    ordered(packages.into_values().chain(last).collect())
}

/// The packages of a repo: each flist is one. Where one package has several, the link of the run mode counts
/// most, then what is named like the package alone, then any link.
fn of_repo(repo: &PackageRepo, listing: Vec<ListingEntry>) -> Result<Vec<Entry>, OfferError> {
    let mut candidates = BTreeMap::<String, Vec<(u8, Entry)>>::new();
    for listed in flists(listing) {
        let name = FlistName::new(&repo.repo, &listed.name).map_err(OfferError::Name)?;
        let location = match listed.kind {
            Kind::Regular => name.clone(),
            _ => followed(&repo.repo, &listed)?,
        };
        let package = name.package().to_owned();
        let of_run_mode = format!("{package}:{}:latest", repo.run_mode.hub_name());
        let rank = match listed.kind {
            _ if name.stem() == of_run_mode => 0,
            _ if name.stem() == package => 1,
            Kind::Symlink => 2,
            _ => 3,
        };
        let (shown, listed) = (name.to_string(), Some(listed));
        let entry = Entry { package: package.clone(), name: shown, location, described: None, listed };
        candidates.entry(package).or_default().push((rank, entry));
    }
    let best = |(package, mut found): (String, Vec<(u8, Entry)>)| {
        found.sort_by_key(|(rank, _)| *rank);
        let mut found = found.into_iter();
        match (found.next(), found.next()) {
            (Some((rank, first)), Some((other, second))) if rank == other => {
                Err(OfferError::Ambiguous { package, first: first.name, second: second.name })
            }
            (first, _) => Ok(first.map(|(_, entry)| entry)),
        }
    };
    let entries: Vec<_> = candidates.into_iter().map(best).collect::<Result<_, _>>()?;
    ordered(entries.into_iter().flatten().collect())
}

fn flists(listing: Vec<ListingEntry>) -> impl Iterator<Item = ListingEntry> {
    let is_flist = |listed: &ListingEntry| {
        listed.name.ends_with(SUFFIX) && !matches!(listed.kind, Kind::Tag | Kind::Taglink)
    };
    listing.into_iter().filter(is_flist)
}

/// Where a link in a listing leads to.
fn followed(repo: &str, listed: &ListingEntry) -> Result<FlistName, OfferError> {
    let target = match (listed.kind, &listed.target) {
        (Kind::Symlink, Some(target)) => target_name(repo, target),
        (Kind::Symlink, None) => Err(TargetError::Missing),
        _ => Err(TargetError::NotAFlist),
    };
    target.map_err(|source| OfferError::Entry { entry: printable(&listed.name), source })
}

fn ordered(entries: Vec<Entry>) -> Result<Vec<Entry>, OfferError> {
    match entries.len() {
        0 => Err(OfferError::Empty),
        found if found > MAX_PACKAGES => Err(OfferError::TooMany(found)),
        _ => Ok(entries),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::RunMode;

    fn listing(entries: &[(&str, &str)]) -> Vec<ListingEntry> {
        let entry = |(name, target): &(&str, &str)| ListingEntry {
            name: (*name).to_owned(),
            size: "3.79 KB".to_owned(),
            updated: 1,
            linktime: None,
            kind: match *target {
                "" => Kind::Regular,
                "tag" => Kind::Tag,
                _ => Kind::Symlink,
            },
            target: Some((*target).to_owned()).filter(|target| !target.is_empty()),
        };
        entries.iter().map(entry).collect()
    }

    fn found(entries: Result<Vec<Entry>, OfferError>) -> Vec<(String, String)> {
        let of = |entry: Entry| (entry.package, entry.location.to_string());
        entries.unwrap().into_iter().map(of).collect()
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(package, at)| ((*package).to_owned(), (*at).to_owned())).collect()
    }

    #[test]
    fn a_tag_has_the_package_that_nodes_boot_from_last() {
        let tag = TagName::new("tf-zos", "1.0.0").unwrap();
        let entries = listing(&[
            ("zos.flist", "tf-autobuilder/zos-1.0.0.flist"),
            ("README.md", ""),
            ("zz:x.flist", "../tf-autobuilder/zz.flist"),
            ("api.flist", "api-7.flist"),
        ]);
        let expected = [
            ("api", "tf-zos/api-7.flist"),
            ("zz:x", "tf-autobuilder/zz.flist"),
            ("zos", "tf-autobuilder/zos-1.0.0.flist"),
        ];
        assert_eq!(found(of_tag(&tag, entries, "zos")), pairs(&expected));
    }

    #[test]
    fn a_tag_that_cannot_be_a_release_is_refused() {
        let tag = TagName::new("tf-zos", "1.0.0").unwrap();
        let refused = |entries: &[(&str, &str)]| of_tag(&tag, listing(entries), "zos").unwrap_err();
        assert_eq!(refused(&[("README.md", "")]), OfferError::Empty);
        assert!(matches!(refused(&[("a..b.flist", "x/a.flist")]), OfferError::Name(_)));
        assert!(matches!(refused(&[("a.flist", "../../../etc/a.flist")]), OfferError::Entry { .. }));
        assert!(matches!(
            refused(&[("a.flist", "")]),
            OfferError::Entry { source: TargetError::NotAFlist, .. }
        ));
        let twice = refused(&[("a.flist", "x/a.flist"), ("a.flist", "x/b.flist")]);
        assert!(matches!(twice, OfferError::Ambiguous { .. }), "{twice:?}");
        let many: Vec<_> = (0..=MAX_PACKAGES).map(|number| format!("{number}.flist")).collect();
        let many: Vec<_> = many.iter().map(|name| (name.as_str(), "x/a.flist")).collect();
        assert_eq!(refused(&many), OfferError::TooMany(MAX_PACKAGES + 1));
    }

    #[test]
    fn every_flist_of_a_repo_is_a_package_and_the_best_of_several_counts() {
        let repo = PackageRepo::of("bins", RunMode::Dev).unwrap();
        let entries = listing(&[
            ("redis:v1.0.0.flist", ""),
            ("redis:v2.0.0.flist", ""),
            ("redis:production:latest.flist", "redis:v1.0.0.flist"),
            ("redis:development:latest.flist", "redis:v2.0.0.flist"),
            ("corex.flist", ""),
            ("corex:v3.flist", ""),
            ("net.flist", "../builds/net-7.flist"),
            ("only:v1.flist", ""),
            ("1.0.0", "tag"),
            ("notes.txt", ""),
        ]);
        let expected = [
            ("corex", "bins.dev/corex.flist"),
            ("net", "builds/net-7.flist"),
            ("only", "bins.dev/only:v1.flist"),
            ("redis", "bins.dev/redis:v2.0.0.flist"),
        ];
        assert_eq!(found(of_repo(&repo, entries)), pairs(&expected));
        let two = of_repo(&repo, listing(&[("a:v1.flist", ""), ("a:v2.flist", "")])).unwrap_err();
        let text = two.to_string();
        assert!(text.contains("bins.dev/a:v1.flist or bins.dev/a:v2.flist"), "{text}");
    }
}
