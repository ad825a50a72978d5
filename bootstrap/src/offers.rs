//! What this node is offered, by the one policy of both programs: with a root of trust the newest signed release that
//! is for this node, without one whatever the hub says.

use std::io;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use flist::hub::{
    Channel, HubClient, HubError, Hubs, Packages, Release, ReleaseId, ReleaseVersion, Resolution, Seen,
};
use flist::trust::claims::NodeFacts;
use flist::trust::clock::Clocks;
use flist::trust::director::{Who, Withheld};
use flist::trust::{
    Pick, Source, TrustClient, TrustError, Trusted, Verdict, Wanted, What, learn_time, offered,
};

use crate::durable;
use crate::hubs;
use crate::mirrors::{self, Looked, Mirrors};
use crate::settings::Settings;
use crate::state_place::StatePlace;

/// Largest root of trust, in bytes.
const MAX_ROOT: u64 = 1 << 20;

/// The directories in the state directory with what was accepted: releases, and the director's choices.
const TRUST: &str = "trust";
const DIRECTOR: &str = "director";

/// The file in the state directory with the id of a node that has no other.
const NODE_ID: &str = "node-id";

/// The file in the state directory that tells the schema of the node's data; releases write it.
const SCHEMA: &str = "schema";

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
            Self::Root { .. } => Some(Verdict::Local),
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
            Self::Root { .. } => false,
        }
    }

    /// Whether the hub just does not have it.
    pub(crate) fn is_not_offered(&self) -> bool {
        match self {
            Self::Hub(error) => error.is_not_found(),
            Self::Untrusted(error) => error.verdict() == Verdict::Unsigned,
            Self::Root { .. } => false,
        }
    }
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
    hubs: Hubs,
    /// The root of trust; `None` for a node that checks nothing.
    root: Option<Vec<u8>>,
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
    /// Reads the root of trust. Where there is none the node believes any hub, which is said.
    ///
    /// # Errors
    /// [`OffersError`]: the root cannot be read, or was named and is not there.
    pub fn open(settings: &Settings, user_agent: &str) -> Result<Self, OffersError> {
        let state = StatePlace::of(settings).directory();
        // Hubs are asked by TLS before their signatures are looked at.
        [TRUST, DIRECTOR].iter().for_each(|repository| learn_time(&state.join(repository)));
        let hubs = hubs::open(settings, user_agent).map_err(OffersError::Hub)?;
        let root = root(settings)?;
        let director = match &root {
            Some(_) => director(settings)?,
            None => None,
        };
        let who = Who { node: node_id(settings), group: settings.trust.group.clone() };
        let settings = settings.clone();
        Ok(Self {
            settings,
            hubs,
            root,
            director,
            who,
            withheld: None,
            mirrors: Mirrors::default(),
            seen: None,
            known: None,
        })
    }

    /// Whether nothing is checked.
    pub fn is_insecure(&self) -> bool {
        self.root.is_none()
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
        let Answer { asked, seen, withheld, looked } =
            self.answer(question, self.known, self.seen.as_ref(), true).await?;
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
        Ok(match self.answer(question, None, None, false).await?.asked {
            Asked::Release(release) => Some(release),
            Asked::Same | Asked::Nothing => None,
        })
    }

    async fn answer(
        &self,
        question: Question<'_>,
        known: Option<ReleaseId>,
        seen: Option<&Seen>,
        directed: bool,
    ) -> Result<Answer, OffersError> {
        match &self.root {
            Some(root) => self.ask_signed(root, question, known, directed).await,
            None => self.ask_anybody(question, seen).await,
        }
    }

    async fn ask_anybody(&self, question: Question<'_>, seen: Option<&Seen>) -> Result<Answer, OffersError> {
        let found = self.hubs.resolve(question.channels, seen).await;
        Ok(match found.map_err(OffersError::Hub)? {
            Resolution::Unchanged(seen) => Answer::anybodys(Asked::Same, seen),
            Resolution::Release(release, seen) => {
                Answer::anybodys(Asked::Release(Trusted::unchecked(*release)), seen)
            }
        })
    }

    async fn ask_signed(
        &self,
        root: &[u8],
        question: Question<'_>,
        known: Option<ReleaseId>,
        directed: bool,
    ) -> Result<Answer, OffersError> {
        let channels: Vec<Channel> = question.channels.iter().map(|(channel, _)| channel.clone()).collect();
        let node = self.facts(question.installed);
        let wanted = Wanted {
            channels: &channels,
            pick: Pick::Newest,
            node: &node,
            downgrade: self.settings.trust.allow_downgrade,
            known,
            who: &self.who,
        };
        let director = self.director.as_deref().filter(|_| directed);
        let mut failure = None;
        for hub in self.hubs.in_order().await {
            match self.ask_hub(hub, root, director, &wanted).await {
                Ok(answer) => match self.compared(hub, answer, root, director, &wanted).await {
                    Ok(answer) => return Ok(answer),
                    // Others may have what is newer too; those that lag are refused from now on.
                    Err(error) => drop(failure.get_or_insert(error)),
                },
                Err(error) => {
                    if self.settings.hub.urls.len() > 1 {
                        tracing::warn!(hub = hub.url(), error = %flist::report(&error), "this hub is of no use");
                    }
                    // What the preferred one says tells most.
                    failure.get_or_insert(error);
                }
            }
        }
        let none = || HubError::BadUrl { url: String::new(), reason: "there is no hub".to_owned() };
        Err(failure.map_or_else(|| OffersError::Hub(none()), OffersError::Untrusted))
    }

    /// Compares an answer with what the other hubs have. One that has newer signatures is asked instead: whoever keeps
    /// news from this node would have to own all of its hubs. That goes for releases: what the director of each hub has
    /// chosen is not compared, so one hub can keep its choices back until they expire.
    ///
    /// # Errors
    /// [`TrustError`]: there are newer signatures, and nothing can be installed by them. By older ones nothing is.
    async fn compared(
        &self,
        hub: &HubClient,
        answer: Answer,
        root: &[u8],
        director: Option<&[u8]>,
        wanted: &Wanted<'_>,
    ) -> Result<Answer, TrustError> {
        let state = StatePlace::of(&self.settings).directory().join(TRUST);
        let all = self.hubs.in_order().await;
        let others = |but: &str| all.iter().copied().filter(|hub| hub.url() != but).collect::<Vec<_>>();
        let mut looked = mirrors::look(&others(hub.url()), root, &state, TRUST).await;
        let furthest = mirrors::furthest(&looked);
        let newer = all.iter().copied().find(|other| Some(other.url()) == furthest);
        let Some(newer) = newer else {
            self.hubs.worked(hub);
            return Ok(Answer { looked, ..answer });
        };
        let before = self.accepted();
        match self.ask_hub(newer, root, director, wanted).await {
            Ok(newest) => {
                tracing::warn!(hub = hub.url(), newer = newer.url(), "this hub lags behind another one");
                self.hubs.worked(newer);
                looked = mirrors::look(&others(newer.url()), root, &state, TRUST).await;
                Ok(Answer { looked, ..newest })
            }
            Err(error) if is_overtaken(&error, &before, &self.accepted()) => {
                tracing::warn!(hub = hub.url(), newer = newer.url(), error = %flist::report(&error), "what this hub offers is out of date by newer signatures of another one");
                Err(error)
            }
            Err(error) => {
                tracing::warn!(hub = newer.url(), error = %flist::report(&error), "this hub says that it has newer releases, and is of no use");
                self.hubs.worked(hub);
                Ok(Answer { looked, ..answer })
            }
        }
    }

    /// The timestamps that were accepted last, of the releases and of the director's choices.
    fn accepted(&self) -> Accepted {
        let state = StatePlace::of(&self.settings).directory();
        [TRUST, DIRECTOR].map(|repository| std::fs::read(state.join(repository).join("timestamp.json")).ok())
    }

    async fn ask_hub(
        &self,
        hub: &HubClient,
        root: &[u8],
        director: Option<&[u8]>,
        wanted: &Wanted<'_>,
    ) -> Result<Answer, TrustError> {
        let client = |root: &[u8], repository: &str| {
            let url = hub.url().to_owned();
            let source =
                Source::of_hub(hub, repository).map_err(|source| TrustError::Fetch { url, source })?;
            TrustClient::open(root, &StatePlace::of(&self.settings).directory().join(repository), source)
        };
        let releases = client(root, TRUST)?;
        let director = director.map(|root| client(root, DIRECTOR)).transpose()?;
        let offered = offered(&releases, director.as_ref(), hub, wanted, &Clocks::read()).await?;
        let asked = match offered.what {
            What::Known { .. } => Asked::Same,
            What::Release(release) => Asked::Release(*release),
            What::Nothing => Asked::Nothing,
        };
        Ok(Answer { asked, seen: None, withheld: offered.withheld, looked: Vec::new() })
    }

    fn facts(&self, installed: Option<&ReleaseVersion>) -> NodeFacts {
        let schema = std::fs::read_to_string(StatePlace::of(&self.settings).directory().join(SCHEMA));
        NodeFacts {
            run_mode: self.settings.run_mode,
            architecture: std::env::consts::ARCH.to_owned(),
            hardware: self.settings.trust.hardware.clone(),
            schema: schema.ok().and_then(|text| text.trim().parse().ok()),
            installed: installed.and_then(|version| version.semver().cloned()),
        }
    }
}

