//! `identityd provision`

use std::path::{Path, PathBuf};

use bootstrap::provision::{Missing, ProvisionError, Provisioning};
use serde_json::json;

use super::{CommandResult, Failure, other, print, print_json};

/// The file that identityd reads only when it starts.
const CONFIGURATION: &str = "config.yaml";

/// So many names of what is not taken are told at most.
const NAMES: usize = 10;

/// Give this node its roots of trust, its secrets for the hub and its configuration: root.json, director.json,
/// hub.token, hub.pem and config.yaml of a directory.
///
/// Everything is checked first, and what else is in the directory is named. It can be interrupted and done again; a file
/// that is there with other content is only replaced with --replace, because it decides whom this node believes.
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
    // What is wrong is said before what would be lost.
    let provisioning = Provisioning::check(root, directory).map_err(failed)?;
    let place = provisioning.place().display().to_string();
    let different = if *replace { Vec::new() } else { provisioning.differing().map_err(failed)? };
    if !different.is_empty() {
        return Err(Failure::Refused(Box::new(Different { files: different.join(", "), place })));
    }
    let changed = provisioning.carry_out().map_err(failed)?;
    let in_ram = provisioning.is_in_ram();
    let untrusting = provisioning.untrusting().map_err(failed)?;
    let misses_director = provisioning.misses_director().map_err(failed)?;
    let from = directory.display().to_string();
    let told = [
        not_taken(provisioning.not_taken())
            .map(|names| format!("{from} has also {names}, which is not taken")),
        in_ram.then(|| lies_in_ram(&place)),
        untrusting.as_ref().map(|untrusting| trusts_nobody(untrusting, &from)),
        misses_director.as_ref().map(|missing| lacks_director(missing, &from)),
    ];
    for told in told.into_iter().flatten() {
        eprintln!("identityd: {told}");
    }
    match changed.as_slice() {
        changed if *json => print_json(&json!({
            "directory": place, "written": changed, "not_taken": provisioning.not_taken(), "in_ram": in_ram,
            "has_root_of_trust": untrusting.is_none(), "misses_director": misses_director.is_some(),
        })),
        [] => print("nothing has changed"),
        changed if root == Path::new("/") => {
            print(&format!("{} written to {place}; {}", changed.join(", "), used_from(changed)))
        }
        changed => print(&format!("{} written to {place}", changed.join(", "))),
    }
}

/// From when on what was written counts on a node that runs.
fn used_from(changed: &[&str]) -> &'static str {
    match changed.contains(&CONFIGURATION) {
        true => "restart identityd, which reads its configuration when it starts",
        false => "used from the next poll on",
    }
}

/// The first names, and how many there are more.
fn not_taken(names: &[String]) -> Option<String> {
    let (first, more) = names.split_at(names.len().min(NAMES));
    match more.len() {
        0 if first.is_empty() => None,
        0 => Some(first.join(", ")),
        more => Some(format!("{} and {more} more", first.join(", "))),
    }
}

fn lies_in_ram(place: &str) -> String {
    format!(
        "WARNING: {place} lies in RAM, so that what was put there is gone at the next boot; put the same files into the base image. A node whose root of trust is gone installs nothing until it is there again, and one that has lost /var/lib/molt as well believes any hub"
    )
}

fn trusts_nobody(Missing { path, known }: &Missing, from: &str) -> String {
    let path = path.display();
    let remedy =
        format!("put the root.json of the releases into {from} and do this again, or into the base image");
    match known {
        Some(known) => format!(
            "WARNING: the root of trust {path} is gone, and this node has trusted one before ({}), so it installs nothing from now on; {remedy}",
            known.display()
        ),
        None => format!(
            "WARNING: there is no root of trust {path}, so this node installs whatever a hub says; {remedy}"
        ),
    }
}

fn lacks_director(Missing { path, known }: &Missing, from: &str) -> String {
    let known = known.as_ref().map(|known| format!(" ({})", known.display())).unwrap_or_default();
    format!(
        "WARNING: the director's root {} is gone, and this node has followed a director before{known}, so it installs nothing from now on; put the director.json into {from} and do this again, or say `trust: {{director: none}}` in its config.yaml, to follow none any more",
        path.display()
    )
}

fn failed(error: ProvisionError) -> Failure {
    match error {
        ProvisionError::File { .. } => other(error),
        // What was given is wrong.
        error => Failure::Usage(Box::new(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_not_taken_are_told_up_to_a_limit() {
        let names = |count: usize| (0..count).map(|number| format!("f{number}")).collect::<Vec<_>>();
        assert_eq!(not_taken(&names(0)), None);
        assert_eq!(not_taken(&names(2)).unwrap(), "f0, f1");
        assert_eq!(not_taken(&names(12)).unwrap(), "f0, f1, f2, f3, f4, f5, f6, f7, f8, f9 and 2 more");
    }

    #[test]
    fn a_node_is_restarted_only_for_its_configuration() {
        assert!(used_from(&["root.json", "config.yaml"]).contains("restart identityd"));
        assert!(!used_from(&["root.json", "hub.token"]).contains("restart"));
    }

    #[test]
    fn a_node_that_misses_its_director_is_told_what_that_means_and_what_to_do() {
        let known = Some("/var/lib/molt/director/root.json".into());
        let said = lacks_director(&Missing { path: "/etc/molt/director.json".into(), known }, "/media/usb");
        for part in [
            "director.json is gone",
            "/var/lib/molt/director",
            "installs nothing",
            "into /media/usb",
            "director: none",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
    }

    #[test]
    fn a_node_without_a_root_of_trust_is_told_what_that_means_and_what_to_do() {
        let untrusting = |known: Option<&str>| {
            let path = "/etc/molt/root.json".into();
            trusts_nobody(&Missing { path, known: known.map(Into::into) }, "/media/usb")
        };
        let (never, gone) = (untrusting(None), untrusting(Some("/var/lib/molt/trust/root.json")));
        assert!(never.contains("installs whatever a hub says"), "{never}");
        assert!(gone.contains("is gone") && gone.contains("installs nothing from now on"), "{gone}");
        for said in [never, gone] {
            assert!(
                said.contains("/etc/molt/root.json") && said.contains("into /media/usb and do this again")
            );
        }
    }
}
