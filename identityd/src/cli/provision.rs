//! `identityd provision`

use std::path::PathBuf;

use bootstrap::provision::{ProvisionError, Provisioning};
use bootstrap::source::is_in_ram;
use serde_json::json;

use super::{CommandResult, Failure, other, print, print_json};

/// Give this node its roots of trust, its secrets for the hub and its configuration: root.json, director.json,
/// hub.token, hub.pem and config.yaml of a directory.
///
/// Everything is checked first. It can be interrupted and done again; a file that is there with other content is only
/// replaced with --replace, because it decides whom this node believes.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// The root file system
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// Replace files that are there with other content
    #[arg(long)]
    replace: bool,
    /// Print the result, or the error, as JSON on standard output
    #[arg(long)]
    json: bool,
    /// The directory with the files
    directory: PathBuf,
}

const EXAMPLES: &str = "Examples:
  identityd provision /media/usb/molt
  identityd provision --root /mnt/image molt
  identityd provision --replace /media/usb/molt";

/// Files of the node that are there with other content.
#[derive(Debug, thiserror::Error)]
#[error("{files} are in {place} with other content; nothing was changed; to replace them, use --replace")]
struct Different {
    files: String,
    place: String,
}

pub(super) fn run(Arguments { root, replace, json, directory }: &Arguments) -> CommandResult {
    let at = root.join("etc/molt");
    let place = at.display().to_string();
    // What is wrong is said before what would be lost.
    let provisioning = Provisioning::check(root, directory).map_err(failed)?;
    let different = if *replace { Vec::new() } else { provisioning.differing().map_err(failed)? };
    if !different.is_empty() {
        return Err(Failure::Refused(Box::new(Different { files: different.join(", "), place })));
    }
    let changed = provisioning.carry_out().map_err(failed)?;
    let in_ram = is_in_ram(&at);
    if in_ram {
        eprintln!(
            "identityd: WARNING: {place} lies in RAM, so these files are gone at the next boot; put them into the base image as well: without its root of trust a node that had one installs nothing, and one that has lost its state as well believes any hub"
        );
    }
    match changed.as_slice() {
        changed if *json => print_json(&json!({"directory": place, "written": changed, "in_ram": in_ram})),
        [] => print("nothing has changed"),
        changed => {
            print(&format!("{} written to {place}; restart identityd to use them", changed.join(", ")))
        }
    }
}

fn failed(error: ProvisionError) -> Failure {
    match error {
        ProvisionError::File { .. } => other(error),
        // What was given is wrong.
        error => Failure::Usage(Box::new(error)),
    }
}
