//! Which of the signed releases a node takes. Pure.

use std::collections::BTreeSet;

use semver::Version;

use super::claims::{NodeFacts, Unfit};
use super::offer::SignedOffer;
use crate::hub::{Channel, ReleaseId, RunMode};

/// Which release is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pick {
    /// The newest that is for this node.
    Newest,
    /// The one with this version.
    Version(Version),
    /// The one with this id.
    Release(ReleaseId),
}

/// Why none of the signed releases is taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OfferRefusal {
    /// Nothing is signed for the channel.
    #[error("nobody has signed a release for {channel} in run mode {run_mode}{hint}")]
    Nothing {
        /// The channel, or the channels.
        channel: String,
        /// The run mode.
        run_mode: RunMode,
        /// Why that may be, and the remedy.
        hint: String,
    },
    /// What was asked for is not signed.
    #[error("nobody has signed {what} for {channel} in run mode {run_mode}")]
    NotSigned {
        /// What was asked for.
        what: String,
        /// The channel, or the channels.
        channel: String,
        /// The run mode.
        run_mode: RunMode,
    },
    /// It is not for this node.
    #[error("version {version} is not for this node: {reason}")]
    Unfit {
        /// The version.
        version: Version,
        /// The condition that this node does not meet.
        reason: Box<Unfit>,
    },
    /// It is older than what is installed.
    #[error(
        "version {offered} is older than {installed}, which is installed; `allow_downgrade: true` in config.yaml, or molt.downgrade=1, takes it all the same"
    )]
    Downgrade {
        /// What is offered.
        offered: Version,
        /// What is installed.
        installed: Version,
    },
}

/// Whether a version below the installed one is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Downgrade {
    /// No: whoever sends an old release is refused.
    Refused,
    /// Yes: the node's owner has said so.
    Allowed,
}

impl Downgrade {
    /// Allowed where the node's owner has said so.
    pub fn allowed_if(said: bool) -> Self {
        if said { Self::Allowed } else { Self::Refused }
    }
}

/// Chooses among signed releases. Pure.
///
/// # Errors
/// [`OfferRefusal`].
pub fn choose(
    offers: &[SignedOffer],
    channels: &[Channel],
    pick: &Pick,
    node: &NodeFacts,
    downgrade: Downgrade,
) -> Result<SignedOffer, OfferRefusal> {
    let names: Vec<String> = channels.iter().map(ToString::to_string).collect();
    let (channel, run_mode) = (names.join(" or "), node.run_mode);
    let mut ours: Vec<&SignedOffer> =
        offers.iter().filter(|offer| channels.iter().any(|channel| offer.is_on(channel))).collect();
    if ours.is_empty() {
        return Err(OfferRefusal::Nothing { channel, run_mode, hint: hint(offers, channels) });
    }
    match pick {
        Pick::Newest => {}
        Pick::Version(version) => ours.retain(|offer| offer.version == *version),
        Pick::Release(release) => ours.retain(|offer| offer.release == *release),
    }
    ours.sort_by(|a, b| b.version.cmp(&a.version).then_with(|| a.release.cmp(&b.release)));
    let mut refused = None;
    for offer in ours {
        let unfit = offer.flists.iter().find_map(|(_, claims)| claims.fit(node).err());
        let is_lower = |installed: &&Version| offer.version < **installed;
        let installed = node.installed.as_ref().filter(is_lower).filter(|_| downgrade == Downgrade::Refused);
        let refusal = match (unfit, installed) {
            (Some(reason), _) => {
                OfferRefusal::Unfit { version: offer.version.clone(), reason: Box::new(reason) }
            }
            (None, Some(installed)) => {
                OfferRefusal::Downgrade { offered: offer.version.clone(), installed: installed.clone() }
            }
            (None, None) => return Ok(offer.clone()),
        };
        // What is said of the newest tells most.
        refused.get_or_insert(refusal);
    }
    let what = match pick {
        Pick::Newest => "a release".to_owned(),
        Pick::Version(version) => format!("version {version}"),
        Pick::Release(release) => format!("release {release}"),
    };
    Err(refused.unwrap_or(OfferRefusal::NotSigned { what, channel, run_mode }))
}

/// Most channels that are named to somebody who follows another one.
const MOST_NAMED: usize = 4;

