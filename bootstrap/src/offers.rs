//! What this node is offered, by the one policy of both programs: with a root of trust the newest signed release that
//! is for this node, without one whatever the hub says.

mod given;
mod signed;

use std::io;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use flist::hub::{Access, Channel, HubError, Hubs, Packages, Release, ReleaseId, ReleaseVersion, Seen};
use flist::trust::clock::Clocks;
use flist::trust::director::{Who, Withheld};
use flist::trust::{Believed, TrustError, Trusted, Verdict, believed, learn_time};

use crate::hubs;
use crate::mirrors::{Look, Mirrors};
use crate::settings::Settings;
use crate::state_place::StatePlace;
pub use given::trusted_before;
use given::{director, gone, node_id, root};

/// The directories in the state directory with what was accepted: releases, and the director's choices.
pub(crate) const TRUST: &str = "trust";
pub(crate) const DIRECTOR: &str = "director";

/// Why there is nothing to install.
#[derive(Debug, thiserror::Error)]
pub enum OffersError {
    /// The root of trust cannot be read.
    #[error("cannot read the root of trust {path}; without it nothing is installed")]
    Root {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The root of trust is not there any more.
    #[error(
        "local: the root of trust {} is gone, and this node has trusted one before ({}), so it believes no hub without; put it back, with `identityd provision` or in the base image, or boot with molt.insecure=1 to believe any hub for one boot",
        path.display(), known.display()
    )]
    RootGone {
        /// Where it was.
        path: PathBuf,
        /// What shows it.
        known: PathBuf,
    },
    /// An address is not one of a hub, or no hub could be asked.
    #[error(transparent)]
    Hub(HubError),
    /// What the hub offers is not trusted.
    #[error("{}: what the hub offers is not installed", .0.verdict().as_str())]
    Untrusted(#[source] TrustError),
}

impl OffersError {
    /// What is wrong with the signatures; `None` where it is only that nobody could be asked.
    pub fn verdict(&self) -> Option<Verdict> {
        match self {
            Self::Root { .. } | Self::RootGone { .. } => Some(Verdict::Local),
            Self::Hub(_) => None,
            Self::Untrusted(error) => {
                Some(error.verdict()).filter(|verdict| *verdict != Verdict::Unreachable)
            }
        }
    }

    /// Whether the same question may be answered a little later.
    pub(crate) fn is_retryable(&self) -> bool {
        match self {
            Self::Hub(error) => error.is_retryable(),
            Self::Untrusted(error) => error.is_retryable(),
            Self::Root { .. } | Self::RootGone { .. } => false,
        }
    }

    /// Whether the hub just does not have it.
    pub fn is_not_offered(&self) -> bool {
        match self {
            Self::Hub(error) => error.is_not_found(),
            Self::Untrusted(error) => error.verdict() == Verdict::Unsigned,
            Self::Root { .. } | Self::RootGone { .. } => false,
        }
    }
}

/// The earliest time that it can be, in seconds since 1970: by what this program knows, and what was signed with the
/// releases that this node has accepted. A director does not say what time it is.
pub fn earliest(place: &StatePlace) -> i64 {
    flist::trust::earliest(&place.directory().join(TRUST), &Clocks::read())
}

/// What a node asks for.
#[derive(Debug, Clone, Copy)]
pub struct Question<'q> {
    /// The channels that it can follow.
    pub channels: &'q [(Channel, Packages)],
    /// The version that is installed.
    pub installed: Option<&'q ReleaseVersion>,
}

/// What a node is offered.
#[derive(Debug)]
pub enum Asked {
    /// What the last answer was.
    Same,
    /// This release.
    Release(Trusted<Release>),
    /// Nothing, and what the last answer was counts no more: the director has chosen nothing for this node.
    Nothing,
}

/// The hubs of a node, and what it believes of what they say.
pub struct Offers {
    settings: Settings,
    user_agent: String,
    hubs: Hubs,
    /// The root of trust; `None` for a node that checks nothing.
    root: Option<Vec<u8>>,
    /// Whether the root of trust is gone, so that nothing is asked until it is there again.
    is_root_gone: bool,
    /// The director's root; `None` for a node without one.
    director: Option<Vec<u8>>,
    who: Who,
    /// The newer release that the director keeps from this node, by the last answer.
    withheld: Option<Withheld>,
    /// What the hubs say, compared.
    mirrors: Mirrors,
    /// What the last answer remembers for the next one.
    seen: Option<Seen>,
    known: Option<ReleaseId>,
}

impl Offers {
    /// Reads the root of trust. Where there never was one the node believes any hub, which is said. One that is gone is
    /// looked for again at each question.
    ///
    /// # Errors
    /// [`OffersError`]: the root cannot be read, or was named and is not there.
    pub fn open(settings: &Settings, user_agent: &str) -> Result<Self, OffersError> {
        let state = StatePlace::of(settings).directory();
        // Hubs are asked by TLS before their signatures are looked at.
        learn_time(&state.join(TRUST));
        let hubs = hubs::open(settings, user_agent).map_err(OffersError::Hub)?;
        let (root, is_root_gone) = match root(settings) {
            Err(gone @ OffersError::RootGone { .. }) => {
                tracing::error!("{gone}");
                (None, true)
            }
            root => (root?, false),
        };
        let director = match &root {
            Some(_) => director(settings)?,
            None => None,
        };
        let who = Who { node: node_id(settings), group: settings.trust.group.clone() };
        let settings = settings.clone();
        Ok(Self {
            settings,
            user_agent: user_agent.to_owned(),
            hubs,
            root,
            is_root_gone,
            director,
            who,
            withheld: None,
            mirrors: Mirrors::default(),
            seen: None,
            known: None,
        })
    }

