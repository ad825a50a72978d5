//! What a director calls this node, and how it is known.

use std::collections::BTreeSet;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::durable;
use crate::settings::Settings;
use crate::state_place::StatePlace;

/// The file in the state directory with the id of a node that has no other.
const NODE_ID: &str = "node-id";

/// Where the id of a node is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IdFrom {
    /// `node_id` in the configuration file.
    Config,
    /// The node gave it itself, and keeps it in the state directory.
    Own,
    /// As `Own`, but it could not be kept: it is another one after the next start.
    Unkept,
    /// `/etc/machine-id`.
    MachineId,
    /// The machine's UUID, by its firmware.
    ProductUuid,
}

impl IdFrom {
    /// Where that is, for people.
    pub const fn explanation(self) -> &'static str {
        match self {
            Self::Config => "node_id in the configuration file",
            Self::Own => "given by itself, kept as node-id in the state directory",
            Self::Unkept => "given by itself, NOT kept: another one after the next start",
            Self::MachineId => "/etc/machine-id",
            Self::ProductUuid => "the UUID of the machine",
        }
    }
}

/// Where the group of a node is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GroupFrom {
    /// `molt.group=` or `farmer_id=` on the kernel command line.
    Kernel,
    /// `group` in the configuration file.
    Config,
}

impl GroupFrom {
    /// Where that is, for people.
    pub const fn explanation(self) -> &'static str {
        match self {
            Self::Kernel => "molt.group= or farmer_id= on the kernel command line",
            Self::Config => "group in the configuration file",
        }
    }
}

/// What the director calls this node: what it was told, or the name that it has given itself, or what the machine is
/// called, or else a name that it gives itself now.
pub(super) fn node_id(settings: &Settings) -> (String, IdFrom) {
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
        match kept {
            Ok(()) => (new, IdFrom::Own),
            Err(error) => {
                tracing::warn!(%error, "this node will have another place in waves after the next start");
                (new, IdFrom::Unkept)
            }
        }
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
    fn id(&self) -> Option<(String, IdFrom)> {
        let named = |text: &Option<String>| {
            let text = text.as_ref()?.trim();
            (!text.is_empty()).then(|| text.to_owned())
        };
        // A base image may have `uninitialized` there, which systemd replaces, and nobody else.
        let machine_id = || named(&self.machine_id).filter(|id| is_unique(id) && id.len() == DIGITS);
        let uuid = || named(&self.product_uuid).filter(|id| is_unique(&id.replace('-', "")));
        let from = |name: Option<String>, from| name.map(|name| (name, from));
        from(named(&self.told), IdFrom::Config)
            .or_else(|| from(named(&self.kept), IdFrom::Own))
            .or_else(|| from(machine_id(), IdFrom::MachineId))
            .or_else(|| from(uuid(), IdFrom::ProductUuid))
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

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0b7dc2f6a1b24bd08e0c3a4f5d6e7f80";
    const UUID: &str = "4c4c4544-0042-3510-8052-b4c04f4a4d32";

    fn id(told: &str, kept: &str, machine_id: &str, product_uuid: &str) -> Option<(String, IdFrom)> {
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
        let is = |id: &str, from| Some((id.to_owned(), from));
        assert_eq!(id("me", "kept", ID, UUID), is("me", IdFrom::Config));
        assert_eq!(id("", "kept\n", ID, UUID), is("kept", IdFrom::Own));
        assert_eq!(id("", "", &format!("{ID}\n"), UUID), is(ID, IdFrom::MachineId));
        for none in
            ["", "\n", "uninitialized", UUID, &ID[1..], "z".repeat(32).as_str(), "0".repeat(32).as_str()]
        {
            assert_eq!(id("", "", none, UUID), is(UUID, IdFrom::ProductUuid), "{none}");
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
