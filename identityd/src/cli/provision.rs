//! `identityd provision`

use std::path::PathBuf;

use bootstrap::provision::provision;

use super::{CommandResult, other, print};

/// Give this node its roots of trust and its configuration: root.json, director.json and config.yaml of a directory.
///
/// Everything is checked first. It can be interrupted and done again; what is there already is left alone.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// The root file system
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// The directory with the files
    directory: PathBuf,
}

const EXAMPLES: &str = "Examples:
  identityd provision /media/usb/molt
  identityd provision --root /mnt/image molt";

pub(super) fn run(Arguments { root, directory }: &Arguments) -> CommandResult {
    let changed = provision(root, directory).map_err(other)?;
    print(&match changed.as_slice() {
        [] => "nothing has changed\n".to_owned(),
        changed => format!(
            "{} written to {}; restart identityd to use them\n",
            changed.join(", "),
            root.join("etc/molt").display()
        ),
    })
}
