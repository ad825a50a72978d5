//! Several hubs with the same content, the best one first.
//!
//! A release is always read from one hub as a whole. The hub that worked last is asked first; when it fails, the
//! others are asked in order, after a look whether they answer as hubs do. From time to time the hubs that are
//! preferred to it are looked at, and used again once they answer.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::access::Access;
use super::address::shown_address;
use super::channel::{Channel, Packages};
use super::client::{HubClient, Timeouts};
use super::error::HubError;
use super::name::printable;
use super::resolve::{Resolution, Seen, resolve_first};

/// Most hubs that are accepted.
pub const MAX_HUBS: usize = 16;

/// How long a hub may take to show that it is one.
const HEALTH_LIMIT: Duration = Duration::from_secs(10);

/// How often it is looked whether a better hub than the one in use answers again.
const LOOK_BACK: Duration = Duration::from_secs(600);

/// What one of several hubs answered.
#[derive(Debug)]
pub struct HubFailure {
    /// Its address.
    pub hub: String,
    /// What went wrong.
    pub error: HubError,
}

/// What each of several hubs answered.
#[derive(Debug)]
pub struct HubFailures(pub Vec<HubFailure>);

impl fmt::Display for HubFailures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, HubFailure { hub, error }) in self.0.iter().enumerate() {
            let separator = if number > 0 { "; " } else { "" };
            write!(f, "{separator}{hub}: {}", crate::report(error))?;
        }
        Ok(())
    }
}

/// Which hub is in use.
#[derive(Debug, Clone, Copy)]
struct Use {
    index: usize,
    /// When the better ones were looked at last.
    looked_back: Instant,
}

/// Hubs with the same content. At least one.
#[derive(Debug)]
pub struct Hubs {
    clients: Vec<HubClient>,
    used: Mutex<Use>,
    look_back: Duration,
}

impl Hubs {
    /// The hubs at these addresses, the best one first. Nothing is sent yet.
    ///
    /// # Errors
    /// An address is no hub's, there is none or there are too many, or the HTTP client cannot be set up.
    pub fn new(urls: &[String], user_agent: &str) -> Result<Self, HubError> {
        Self::with_access(urls, user_agent, &Access::default())
    }

    /// As [`Hubs::new`], for hubs that want to know who asks.
    ///
    /// # Errors
    /// As [`Hubs::new`].
    pub fn with_access(urls: &[String], user_agent: &str, access: &Access) -> Result<Self, HubError> {
        if urls.is_empty() || urls.len() > MAX_HUBS {
            let reason = format!("{} addresses are given, expected 1 to {MAX_HUBS}", urls.len());
            let shown: Vec<_> = urls.iter().map(|url| shown_address(url)).collect();
            return Err(HubError::BadUrl { url: printable(&shown.join(", ")), reason });
        }
        let client = |url: &String| HubClient::with_access(url, user_agent, Timeouts::default(), access);
        let clients = urls.iter().map(client).collect::<Result<_, _>>()?;
        Ok(Self::of(clients))
    }

    /// These hubs, of which there is at least one.
    pub fn of(clients: Vec<HubClient>) -> Self {
        let used = Mutex::new(Use { index: 0, looked_back: Instant::now() });
        Self { clients, used, look_back: LOOK_BACK }
    }

    /// Begins with the hub at this address, if it is one of them: it worked before.
    #[must_use]
    pub fn beginning_with(self, url: &str) -> Self {
        if let Some(index) = self.clients.iter().position(|client| client.url() == url) {
            self.set_used(index);
        }
        self
    }

    /// Looks at better hubs so often.
    #[must_use]
    pub fn looking_back_every(mut self, look_back: Duration) -> Self {
        self.look_back = look_back;
        self
    }

    /// The address of the hub that worked last.
    pub fn working(&self) -> &str {
        self.working_client().map_or("", HubClient::url)
    }

    /// The hub that worked last.
    pub fn working_client(&self) -> Option<&HubClient> {
        self.clients.get(self.used().index)
    }

    /// All addresses, with commas between them.
    pub fn urls(&self) -> String {
        self.clients.iter().map(HubClient::url).collect::<Vec<_>>().join(", ")
    }

    /// What the first hub that can tell offers on the first of these channels that it has.
    ///
    /// # Errors
    /// With one hub, its error; with several, [`HubError::NoHub`] tells that of each.
    pub async fn resolve(
        &self,
        channels: &[(Channel, Packages)],
        known: Option<&Seen>,
    ) -> Result<Resolution, HubError> {
        let order = self.order().await;
        let mut failures = Vec::new();
        for (turn, index) in order.into_iter().enumerate() {
            let Some(client) = self.clients.get(index) else { continue };
            // The first one mostly works, and tells by itself when it does not.
            let answer = match turn {
                0 => resolve_first(client, channels, known).await,
                _ => match health(client).await {
                    Ok(()) => resolve_first(client, channels, known).await,
                    Err(error) => Err(error),
                },
            };
            match answer {
                Ok(answer) => {
                    if turn > 0 {
                        tracing::warn!(hub = client.url(), "going on with this hub");
                        self.set_used(index);
                    }
                    return Ok(answer);
                }
                Err(error) if self.clients.len() == 1 => return Err(error),
                Err(error) => {
                    let hub = client.url().to_owned();
                    tracing::warn!(hub, error = %crate::report(&error), "this hub cannot be used");
                    failures.push(HubFailure { hub, error });
                }
            }
        }
        Err(HubError::NoHub(HubFailures(failures)))
    }

    /// All hubs, the one that worked last first.
    pub async fn in_order(&self) -> Vec<&HubClient> {
        self.order().await.into_iter().filter_map(|index| self.clients.get(index)).collect()
    }

    /// Remembers that this one of them has worked.
    pub fn worked(&self, client: &HubClient) {
        if let Some(index) = self.clients.iter().position(|known| known.url() == client.url())
            && index != self.used().index
        {
            tracing::warn!(hub = client.url(), "going on with this hub");
            self.set_used(index);
        }
    }

    /// The hubs in the order in which they are asked.
    async fn order(&self) -> Vec<usize> {
        let Use { index: used, looked_back } = self.used();
        let mut first = used;
        if used > 0 && looked_back.elapsed() >= self.look_back {
            self.set_used(used);
            for (index, client) in self.clients.iter().enumerate().take(used) {
                if health(client).await.is_ok() {
                    tracing::info!(hub = client.url(), "this hub answers again");
                    self.set_used(index);
                    first = index;
                    break;
                }
            }
        }
        std::iter::once(first).chain((0..self.clients.len()).filter(|index| *index != first)).collect()
    }

    fn used(&self) -> Use {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_used(&self, index: usize) {
        let looked_back = Instant::now();
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Use { index, looked_back };
    }
}

/// Whether something answers as a hub does.
async fn health(client: &HubClient) -> Result<(), HubError> {
    match tokio::time::timeout(HEALTH_LIMIT, client.repos()).await {
        Ok(answer) => answer.map(drop),
        Err(_) => Err(HubError::Stalled { url: client.url().to_owned(), seconds: HEALTH_LIMIT.as_secs() }),
    }
}
