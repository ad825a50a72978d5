//! What a hub says is signed, and what nodes with a root of trust would make of a link there.
//!
//! Nobody's signatures are checked here: this keeps publishers from moving links to what such nodes do not take, and
//! keeps no node from anything.

use std::collections::{BTreeMap, BTreeSet};

use flist::exit::Exit;
use flist::hub::{
    Channel, FlistName, HubClient, Kind, Packages, ReleaseVersion, RunMode, TagName, shown_address,
};
use flist::trust::Source;
use flist::trust::claims::Claims;
use semver::Version;
use serde_json::Value;

use super::release::followed_by;
use crate::cli::failure::Failure;

/// Longest timestamp or snapshot that is looked at, in bytes.
const MAX_LISTING: u64 = 64 * 1024;

/// Longest role that is looked at, in bytes, as hubs take them.
const MAX_ROLE: u64 = 5_000_000;

/// All run modes, whose roles sign releases.
const MODES: [RunMode; 4] = [RunMode::Dev, RunMode::Test, RunMode::Prod, RunMode::Qa];

/// Leave to go without signatures on a hub that has them.
#[derive(clap::Args)]
pub(in crate::cli) struct Unsigned {
    /// On a hub with signed releases, go without: for nodes without a root of trust, as the others do not install it
    #[arg(long)]
    pub(in crate::cli) unsigned: bool,
}

/// What is signed on a hub, by what it says.
pub(in crate::cli) struct Signatures {
    signed: Vec<Claims>,
}

/// What a link is to lead to.
pub(in crate::cli) enum Target<'a> {
    /// A flist.
    Flist(&'a FlistName),
    /// A tag, and the flists in it by package, where these are known.
    Tag(&'a TagName, Option<&'a BTreeMap<String, FlistName>>),
}

impl Signatures {
    /// What is signed on this hub; `None` where it has no signed releases, and links are all that there is.
    pub(in crate::cli) async fn on(client: &HubClient) -> Result<Option<Self>, Failure> {
        let source = Source::of_hub(client, "trust")?;
        // Other hubs may answer anything to a question that they do not know.
        let of_kind = |file: &Value, kind: &str| file["signed"]["_type"] == kind;
        let timestamp = read(&source, "timestamp.json", MAX_LISTING).await?;
        let Some(timestamp) = timestamp.filter(|file| of_kind(file, "timestamp")) else { return Ok(None) };
        let version = |listing: &Value, role: &str| {
            listing["signed"]["meta"][format!("{role}.json")]["version"].as_u64()
        };
        let mut signed = Vec::new();
        if let Some(number) = version(&timestamp, "snapshot") {
            let snapshot = read(&source, &format!("{number}.snapshot.json"), MAX_LISTING).await?;
            let snapshot = snapshot.unwrap_or_default();
            for mode in MODES {
                let Some(number) = version(&snapshot, mode.as_str()) else { continue };
                let role = read(&source, &format!("{number}.{mode}.json"), MAX_ROLE).await?;
                let role = role.unwrap_or_default();
                let targets = role["signed"]["targets"].as_object().into_iter().flatten();
                signed.extend(targets.filter_map(|(_, target)| Claims::parse(target.get("custom")).ok()));
            }
        }
        Ok(Some(Self { signed }))
    }

    /// Whether this flist is a part of any signed release.
    pub(in crate::cli) fn names(&self, flist: &FlistName) -> bool {
        self.parts(flist).next().is_some()
    }

    /// What is signed of this flist: for each run mode at most one release has it.
    fn parts(&self, flist: &FlistName) -> impl Iterator<Item = &Claims> {
        self.signed.iter().filter(move |claims| claims.flist == *flist)
    }