/// Timestamps that were accepted: of the releases, and of the director's choices.
type Accepted = [Option<Vec<u8>>; 2];

/// Whether a hub with newer signatures has failed in such a way that an answer by older ones counts no more: what it has
/// signed was accepted, whatever else it lacks, or says that there is nothing for this node. Pure.
fn is_overtaken(error: &TrustError, before: &Accepted, after: &Accepted) -> bool {
    let [releases, _] = after;
    // Where nothing can be read nobody knows, so it counts as accepted.
    matches!(error, TrustError::Refusal(_)) || releases.is_none() || before != after
}

/// What was answered.
struct Answer {
    asked: Asked,
    seen: Option<Seen>,
    withheld: Option<Withheld>,
    /// What the other hubs have.
    looked: Vec<Looked>,
}

impl Answer {
    /// Of a hub that nobody checks.
    fn anybodys(asked: Asked, seen: Seen) -> Self {
        Self { asked, seen: Some(seen), withheld: None, looked: Vec::new() }
    }
}

/// The director's root; `None` where there is none.
fn director(settings: &Settings) -> Result<Option<Vec<u8>>, OffersError> {
    let path = &settings.trust.director;
    let failed = |source| OffersError::Root { path: path.clone(), source };
    match std::fs::File::open(path) {
        Ok(file) => read(file).map(Some).map_err(failed),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !settings.trust.is_directed => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

/// What the director calls this node: what it was told, or what the machine is called, or a name that it gives itself.
fn node_id(settings: &Settings) -> String {
    let state = StatePlace::of(settings).directory();
    let own = state.join(NODE_ID);
    let machine = settings.root.join("etc/machine-id");
    let places = [machine.as_path(), "/sys/class/dmi/id/product_uuid".as_ref(), own.as_path()];
    let named = |path: &std::path::Path| {
        let text = std::fs::read_to_string(path).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    };
    let known = settings.trust.node_id.clone().or_else(|| places.into_iter().find_map(named));
    known.unwrap_or_else(|| {
        // The kernel makes another one each time.
        let new = named("/proc/sys/kernel/random/uuid".as_ref()).unwrap_or_default();
        let kept =
            durable::private_directory(&state).and_then(|()| durable::replace(&own, new.as_bytes(), 0o600));
        if let Err(error) = kept {
            tracing::warn!(%error, "this node will have another place in waves after the next start");
        }
        new
    })
}

fn read(file: std::fs::File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, MAX_ROOT), &mut bytes)?;
    Ok(bytes)
}

