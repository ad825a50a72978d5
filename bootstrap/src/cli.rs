//! The command line of `bootstrap`.

use clap::{CommandFactory, Parser};

use crate::settings::Overrides;

/// Installs the run mode's flist into the root file system and asks zinit to monitor its services.
///
/// Run mode, flist and hub come from the kernel command line (`runmode=`, `flist=`, `hub=`), from
/// /etc/molt/config.yaml, or from the arguments below, the last one winning. Exits with 0 when everything
/// is installed, 2 when the settings are wrong, 1 when something failed.
#[derive(Debug, Parser)]
#[command(name = "bootstrap", version)]
pub struct Arguments {
    /// Run the worker again, with growing pauses, until it has committed; for the boot unit
    #[arg(long)]
    pub supervise: bool,
    /// What wins over all other settings
    #[command(flatten)]
    pub overrides: Overrides,
}

/// The command line as data, for manual pages and completions.
pub fn command() -> clap::Command {
    Arguments::command()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_consistent() {
        super::command().debug_assert();
    }
}
