//! Asking hubs that are believed only as far as signatures go, one after the other, and comparing their answers.

use flist::hub::{Channel, HubClient, HubError, ReleaseId, ReleaseVersion};
use flist::trust::claims::NodeFacts;
use flist::trust::clock::Clocks;
use flist::trust::{
    Downgrade, Pick, RootOfTrust, Source, TrustClient, TrustError, Verdict, Wanted, What, offered,
};

use super::roots::MAX_ROOT;
use super::{Answer, Asked, DIRECTOR, Offers, OffersError, Question, TRUST};
use crate::mirrors::{self, Look};
use crate::state_place::StatePlace;

/// The file in the state directory that tells the schema of the node's data; releases write it.
const SCHEMA: &str = "schema";

impl Offers {
    pub(super) async fn ask_signed(
        &self,
        root: &[u8],
        question: Question<'_>,
        known: Option<ReleaseId>,
        director: Option<&[u8]>,
    ) -> Result<Answer, OffersError> {
        let names: Vec<Channel> = question.channels.iter().map(|(channel, _)| channel.clone()).collect();
        let node = self.facts(question.installed);
        // A version is looked for by what is signed of it: the names that hubs have for it are nobody's word.
        let (pick, channels) = match self.settings.pinned(&names) {
            Some((version, of)) => (Pick::Version(version), of),
            None => (Pick::Newest, names.clone()),
        };
        let wanted = Wanted {
            channels: &channels,
            names: &names,
            pick,
            node: &node,
            downgrade: Downgrade::allowed_if(self.settings.trust.allow_downgrade),
            known,
            who: &self.who,
        };
        let roots = Pinned { releases: root, director };
        let all = self.hubs.in_order().await;
        let mut failure = None;
        for hub in all.iter().copied() {
            match self.ask_hub(hub, (hub, &all), roots, &wanted).await {
                Ok(taken) => match self.compared(taken, &all, roots, &wanted).await {
                    Ok(answer) => return Ok(answer),
                    // Others may have what is newer too; those that lag are refused from now on.
                    Err(error) => failure = Some(telling(failure, error)),
                },
                Err(error) => {
                    if self.settings.hub.urls.len() > 1 {
                        tracing::warn!(hub = hub.url(), error = %flist::report(&error), "this hub is of no use");
                    }
                    failure = Some(telling(failure, error));
                }
            }
        }
        let none = || HubError::BadUrl { url: String::new(), reason: "there is no hub".to_owned() };
        let Some(failure) = failure else { return Err(OffersError::Hub(none())) };
        if failure.verdict() == Verdict::Signature && self.are_exchanged(&all, roots).await {
            let (root, director) = (self.settings.trust.root.clone(), self.settings.trust.director.clone());
            return Err(OffersError::Exchanged { root, director, source: failure });
        }
        Err(OffersError::Untrusted(failure))
    }

    /// Whether this node has its roots the other way round than a hub. Which of them is wrong nobody can tell: a hub can
    /// serve the roots of others, too.
    async fn are_exchanged(&self, all: &[&HubClient], roots: Pinned<'_>) -> bool {
        let own = [Some(roots.releases), roots.director];
        let [releases, director] = own.map(|root| RootOfTrust::parse(root?).ok());
        for hub in all {
            let offers = [first_root(hub, TRUST).await, first_root(hub, DIRECTOR).await];
            if is_other_way_round(
                [releases.as_ref(), director.as_ref()],
                offers.each_ref().map(Option::as_ref),
            ) {
                return true;
            }
        }
        false
    }

