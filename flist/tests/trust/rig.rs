//! A repository with releases, a web server with it, and a node that reads it.

use std::path::PathBuf;
use std::time::Duration;

use flist::hub::{Channel, FlistName, RunMode, Sha256};
use flist::trust::claims::NodeFacts;
use flist::trust::clock::{Clocks, Uptime};
use flist::trust::director::Who;
use flist::trust::repository::{
    Conditions, Outcome, Passphrase, Plan, RepositoryError, RoleName, SecretKey, Settings, SignedFlist,
    SignedRelease, Signers, TrustDirectory, public_of,
};
use flist::trust::{
    Downgrade, Fresh, Pick, SignedOffer, Source, SourceLimits, TrustClient, TrustError, Wanted, choose,
};
use jiff::Timestamp;
use semver::Version;
use tempfile::TempDir;

use crate::web::{Answer, Web};

pub(crate) const CHANNEL: &str = "tf-zos/zos:production:latest.flist";

/// The day of the tests: 2027-01-15.
pub(crate) const TODAY: i64 = 1_800_000_000;
pub(crate) const DAY: i64 = 86400;

pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

/// Clocks that show this time and nothing else.
pub(crate) fn clocks(wall: i64) -> Clocks {
    Clocks { wall: at(wall), uptime: Uptime { boot_id: String::new(), seconds: 0 }, built: 0 }
}

/// Cheap to open.
pub(crate) fn passphrase() -> Passphrase {
    Passphrase::with_rounds("open sesame", 2)
}

pub(crate) struct Repo {
    pub(crate) trust: TrustDirectory,
    pub(crate) web: Web,
    /// The root that nodes are made with.
    pub(crate) root: Vec<u8>,
    _dir: TempDir,
}

impl Repo {
    pub(crate) fn new() -> Self {
        Self::with(Plan::releases())
    }

    pub(crate) fn with(plan: Plan) -> Self {
        Self::made(plan, TODAY)
    }

    pub(crate) fn made(plan: Plan, now: i64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trust");
        let (trust, _) =
            TrustDirectory::init(&path, Settings::default(), &plan, &passphrase(), at(now)).unwrap();
        let root = std::fs::read(trust.root()).unwrap();
        let repo = Self { trust, web: Web::start(), root, _dir: dir };
        repo.serve();
        repo
    }

    pub(crate) fn signers(&self) -> Signers {
        Signers::find(&[self.trust.keys()], Some(passphrase())).unwrap()
    }

    /// Signs what waits.
    pub(crate) fn sign(&self, signers: &mut Signers, now: i64) -> Result<Outcome, RepositoryError> {
        self.trust.waiting(Some(&self.trust.root()))?.sign(signers, at(now))
    }

    /// Serves what a node needs now.
    pub(crate) fn serve(&self) {
        for (name, bytes) in self.trust.served().unwrap() {
            self.web.put(&name, Answer::Bytes(bytes));
        }
    }

    pub(crate) fn content(version: &str) -> Vec<u8> {
        format!("the flist of version {version}").into_bytes()
    }

    pub(crate) fn release_of(version: &str) -> SignedRelease {
        let content = Self::content(version);
        let version: Version = version.parse().unwrap();
        SignedRelease {
            run_mode: RunMode::Prod,
            channel: CHANNEL.to_owned(),
            flists: vec![SignedFlist {
                package: "zos".to_owned(),
                flist: FlistName::versioned("tf-zos", "zos", &version).unwrap(),
                length: content.len() as u64,
                sha256: Sha256::of(&content),
            }],
            version,
            conditions: Conditions::default(),
        }
    }

    /// Signs a release on this day, and serves it.
    pub(crate) fn release(&self, version: &str, now: i64) -> Outcome {
        let outcome = self.trust.release(&Self::release_of(version), &mut self.signers(), at(now)).unwrap();
        self.serve();
        outcome
    }

    pub(crate) fn refresh(&self, now: i64) {
        self.trust.refresh(&[], &mut self.signers(), at(now)).unwrap();
        self.serve();
    }

    /// Gives a role a new key for all it has.
    pub(crate) fn rotate(&self, role: &str) {
        let role = role.parse().unwrap();
        let old = self.trust.key_ids(role).unwrap();
        let (key, _) = self.trust.new_key(role, &self.trust.keys(), &passphrase()).unwrap();
        self.trust.change_keys(role, &[key], &old, None, &mut self.signers(), at(TODAY)).unwrap();
        self.serve();
    }

    /// The keys of a role, as somebody who has stolen them uses them.
    pub(crate) fn stolen(&self, role: &str) -> Vec<SecretKey> {
        let role: RoleName = role.parse().unwrap();
        let ids = self.trust.key_ids(role).unwrap();
        let files = std::fs::read_dir(self.trust.keys()).unwrap().map(|entry| entry.unwrap().path());
        let of_role = |path: &PathBuf| ids.iter().any(|id| id == public_of(path).unwrap().id());
        files.filter(of_role).map(|path| SecretKey::open(&path, &passphrase()).unwrap()).collect()
    }
}

pub(crate) struct Node {
    pub(crate) client: TrustClient,
    pub(crate) state: PathBuf,
    _state: TempDir,
}

impl Node {
    pub(crate) fn of(repo: &Repo) -> Self {
        Self::with_limits(repo, SourceLimits::default())
    }

    pub(crate) fn with_limits(repo: &Repo, limits: SourceLimits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("trust");
        let source = Source::new(repo.web.url(), reqwest::Client::new()).unwrap().with_limits(limits);
        Self { client: TrustClient::open(&repo.root, &state, source).unwrap(), state, _state: dir }
    }

    pub(crate) async fn refresh(&self, now: i64) -> Result<Fresh, TrustError> {
        self.client.refresh(&clocks(now)).await
    }

    /// The newest release that it may install.
    pub(crate) async fn offer(&self, now: i64) -> Result<SignedOffer, String> {
        let said = |error: TrustError| flist::report(&error);
        let mut fresh = self.refresh(now).await.map_err(said)?;
        let offers = fresh.releases(RunMode::Prod).await.map_err(said)?;
        choose(&offers, &[channel()], &Pick::Newest, &facts(None), Downgrade::Refused)
            .map_err(|error| error.to_string())
    }

    /// The version of it.
    pub(crate) async fn version(&self, now: i64) -> Result<String, String> {
        Ok(self.offer(now).await?.version.to_string())
    }
}

/// What a node wants that follows these channels, and nothing else.
pub(crate) fn newest<'w>(channels: &'w [Channel], node: &'w NodeFacts, who: &'w Who) -> Wanted<'w> {
    Wanted {
        channels,
        names: channels,
        pick: Pick::Newest,
        node,
        downgrade: Downgrade::Refused,
        known: None,
        who,
    }
}

pub(crate) fn facts(installed: Option<&str>) -> NodeFacts {
    NodeFacts {
        run_mode: RunMode::Prod,
        architecture: "x86_64".to_owned(),
        hardware: None,
        schema: None,
        installed: installed.map(|version| version.parse().unwrap()),
    }
}

pub(crate) fn channel() -> Channel {
    CHANNEL.parse().unwrap()
}

/// Whether these bytes would be installed as the only flist of an offer.
pub(crate) fn accepts(offer: &SignedOffer, bytes: &[u8], fresh: &Fresh) -> bool {
    offer.verified(channel(), vec![bytes.to_vec()], fresh).is_ok()
}

pub(crate) fn impatient() -> SourceLimits {
    SourceLimits { stall: Duration::from_millis(300), grace: Duration::from_secs(1), bytes_per_second: 1000 }
}
