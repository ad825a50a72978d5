//! The command line of `bootstrap`.

use clap::{CommandFactory, Parser};
use flist::exit::EXIT_CODES;

use crate::settings::Overrides;

/// Installs the run mode's flist into the root file system and asks zinit to monitor its services.
///
/// Run mode, flist and hub come from /etc/molt/config.yaml, from the kernel command line (`runmode=`, `flist=`,
/// `hub=`), or from the arguments below, the last one winning.
#[derive(Debug, Parser)]
#[command(name = "bootstrap", version, after_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"))]
pub struct Arguments {
    /// Log nothing but errors
    #[arg(short, long)]
    pub quiet: bool,
    /// Run the worker again, with growing pauses, until it has committed; for the boot unit
    #[arg(long)]
    pub supervise: bool,
    /// Reboot unless identityd says within so many seconds that all is well with this kernel
    #[arg(long, value_name = "SECONDS", hide = true)]
    pub kernel_guard: Option<u32>,
    /// What wins over all other settings
    #[command(flatten)]
    pub overrides: Overrides,
}

const EXAMPLES: &str = "Examples:
  bootstrap --supervise                                  what the boot unit runs
  bootstrap --hub http://10.0.2.2:8080 --run-mode dev    another hub and channel than configured
  bootstrap --flist tf-zos/zos:v1.0.0.flist              this release";

/// The command line as data, for manual pages and completions.
pub fn command() -> clap::Command {
    Arguments::command()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    #[test]
    fn the_command_line_is_consistent() {
        super::command().debug_assert();
        let examples = super::EXAMPLES.lines().skip(1);
        for example in examples.map(|line| line.trim().split("   ").next().unwrap_or_default()) {
            let parsed = super::Arguments::try_parse_from(example.split(' '));
            assert!(parsed.is_ok(), "{example}: {parsed:?}");
        }
    }
}