/// Why none of these offers is on one of these channels, and the remedy.
fn hint(offers: &[SignedOffer], channels: &[Channel]) -> String {
    let mut hint = String::new();
    if channels.iter().any(|channel| matches!(channel, Channel::Tag(_))) {
        hint.push_str(
            "; a tag is not signed by its name, because whoever runs the hub can change what is in it: what is signed \
             names a channel, a version and flists; so follow the channel, with version= for one of its versions, or \
             name the signed flist by flist=<repo>/<name>.flist",
        );
    }
    let signed: BTreeSet<&str> = offers.iter().map(|offer| offer.channel.as_str()).collect();
    let named: Vec<&str> = signed.iter().copied().take(MOST_NAMED).collect();
    hint.push_str(&match signed.len() {
        0 => "; nothing is signed in this run mode at all".to_owned(),
        all if all > named.len() => {
            format!(
                "; what is signed in this run mode is for {} and {} more",
                named.join(", "),
                all - named.len()
            )
        }
        _ => format!("; what is signed in this run mode is for {}", named.join(", ")),
    });
    hint.push_str("; sign one with: flist publish --sign");
    hint
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::hub::{FlistName, Sha256};
    use crate::trust::SignedTarget;
    use crate::trust::claims::Claims;

    fn on(channel: &str) -> Channel {
        channel.parse().unwrap()
    }

    fn offer(channel: &str, version: &str, minimum: Option<&str>) -> SignedOffer {
        let version: Version = version.parse().unwrap();
        let sha256 = Sha256::of(version.to_string().as_bytes());
        let release = ReleaseId::of([("zos", sha256)]);
        let claims = Claims {
            name: "zos".to_owned(),
            version: version.clone(),
            run_mode: RunMode::Prod,
            release,
            channel: channel.to_owned(),
            flist: FlistName::versioned("tf-zos", "zos", &version).unwrap(),
            index: 0,
            minimum_version: minimum.map(|version| version.parse().unwrap()),
            architecture: None,
            hardware: None,
            schema_floor: None,
        };
        let digests = BTreeMap::from([("sha256".to_owned(), sha256.to_string())]);
        let target = SignedTarget { path: claims.path(), length: 5, digests, custom: None };
        SignedOffer {
            run_mode: RunMode::Prod,
            channel: channel.to_owned(),
            version,
            release,
            flists: vec![(target, claims)],
        }
    }

    fn node(installed: Option<&str>) -> NodeFacts {
        NodeFacts {
            run_mode: RunMode::Prod,
            architecture: "x86_64".to_owned(),
            hardware: None,
            schema: None,
            installed: installed.map(|version| version.parse().unwrap()),
        }
    }

    fn chosen(pick: &Pick, installed: Option<&str>, downgrade: Downgrade) -> Result<String, OfferRefusal> {
        let offers = [
            offer("r/a", "1.0.0", None),
            offer("r/a", "2.0.0", None),
            offer("r/a", "3.0.0", Some("2.0.0")),
            offer("r/b", "9.0.0", None),
        ];
        let offer = choose(&offers, &[on("r/a")], pick, &node(installed), downgrade)?;
        Ok(offer.version.to_string())
    }

    #[test]
    fn the_newest_that_fits_is_taken() {
        assert_eq!(chosen(&Pick::Newest, None, Downgrade::Refused).unwrap(), "3.0.0");
        assert_eq!(chosen(&Pick::Newest, Some("2.5.0"), Downgrade::Refused).unwrap(), "3.0.0");
        // By way of the one in between.
        assert_eq!(chosen(&Pick::Newest, Some("1.0.0"), Downgrade::Refused).unwrap(), "2.0.0");
        assert_eq!(chosen(&Pick::Version(Version::new(1, 0, 0)), None, Downgrade::Refused).unwrap(), "1.0.0");
        let id = offer("r/a", "2.0.0", None).release;
        assert_eq!(chosen(&Pick::Release(id), None, Downgrade::Refused).unwrap(), "2.0.0");
    }

    #[test]
    fn versions_do_not_go_down_by_themselves() {
        let one = Pick::Version(Version::new(1, 0, 0));
        let refused = chosen(&one, Some("2.0.0"), Downgrade::Refused).unwrap_err();
        assert!(
            matches!(refused, OfferRefusal::Downgrade { .. })
                && refused.to_string().contains("allow_downgrade")
        );
        assert_eq!(chosen(&one, Some("2.0.0"), Downgrade::Allowed).unwrap(), "1.0.0");
        assert!(matches!(
            chosen(&Pick::Newest, Some("4.0.0"), Downgrade::Refused),
            Err(OfferRefusal::Downgrade { .. })
        ));
    }

    #[test]
    fn a_flist_that_is_named_itself_is_found() {
        let offers = [offer("r/a", "1.0.0", None), offer("r/a", "2.0.0", None)];
        let one = on("tf-zos/zos:v1.0.0.flist");
        let chosen = choose(&offers, &[one], &Pick::Newest, &node(None), Downgrade::Refused).unwrap();
        assert_eq!(chosen.version, Version::new(1, 0, 0));
        let planted = on("evil/zos:v1.0.0.flist");
        assert!(choose(&offers, &[planted], &Pick::Newest, &node(None), Downgrade::Refused).is_err());
    }

    #[test]
    fn what_is_not_signed_is_not_taken() {
        let none = chosen(&Pick::Version(Version::new(7, 0, 0)), None, Downgrade::Refused).unwrap_err();
        assert!(none.to_string().contains("version 7.0.0"), "{none}");
        let other = offer("r/b", "9.0.0", None).release;
        assert!(matches!(
            chosen(&Pick::Release(other), None, Downgrade::Refused),
            Err(OfferRefusal::NotSigned { .. })
        ));
        let nothing = choose(&[], &[on("r/a")], &Pick::Newest, &node(None), Downgrade::Refused);
        assert!(matches!(nothing, Err(OfferRefusal::Nothing { .. })));
    }

    #[test]
    fn who_follows_what_nobody_has_signed_is_told_what_is_signed_and_what_a_tag_is() {
        let offers = [offer("r/a", "1.0.0", None), offer("r/b", "9.0.0", None)];
        let said = |offers: &[SignedOffer], channel: &str| {
            choose(offers, &[on(channel)], &Pick::Newest, &node(None), Downgrade::Refused)
                .unwrap_err()
                .to_string()
        };
        let tag = said(&offers, "r/tags/1.0.0");
        for part in [
            "nobody has signed a release for r/tags/1.0.0",
            "a tag is not signed by its name",
            "version=",
            "for r/a, r/b;",
        ] {
            assert!(tag.contains(part), "{part}: {tag}");
        }
        let other = said(&offers, "r/c");
        assert!(!other.contains("a tag is not") && other.contains("for r/a, r/b; sign one"), "{other}");
        assert!(said(&[], "r/c").contains("nothing is signed in this run mode at all"));
        let many: Vec<_> = (0..9).map(|number| offer(&format!("r/{number}"), "1.0.0", None)).collect();
        assert!(said(&many, "r/c").contains("for r/0, r/1, r/2, r/3 and 5 more"));
    }
}
