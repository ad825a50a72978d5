//! Why a hub could not be used.

use super::channel::{Channel, TargetError};
use super::hubs::HubFailures;
use super::model::ModelError;
use super::name::FlistName;
use super::resolve::OfferError;

/// Why a hub could not be used.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The address is not one of a hub.
    #[error("'{url}' is not the address of a hub: {reason}")]
    BadUrl {
        /// What was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The HTTP client could not be set up.
    #[error("cannot set up the HTTP client for hub {url}")]
    Client {
        /// The hub's address.
        url: String,
        /// The client's reason.
        #[source]
        source: reqwest::Error,
    },
    /// The request failed on the way, or the answer broke off.
    #[error("request to {url} failed")]
    Request {
        /// What was asked for.
        url: String,
        /// The transport's answer.
        #[source]
        source: reqwest::Error,
    },
    /// Nothing came for too long.
    #[error("{url} sent nothing for {seconds} s")]
    Stalled {
        /// What was asked for.
        url: String,
        /// How long nothing came.
        seconds: u64,
    },
    /// It came too slowly.
    #[error("{url} sends less than {bytes_per_second} bytes per second")]
    TooSlow {
        /// What was asked for.
        url: String,
        /// What is asked for at least.
        bytes_per_second: u64,
    },
    /// Finding out what a channel offers takes too long.
    #[error("hub {hub} has not sent all of {channel} within {seconds} s")]
    TooLate {
        /// The hub's address.
        hub: String,
        /// The channel.
        channel: Channel,
        /// How long it was waited for.
        seconds: u64,
    },
    /// The hub says that there is no such thing.
    #[error("{what} does not exist on hub {hub}")]
    NotFound {
        /// What was asked for.
        what: String,
        /// The hub's address.
        hub: String,
    },
    /// The hub refused or failed.
    #[error("{url} answered {status}{}{message}", if .message.is_empty() { "" } else { ": " })]
    Status {
        /// What was asked for.
        url: String,
        /// The HTTP status code.
        status: u16,
        /// The hub's own words; may be empty.
        message: String,
        /// Whether the same request with `replace` or `force` would be accepted.
        overridable: bool,
    },
    /// What answers at this address is something else than a hub.
    #[error(
        "{url} answered {status} with {content_type} where a hub answers with JSON: this is not a hub; check the address"
    )]
    NotAHub {
        /// What was asked for.
        url: String,
        /// The HTTP status code.
        status: u16,
        /// The content type, or `no content type`.
        content_type: String,
    },
    /// The answer is JSON, but not the one that was asked for.
    #[error("cannot use the answer of {url}")]
    BadAnswer {
        /// What was asked for.
        url: String,
        /// What is wrong with it.
        #[source]
        source: ModelError,
    },
    /// An answer, or an upload, longer than allowed.
    #[error("{url}: the content is longer than the {limit} bytes allowed")]
    TooLong {
        /// What was asked for.
        url: String,
        /// The limit in bytes.
        limit: u64,
    },
    /// An answer whose end cannot be told from a broken connection.
    #[error("{url} sent a flist without saying how long it is, so a broken connection would go unnoticed")]
    NoLength {
        /// What was asked for.
        url: String,
    },
    /// A content that cannot be had in one piece.
    #[error("{url} sends other parts of the content than it was asked for")]
    Unsteady {
        /// What was asked for.
        url: String,
    },
    /// A channel that does not lead to a flist.
    #[error("cannot follow {link}")]
    BadTarget {
        /// The channel.
        link: FlistName,
        /// What is wrong with its target.
        #[source]
        source: TargetError,
    },
    /// A link to a flist that is not there.
    #[error("{link} points to {target}, which does not exist on hub {hub}; publish it or move the link")]
    Dangling {
        /// The link.
        link: String,
        /// Its destination.
        target: String,
        /// The hub's address.
        hub: String,
    },
    /// What a channel names is no release.
    #[error("{what} is no release")]
    BadOffer {
        /// The tag or the repo that names it.
        what: String,
        /// What is wrong with it.
        #[source]
        source: OfferError,
    },
    /// None of several hubs could be used.
    #[error("none of the hubs can be used: {0}")]
    NoHub(HubFailures),
    /// A channel whose content changes all the time, or is not what the hub says of it.
    #[error(
        "what {channel} offers changes while it is read, or is not what the hub describes; try again later"
    )]
    Moving {
        /// The channel.
        channel: Channel,
    },
}

impl HubError {
    /// Whether the hub says that there is no such thing; of several, all of them.
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::NotFound { .. } => true,
            Self::NoHub(HubFailures(failures)) => {
                !failures.is_empty() && failures.iter().all(|failure| failure.error.is_not_found())
            }
            _ => false,
        }
    }

    /// Whether the same request may succeed a little later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Request { source, .. } => !(source.is_builder() || source.is_redirect()),
            Self::NoHub(HubFailures(failures)) => failures.iter().any(|failure| failure.error.is_retryable()),
            Self::Stalled { .. } | Self::TooSlow { .. } | Self::TooLate { .. } => true,
            Self::Unsteady { .. } | Self::Moving { .. } => true,
            // 507: the hub is full, and stays so.
            Self::Status { status, .. } => *status == 429 || (*status >= 500 && *status != 507),
            _ => false,
        }
    }
}
