//! `flist publish --sign`

use flist::hub::{FlistName, HubClient, Packages, RunMode, Sha256, TagName, TaglinkName, shown_address};
use flist::publish::{Publication, Published, PublishedTag};
use flist::trust::repository::{
    Conditions, Outcome, RepositoryError, RoleName, SignedFlist, SignedRelease, Signers, TrustDirectory,
};
use jiff::Timestamp;

use super::What;
use crate::cli::failure::Failure;
use crate::cli::hub_access::HubAccess;
use crate::cli::trust::{ConditionOptions, TrustAccess, not_moved, send};

/// What `--sign` needs.
pub(super) struct Signing {
    directory: TrustDirectory,
    signers: Signers,
    run_mode: RunMode,
}

/// What came of it.
pub(super) struct Signed {
    pub(super) directory: TrustDirectory,
    pub(super) outcome: Outcome,
    /// The command that moves the link, where that has to wait for signatures.
    pub(super) later: Option<String>,
}

impl Signing {
    pub(super) fn open(trust: &TrustAccess, run_mode: RunMode) -> Result<Self, Failure> {
        let directory = trust.open()?;
        let mut signers = trust.signers(&directory)?;
        directory.unseal(RoleName::Mode(run_mode), &mut signers)?;
        Ok(Self { signers, directory, run_mode })
    }

    /// Refuses what cannot be signed, whatever is in it, while nothing is sent.
    ///
    /// # Errors
    /// Signing would be refused.
    pub(super) fn check(&self, publication: &Publication, what: &What) -> Result<(), Failure> {
        let Publication { repo, version, .. } = publication;
        let mode = self.run_mode.hub_name();
        let (channel, names) = match what {
            What::One(name, _) => {
                let flist = FlistName::versioned(repo, name, version)?;
                let package = flist.package().to_owned();
                (FlistName::channel_link(repo, name, mode)?.to_string(), vec![(package, flist)])
            }
            What::Several(packages) => {
                let flist = |name: &String| Ok((name.clone(), FlistName::versioned(repo, name, version)?));
                let flists = packages.keys().map(flist).collect::<Result<_, Failure>>()?;
                (TaglinkName::new(repo, mode)?.to_string(), flists)
            }
        };
        let unknown = |(package, flist)| SignedFlist { package, flist, length: 0, sha256: Sha256::of(b"") };
        let release = SignedRelease {
            run_mode: self.run_mode,
            channel,
            version: version.clone(),
            flists: names.into_iter().map(unknown).collect(),
            conditions: Conditions::default(),
        };
        let checked = self.directory.check_release(&release, &self.signers);
        checked.map_err(|source| NothingSent { source }.into())
    }

    /// Signs a flist that was published, sends the metadata, and moves the link; not before enough have signed.
    pub(super) fn finish_flist(
        self,
        access: &HubAccess,
        publication: &Publication,
        name: &str,
        conditions: &ConditionOptions,
        published: &mut Published,
    ) -> Result<Signed, Failure> {
        let link = FlistName::channel_link(&publication.repo, name, self.run_mode.hub_name())?;
        let flists = vec![signed_flist(published.flist.package(), published)];
        let mut signed = self.sign(publication, link.to_string(), (None, flists), conditions)?;
        if signed.outcome.waiting.is_empty() {
            let flist = published.flist.clone();
            access.run(async |client: HubClient| {
                send(&client, "trust", &signed.directory).await?;
                let moved = client.link_to(&link, &flist).await;
                moved.map_err(|error| not_moved(&link.to_string(), &flist.to_string(), error.into()))
            })?;
            published.link = Some(link);
        } else {
            signed.later = Some(format!("flist link {link} {}", published.flist));
        }
        Ok(signed)
    }

    /// As [`Signing::finish_flist`] with the packages of a tag, and its taglink.
    pub(super) fn finish_tag(
        self,
        access: &HubAccess,
        publication: &Publication,
        conditions: &ConditionOptions,
        published: &mut PublishedTag,
    ) -> Result<Signed, Failure> {
        let link = TaglinkName::new(&publication.repo, self.run_mode.hub_name())?;
        let boot = Packages::default().boot;
        let (last, others): (Vec<_>, Vec<_>) =
            published.packages.iter().partition(|(package, _)| **package == boot);
        let flists = others
            .into_iter()
            .chain(last)
            .map(|(package, published)| signed_flist(package, published))
            .collect();
        let what = (Some(&published.tag), flists);
        let mut signed = self.sign(publication, link.to_string(), what, conditions)?;
        if signed.outcome.waiting.is_empty() {
            let tag = published.tag.clone();
            access.run(async |client: HubClient| {
                send(&client, "trust", &signed.directory).await?;
                let moved = client.put_taglink(&link, &tag).await;
                moved.map_err(|error| not_moved(&link.to_string(), &tag.to_string(), error.into()))
            })?;
            published.link = Some(link);
        } else {
            signed.later = Some(format!("flist link {link} {}", published.tag));
        }
        Ok(signed)
    }

    fn sign(
        mut self,
        publication: &Publication,
        channel: String,
        (tag, flists): (Option<&TagName>, Vec<SignedFlist>),
        conditions: &ConditionOptions,
    ) -> Result<Signed, Failure> {
        let release = SignedRelease {
            run_mode: self.run_mode,
            channel,
            version: publication.version.clone(),
            flists,
            conditions: conditions.conditions(),
        };
        let outcome = self.directory.release(&release, &mut self.signers, Timestamp::now());
        let outcome = outcome.map_err(|source| stays(publication, tag, &release, source))?;
        Ok(Signed { directory: self.directory, outcome, later: None })
    }
}

/// Nothing was published.
#[derive(Debug, thiserror::Error)]
#[error("nothing was published, because it could not be signed")]
struct NothingSent {
    source: RepositoryError,
}

/// What was published is not signed.
#[derive(Debug, thiserror::Error)]
#[error("published, and not signed, so no link leads to it; {what} stays on the hub")]
struct NotSigned {
    what: String,
    source: RepositoryError,
}

/// Says of what is on the hub and could not be signed how it is signed, or taken from there.
fn stays(
    publication: &Publication,
    tag: Option<&TagName>,
    release: &SignedRelease,
    source: RepositoryError,
) -> Failure {
    let names = tag.map(ToString::to_string).into_iter();
    let names = names.chain(release.flists.iter().map(|flist| flist.flist.to_string()));
    let names: Vec<String> = names.collect();
    let hub = shown_address(&publication.hub);
    let remove = format!("flist rm --hub {} {}", hub.trim_end_matches('/'), names.join(" "));
    let remedy =
        format!("put it right and do this again, which sends nothing twice; or take it away: {remove}");
    Failure { remedy: Some(remedy), ..Failure::from(NotSigned { what: names.join(" and "), source }) }
}

fn signed_flist(package: &str, published: &Published) -> SignedFlist {
    SignedFlist {
        package: package.to_owned(),
        flist: published.flist.clone(),
        length: published.length,
        sha256: published.sha256,
    }
}