    /// Compares an answer with what the other hubs have. Those that have newer signatures, of releases or of the
    /// director's choices, are asked instead: whoever keeps news from this node would have to own all of its hubs.
    ///
    /// # Errors
    /// [`TrustError`]: there are newer signatures, and nothing can be installed by them. By older ones nothing is.
    async fn compared<'h>(
        &self,
        taken: Taken<'h>,
        all: &[&'h HubClient],
        roots: Pinned<'_>,
        wanted: &Wanted<'_>,
    ) -> Result<Answer, TrustError> {
        let Taken { answer, releases: hub, director } = taken;
        let looked = self.look((hub, director), all, roots).await;
        let newer = mirrors::furthest(&looked.releases).and_then(|url| named(url, all));
        let chooses = mirrors::furthest(&looked.director).and_then(|url| named(url, all));
        if newer.is_none() && chooses.is_none() {
            self.hubs.worked(hub);
            return Ok(Answer { looked, ..answer });
        }
        let (newer, chooses) = (newer.unwrap_or(hub), chooses.unwrap_or(director));
        let before = self.accepted();
        match self.ask_hub(newer, (chooses, all), roots, wanted).await {
            Ok(Taken { answer, releases, director }) => {
                tracing::warn!(
                    hub = hub.url(),
                    newer = releases.url(),
                    director = roots.director.map(|_| director.url()),
                    "this hub lags behind another one"
                );
                self.hubs.worked(releases);
                let looked = self.look((releases, director), all, roots).await;
                Ok(Answer { looked, ..answer })
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

    /// What the hubs have, but for those that metadata was taken from: of the releases, and of the director.
    async fn look(
        &self,
        (releases, director): (&HubClient, &HubClient),
        all: &[&HubClient],
        roots: Pinned<'_>,
    ) -> Look {
        let state = StatePlace::of(&self.settings).directory();
        let others =
            |but: &HubClient| all.iter().copied().filter(|hub| hub.url() != but.url()).collect::<Vec<_>>();
        let releases = mirrors::look(&others(releases), roots.releases, &state.join(TRUST), TRUST).await;
        let director = match roots.director {
            Some(root) => mirrors::look(&others(director), root, &state.join(DIRECTOR), DIRECTOR).await,
            None => Vec::new(),
        };
        Look { releases, director }
    }

    /// The timestamps that were accepted last, of the releases and of the director's choices.
    fn accepted(&self) -> Accepted {
        let state = StatePlace::of(&self.settings).directory();
        [TRUST, DIRECTOR].map(|repository| std::fs::read(state.join(repository).join("timestamp.json")).ok())
    }

    /// Asks one hub for releases, and for what the director has chosen the first of `directors`, or another of them where
    /// that has nothing that can be accepted: a hub that keeps the director's news back is good for releases all the same.
    async fn ask_hub<'h>(
        &self,
        hub: &'h HubClient,
        directors: (&'h HubClient, &[&'h HubClient]),
        roots: Pinned<'_>,
        wanted: &Wanted<'_>,
    ) -> Result<Taken<'h>, TrustError> {
        let (releases, clocks) = (self.client(hub, roots.releases, TRUST)?, Clocks::read());
        let (chooses, director) = match roots.director {
            Some(root) => {
                let (client, director) = self.directing(root, directors, &clocks).await?;
                (Some(client), director)
            }
            None => (None, hub),
        };
        let offered = offered(&releases, chooses.as_ref(), hub, wanted, &clocks).await?;
        let asked = match offered.what {
            What::Known { .. } => Asked::Same,
            What::Release(release) => Asked::Release(*release),
            What::Nothing => Asked::Nothing,
        };
        let answer = Answer { asked, seen: None, withheld: offered.withheld, looked: Look::default() };
        Ok(Taken { answer, releases: hub, director })
    }

    async fn directing<'h>(
        &self,
        root: &[u8],
        (first, all): (&'h HubClient, &[&'h HubClient]),
        clocks: &Clocks,
    ) -> Result<(TrustClient, &'h HubClient), TrustError> {
        let client = self.client(first, root, DIRECTOR)?;
        // Where there is no other hub, what this one has is seen soon enough.
        if all.len() == 1 {
            return Ok((client, first));
        }
        let Err(refused) = client.refresh(clocks).await else { return Ok((client, first)) };
        for hub in all.iter().copied().filter(|hub| hub.url() != first.url()) {
            let client = self.client(hub, root, DIRECTOR)?;
            if client.refresh(clocks).await.is_ok() {
                tracing::warn!(hub = first.url(), director = hub.url(), error = %flist::report(&refused), "what this hub has of the director is of no use");
                return Ok((client, hub));
            }
        }
        Err(refused)
    }

    fn client(&self, hub: &HubClient, root: &[u8], repository: &str) -> Result<TrustClient, TrustError> {
        let url = hub.url().to_owned();
        let source = Source::of_hub(hub, repository).map_err(|source| TrustError::Fetch { url, source })?;
        TrustClient::open(root, &StatePlace::of(&self.settings).directory().join(repository), source)
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

/// The roots that this node was given.
#[derive(Clone, Copy)]
struct Pinned<'r> {
    releases: &'r [u8],
    director: Option<&'r [u8]>,
}

