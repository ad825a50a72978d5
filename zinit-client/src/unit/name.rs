//! Names of units.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest name, in bytes.
pub const MAX_NAME_BYTES: usize = 128;

/// The name of a service, and of its unit file `NAME.yaml`.
///
/// Letters, digits, `.`, `_` and `-` of ASCII, neither `.` nor `-` first, 1 to
/// [`MAX_NAME_BYTES`] bytes. So it is one safe component of a path, one word on the wire that
/// needs no quotes, and never taken for an option. zinit itself takes any file name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UnitName(String);

impl UnitName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Text that is no name of a unit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// There is no text.
    #[error("a unit name is empty")]
    Empty,
    /// It is too long.
    #[error("a unit name has {bytes} bytes; at most {MAX_NAME_BYTES} are allowed")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// It begins with `.` or `-`.
    #[error("the unit name {name:?} begins with {first:?}; let it begin with a letter, a digit or `_`")]
    LeadingCharacter {
        /// The name.
        name: String,
        /// Its first character.
        first: char,
    },
    /// A character in it is not allowed.
    #[error("the unit name {name:?} contains {character:?}; only A-Z a-z 0-9 . _ - are allowed")]
    BadCharacter {
        /// The name.
        name: String,
        /// The first such character.
        character: char,
    },
}

impl TryFrom<String> for UnitName {
    type Error = NameError;

    fn try_from(name: String) -> Result<Self, NameError> {
        if name.len() > MAX_NAME_BYTES {
            return Err(NameError::TooLong { bytes: name.len() });
        }
        let Some(first) = name.chars().next() else {
            return Err(NameError::Empty);
        };
        if let Some(character) = name.chars().find(|&c| !is_allowed(c)) {
            return Err(NameError::BadCharacter { name, character });
        }
        if matches!(first, '.' | '-') {
            return Err(NameError::LeadingCharacter { name, first });
        }
        Ok(Self(name))
    }
}

impl TryFrom<&str> for UnitName {
    type Error = NameError;

    fn try_from(name: &str) -> Result<Self, NameError> {
        // Checked before it is copied: the text may come from anywhere.
        if name.len() > MAX_NAME_BYTES {
            return Err(NameError::TooLong { bytes: name.len() });
        }
        Self::try_from(name.to_owned())
    }
}

impl FromStr for UnitName {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        Self::try_from(name)
    }
}

impl From<UnitName> for String {
    fn from(name: UnitName) -> Self {
        name.0
    }
}

impl AsRef<str> for UnitName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for UnitName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UnitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

fn is_allowed(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '.' | '_' | '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_names() {
        let longest = "x".repeat(MAX_NAME_BYTES);
        for name in ["redis", "a", "0", "_x", "node-exporter", "v1.2_3", "a..b", longest.as_str()] {
            assert_eq!(name.parse::<UnitName>().unwrap().as_str(), name);
        }
    }

    #[test]
    fn bad_names() {
        let error = |name: &str| name.parse::<UnitName>().unwrap_err();
        assert_eq!(error(""), NameError::Empty);
        assert_eq!(error(&"x".repeat(MAX_NAME_BYTES + 1)), NameError::TooLong { bytes: 129 });
        for name in [".", "..", ".hidden", "-s"] {
            assert!(matches!(error(name), NameError::LeadingCharacter { .. }), "{name}");
        }
        for name in ["a/b", "../a", "a\0", "a b", "a\n", "é", "a@1", "a'b", "a\\b", "a\u{202e}"] {
            assert!(matches!(error(name), NameError::BadCharacter { .. }), "{name:?}");
        }
    }

    #[test]
    fn serde_checks_too() {
        assert_eq!(serde_json::from_str::<UnitName>("\"redis\"").unwrap().as_str(), "redis");
        assert!(serde_json::from_str::<UnitName>("\"../redis\"").is_err());
        assert_eq!(serde_json::to_string(&UnitName::try_from("redis").unwrap()).unwrap(), "\"redis\"");
    }
}
