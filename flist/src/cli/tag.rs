//! `flist tag`

use std::collections::BTreeMap;

use flist::format;
use flist::hub::{Channel, Download, FlistName, HubClient, MAX_FLIST, RunMode, TagName, TaglinkName};
use flist::merge::merge;
use flist::tree::Limits;
use serde_json::json;

use super::failure::Failure;
use super::hub_access::HubAccess;
use super::output::{Output, counted};
use super::trust::{Signatures, Target, Unsigned, check_link, in_order};

/// Make a tag: a named set of flists that belong together, such as one version of everything a node needs.
///
/// Nodes follow a tag through a taglink, which --run-mode moves, or `flist link`. All entries change in one step.
/// Flists that a node could not install together are refused.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    #[command(flatten)]
    access: HubAccess,
    /// Give other entries to a tag that is a version
    #[arg(long)]
    replace: bool,
    /// Then move the taglink of this run mode (dev, test, prod, qa) to the tag
    #[arg(long, value_name = "MODE")]
    run_mode: Option<RunMode>,
    /// Do not look whether the flists fit together
    #[arg(long)]
    no_check: bool,
    #[command(flatten)]
    unsigned: Unsigned,
    /// The tag: <repo>/tags/<tag>
    #[arg(value_name = "TAG")]
    tag: TagName,
    /// The flists: <repo>/<name>.flist, or <entry>=<repo>/<name>.flist where the entry is to have another name
    /// than the package
    #[arg(value_name = "[ENTRY=]FLIST", required = true)]
    entries: Vec<TagEntry>,
}

const EXAMPLES: &str = "Examples:
  flist tag --hub http://127.0.0.1:8080 tf-zos/tags/1.0.0 tf-autobuilder/zos:v1.0.0.flist
  flist tag --hub https://hub.example tf-zos/tags/1.1.0 zos=builds/zos:v1.1.0.flist netd=builds/net-7.flist
  flist tag --hub https://hub.example --run-mode prod tf-zos/tags/1.1.0 builds/zos:v1.1.0.flist builds/net:v7.flist
  flist link --hub https://hub.example tf-zos/production tf-zos/tags/1.1.0";

#[derive(Clone)]
struct TagEntry {
    file: String,
    flist: FlistName,
}

impl std::str::FromStr for TagEntry {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (entry, flist) = match text.split_once('=') {
            Some((entry, flist)) => (Some(entry), flist),
            None => (None, text),
        };
        let flist: FlistName = flist.parse().map_err(|error: flist::hub::NameError| error.to_string())?;
        let entry = entry.unwrap_or(flist.package());
        let file = format!("{}.flist", entry.strip_suffix(".flist").unwrap_or(entry));
        Ok(Self { file, flist })
    }
}

pub(super) fn run(arguments: Arguments, output: &Output) -> super::Outcome {
    let Arguments { access, replace, run_mode, no_check, unsigned: Unsigned { unsigned }, tag, entries } =
        arguments;
    let link = run_mode.map(|mode| TaglinkName::new(tag.repo(), mode.hub_name())).transpose()?;
    let mut named = BTreeMap::new();
    for TagEntry { file, flist } in entries {
        if let Some(other) = named.insert(file.clone(), flist) {
            return Err(Failure::usage(format!(
                "two flists would be {file} in the tag, one of them {other}; name them with ENTRY=FLIST"
            )));
        }
    }
    let failed =
        |error| Failure::from(error).or_insist("to give it these entries all the same, use --replace");
    let warning = access.run(async |client| {
        let warning = match (&link, unsigned) {
            (_, true) => None,
            (Some(link), false) => {
                let link = Channel::Taglink(link.clone());
                check_link(&client, &link, Target::Tag(&tag, Some(&named))).await.map(|()| None)?
            }
            (None, false) => unsigned_tag(&client, &tag, &named).await?,
        };
        if !no_check && named.len() > 1 {
            check(&client, &named).await?;
        }
        client.put_tag(&tag, &named, replace).await.map_err(failed)?;
        if let Some(link) = &link {
            client.put_taglink(link, &tag).await?;
        }
        Ok(warning)
    })?;
    let link = link.as_ref().map(ToString::to_string);
    let mut said = json!({"tag": tag.to_string(), "entries": named, "link": link});
    if let Some(warning) = &warning {
        said["warning"] = warning.clone().into();
    }
    output.done(&said, || {
        let has = format!("{tag} has {}", counted(named.len() as u64, "flist"));
        let has = link.iter().fold(has, |has, link| format!("{has}\n{link} now points to it"));
        warning.iter().fold(has, |has, warning| format!("{has}\n{warning}"))
    })
}

/// What nodes with a root of trust make of a tag that no taglink leads to yet.
async fn unsigned_tag(
    client: &HubClient,
    tag: &TagName,
    entries: &BTreeMap<String, FlistName>,
) -> Result<Option<String>, Failure> {
    let Some(signatures) = Signatures::on(client).await? else { return Ok(None) };
    let channel = Channel::Taglink(TaglinkName::new(tag.repo(), RunMode::Prod.hub_name())?);
    let (flists, version) = (in_order(entries), tag.version());
    Ok(signatures.unsigned_yet(client.url(), &tag.to_string(), &channel, version.as_ref(), &flists))
}

/// Refuses flists that a node could not install together.
async fn check(client: &HubClient, entries: &BTreeMap<String, FlistName>) -> Result<(), Failure> {
    let limits = Limits::default();
    let mut trees = Vec::new();
    for (file, flist) in entries {
        if let Download::Content { bytes, .. } = client.download(flist, None, MAX_FLIST).await? {
            trees.push((file.strip_suffix(".flist").unwrap_or(file), format::parse(&bytes, &limits)?));
        }
    }
    let trees: Vec<_> = trees.iter().map(|(package, tree)| (*package, tree)).collect();
    merge(&trees, &limits)?;
    Ok(())
}
