//! What this node is offered, by the one policy of both programs: with a root of trust the newest signed release that
//! is for this node, without one whatever the hub says.

mod name;
mod roots;
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
use name::node_id;
pub use name::{GroupFrom, IdFrom};
pub use roots::{Anchor, faults};
use roots::{Had, Roots};

/// The directories in the state directory with what was accepted: releases, and the director's choices.
pub(crate) const TRUST: &str = "trust";
pub(crate) const DIRECTOR: &str = "director";

/// Why there is nothing to install.
#[derive(Debug, thiserror::Error)]
pub enum OffersError {
    /// A root cannot be read.
    #[error(
        "local: {anchor} {path} cannot be read, and without it nothing is installed; put it there, with `identityd provision DIR` or in the base image, or leave its name out of config.yaml if it stands there"
    )]
    Root {
        /// Which one.
        anchor: Anchor,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A directory is in its place.
    #[error(
        "local: {anchor} {path} is a directory, and without the file nothing is installed; move it away, and put the file there, with `identityd provision DIR` or in the base image"
    )]
    InTheWay {
        /// Which one.
        anchor: Anchor,
        /// The directory.
        path: PathBuf,
    },
    /// The hub has them the other way round.
    #[error(
        "local: {root} and {director} are exchanged, here or on the hub: by its keys, one of them is what the hub has as the other, so nothing is installed; compare both with what whoever signs has, not with the hub; if they are wrong here, remove both, and put each in its place, with `identityd provision DIR` or in the base image"
    )]
    Exchanged {
        /// Where the root of trust should be.
        root: PathBuf,
        /// Where the director's root should be.
        director: PathBuf,
        /// What became of it.
        #[source]
        source: TrustError,
    },
    /// What is there is no root.
    #[error(
        "local: {anchor} {path} is damaged, and without it nothing is installed; put the right one there, with `identityd provision --replace DIR` or in the base image"
    )]
    Damaged {
        /// Which one.
        anchor: Anchor,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: TrustError,
    },
    /// The root of trust is not there any more.
    #[error(
        "local: the root of trust {path} is gone, and this node has trusted one before ({known}), so it believes no hub without; put it back, with `identityd provision DIR` or in the base image, or boot with molt.insecure=1 to believe any hub for one boot"
    )]
    RootGone {
        /// Where it was.
        path: PathBuf,
        /// What shows it.
        known: String,
    },
    /// The director's root is not there any more.
    #[error(
        "local: the director's root {path} is gone, and this node has followed a director before ({known}), so it installs nothing that none has chosen; put it back, with `identityd provision DIR` or in the base image, or write `trust: {{director: none}}` into {config} and restart identityd, to follow no director any more"
    )]
    DirectorGone {
        /// Where it was.
        path: PathBuf,
        /// What shows it.
        known: String,
        /// Where one can say that none is followed.
        config: PathBuf,
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
            Self::Hub(_) => None,
            Self::Untrusted(error) => {
                Some(error.verdict()).filter(|verdict| *verdict != Verdict::Unreachable)
            }
            _ => Some(Verdict::Local),
        }
    }

    /// Whether the same question may be answered a little later.
    pub(crate) fn is_retryable(&self) -> bool {
        match self {
            Self::Hub(error) => error.is_retryable(),
            Self::Untrusted(error) => error.is_retryable(),
            _ => false,
        }
    }

    /// Whether the hub just does not have it.
    pub fn is_not_offered(&self) -> bool {
        match self {
            Self::Hub(error) => error.is_not_found(),
            Self::Untrusted(error) => error.verdict() == Verdict::Unsigned,
            _ => false,
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
    /// The roots by the last look; `None` where one of them is gone or cannot be used, so that nothing is asked.
    roots: Option<Roots>,
    /// Those that this process has gone by.
    had: Had,
    who: Who,
    id_from: IdFrom,
    /// The newer release that the director keeps from this node, by the last answer.
    withheld: Option<Withheld>,
    /// What the hubs say, compared.
    mirrors: Mirrors,
    /// What the last answer remembers for the next one.
    seen: Option<Seen>,
    known: Option<ReleaseId>,
}

impl Offers {
    /// Reads the roots. Where there never was one of the releases the node believes any hub, which is said. They are read
    /// again at each question: one that is gone, or cannot be used, keeps everything from being installed until it is there.
    ///
    /// # Errors
    /// [`OffersError`]: an address is not one of a hub.
    pub fn open(settings: &Settings, user_agent: &str) -> Result<Self, OffersError> {
        let state = StatePlace::of(settings).directory();
        // Hubs are asked by TLS before their signatures are looked at.
        learn_time(&state.join(TRUST));
        let hubs = hubs::open(settings, user_agent).map_err(OffersError::Hub)?;
        let (node, id_from) = node_id(settings);
        let who = Who { node, group: settings.trust.group.clone() };
        let mut offers = Self {
            settings: settings.clone(),
            user_agent: user_agent.to_owned(),
            hubs,
            roots: None,
            had: Had::default(),
            who,
            id_from,
            withheld: None,
            mirrors: Mirrors::default(),
            seen: None,
            known: None,
        };
        if let Err(error) = offers.look_at_roots() {
            tracing::error!("{}", flist::report(&error));
        }
        Ok(offers)
    }

    /// Reads the roots again. Where they have changed, answers by the ones before count no more.
    fn look_at_roots(&mut self) -> Result<Roots, OffersError> {
        let before = self.roots.take();
        let roots = Roots::read(&self.settings, self.had)?;
        if before.as_ref() != Some(&roots) {
            self.forget();
            roots.announce(&self.settings);
            roots.note(&mut self.had);
        }
        self.roots = Some(roots.clone());
        Ok(roots)
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

    /// Whether nothing is checked, by the last look.
    pub fn is_insecure(&self) -> bool {
        self.roots.as_ref().is_some_and(|roots| roots.releases.is_none())
    }

    /// Whether a director is followed, by the last look: its root is there.
    pub fn is_directed(&self) -> bool {
        self.roots.as_ref().is_some_and(|roots| roots.director.is_some())
    }

    /// Why no director is followed since the last look, although this node has to follow one; `None` where one is
    /// followed, or none has to be.
    pub fn director_missed(&self) -> Option<String> {
        if self.roots.is_some() || self.settings.trust.is_insecure {
            return None;
        }
        match Anchor::Director.read(&self.settings, self.had.director) {
            Ok(None) => None,
            Ok(Some(_)) => Some(
                "its root is there; it is followed again at the next poll that finds the root of trust as well".to_owned(),
            ),
            Err(error) => Some(flist::report(&error)),
        }
    }

    /// The newer release that the director keeps from this node, by the last answer.
    pub fn withheld(&self) -> Option<&Withheld> {
        self.withheld.as_ref()
    }

    /// What the other hubs than the one that answered last say, compared.
    pub fn mirrors(&self) -> &Mirrors {
        &self.mirrors
    }

    /// Who this node is to a director.
    pub fn who(&self) -> &Who {
        &self.who
    }

    /// Where its id is from.
    pub fn id_from(&self) -> IdFrom {
        self.id_from
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
        let roots = self.look_at_roots()?;
        let director = roots.director.as_deref();
        let Answer { asked, seen, withheld, looked } =
            self.answer(question, &roots, (self.known, self.seen.as_ref()), director).await?;
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
        // What is wrong with the roots is said by who asks for a release.
        let Some(roots) = &self.roots else { return Ok(None) };
        // A director chooses among releases of the node, not among programs that install them.
        Ok(match self.answer(question, roots, (None, None), None).await?.asked {
            Asked::Release(release) => Some(release),
            Asked::Same | Asked::Nothing => None,
        })
    }

    async fn answer(
        &self,
        question: Question<'_>,
        roots: &Roots,
        (known, seen): (Option<ReleaseId>, Option<&Seen>),
        director: Option<&[u8]>,
    ) -> Result<Answer, OffersError> {
        match &roots.releases {
            Some(root) => self.ask_signed(root, question, known, director).await,
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
