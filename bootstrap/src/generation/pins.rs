//! Generations that stay because somebody wants them to: the file `pins.json` of the state directory.
//!
//! The file is read by other versions of this program too: what one does not know is kept when it is written again, and a
//! higher schema number is no obstacle.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::RootIdentity;

/// Name of the file in the state directory.
pub const PINS: &str = "pins.json";

/// Most generations of a root that can be pinned at a time: each keeps what was replaced since.
pub const MOST_PINS: usize = 16;

/// The version of the layout. Additions do not change it.
const SCHEMA: u32 = 1;

/// As many generations are pinned as can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{MOST_PINS} generations are pinned already; `identityd unpin` one first")]
pub struct TooManyPins;

/// The generations that stay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pins {
    schema: u32,
    pins: Vec<Pin>,
    #[serde(flatten)]
    unknown: Map<String, Value>,
}

/// One that stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Pin {
    /// Its number.
    generation: u64,
    /// The marker of the root that it was installed into: in another one, the number is another generation's.
    root: String,
    #[serde(flatten)]
    unknown: Map<String, Value>,
}

impl Default for Pins {
    fn default() -> Self {
        Self { schema: SCHEMA, pins: Vec::new(), unknown: Map::new() }
    }
}

impl Pins {
    /// Reads the file.
    ///
    /// # Errors
    /// It is not what was written.
    pub fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }

    /// The numbers of those that are pinned in a root.
    pub fn of(&self, root: &RootIdentity) -> BTreeSet<u64> {
        let pinned = self.pins.iter().filter(|pin| pin.is_of(root));
        pinned.map(|pin| pin.generation).collect()
    }

    /// Pins a generation of a root; `false` when it is pinned already. Pins of other roots go: their generations are gone
    /// with them.
    ///
    /// # Errors
    /// [`TooManyPins`].
    pub fn add(&mut self, generation: u64, root: &RootIdentity) -> Result<bool, TooManyPins> {
        let pinned = self.of(root);
        let Some(marker) = root.marker.clone().filter(|_| !pinned.contains(&generation)) else {
            return Ok(false);
        };
        if pinned.len() >= MOST_PINS {
            return Err(TooManyPins);
        }
        self.pins.retain(|pin| pin.is_of(root));
        self.pins.push(Pin { generation, root: marker, unknown: Map::new() });
        Ok(true)
    }

    /// Takes the pin of a generation of a root away; `false` when there is none.
    pub fn remove(&mut self, generation: u64, root: &RootIdentity) -> bool {
        let before = self.pins.len();
        self.pins.retain(|pin| pin.generation != generation || !pin.is_of(root));
        self.pins.len() < before
    }
}

impl Pin {
    fn is_of(&self, root: &RootIdentity) -> bool {
        root.marker.as_ref() == Some(&self.root)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(marker: &str) -> RootIdentity {
        RootIdentity { marker: Some(marker.to_owned()), volatile: false }
    }

    #[test]
    fn a_pin_is_of_one_root_and_there_are_not_too_many() {
        let (here, there) = (root("here"), root("there"));
        let mut pins = Pins::default();
        assert_eq!((pins.add(3, &here), pins.add(3, &here)), (Ok(true), Ok(false)));
        assert_eq!((pins.of(&here), pins.of(&there)), ([3].into(), BTreeSet::new()));
        assert!(!pins.remove(3, &there) && !pins.remove(4, &here) && pins.remove(3, &here));
        for number in 0..MOST_PINS as u64 {
            assert_eq!(pins.add(number, &here), Ok(true));
        }
        assert_eq!((pins.add(99, &here), pins.add(0, &here)), (Err(TooManyPins), Ok(false)));
        // Another root has come since.
        assert_eq!(pins.add(1, &there), Ok(true));
        assert_eq!((pins.of(&here), pins.of(&there)), (BTreeSet::new(), [1].into()));
        assert_eq!(pins.add(1, &RootIdentity { marker: None, volatile: false }), Ok(false));
    }

    #[test]
    fn what_another_version_has_written_is_kept() {
        let newer = r#"{"schema":7,"pins":[{"generation":3,"root":"here","by":1}],"more":{"a":1}}"#;
        let mut pins = Pins::parse(newer.as_bytes()).unwrap();
        pins.add(4, &root("here")).unwrap();
        let written = serde_json::to_value(&pins).unwrap();
        assert_eq!((&written["schema"], &written["more"]["a"]), (&7.into(), &1.into()));
        assert_eq!((&written["pins"][0]["by"], &written["pins"][1]["generation"]), (&1.into(), &4.into()));
        assert!(Pins::parse(b"").is_err() && Pins::parse(b"{}").is_err());
    }
}
