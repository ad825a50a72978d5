//! Why a release is not trusted.

use std::path::PathBuf;

use super::choose::OfferRefusal;
use super::source::SourceError;
use super::state::StateError;

/// What kind of thing is wrong, as `why` and `status` show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The metadata could not be fetched.
    Unreachable,
    /// A signature is missing, wrong, or not from enough keys.
    Signature,
    /// Something older than what was accepted before was offered.
    Rollback,
    /// The metadata has expired: nobody has signed a newer one, or somebody keeps it from this node.
    Expired,
    /// As `Expired`, but the node's clock is so far ahead that it is to blame rather.
    Clock,
    /// The content, or a part of the metadata, is not what was signed.
    Mismatch,
    /// Nobody who may do so has signed for it.
    Unsigned,
    /// What is signed is not for this node, or for none any more.
    Unfit,
    /// This node's own state or root of trust cannot be used.
    Local,
}

impl Verdict {
    /// One word for status and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Signature => "signature",
            Self::Rollback => "rollback",
            Self::Expired => "expired",
            Self::Clock => "clock",
            Self::Mismatch => "mismatch",
            Self::Unsigned => "unsigned",
            Self::Unfit => "unfit",
            Self::Local => "local",
        }
    }
}

/// Why a release is not trusted.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The root of trust cannot be read.
    #[error("cannot read the root of trust {path}")]
    Root {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The root of trust is none.
    #[error("the root of trust is not usable")]
    BadRoot(#[source] sigstore_tuf::Error),
    /// What was accepted before cannot be read or kept.
    #[error("cannot keep what is trusted")]
    State(#[source] StateError),
    /// The metadata could not be fetched.
    #[error("cannot fetch the metadata from {url}")]
    Fetch {
        /// Where from.
        url: String,
        /// The reason.
        #[source]
        source: SourceError,
    },
    /// The metadata is refused.
    #[error("the metadata of {url} is refused")]
    Refused {
        /// Where from.
        url: String,
        /// The reason.
        #[source]
        source: sigstore_tuf::Error,
    },
    /// The metadata has expired.
    #[error(
        "the {role} metadata of {url} expired at {expires} and it is {now}: nobody has signed a newer one, or somebody keeps it back{}",
        if *.ahead { "; the clock of this node is far ahead of everything that was ever signed, so look at the clock first" } else { "" }
    )]
    Expired {
        /// Where from.
        url: String,
        /// The role.
        role: String,
        /// When it expired.
        expires: jiff::Timestamp,
        /// The time that was held against it.
        now: jiff::Timestamp,
        /// Whether the node's clock is to blame rather.
        ahead: bool,
    },
    /// A role's keys are fewer than they look.
    #[error(
        "role {role} lists one key under two ids, so its threshold would be met by fewer people than it says"
    )]
    SameKeyTwice {
        /// The role.
        role: String,
    },
    /// Nobody has signed for a target.
    #[error("no role that may do so has signed for {target}")]
    Unsigned {
        /// The target.
        target: String,
    },
    /// What was signed for a target cannot be used.
    #[error("what was signed for {target} cannot be used: {problem}")]
    BadTarget {
        /// The target.
        target: String,
        /// What is wrong.
        problem: String,
    },
    /// The content of a target could not be fetched.
    #[error("cannot fetch {target}")]
    Content {
        /// The target.
        target: String,
        /// The reason.
        #[source]
        source: SourceError,
    },
    /// The hub does not give what was signed.
    #[error("cannot fetch {target}, which is signed")]
    Hub {
        /// The target.
        target: String,
        /// The hub's reason, a [`HubError`](crate::hub::HubError).
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What was signed is longer than a node takes.
    #[error(
        "{target} makes {length} bytes of flists in its release, and a node takes at most {limit}: sign a smaller release"
    )]
    TooLong {
        /// The target with which it is too long.
        target: String,
        /// Bytes of it and of those before it in the release.
        length: u64,
        /// Most bytes that a node takes.
        limit: u64,
    },
    /// None of the signed releases is taken.
    #[error("no signed release is taken")]
    Refusal(#[source] OfferRefusal),
    /// The content is not what was signed.
    #[error("{target} is not what was signed: {problem}")]
    Mismatch {
        /// The target.
        target: String,
        /// How it differs.
        problem: String,
    },
}

impl TrustError {
    /// What kind of thing is wrong.
    pub fn verdict(&self) -> Verdict {
        use sigstore_tuf::Error as Tuf;
        match self {
            Self::Root { .. } | Self::BadRoot(_) | Self::State(_) => Verdict::Local,
            Self::Fetch { .. } | Self::Content { .. } => Verdict::Unreachable,
            Self::Expired { ahead: true, .. } => Verdict::Clock,
            Self::Expired { ahead: false, .. } => Verdict::Expired,
            Self::SameKeyTwice { .. } => Verdict::Signature,
            Self::Unsigned { .. } => Verdict::Unsigned,
            Self::Hub { .. } => Verdict::Unreachable,
            Self::Refusal(OfferRefusal::Nothing { .. } | OfferRefusal::NotSigned { .. }) => Verdict::Unsigned,
            Self::Refusal(OfferRefusal::Downgrade { .. }) => Verdict::Rollback,
            Self::TooLong { .. } | Self::Refusal(OfferRefusal::Unfit { .. }) => Verdict::Unfit,
            Self::BadTarget { .. } | Self::Mismatch { .. } => Verdict::Mismatch,
            Self::Refused { source, .. } => match source {
                Tuf::ThresholdNotMet { .. }
                | Tuf::DuplicateSignature { .. }
                | Tuf::UnusableKey { .. }
                | Tuf::UnsupportedScheme { .. }
                | Tuf::Crypto(_) => Verdict::Signature,
                Tuf::Rollback { .. } | Tuf::BadRootVersion { .. } => Verdict::Rollback,
                Tuf::Expired { .. } => Verdict::Expired,
                Tuf::Transport { .. } | Tuf::Io { .. } => Verdict::Unreachable,
                _ => Verdict::Mismatch,
            },
        }
    }

    /// Whether the same question may have another answer a little later, without anybody signing anything.
    pub fn is_retryable(&self) -> bool {
        self.verdict() == Verdict::Unreachable
    }
}