/// The root of trust of a node; `None` where it has none, or was told to do without.
fn root(settings: &Settings) -> Result<Option<Vec<u8>>, OffersError> {
    let path = &settings.trust.root;
    if settings.trust.is_insecure {
        tracing::error!(
            "INSECURE: molt.insecure=1: signatures are not checked; whoever runs the hub decides what runs here"
        );
        return Ok(None);
    }
    let failed = |source| OffersError::Root { path: path.clone(), source };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound && !settings.trust.is_required => {
            tracing::warn!(path = %path.display(), "INSECURE: there is no root of trust; whoever runs the hub decides what runs here");
            return Ok(None);
        }
        Err(error) => return Err(failed(error)),
    };
    read(file).map(Some).map_err(failed)
}

#[cfg(test)]
mod tests {
    use flist::hub::RunMode;
    use flist::trust::OfferRefusal;

    use super::*;

    #[test]
    fn an_older_answer_counts_only_while_nothing_newer_was_accepted() {
        let accepted = |releases: &str, choices: Option<&str>| -> Accepted {
            [Some(releases.into()), choices.map(Into::into)]
        };
        let before = accepted("1", Some("1"));
        let lacking = TrustError::Unsigned { target: "x".to_owned() };
        assert!(!is_overtaken(&lacking, &before, &before));
        for after in [accepted("2", Some("1")), accepted("1", Some("2")), [None, Some("1".into())]] {
            assert!(is_overtaken(&lacking, &before, &after), "{after:?}");
        }
        let channel = "a/b:c.flist".to_owned();
        let refusal = TrustError::Refusal(OfferRefusal::Nothing { channel, run_mode: RunMode::Prod });
        assert!(is_overtaken(&refusal, &before, &before));
    }
}
