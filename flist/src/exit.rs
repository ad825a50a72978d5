//! Exit codes: one table for all programs of this project.

use std::error::Error;
use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use crate::ErrorReport;
use crate::hub::{AccessError, HubError, NameError, TagNameError, TokenError};
use crate::merge::MergeError;
use crate::report::causes;
#[cfg(feature = "server")]
use crate::server::ServerError;
use crate::store::{FetchError, StoreError};
#[cfg(feature = "publish")]
use crate::trust::repository::{KeyError, RepositoryError, SignerError};
use crate::trust::{SourceError, TrustError, Verdict};
use crate::unpack::UnpackError;

/// How a command ended, as a script wants to know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It did what it was asked to, or there was nothing to do.
    Done = 0,
    /// It failed, and none of the others fits.
    Failed = 1,
    /// The command line, or a setting, is wrong: the same command will fail again.
    Usage = 2,
    /// A hub, a store or identityd could not be reached, or cannot answer now: later it may work.
    Unreachable = 3,
    /// The hub or the store does not have it, or the node knows nothing by that name.
    NotFound = 4,
    /// The hub or the store refused: no or another token, a name that is taken, no room. Or signatures are not in order,
    /// something is in the way, a disk is full or cannot be written. Or a node does not take a release: it is held, failed
    /// before, is older, asks for what the node is not.
    Refused = 5,
    /// `diff` found differences, `verify` blocks that are missing or wrong, `lint` what would not run, `doctor` what needs
    /// somebody; or packages do not fit together.
    Differs = 6,
}

/// The table as `--help` shows it.
pub const EXIT_CODES: &str = "Exit codes:
  0  done, or nothing to do
  1  failed
  2  wrong usage or settings: the same command will fail again
  3  hub, store, zinit or identityd not reached: later it may work
  4  the hub or the store does not have it, nobody has signed it; zinit or the node does not know it
  5  refused: token, name that is taken, no room; signatures; by zinit; by a node that does not take a release now
  6  diff, verify, lint or doctor found something; packages do not fit together";

