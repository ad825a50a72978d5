//! `flist tag`

use std::collections::BTreeMap;

use flist::hub::{FlistName, TagName};
use serde_json::json;

use super::failure::Failure;
use super::hub_access::HubAccess;
use super::output::{Output, counted};

/// Make a tag: a named set of flists that belong together, such as one version of everything a node needs.
///
/// Nodes follow a tag through a taglink, which `flist link` makes. All entries change in one step.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    #[command(flatten)]
    access: HubAccess,
    /// Give other entries to a tag that is a version
    #[arg(long)]
    replace: bool,
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
    let Arguments { access, replace, tag, entries } = arguments;
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
    access.run(async |client| client.put_tag(&tag, &named, replace).await.map_err(failed))?;
    let said = json!({"tag": tag.to_string(), "entries": named});
    output.done(&said, || format!("{tag} has {}", counted(named.len() as u64, "flist")))
}
