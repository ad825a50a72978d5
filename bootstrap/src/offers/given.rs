//! What a node was given: the roots that it trusts, and its name.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::{OffersError, TRUST};
use crate::durable;
use crate::settings::Settings;
use crate::state_place::StatePlace;

/// Largest root of trust, in bytes.
const MAX_ROOT: u64 = 1 << 20;

/// The file in the state directory with the id of a node that has no other.
const NODE_ID: &str = "node-id";

/// The director's root; `None` where there is none.
pub(super) fn director(settings: &Settings) -> Result<Option<Vec<u8>>, OffersError> {
    let path = &settings.trust.director;
    let failed = |source| OffersError::Root { path: path.clone(), source };
    match std::fs::File::open(path) {
        Ok(file) => read(file).map(Some).map_err(failed),
        Err(error) if error.kind() == ErrorKind::NotFound && !settings.trust.is_directed => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

/// What the director calls this node: what it was told, or the name that it has given itself, or what the machine is
/// called, or else a name that it gives itself now.
pub(super) fn node_id(settings: &Settings) -> String {
    let state = StatePlace::of(settings).directory();
    let own = state.join(NODE_ID);
    let text = |path: &Path| std::fs::read_to_string(path).ok();
    let found = Names {
        told: settings.trust.node_id.clone(),
        kept: text(&own),
        machine_id: text(&settings.root.join("etc/machine-id")),
        product_uuid: text("/sys/class/dmi/id/product_uuid".as_ref()),
    };
    found.id().unwrap_or_else(|| {
        // The kernel makes another one each time.
        let new = text("/proc/sys/kernel/random/uuid".as_ref()).unwrap_or_default().trim().to_owned();
        let kept =
            durable::private_directory(&state).and_then(|()| durable::replace(&own, new.as_bytes(), 0o600));
        if let Err(error) = kept {
            tracing::warn!(%error, "this node will have another place in waves after the next start");
        }
        new
    })
}

/// What a node may be called, as it is found.
struct Names {
    told: Option<String>,
    kept: Option<String>,
    machine_id: Option<String>,
    product_uuid: Option<String>,
}

/// What makers of boards write where a number of the machine belongs: thousands of machines have these.
const NOBODYS: [&str; 3] = [
    "03000200040005000006000700080009",
    "00020003000400050006000700080009",
    "123456781234567890abcddeefaabbcc",
];

impl Names {
    /// The first that tells this node from others. The one that it gave itself comes before those of the machine: it is
    /// kept only where there were none, and the node has had its place in waves by it since. Pure.
    fn id(&self) -> Option<String> {
        let named = |text: &Option<String>| {
            let text = text.as_ref()?.trim();
            (!text.is_empty()).then(|| text.to_owned())
        };
        // A base image may have `uninitialized` there, which systemd replaces, and nobody else.
        let machine_id = || named(&self.machine_id).filter(|id| is_unique(id) && id.len() == DIGITS);
        let uuid = || named(&self.product_uuid).filter(|id| is_unique(&id.replace('-', "")));
        named(&self.told).or_else(|| named(&self.kept)).or_else(machine_id).or_else(uuid)
    }
}

/// Digits of a machine's number.
const DIGITS: usize = 32;

/// Whether this is a number that one machine has: 32 hexadecimal digits, and not what many have. Pure.
fn is_unique(id: &str) -> bool {
    let id = id.to_ascii_lowercase();
    let digits: BTreeSet<u8> = id.bytes().collect();
    // All zeros, all f, all fe.
    id.len() == DIGITS
        && digits.iter().all(u8::is_ascii_hexdigit)
        && digits.len() > 2
        && !NOBODYS.contains(&id.as_str())
}

fn read(file: std::fs::File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, MAX_ROOT), &mut bytes)?;
    Ok(bytes)
}

/// The file of the state that shows that this node has trusted a root, which it was given, before; `None` where nothing
/// shows it. What cannot be looked at may be there.
pub fn trusted_before(settings: &Settings) -> Option<PathBuf> {
    let place = StatePlace::of(settings).directory();
    let of = |state: &std::path::Path| state.join(TRUST).join("root.json");
    let counts = of(&place);
    let is_absent =
        |error: &io::Error| matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory);
    match std::fs::symlink_metadata(&counts) {
        Err(error) if is_absent(&error) => {
            // Where the state is in RAM, its disk may show what could not be read of it.
            Some(of(&settings.state_dir)).filter(|path| path.symlink_metadata().is_ok())
        }
        _ => Some(counts),
    }
}

/// Why nothing is believed without a root of trust that is gone.
pub(super) fn gone(settings: &Settings) -> OffersError {
    let known = trusted_before(settings).unwrap_or_else(|| settings.state_dir.join(TRUST));
    OffersError::RootGone { path: settings.trust.root.clone(), known }
}