/// An answer, and the hubs whose metadata it goes by.
struct Taken<'h> {
    answer: Answer,
    releases: &'h HubClient,
    director: &'h HubClient,
}

fn named<'h>(url: &str, all: &[&'h HubClient]) -> Option<&'h HubClient> {
    all.iter().copied().find(|hub| hub.url() == url)
}

/// The first root of a repository on a hub, where it has one.
async fn first_root(hub: &HubClient, repository: &str) -> Option<RootOfTrust> {
    let source = Source::of_hub(hub, repository).ok()?;
    let body = source.open("1.root.json", MAX_ROOT).await.ok()??;
    RootOfTrust::parse(&body.all().await.ok()?).ok()
}

/// Whether one of these roots, of releases and of a director, is what the other side has as the other one. Pure.
fn is_other_way_round(own: [Option<&RootOfTrust>; 2], hubs: [Option<&RootOfTrust>; 2]) -> bool {
    let is_same = |one: Option<&RootOfTrust>, other: Option<&RootOfTrust>| {
        one.zip(other).is_some_and(|(one, other)| one.is_of_the_repository_of(other))
    };
    let ([releases, director], [of_releases, of_director]) = (own, hubs);
    let is_exchanged =
        |root, of_its_kind, of_the_other| is_same(root, of_the_other) && !is_same(root, of_its_kind);
    is_exchanged(releases, of_releases, of_director) || is_exchanged(director, of_director, of_releases)
}

/// Timestamps that were accepted: of the releases, and of the director's choices.
type Accepted = [Option<Vec<u8>>; 2];

/// Which of two failures is told: what the preferred hub says tells most, but that signatures are not in order is not
/// hidden by a hub that does not answer. Pure.
fn telling(first: Option<TrustError>, second: TrustError) -> TrustError {
    match first {
        Some(first) if !first.is_retryable() || second.is_retryable() => first,
        _ => second,
    }
}

/// Whether a hub with newer signatures has failed in such a way that an answer by older ones counts no more: what it has
/// signed was accepted, whatever else it lacks, or says that there is nothing for this node. Pure.
fn is_overtaken(error: &TrustError, before: &Accepted, after: &Accepted) -> bool {
    let [releases, _] = after;
    // Where nothing can be read nobody knows, so it counts as accepted.
    matches!(error, TrustError::Refusal(_)) || releases.is_none() || before != after
}

#[cfg(test)]
mod tests {
    use flist::hub::RunMode;
    use flist::trust::OfferRefusal;

    use super::*;

    #[test]
    fn roots_are_exchanged_where_the_hub_has_one_as_the_other() {
        let root = |bytes: &[u8]| RootOfTrust::parse(bytes).unwrap();
        let releases = root(include_bytes!("../../tests/fixtures/root.json"));
        let director = root(include_bytes!("../../tests/fixtures/director.json"));
        let (one, other) = (Some(&releases), Some(&director));
        assert!(is_other_way_round([other, one], [one, other]));
        assert!(is_other_way_round([other, None], [one, other]), "a node that was given one of them");
        assert!(is_other_way_round([other, one], [one, None]), "a hub that has no director");
        assert!(is_other_way_round([one, one], [one, other]), "only one of them is wrong");
        for (own, hubs) in [
            ([one, other], [one, other]),
            ([one, None], [one, other]),
            ([one, other], [None, None]),
            ([one, None], [other, None]),
        ] {
            assert!(!is_other_way_round(own, hubs), "{own:?} {hubs:?}");
        }
    }

    #[test]
    fn what_signatures_say_is_not_hidden_by_a_hub_that_does_not_answer() {
        let silent = |hub: &str| TrustError::Hub { target: hub.to_owned(), source: "refused".into() };
        let unsigned = || TrustError::Unsigned { target: "x".to_owned() };
        assert!(matches!(telling(Some(silent("a")), unsigned()), TrustError::Unsigned { .. }));
        assert!(matches!(telling(Some(unsigned()), silent("b")), TrustError::Unsigned { .. }));
        let first = telling(Some(silent("a")), silent("b"));
        assert!(matches!(first, TrustError::Hub { target, .. } if target == "a"));
        assert!(matches!(telling(None, silent("a")), TrustError::Hub { .. }));
    }

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
        let refusal = TrustError::Refusal(OfferRefusal::Nothing {
            channel,
            run_mode: RunMode::Prod,
            hint: String::new(),
        });
        assert!(is_overtaken(&refusal, &before, &before));
    }
}