    /// Shows hubs something else from now on.
    ///
    /// # Errors
    /// [`OffersError`]: nothing can be asked with that, so the hubs are shown what they were before.
    pub fn show(&mut self, access: &Access) -> Result<(), OffersError> {
        let before = std::mem::replace(&mut self.settings.hub.access, access.clone());
        match hubs::open(&self.settings, &self.user_agent) {
            Ok(hubs) => self.hubs = hubs,
            Err(error) => {
                self.settings.hub.access = before;
                return Err(OffersError::Hub(error));
            }
        }
        Ok(())
    }

    /// Whether nothing is checked.
    pub fn is_insecure(&self) -> bool {
        self.root.is_none() && !self.is_root_gone
    }

    /// Takes a root of trust that was put back, and the director's with it.
    fn look_for_root(&mut self) -> Result<(), OffersError> {
        if self.is_root_gone {
            // Where what shows that there was one has gone as well, only a start begins anew without.
            let found = root(&self.settings)?.ok_or_else(|| gone(&self.settings))?;
            self.director = director(&self.settings)?;
            (self.root, self.is_root_gone) = (Some(found), false);
        }
        Ok(())
    }

    /// The newer release that the director keeps from this node, by the last answer.
    pub fn withheld(&self) -> Option<&Withheld> {
        self.withheld.as_ref()
    }

    /// What the other hubs than the one that answered last say, compared.
    pub fn mirrors(&self) -> &Mirrors {
        &self.mirrors
    }

    /// Who this node is to a director; `None` for a node without one.
    pub fn who(&self) -> Option<&Who> {
        self.director.as_ref().map(|_| &self.who)
    }

    /// Takes back what the last answer was: it is of no use, and is asked for again.
    pub fn forget(&mut self) {
        (self.seen, self.known) = (None, None);
    }

    /// All addresses, for messages.
    pub fn hubs(&self) -> String {
        self.hubs.urls()
    }

    /// Asks what is offered.
    ///
    /// # Errors
    /// [`OffersError`].
    pub async fn ask(&mut self, question: Question<'_>) -> Result<Asked, OffersError> {
        self.look_for_root()?;
        let Answer { asked, seen, withheld, looked } =
            self.answer(question, self.known, self.seen.as_ref(), self.director.as_deref()).await?;
        hubs::remember(&self.settings, &self.hubs);
        if let Some(withheld) = withheld.as_ref().filter(|withheld| Some(*withheld) != self.withheld.as_ref())
        {
            tracing::info!(reason = %withheld, "the director keeps a release from this node");
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.mirrors.note(looked, now.as_secs());
        (self.seen, self.withheld) = (seen, withheld);
        match &asked {
            Asked::Same => {}
            Asked::Release(release) => self.known = Some(release.id),
            Asked::Nothing => self.known = None,
        }
        Ok(asked)
    }

    /// Asks what is offered on channels that are not followed; `None` when it cannot be told.
    ///
    /// # Errors
    /// [`OffersError`].
    pub(crate) async fn ask_once(
        &self,
        question: Question<'_>,
    ) -> Result<Option<Trusted<Release>>, OffersError> {
        // A director chooses among releases of the node, not among programs that install them.
        Ok(match self.answer(question, None, None, None).await?.asked {
            Asked::Release(release) => Some(release),
            Asked::Same | Asked::Nothing => None,
        })
    }

    async fn answer(
        &self,
        question: Question<'_>,
        known: Option<ReleaseId>,
        seen: Option<&Seen>,
        director: Option<&[u8]>,
    ) -> Result<Answer, OffersError> {
        match &self.root {
            Some(root) => self.ask_signed(root, question, known, director).await,
            None if self.is_root_gone => Err(gone(&self.settings)),
            None => self.ask_anybody(question, seen).await,
        }
    }

    async fn ask_anybody(&self, question: Question<'_>, seen: Option<&Seen>) -> Result<Answer, OffersError> {
        let found = believed(&self.hubs, question.channels, seen).await;
        Ok(match found.map_err(OffersError::Hub)? {
            Believed::Same(seen) => Answer::anybodys(Asked::Same, seen),
            Believed::Release(release, seen) => Answer::anybodys(Asked::Release(*release), seen),
        })
    }
}

/// What was answered.
struct Answer {
    asked: Asked,
    seen: Option<Seen>,
    withheld: Option<Withheld>,
    /// What the other hubs have.
    looked: Look,
}

impl Answer {
    /// Of a hub that nobody checks.
    fn anybodys(asked: Asked, seen: Seen) -> Self {
        Self { asked, seen: Some(seen), withheld: None, looked: Look::default() }
    }
}
