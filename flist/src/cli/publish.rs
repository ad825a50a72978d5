//! `flist publish`

mod signing;
mod unsigned;

use std::collections::BTreeMap;
use std::path::PathBuf;

use flist::format::Format;
use flist::hub::RunMode;
use flist::pack::PackSummary;
use flist::publish::{Publication, Published, PublishedTag, ask, publish, publish_tag};
use flist::tree::Route;
use serde_json::{Value, json};

use super::failure::Failure;
use super::hub_access::{HubAccess, version};
use super::lint::Gate;
use super::output::{Output, counted, counted_entries};
use super::pack::published;
use super::trust::{ConditionOptions, TrustAccess, Unsigned, outcome_json, outcome_text};
use signing::{Signed, Signing};

/// Pack a directory and publish it on a hub: blocks first, then the versioned flist, then the link that
/// nodes follow.
///
/// Several directories, each as PACKAGE=DIR, are published as one release: a flist of each, then a tag of all of
/// them, then the taglink <repo>/<run mode>. Publishing the same content again changes nothing.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    #[command(flatten)]
    access: HubAccess,
    /// Repository on the hub
    #[arg(long)]
    repo: String,
    /// Name of the flist, without version and ending; not given for several packages
    #[arg(long)]
    name: Option<String>,
    /// Version of the release, three numbers: 1.0.0
    #[arg(long, value_parser = version)]
    version: semver::Version,
    /// Give other content to a version that is on the hub already
    #[arg(long)]
    replace: bool,
    /// Move the link, or the taglink, of this run mode (dev, test, prod, qa) to the new version
    #[arg(long, value_name = "MODE")]
    run_mode: Option<RunMode>,
    /// Address of the block store, as nodes reach it; by default /store of the hub
    #[arg(long, value_name = "URL")]
    route: Option<String>,
    /// Write the password of the block store into the flist, so that all its readers know it
    #[arg(long, requires = "route")]
    keep_passwords: bool,
    /// Sign it as the release of its run mode, before the link moves
    #[arg(long, requires = "run_mode", conflicts_with = "unsigned")]
    sign: bool,
    #[command(flatten)]
    unsigned: Unsigned,
    #[command(flatten)]
    trust: TrustAccess,
    #[command(flatten)]
    conditions: ConditionOptions,
    /// Format of the flist: fl or classic
    #[arg(long, value_name = "FORMAT", default_value = "fl")]
    format: Format,
    #[command(flatten)]
    gate: Gate,
    /// The directory to publish; without --name, the packages of a release
    #[arg(value_name = "DIR | PACKAGE=DIR", required = true)]
    directories: Vec<PathBuf>,
}

const EXAMPLES: &str = "Examples:
  flist publish --hub http://127.0.0.1:8080 --repo tf-zos --name zos --version 1.0.0 --run-mode dev ./app
  flist publish --hub http://127.0.0.1:8080 --repo tf-zos --name zos --version 1.0.0 --replace ./app
  flist publish --hub http://127.0.0.1:8080 --repo tf-zos --version 1.0.0 --run-mode dev zos=./app net=./net
  flist publish --hub http://127.0.0.1:8080 --repo tf-zos --name zos --version 1.0.0 --run-mode prod --sign --dir trust ./app
  flist publish --hub https://hub.example --token-file ~/.hub-token --repo tf-zos --name zos --version 1.1.0 ./app";

pub(super) fn run(arguments: Arguments, output: &Output) -> super::Outcome {
    let Arguments { access, trust, conditions, gate, run_mode, sign, unsigned, .. } = arguments;
    let what = What::of(arguments.name, arguments.directories)?;
    // Found out before anything is sent: keys that are not there, a passphrase that is wrong.
    let signing = if sign { run_mode.map(|mode| Signing::open(&trust, mode)).transpose()? } else { None };
    let keep_passwords = arguments.keep_passwords;
    let route = arguments.route.map(|url| published(&Route::everything(url), keep_passwords)).transpose()?;
    let route = route.map(|route| route.url);
    let publication = Publication {
        token: access.token.token()?,
        access: access.shown()?,
        hub: access.hub.clone(),
        repo: arguments.repo,
        version: arguments.version,
        // A link to what nobody has signed would lead nowhere.
        run_mode: run_mode.filter(|_| !sign),
        route,
        format: arguments.format,
        replace: arguments.replace,
    };
    if let Some(signing) = &signing {
        signing.check(&publication, &what)?;
    }
    // A hub that is not there is found before the directory is read, which takes its time.
    ask(&publication)?;
    let signatures = match sign || unsigned.unsigned {
        true => None,
        false => unsigned::allowed(&access, &publication, &what)?,
    };
    if let Some(path) = what.directories().iter().find(|path| !path.is_dir()) {
        return Err(Failure::usage(format!("cannot publish {}: there is no such directory", path.display())));
    }
    gate.check(&what.directories(), output)?;
    let unlinked = match (sign, publication.replace) {
        (true, _) => Unlinked::NotSignedByAll,
        (false, true) => Unlinked::Replaced,
        (false, false) => Unlinked::NoRunMode,
    };
    let (mut json, mut text, signed) =
        send(&access, &publication, what, signing, &conditions, unlinked, output)?;
    if let Some(Signed { directory, outcome, later }) = &signed {
        json["signed"] = outcome_json(outcome);
        let sent = outcome.waiting.is_empty().then_some(outcome.versions.len());
        let later = later.as_ref().map(|link| format!("; and when it is published: {link}"));
        text.push_str(&format!("\n{}{}", outcome_text(directory, outcome, sent), later.unwrap_or_default()));
    }
    if let Some(warning) = signatures {
        text.push_str(&format!("\n{warning}"));
        json["warning"] = warning.into();
    }
    output.done(&json, || text)
}