    /// Refuses to take a flist from a hub that is a part of a signed release, which nodes could not install any more.
    ///
    /// # Errors
    /// It is one.
    pub(in crate::cli) fn check_removal(&self, hub: &str, flist: &FlistName) -> Result<(), Failure> {
        let parts: Vec<&Claims> = self.parts(flist).collect();
        if parts.is_empty() {
            return Ok(());
        }
        let named = |part: &&Claims| format!("version {} of {}", part.version, part.run_mode);
        let withdraw = |part: &&Claims| withdraw_command(hub, part.run_mode, &part.channel, &part.version);
        let (named, withdraw): (Vec<_>, Vec<_>) =
            parts.iter().map(|part| (named(part), withdraw(part))).unzip();
        let message = format!(
            "{flist} was not removed: it is a part of what is signed as {}, which nodes could not install any more",
            named.join(" and as ")
        );
        let remedy =
            format!("take it back first: {}; or remove it all the same, with --force", withdraw.join(" && "));
        Err(Failure { remedy: Some(remedy), ..Failure::new(Exit::Refused, message) })
    }

    /// Whether a release is signed for this channel that has this flist.
    fn has(&self, channel: &Channel, flist: &FlistName) -> bool {
        self.of(channel).any(|claims| claims.flist == *flist)
    }

    /// Whether these flists, no more and no fewer, are a release that is signed for this channel.
    fn is_release(&self, channel: &Channel, flists: &[&FlistName]) -> bool {
        let Some(first) = self.of(channel).find(|claims| flists.contains(&&claims.flist)) else {
            return false;
        };
        let release: Vec<_> = self.of(channel).filter(|claims| claims.release == first.release).collect();
        release.len() == flists.len() && release.iter().all(|claims| flists.contains(&&claims.flist))
    }

    /// The run modes, with their channels, for which these flists are a release.
    fn signed_for(&self, flists: &[&FlistName]) -> Option<String> {
        let channels: BTreeSet<(&str, &str)> = self
            .signed
            .iter()
            .filter(|claims| {
                claims.channel.parse::<Channel>().is_ok_and(|channel| self.is_release(&channel, flists))
            })
            .map(|claims| (claims.run_mode.as_str(), claims.channel.as_str()))
            .collect();
        let named: Vec<_> = channels.iter().map(|(mode, channel)| format!("{mode} ({channel})")).collect();
        (!named.is_empty()).then(|| named.join(" and "))
    }

    /// What of these flists is signed for the followers of this channel as a part of another release: a flist is a part
    /// of one release of a run mode only.
    fn taken(
        &self,
        channel: &Channel,
        version: Option<&Version>,
        flists: &[(&str, &FlistName)],
    ) -> Option<&Claims> {
        let (run_mode, name) = (followed_by(channel)?, channel.to_string());
        self.signed.iter().find(|claims| {
            claims.run_mode == run_mode
                && flists.iter().any(|(_, flist)| claims.flist == **flist)
                && (claims.channel != name || version.is_some_and(|version| claims.version != *version))
        })
    }

    /// The command that signs flists on this hub for a channel, behind the one that takes back what would keep it from that.
    fn how_to_sign(
        &self,
        hub: &str,
        channel: &Channel,
        version: Option<&Version>,
        flists: &[(&str, &FlistName)],
    ) -> String {
        let sign = sign_command(&on_hub(hub), channel, followed_by(channel), version, flists);
        match self.taken(channel, version, flists) {
            None => sign,
            Some(part) => {
                let withdraw = withdraw_command(hub, part.run_mode, &part.channel, &part.version);
                format!("{withdraw} && {sign}")
            }
        }
    }

    /// What is told of flists that are on this hub while no link of nodes leads to them: what signs them, for one channel
    /// as an example; `None` where they are signed for that.
    pub(in crate::cli) fn unsigned_yet(
        &self,
        hub: &str,
        what: &str,
        channel: &Channel,
        version: Option<&Version>,
        flists: &[(&str, &FlistName)],
    ) -> Option<String> {
        let names: Vec<&FlistName> = flists.iter().map(|(_, flist)| *flist).collect();
        if self.is_release(channel, &names) {
            return None;
        }
        let sign = self.how_to_sign(hub, channel, version, flists);
        let standing = match self.signed_for(&names) {
            Some(others) => format!(
                "{what} is signed for {others} only: other nodes with a root of trust do not install it before it is signed for them too"
            ),
            None => {
                format!("{what} is not signed: nodes with a root of trust do not install it before it is")
            }
        };
        Some(format!(
            "WARNING: this hub has signed releases, and {standing}; for those that follow {channel} this signs it: {sign}"
        ))
    }

