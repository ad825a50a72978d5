//! Releases that are no good, each in its own way.

use std::fs;

use crate::Payload;
use crate::error::{Doing, Error};

/// The service that is broken.
pub(super) const VICTIM: &str = "victim";

/// Its program, a copy of the web service's.
pub(super) const PROGRAM: &str = "/usr/bin/victim";

/// Its unit in good releases.
pub(super) const GOOD_UNIT: &str = "exec: /usr/bin/victim --listen 127.0.0.1:8001\n";

/// Where the machine is in the header of an ELF file, and the number of a machine that no node is.
const MACHINE: usize = 18;
const SPARC: [u8; 2] = [2, 0];

/// What is wrong with a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum BadRelease {
    /// A service exits with 1 at once.
    Exits,
    /// A service exits with 1 a moment after its start, every time.
    CrashLoops,
    /// A oneshot never ends.
    Hangs,
    /// A service never passes its test.
    NeverReady,
    /// A program needs a library that is not there.
    MissingLibrary,
    /// A program is for another machine.
    WrongArchitecture,
    /// A unit is no YAML.
    BadUnit,
    /// Two services come after each other.
    Cycle,
}

impl BadRelease {
    /// All kinds.
    pub const ALL: [Self; 8] = [
        Self::Exits,
        Self::CrashLoops,
        Self::Hangs,
        Self::NeverReady,
        Self::MissingLibrary,
        Self::WrongArchitecture,
        Self::BadUnit,
        Self::Cycle,
    ];

    /// Whether that is found before a service is touched: by the plan, or by the rehearsal.
    pub(super) fn is_found_before(self) -> bool {
        match self {
            Self::MissingLibrary | Self::WrongArchitecture | Self::BadUnit | Self::Cycle => true,
            Self::Exits | Self::CrashLoops | Self::Hangs | Self::NeverReady => false,
        }
    }

    /// Makes a good payload bad.
    pub(super) fn spoil(self, payload: &Payload) -> Result<(), Error> {
        match self {
            Self::Exits => payload.unit(VICTIM, "exec: sh -c 'exit 1'\n")?,
            Self::CrashLoops => payload.unit(VICTIM, "exec: sh -c 'sleep 0.3; exit 1'\n")?,
            Self::Hangs => payload.unit(VICTIM, "exec: sleep 4000000\noneshot: true\n")?,
            Self::NeverReady => payload.unit(VICTIM, "exec: sleep 4000000\ntest: \"false\"\n")?,
            Self::MissingLibrary => {
                return patch(payload, |program| {
                    let needed = b"libc.so.6\0";
                    let at = program.windows(needed.len()).position(|window| window == needed)?;
                    program.get_mut(at..at + 4)?.copy_from_slice(b"gone");
                    Some(())
                });
            }
            Self::WrongArchitecture => {
                return patch(payload, |program| {
                    program.get_mut(MACHINE..MACHINE + SPARC.len())?.copy_from_slice(&SPARC);
                    Some(())
                });
            }
            Self::BadUnit => payload.unit(VICTIM, "exec: [\n")?,
            Self::Cycle => payload
                .unit(VICTIM, &format!("{GOOD_UNIT}after: [other]\n"))?
                .unit("other", &format!("exec: sleep 4000001\nafter: [{VICTIM}]\n"))?,
        };
        Ok(())
    }
}

fn patch(payload: &Payload, change: impl FnOnce(&mut [u8]) -> Option<()>) -> Result<(), Error> {
    let path = payload.directory().join(PROGRAM.trim_start_matches('/'));
    let mut program = fs::read(&path).doing(|| format!("read {}", path.display()))?;
    change(&mut program).ok_or_else(|| Error::Unexpected(format!("{PROGRAM} is not linked as expected")))?;
    payload.file(PROGRAM, 0o755, program).map(drop)
}