/// Packs, sends, and signs where that was asked for; what was done, for programs and for people.
fn send(
    access: &HubAccess,
    publication: &Publication,
    what: What,
    signing: Option<Signing>,
    conditions: &ConditionOptions,
    unlinked: Unlinked,
    output: &Output,
) -> Result<(Value, String, Option<Signed>), Failure> {
    let progress = output.progress("publishing");
    let failed = |error| Failure::from(error).or_insist("to replace this one, use --replace");
    match what {
        What::One(name, directory) => {
            let mut published = publish(publication, &name, &directory, &progress).map_err(failed)?;
            drop(progress);
            let finish = |signing: Signing| {
                signing.finish_flist(access, publication, &name, conditions, &mut published)
            };
            let signed = signing.map(finish).transpose()?;
            Ok((as_json(&published), text(&published, unlinked), signed))
        }
        What::Several(packages) => {
            let mut published = publish_tag(publication, &packages, &progress).map_err(failed)?;
            drop(progress);
            let finish =
                |signing: Signing| signing.finish_tag(access, publication, conditions, &mut published);
            let signed = signing.map(finish).transpose()?;
            Ok((tag_as_json(&published), tag_text(&published, unlinked), signed))
        }
    }
}

/// Why no link was moved, where none was.
#[derive(Clone, Copy)]
enum Unlinked {
    /// No run mode was given.
    NoRunMode,
    /// No run mode was given, and something that may have links already got other content.
    Replaced,
    /// Signatures are missing.
    NotSignedByAll,
}

/// What is to be published.
enum What {
    /// A directory under a name.
    One(String, PathBuf),
    /// Packages and their directories.
    Several(BTreeMap<String, PathBuf>),
}

impl What {
    fn of(name: Option<String>, directories: Vec<PathBuf>) -> Result<Self, Failure> {
        if let Some(name) = name {
            return match <[PathBuf; 1]>::try_from(directories) {
                Ok([directory]) => Ok(Self::One(name, directory)),
                Err(_) => Err(Failure::usage(
                    "--name is for one directory; name several as PACKAGE=DIR, without --name",
                )),
            };
        }
        let mut packages = BTreeMap::new();
        for directory in directories {
            let text = directory.to_string_lossy();
            let Some((package, directory)) = text.split_once('=') else {
                let message = format!("{text} has no name: give --name, or write PACKAGE={text}");
                return Err(Failure::usage(message));
            };
            if packages.insert(package.to_owned(), PathBuf::from(directory)).is_some() {
                return Err(Failure::usage(format!("package {package} is named twice")));
            }
        }
        Ok(Self::Several(packages))
    }

    fn directories(&self) -> Vec<PathBuf> {
        match self {
            Self::One(_, directory) => vec![directory.clone()],
            Self::Several(packages) => packages.values().cloned().collect(),
        }
    }
}

fn tag_as_json(PublishedTag { tag, link, packages }: &PublishedTag) -> Value {
    let packages: BTreeMap<_, _> =
        packages.iter().map(|(package, published)| (package, as_json(published))).collect();
    json!({"tag": tag.to_string(), "link": link.as_ref().map(ToString::to_string), "packages": packages})
}

fn tag_text(PublishedTag { tag, link, packages }: &PublishedTag, unlinked: Unlinked) -> String {
    let mut text: String = packages.values().map(|published| counts(published) + "\n").collect();
    let link = match (link, unlinked) {
        (Some(link), _) => format!("{link} now points to {tag}"),
        (None, Unlinked::NotSignedByAll) => {
            format!("no taglink leads to {tag} yet, because signatures are missing")
        }
        (None, Unlinked::Replaced) => format!("whatever taglink leads to {tag} leads to this content now"),
        (None, Unlinked::NoRunMode) => format!("no run mode was given, so no taglink leads to {tag} yet"),
    };
    text.push_str(&link);
    text
}

fn as_json(Published { flist, link, entries, summary, length, sha256 }: &Published) -> Value {
    json!({
        "flist": flist.to_string(),
        "link": link.as_ref().map(ToString::to_string),
        "length": length,
        "sha256": sha256,
        "entries": entries,
        "bytes": summary.bytes,
        "blocks": summary.blocks,
        "new_blocks": summary.new_blocks,
        "new_bytes": summary.new_bytes,
    })
}

fn text(published: &Published, unlinked: Unlinked) -> String {
    let link = match (&published.link, unlinked) {
        (Some(link), _) => format!("{link} now points to it"),
        (None, Unlinked::NotSignedByAll) => "no link was moved, because signatures are missing".to_owned(),
        (None, Unlinked::Replaced) => "whatever links to it leads to this content now".to_owned(),
        (None, Unlinked::NoRunMode) => "no run mode was given, so no link leads to it yet".to_owned(),
    };
    format!("{}\n{link}", counts(published))
}

/// How much of a flist there is.
fn counts(published: &Published) -> String {
    let PackSummary { bytes, blocks, new_blocks, new_bytes } = published.summary;
    format!(
        "{}: {}, {}; {new_blocks} of {} were new ({} sent)",
        published.flist,
        counted_entries(published.entries),
        counted(bytes, "byte"),
        counted(blocks as u64, "block"),
        counted(new_bytes, "byte")
    )
}