    fn of(&self, channel: &Channel) -> impl Iterator<Item = &Claims> {
        let channel = channel.to_string();
        self.signed.iter().filter(move |claims| claims.channel == channel)
    }

    /// Whether nodes with a root of trust may follow this channel: by its name, or because something is signed for it.
    fn is_followed(&self, channel: &Channel) -> bool {
        followed_by(channel).is_some() || self.of(channel).next().is_some()
    }
}

/// A file of the metadata, if it is there and is JSON.
async fn read(source: &Source, name: &str, limit: u64) -> Result<Option<Value>, Failure> {
    match source.open(name, limit).await? {
        Some(body) => Ok(serde_json::from_slice(&body.all().await?).ok()),
        None => Ok(None),
    }
}

/// Refuses to let a link lead to what nodes with a root of trust would not install from it, where the hub has signed
/// releases. What is not there at all is told as that.
pub(in crate::cli) async fn check_link(
    client: &HubClient,
    link: &Channel,
    target: Target<'_>,
) -> Result<(), Failure> {
    let Some(signatures) = Signatures::on(client).await? else { return Ok(()) };
    if !signatures.is_followed(link) {
        return Ok(());
    }
    let read;
    let (name, version, flists, is_signed) = match &target {
        Target::Flist(flist) => {
            client.light(flist).await?;
            let version = ReleaseVersion::in_name(flist).semver().cloned();
            let is_signed = signatures.has(link, flist);
            (flist.to_string(), version, vec![(flist.package(), *flist)], is_signed)
        }
        Target::Tag(tag, entries) => {
            let entries: &BTreeMap<_, _> = match entries {
                Some(entries) => entries,
                None => {
                    read = entries_of(client, tag).await?;
                    &read
                }
            };
            let flists: Vec<&FlistName> = entries.values().collect();
            (tag.to_string(), tag.version(), in_order(entries), signatures.is_release(link, &flists))
        }
    };
    if is_signed {
        return Ok(());
    }
    let names: Vec<&FlistName> = flists.iter().map(|(_, flist)| *flist).collect();
    let others =
        signatures.signed_for(&names).map(|others| format!(", only for {others}")).unwrap_or_default();
    let message = format!(
        "nothing was changed: this hub has signed releases, and {name} is not signed for {link}{others}, so nodes with a root of trust do not install it from there"
    );
    let sign = signatures.how_to_sign(client.url(), link, version.as_ref(), &flists);
    let first = match signatures.taken(link, version.as_ref(), &flists) {
        None => "sign it first".to_owned(),
        Some(part) => format!(
            "{} is a part of version {} of {}, and of a run mode a flist is a part of one release only, so publish it under another name for this one; or take that back from nodes that do not have it yet, and sign it for this one",
            part.flist, part.version, part.channel
        ),
    };
    let remedy = format!(
        "{first}: {sign}; or say --unsigned, to move the link for nodes without a root of trust alone"
    );
    Err(Failure { remedy: Some(remedy), ..Failure::new(Exit::Refused, message) })
}

/// The flists of a tag on a hub, by package.
pub(in crate::cli) async fn entries_of(
    client: &HubClient,
    tag: &TagName,
) -> Result<BTreeMap<String, FlistName>, Failure> {
    let entries = client.tag(tag).await?.into_iter().filter(|entry| entry.kind == Kind::Symlink);
    let flist = |target: &str| match target.contains('/') {
        true => target.parse().ok(),
        false => FlistName::new(tag.repo(), target).ok(),
    };
    let named = entries.filter_map(|entry| Some((entry.name, flist(entry.target.as_deref()?)?)));
    Ok(named.collect())
}

/// The flists of a tag in the order in which they are signed: nodes boot from the last one.
pub(in crate::cli) fn in_order(entries: &BTreeMap<String, FlistName>) -> Vec<(&str, &FlistName)> {
    let boot = Packages::default().boot;
    let packages =
        entries.iter().map(|(entry, flist)| (entry.strip_suffix(".flist").unwrap_or(entry), flist));
    let (last, others): (Vec<_>, Vec<_>) = packages.partition(|(package, _)| *package == boot);
    others.into_iter().chain(last).collect()
}