impl Exit {
    /// What an error means, by the first of its causes that tells.
    pub fn of(error: &(dyn Error + 'static)) -> Self {
        causes(error)
            .find_map(|error| {
                let hub = error.downcast_ref().map(of_hub);
                let store = || error.downcast_ref().map(of_store);
                let fetch = || error.downcast_ref().map(of_fetch);
                let source = || error.downcast_ref().map(of_source);
                let trust = || error.downcast_ref().map(of_trust);
                let given = error.is::<TokenError>()
                    || error.is::<AccessError>()
                    || error.is::<NameError>()
                    || error.is::<TagNameError>();
                let given = || given.then_some(Some(Self::Usage));
                let packages = || error.is::<MergeError>().then_some(Some(Self::Differs));
                let unpacked = || error.downcast_ref().map(of_unpack);
                let system = || error.downcast_ref().map(of_system);
                let found = hub.or_else(store).or_else(fetch).or_else(source).or_else(trust);
                let found = found.or_else(given).or_else(packages).or_else(unpacked).or_else(system);
                #[cfg(feature = "server")]
                let found = found.or_else(|| error.downcast_ref().map(of_server));
                #[cfg(feature = "publish")]
                let found = found.or_else(|| error.downcast_ref().map(of_repository));
                #[cfg(feature = "publish")]
                let found = found.or_else(|| error.downcast_ref().map(of_signer));
                #[cfg(feature = "publish")]
                let found = found.or_else(|| error.downcast_ref().map(of_key));
                found.flatten()
            })
            .unwrap_or(Self::Failed)
    }

    /// The number.
    pub const fn code(self) -> u8 {
        self as u8
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Says what came of parsing a command line that did not lead to a command: help, the version, or what is
/// wrong with it; also as JSON where `--json` is among the words.
pub fn end_of_parsing(error: &clap::Error, words: &[OsString]) -> ExitCode {
    let exit = if error.use_stderr() { Exit::Usage } else { Exit::Done };
    let json = words.iter().take_while(|word| *word != "--").any(|word| word == "--json");
    if exit == Exit::Usage && json {
        let text = error.render().to_string();
        let text = text.trim().strip_prefix("error: ").unwrap_or(text.trim());
        let (error, remedy) = text.split_once("\n\n").unwrap_or((text, "try '--help'"));
        let (error, remedy) = (error.to_owned(), Some(remedy.to_owned()));
        let report = ErrorReport { error, causes: Vec::new(), remedy, exit_code: exit.code() };
        // With nobody to read the JSON, there still are the text and the exit code.
        let _unread = writeln!(std::io::stdout(), "{}", serde_json::json!(report));
    }
    // With nobody to read the text either, there still is the exit code.
    let _unread = error.print();
    exit.into()
}

fn of_hub(error: &HubError) -> Option<Exit> {
    match error {
        HubError::BadUrl { .. } => Some(Exit::Usage),
        HubError::Dangling { .. } => Some(Exit::NotFound),
        // Names in a hub's answers are nothing that anybody has given.
        HubError::BadAnswer { .. } | HubError::BadTarget { .. } | HubError::BadOffer { .. } => {
            Some(Exit::Failed)
        }
        error if error.is_not_found() => Some(Exit::NotFound),
        error if error.is_retryable() => Some(Exit::Unreachable),
        HubError::Status { status, .. } => of_status(*status),
        _ => None,
    }
}

fn of_store(error: &StoreError) -> Option<Exit> {
    match error {
        StoreError::BadUrl { .. } | StoreError::NoRoute { .. } => Some(Exit::Usage),
        StoreError::ReadOnly { .. } => Some(Exit::Refused),
        error if error.is_retryable() => Some(Exit::Unreachable),
        StoreError::Refused { status, .. } | StoreError::Status { status, .. } => of_status(*status),
        _ => None,
    }
}

fn of_fetch(error: &FetchError) -> Option<Exit> {
    matches!(error, FetchError::Missing { .. }).then_some(Exit::NotFound)
}

fn of_source(error: &SourceError) -> Option<Exit> {
    match error {
        SourceError::BadUrl { .. } => Some(Exit::Usage),
        SourceError::Missing { .. } => Some(Exit::NotFound),
        SourceError::Status { status, .. } => of_status(*status).or(Some(Exit::Unreachable)),
        SourceError::Request { .. } | SourceError::Stalled { .. } | SourceError::TooSlow { .. } => {
            Some(Exit::Unreachable)
        }
        _ => None,
    }
}

/// What could not be fetched, or is wrong on this machine, is told by the cause.
fn of_trust(error: &TrustError) -> Option<Exit> {
    match error.verdict() {
        Verdict::Unreachable | Verdict::Local => None,
        Verdict::Unsigned => Some(Exit::NotFound),
        Verdict::Signature
        | Verdict::Rollback
        | Verdict::Expired
        | Verdict::Clock
        | Verdict::Mismatch
        | Verdict::Unfit => Some(Exit::Refused),
    }
}

fn of_unpack(error: &UnpackError) -> Option<Exit> {
    matches!(error, UnpackError::Exists(_)).then_some(Exit::Refused)
}

/// No room, and no leave to write.
fn of_system(error: &io::Error) -> Option<Exit> {
    use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(error.kind(), QuotaExceeded | ReadOnlyFilesystem | StorageFull).then_some(Exit::Refused)
}

#[cfg(feature = "server")]
fn of_server(error: &ServerError) -> Option<Exit> {
    matches!(error, ServerError::Taken { .. }).then_some(Exit::Unreachable)
}

#[cfg(feature = "publish")]
fn of_repository(error: &RepositoryError) -> Option<Exit> {
    match error {
        RepositoryError::None(_)
        | RepositoryError::Damaged { .. }
        | RepositoryError::Directors(_)
        | RepositoryError::Threshold { .. }
        | RepositoryError::NoKey { .. }
        | RepositoryError::NoKeyAtHand { .. }
        | RepositoryError::Commands(_)
        | RepositoryError::HasKey { .. } => Some(Exit::Usage),
        RepositoryError::Exists(_)
        | RepositoryError::NotEmpty(_)
        | RepositoryError::Taken { .. }
        | RepositoryError::OtherChange { .. }
        | RepositoryError::NotNext { .. }
        | RepositoryError::NotInForce { .. }
        | RepositoryError::OtherRoot { .. }
        | RepositoryError::SameKeyTwice { .. }
        | RepositoryError::Staged(_) => Some(Exit::Refused),
        RepositoryError::Busy(_) => Some(Exit::Unreachable),
        RepositoryError::NoTarget { .. } | RepositoryError::NothingStaged(_) => Some(Exit::NotFound),
        // The cause tells.
        _ => None,
    }
}

#[cfg(feature = "publish")]
fn of_signer(error: &SignerError) -> Option<Exit> {
    match error {
        SignerError::NoPassphrase { .. } | SignerError::Run { .. } | SignerError::Commands(_) => {
            Some(Exit::Usage)
        }
        SignerError::Command { .. } => Some(Exit::Refused),
        // The cause tells.
        SignerError::Key { .. } | SignerError::Directory { .. } => None,
    }
}

#[cfg(feature = "publish")]
fn of_key(error: &KeyError) -> Option<Exit> {
    match error {
        KeyError::NotAKey { .. }
        | KeyError::NotPrivate { .. }
        | KeyError::Passphrase { .. }
        | KeyError::NotPublic(_) => Some(Exit::Usage),
        KeyError::File { .. } | KeyError::Crypto => None,
    }
}

fn of_status(status: u16) -> Option<Exit> {
    match status {
        404 | 410 => Some(Exit::NotFound),
        // 507: it is full.
        400..=499 | 507 => Some(Exit::Refused),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub(status: u16) -> HubError {
        HubError::Status { url: "http://hub".into(), status, message: String::new(), overridable: false }
    }

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] HubError);

    #[test]
    fn causes_decide() {
        let none = HubError::NotFound { what: "it".into(), hub: "http://hub".into() };
        for (error, exit) in [
            (none, Exit::NotFound),
            (hub(401), Exit::Refused),
            (hub(409), Exit::Refused),
            (hub(507), Exit::Refused),
            (hub(503), Exit::Unreachable),
            (hub(404), Exit::NotFound),
            (HubError::BadUrl { url: "x".into(), reason: "y".into() }, Exit::Usage),
            (HubError::TooLong { url: "x".into(), limit: 1 }, Exit::Failed),
        ] {
            assert_eq!(Exit::of(&Outer(error)), exit);
        }
        let store = StoreError::Refused { url: "x".into(), status: 401, message: String::new() };
        assert_eq!(Exit::of(&store), Exit::Refused);
        assert_eq!(Exit::of(&io::Error::other("x")), Exit::Failed);
        assert_eq!(Exit::of(&io::Error::from(io::ErrorKind::StorageFull)), Exit::Refused);
        assert_eq!(Exit::of(&io::Error::from(io::ErrorKind::PermissionDenied)), Exit::Failed);
        // A name that was given is wrong, one that a hub gives is the hub's fault.
        let name = || "tf/zos/x".parse::<crate::hub::FlistName>().unwrap_err();
        assert_eq!(Exit::of(&name()), Exit::Usage);
        let answer = br#"[{"name": "x", "size": 1}]"#;
        let source = crate::hub::parse_listing(answer).unwrap_err();
        assert_eq!(Exit::of(&HubError::BadAnswer { url: "http://hub".into(), source }), Exit::Failed);
    }

    #[test]
    fn signatures_refuse_and_what_nobody_has_signed_is_not_there() {
        use crate::trust::OfferRefusal;
        let url = || "http://hub/trust".to_owned();
        let refusal = |refusal| TrustError::Refusal(refusal);
        let (offered, installed) = (semver::Version::new(1, 0, 0), semver::Version::new(2, 0, 0));
        let missing = SourceError::Missing { url: url() };
        for (error, exit) in [
            (TrustError::SameKeyTwice { role: "prod".into() }, Exit::Refused),
            (
                TrustError::Expired {
                    url: url(),
                    role: "timestamp".into(),
                    expires: jiff::Timestamp::MIN,
                    now: jiff::Timestamp::MAX,
                    ahead: false,
                },
                Exit::Refused,
            ),
            (TrustError::Mismatch { target: "x".into(), problem: "y".into() }, Exit::Refused),
            (refusal(OfferRefusal::Downgrade { offered, installed }), Exit::Refused),
            (TrustError::Unsigned { target: "x".into() }, Exit::NotFound),
            (
                refusal(OfferRefusal::Nothing {
                    channel: "a/b".into(),
                    run_mode: crate::hub::RunMode::Dev,
                    hint: String::new(),
                }),
                Exit::NotFound,
            ),
            (TrustError::Fetch { url: url(), source: missing }, Exit::NotFound),
            (TrustError::Hub { target: "x".into(), source: Box::new(hub(503)) }, Exit::Unreachable),
        ] {
            assert_eq!(Exit::of(&error), exit, "{error}");
        }
    }

    #[test]
    #[cfg(feature = "publish")]
    fn what_keeps_from_signing_tells_whose_turn_it_is() {
        let at = || std::path::PathBuf::from("trust");
        let missing = SourceError::Missing { url: "http://hub/trust/timestamp.json".into() };
        let wrong = SignerError::Key { id: "a".into(), source: KeyError::Passphrase { path: at() } };
        let role = crate::trust::repository::RoleName::Root;
        for (error, exit) in [
            (Box::new(missing) as Box<dyn Error>, Exit::NotFound),
            (Box::new(SourceError::Status { url: "http://hub".into(), status: 503 }), Exit::Unreachable),
            (Box::new(RepositoryError::Sign { role, source: wrong }), Exit::Usage),
            (Box::new(KeyError::NotPublic("xyz".into())), Exit::Usage),
            (Box::new(RepositoryError::NothingStaged(at())), Exit::NotFound),
            (
                Box::new(RepositoryError::Sign {
                    role,
                    source: SignerError::Command { command: "token".into(), problem: "no".into() },
                }),
                Exit::Refused,
            ),
            (Box::new(RepositoryError::None(at())), Exit::Usage),
            (Box::new(RepositoryError::Staged(at())), Exit::Refused),
            (Box::new(RepositoryError::Busy(at())), Exit::Unreachable),
        ] {
            assert_eq!(Exit::of(error.as_ref()), exit, "{error}");
        }
    }

    #[test]
    fn the_help_has_every_code() {
        let last = Exit::Differs.code();
        let shown: Vec<_> = EXIT_CODES.lines().skip(1).map(|line| line.trim_start().as_bytes()[0]).collect();
        assert_eq!(shown, (b'0'..=b'0' + last).collect::<Vec<_>>());
    }
}
