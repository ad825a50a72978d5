//! The end of the machine, when the supervisor is its first process and not in a container.

use std::convert::Infallible;
use std::io;

use nix::sys::reboot::{RebootMode, reboot};

use crate::console::Console;

/// What comes after the supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The machine goes off.
    PowerOff,
    /// It starts again.
    Reboot,
}

/// Whether this process is the first of a machine, whose end would be the kernel's panic. The first one of a
/// pid namespace looks the same, and what it then asks for ends only its namespace, reboot(2).
pub(crate) fn is_ours(container: bool) -> bool {
    !container && std::process::id() == 1
}

/// Writes everything to the disks and ends the machine. Returns only when the kernel refuses.
pub(crate) fn end(ending: Ending, console: Console) -> io::Result<Infallible> {
    console.info(format_args!("the machine ends: {ending:?}"));
    nix::unistd::sync();
    let mode = match ending {
        Ending::PowerOff => RebootMode::RB_POWER_OFF,
        Ending::Reboot => RebootMode::RB_AUTOBOOT,
    };
    Ok(reboot(mode)?)
}