/// The command that signs what is on a hub, by options that say `which` repository and hub, with words in capitals for
/// what is not known.
pub(in crate::cli) fn sign_command(
    which: &str,
    channel: &Channel,
    run_mode: Option<RunMode>,
    version: Option<&Version>,
    flists: &[(&str, &FlistName)],
) -> String {
    let flist = |(package, flist): &(&str, &FlistName)| match *package == flist.package() {
        true => flist.to_string(),
        false => format!("{package}={flist}"),
    };
    let flists: Vec<String> = flists.iter().map(flist).collect();
    format!(
        "flist trust release {which} --run-mode {} --channel {channel} --version {} {}",
        run_mode.map_or("MODE", RunMode::as_str),
        version.map_or("VERSION".to_owned(), Version::to_string),
        flists.join(" ")
    )
}

/// The command that takes a signed release back, with a word in capitals for the repository, which is not known.
pub(super) fn withdraw_command(hub: &str, run_mode: RunMode, channel: &str, version: &Version) -> String {
    let which = on_hub(hub);
    format!("flist trust withdraw --dir DIR {which} --run-mode {run_mode} --channel {channel} {version}")
}

fn on_hub(hub: &str) -> String {
    format!("--hub {}", shown_address(hub).trim_end_matches('/'))
}

#[cfg(test)]
mod tests {
    use flist::hub::{ReleaseId, Sha256};

    use super::*;

    fn claims(flist: &str, channel: &str, release: u8) -> Claims {
        let flist: FlistName = flist.parse().unwrap();
        Claims {
            name: flist.package().to_owned(),
            version: "1.2.0".parse().unwrap(),
            run_mode: RunMode::Prod,
            release: ReleaseId::of([("x", Sha256::of(&[release]))]),
            channel: channel.to_owned(),
            flist,
            index: 0,
            minimum_version: None,
            architecture: None,
            hardware: None,
            schema_floor: None,
        }
    }

    #[test]
    fn only_a_whole_release_of_this_channel_is_signed_for_it() {
        let link = "a/zos:production:latest.flist";
        let signed = vec![
            claims("a/zos:v1.flist", link, 1),
            claims("a/net:v1.flist", "a/production", 2),
            claims("a/zos:v2.flist", "a/production", 2),
            claims("a/app:v1.flist", "a/stable", 3),
        ];
        let signatures = Signatures { signed };
        let is_release = |channel: &str, flists: &[&str]| {
            let flists: Vec<FlistName> = flists.iter().map(|flist| flist.parse().unwrap()).collect();
            let flists: Vec<&FlistName> = flists.iter().collect();
            signatures.is_release(&channel.parse().unwrap(), &flists)
        };
        let has =
            |channel: &str, flist: &str| signatures.has(&channel.parse().unwrap(), &flist.parse().unwrap());
        assert!(has(link, "a/zos:v1.flist") && !has(link, "a/zos:v2.flist"));
        assert!(is_release("a/production", &["a/zos:v2.flist", "a/net:v1.flist"]));
        for (channel, flists) in [
            ("a/production", &["a/zos:v2.flist"][..]),
            ("a/production", &["a/zos:v2.flist", "a/net:v1.flist", "a/more:v1.flist"]),
            ("a/testing", &["a/zos:v2.flist", "a/net:v1.flist"]),
            (link, &[]),
        ] {
            assert!(!is_release(channel, flists), "{channel} {flists:?}");
        }
        let signed_for = |flists: &[&str]| {
            let flists: Vec<FlistName> = flists.iter().map(|flist| flist.parse().unwrap()).collect();
            signatures.signed_for(&flists.iter().collect::<Vec<_>>())
        };
        assert_eq!(signed_for(&["a/zos:v1.flist"]).unwrap(), format!("prod ({link})"));
        assert_eq!(signed_for(&["a/zos:v2.flist"]), None, "a part of a release is none");
        let followed = |channel: &str| signatures.is_followed(&channel.parse().unwrap());
        assert!(followed("a/x:testing:latest.flist") && followed("b/qa") && followed("a/stable"));
        assert!(!followed("a/zos:newest.flist") && !followed("b/stable"));
    }
}
