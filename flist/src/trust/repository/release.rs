//! Signing releases.

use std::collections::BTreeMap;

use jiff::Timestamp;
use semver::Version;
use serde_json::Value;

use super::RepositoryError;
use super::change::Outcome;
use super::directory::TrustDirectory;
use super::roles::RoleName;
use super::signer::Signers;
use crate::hub::{FlistName, ReleaseId, RunMode, Sha256};
use crate::trust::claims::Claims;

/// On which nodes a release may be installed, beyond its run mode.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conditions {
    /// The lowest installed version that it may follow.
    pub minimum_version: Option<Version>,
    /// The processor, as `uname -m` names it.
    pub architecture: Option<String>,
    /// The hardware, as nodes have been told.
    pub hardware: Option<String>,
    /// The lowest schema of data that it understands.
    pub schema_floor: Option<u64>,
}

/// One flist of a release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedFlist {
    /// The package that it installs.
    pub package: String,
    /// Its name on the hub.
    pub flist: FlistName,
    /// Its length in bytes.
    pub length: u64,
    /// Its digest.
    pub sha256: Sha256,
}

/// A release to be signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedRelease {
    /// For which run mode.
    pub run_mode: RunMode,
    /// The channel that nodes follow.
    pub channel: String,
    /// Its version.
    pub version: Version,
    /// What it consists of; nodes boot from the last one.
    pub flists: Vec<SignedFlist>,
    /// On which nodes.
    pub conditions: Conditions,
}

impl SignedRelease {
    /// Its id.
    pub fn id(&self) -> ReleaseId {
        ReleaseId::of(self.flists.iter().map(|flist| (flist.package.as_str(), flist.sha256)))
    }

    fn targets(&self) -> Vec<(String, u64, String, Value)> {
        let release = self.id();
        let target = |(index, flist): (u32, &SignedFlist)| {
            let Conditions { minimum_version, architecture, hardware, schema_floor } =
                self.conditions.clone();
            let claims = Claims {
                name: flist.package.clone(),
                version: self.version.clone(),
                run_mode: self.run_mode,
                release,
                channel: self.channel.clone(),
                flist: flist.flist.clone(),
                index,
                minimum_version,
                architecture,
                hardware,
                schema_floor,
            };
            let custom = serde_json::to_value(&claims).unwrap_or_default();
            (claims.path(), flist.length, flist.sha256.to_string(), custom)
        };
        (0..).zip(&self.flists).map(target).collect()
    }
}

impl TrustDirectory {
    /// Signs a release; nodes of its run mode install it from then on.
    ///
    /// # Errors
    /// [`RepositoryError`].
    pub fn release(
        &self,
        release: &SignedRelease,
        signers: &mut Signers,
        now: Timestamp,
    ) -> Result<Outcome, RepositoryError> {
        if self.is_directors()? {
            return Err(RepositoryError::Directors(self.path().to_owned()));
        }
        let role = RoleName::Mode(release.run_mode);
        self.take_from_nobody(release, &self.targets(role)?)?;
        self.add_targets(role, &release.targets(), signers, now)
    }

    /// Whether [`TrustDirectory::release`] can sign this with the keys at hand, as far as its content does not matter:
    /// lengths and digests are not looked at.
    ///
    /// # Errors
    /// [`RepositoryError`], as signing it would end.
    pub fn check_release(&self, release: &SignedRelease, signers: &Signers) -> Result<(), RepositoryError> {
        if self.is_directors()? {
            return Err(RepositoryError::Directors(self.path().to_owned()));
        }
        let role = RoleName::Mode(release.run_mode);
        let known = self.targets(role)?;
        self.take_from_nobody(release, &known)?;
        // What is signed already may be signed as it is.
        let is_known = release.targets().iter().all(|(path, ..)| known.contains_key(path));
        self.check_change(role, is_known, signers)
    }

