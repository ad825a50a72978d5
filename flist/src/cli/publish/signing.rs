//! `flist publish --sign`

use flist::hub::{FlistName, HubClient, Packages, RunMode, TaglinkName};
use flist::publish::{Publication, Published, PublishedTag};
use flist::trust::repository::{Outcome, RoleName, SignedFlist, SignedRelease, Signers, TrustDirectory};
use jiff::Timestamp;

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
        let mut signed = self.sign(publication, link.to_string(), flists, conditions)?;
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
        let mut signed = self.sign(publication, link.to_string(), flists, conditions)?;
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
        flists: Vec<SignedFlist>,
        conditions: &ConditionOptions,
    ) -> Result<Signed, Failure> {
        let release = SignedRelease {
            run_mode: self.run_mode,
            channel,
            version: publication.version.clone(),
            flists,
            conditions: conditions.conditions(),
        };
        let outcome = self.directory.release(&release, &mut self.signers, Timestamp::now())?;
        Ok(Signed { directory: self.directory, outcome, later: None })
    }
}

fn signed_flist(package: &str, published: &Published) -> SignedFlist {
    SignedFlist {
        package: package.to_owned(),
        flist: published.flist.clone(),
        length: published.length,
        sha256: published.sha256,
    }
}