/// The root of trust of a node; `None` where it never had one, or was told to do without.
///
/// A root that is gone is no reason to believe anybody: whoever can take one file away, or a base image that has lost
/// it, would have all signatures ignored.
pub(super) fn root(settings: &Settings) -> Result<Option<Vec<u8>>, OffersError> {
    let path = &settings.trust.root;
    if settings.trust.is_insecure {
        tracing::error!(
            "INSECURE: molt.insecure=1: signatures are not checked; whoever runs the hub decides what runs here"
        );
        return Ok(None);
    }
    let failed = |source| OffersError::Root { path: path.clone(), source };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound && !settings.trust.is_required => {
            if trusted_before(settings).is_some() {
                return Err(gone(settings));
            }
            tracing::warn!(path = %path.display(), "INSECURE: there is no root of trust; whoever runs the hub decides what runs here");
            return Ok(None);
        }
        Err(error) => return Err(failed(error)),
    };
    read(file).map(Some).map_err(failed)
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use tempfile::TempDir;

    use super::*;

    #[derive(Parser)]
    struct Arguments {
        #[command(flatten)]
        overrides: crate::settings::Overrides,
    }

    /// The settings of a node whose base image has no root of trust.
    fn node() -> (TempDir, Settings) {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        std::fs::write(path("cmdline"), "").unwrap();
        let mut words = vec!["x".to_owned()];
        for option in ["root", "config", "cmdline", "state-dir", "run-dir"] {
            words.extend([format!("--{option}"), path(option)]);
        }
        let mut settings = Settings::load_without_secrets(&Arguments::parse_from(words).overrides).unwrap();
        settings.trust.root = directory.path().join("root.json");
        (directory, settings)
    }

    #[test]
    fn a_root_of_trust_that_is_gone_is_not_done_without() {
        let (_directory, mut settings) = node();
        assert_eq!(root(&settings).unwrap(), None);
        let known = settings.state_dir.join("trust/root.json");
        std::fs::create_dir_all(known.parent().unwrap()).unwrap();
        // What a client leaves that has never got so far as to trust a root is none.
        std::fs::write(known.with_file_name("clock"), "{}").unwrap();
        assert_eq!(root(&settings).unwrap(), None);
        std::fs::write(&known, "{}").unwrap();
        let refused = root(&settings).unwrap_err();
        assert!(matches!(&refused, OffersError::RootGone { known: found, .. } if *found == known));
        let said = refused.to_string();
        for part in
            [settings.trust.root.to_str().unwrap(), known.to_str().unwrap(), "provision", "molt.insecure=1"]
        {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert_eq!(refused.verdict(), Some(flist::trust::Verdict::Local));
        // Only who says so on the kernel command line does without, or who puts it back with it.
        settings.trust.is_insecure = true;
        assert_eq!(root(&settings).unwrap(), None);
        settings.trust.is_insecure = false;
        std::fs::write(&settings.trust.root, "a root").unwrap();
        assert_eq!(root(&settings).unwrap().unwrap(), b"a root");
    }

    #[test]
    fn neither_a_state_in_ram_nor_one_that_cannot_be_looked_at_makes_it_forgotten() {
        let (directory, settings) = node();
        let known = settings.state_dir.join("trust/root.json");
        std::fs::create_dir_all(known.parent().unwrap()).unwrap();
        std::fs::write(&known, "{}").unwrap();
        let ram = settings.run_dir.join("state");
        std::fs::create_dir_all(&ram).unwrap();
        std::fs::write(ram.join("in-force"), "{}").unwrap();
        assert_eq!(StatePlace::of(&settings).directory(), ram);
        assert_eq!(trusted_before(&settings), Some(known.clone()));
        std::fs::remove_dir_all(&ram).unwrap();
        // A link that leads nowhere is there.
        std::fs::remove_file(&known).unwrap();
        std::os::unix::fs::symlink(directory.path().join("nowhere"), &known).unwrap();
        assert_eq!(trusted_before(&settings), Some(known));
    }

    const ID: &str = "0b7dc2f6a1b24bd08e0c3a4f5d6e7f80";
    const UUID: &str = "4c4c4544-0042-3510-8052-b4c04f4a4d32";

    fn id(told: &str, kept: &str, machine_id: &str, product_uuid: &str) -> Option<String> {
        let some = |text: &str| Some(text.to_owned());
        let names = Names {
            told: some(told),
            kept: some(kept),
            machine_id: some(machine_id),
            product_uuid: some(product_uuid),
        };
        names.id()
    }

    #[test]
    fn a_node_is_called_by_what_no_other_is_called() {
        assert_eq!(id("me", "kept", ID, UUID).as_deref(), Some("me"));
        assert_eq!(id("", "kept\n", ID, UUID).as_deref(), Some("kept"));
        assert_eq!(id("", "", &format!("{ID}\n"), UUID).as_deref(), Some(ID));
        for none in
            ["", "\n", "uninitialized", UUID, &ID[1..], "z".repeat(32).as_str(), "0".repeat(32).as_str()]
        {
            assert_eq!(id("", "", none, UUID).as_deref(), Some(UUID), "{none}");
        }
    }

    #[test]
    fn what_many_machines_are_called_is_no_name() {
        for nobodys in [
            "00000000-0000-0000-0000-000000000000",
            "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
            "fefefefe-fefe-fefe-fefe-fefefefefefe",
            "03000200-0400-0500-0006-000700080009",
            "00020003-0004-0005-0006-000700080009",
            "12345678-1234-5678-90AB-CDDEEFAABBCC",
            "Not Settable",
            "",
        ] {
            assert_eq!(id("", "", "", nobodys), None, "{nobodys}");
        }
    }
}
