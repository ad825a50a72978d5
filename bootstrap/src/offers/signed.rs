//! Asking hubs that are believed only as far as signatures go, one after the other, and comparing their answers.

use flist::hub::{Channel, HubClient, HubError, ReleaseId, ReleaseVersion};
use flist::trust::claims::NodeFacts;
use flist::trust::clock::Clocks;
use flist::trust::{Pick, Source, TrustClient, TrustError, Wanted, What, offered};

use super::{Answer, Asked, DIRECTOR, Offers, OffersError, Question, TRUST};
use crate::mirrors;
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