    /// A flist is signed as a part of one release only, so signing it for another one would take that away.
    fn take_from_nobody(
        &self,
        release: &SignedRelease,
        known: &BTreeMap<String, Value>,
    ) -> Result<(), RepositoryError> {
        for (path, ..) in release.targets() {
            let claims = known.get(&path).and_then(|target| Claims::parse(target.get("custom")).ok());
            if let Some(Claims { flist, version, channel, .. }) = claims
                && (&version, &channel) != (&release.version, &release.channel)
            {
                return Err(RepositoryError::Taken { flist: flist.to_string(), version, channel });
            }
        }
        Ok(())
    }

    /// Whether it is a director's: it delegates to no run mode.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn is_directors(&self) -> Result<bool, RepositoryError> {
        Ok(!self.load()?.keys().any(|role| matches!(role, RoleName::Mode(_))))
    }

    /// The targets that a role has signed for.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn targets(&self, role: RoleName) -> Result<BTreeMap<String, Value>, RepositoryError> {
        let roles = self.load()?;
        let targets = roles.get(&role).and_then(|role| role.signed["targets"].as_object());
        Ok(targets.into_iter().flatten().map(|(path, target)| (path.clone(), target.clone())).collect())
    }

    /// The newest release that is signed for a run mode's channel; `None` where there is none.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn newest(&self, run_mode: RunMode, channel: &str) -> Result<Option<SignedRelease>, RepositoryError> {
        let roles = self.load()?;
        let targets =
            roles.get(&RoleName::Mode(run_mode)).and_then(|role| role.signed["targets"].as_object());
        let read = |(_, target): (&String, &Value)| {
            let claims = Claims::parse(target.get("custom")).ok()?;
            let sha256 = target["hashes"]["sha256"].as_str()?.parse().ok()?;
            Some((claims, target["length"].as_u64()?, sha256))
        };
        let mut all: Vec<(Claims, u64, Sha256)> = targets.into_iter().flatten().filter_map(read).collect();
        all.retain(|(claims, ..)| claims.channel == channel);
        let newest = all.iter().max_by(|(a, ..), (b, ..)| a.version.cmp(&b.version));
        let Some((first, ..)) = newest.cloned() else { return Ok(None) };
        all.retain(|(claims, ..)| claims.release == first.release);
        all.sort_by_key(|(claims, ..)| claims.index);
        let flist = |(claims, length, sha256): (Claims, u64, Sha256)| SignedFlist {
            package: claims.name,
            flist: claims.flist,
            length,
            sha256,
        };
        Ok(Some(SignedRelease {
            run_mode,
            channel: channel.to_owned(),
            version: first.version,
            flists: all.into_iter().map(flist).collect(),
            conditions: Conditions {
                minimum_version: first.minimum_version,
                architecture: first.architecture,
                hardware: first.hardware,
                schema_floor: first.schema_floor,
            },
        }))
    }

    /// Takes the signatures of the releases with this version back: nodes that have them keep them, and no other
    /// node gets them any more.
    ///
    /// # Errors
    /// [`RepositoryError`]; [`RepositoryError::NoTarget`] when there is none.
    pub fn withdraw(
        &self,
        run_mode: RunMode,
        channel: &str,
        version: &Version,
        signers: &mut Signers,
        now: Timestamp,
    ) -> Result<Outcome, RepositoryError> {
        let role = RoleName::Mode(run_mode);
        let roles = self.load()?;
        let targets = roles.get(&role).and_then(|role| role.signed["targets"].as_object());
        let of = |(path, target): (&String, &Value)| {
            let claims = Claims::parse(target.get("custom")).ok()?;
            (claims.channel == channel && claims.version == *version).then(|| path.clone())
        };
        let paths: Vec<String> = targets.into_iter().flatten().filter_map(of).collect();
        if paths.is_empty() {
            let target = format!("version {version} of {channel}");
            return Err(RepositoryError::NoTarget { role, target });
        }
        self.remove_targets(role, &paths, signers, now)
    }
}
