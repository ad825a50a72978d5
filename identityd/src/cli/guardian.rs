//! `identityd guardian`: started by identityd itself, never by people.

use std::ffi::OsString;

use super::{CommandResult, other};

/// Watch over a handover.
#[derive(clap::Args)]
pub(super) struct Arguments {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

pub(super) fn run(arguments: &Arguments) -> CommandResult {
    super::daemon::start_log(super::daemon::LogFormat::Text, "info");
    identityd::handover::guardian(&arguments.arguments).map_err(other)
}
