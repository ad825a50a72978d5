//! Paths inside a flist: relative, normal, and unable to escape.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest name of one entry in bytes (Linux `NAME_MAX`).
pub const MAX_NAME: usize = 255;

/// Longest path in bytes (Linux `PATH_MAX` less the terminating NUL).
pub const MAX_PATH: usize = 4095;

/// Why bytes are no path of a flist.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PathError {
    /// The name of an entry is empty, `.`, `..`, or holds `/` or NUL.
    #[error("'{0}' cannot be the name of an entry")]
    BadName(String),
    /// The name of an entry is too long.
    #[error("the name '{start}…' has {length} bytes, the limit is {MAX_NAME}")]
    NameTooLong {
        /// Its first characters.
        start: String,
        /// Its length in bytes.
        length: usize,
    },
    /// The whole path is too long.
    #[error("the path '{start}…' has {length} bytes, the limit is {MAX_PATH}")]
    PathTooLong {
        /// Its first characters.
        start: String,
        /// Its length in bytes.
        length: usize,
    },
}

/// A path relative to the root of a flist: components of 1 to 255 bytes, none of them `.` or `..`, joined
/// by single slashes. The root itself is the empty path. Names are bytes, as Linux has them.
///
/// The order is that of the bytes, so a directory always comes before what it contains.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct FlistPath(Vec<u8>);

impl FlistPath {
    /// The root of the flist.
    pub const fn root() -> Self {
        Self(Vec::new())
    }

    /// Checks bytes such as `bin/app`.
    ///
    /// # Errors
    /// [`PathError`] for absolute paths, `.`, `..`, empty components, NUL, and names or paths too long.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, PathError> {
        if bytes.is_empty() {
            return Ok(Self::root());
        }
        bytes.split(|byte| *byte == b'/').try_fold(Self::root(), |path, name| path.join(name))
    }

    /// This path with one more name at its end.
    ///
    /// # Errors
    /// [`PathError`] when `name` cannot be the name of an entry, or the result is too long.
    pub fn join(&self, name: &[u8]) -> Result<Self, PathError> {
        check_name(name)?;
        let mut bytes = Vec::with_capacity(self.0.len() + 1 + name.len());
        bytes.extend_from_slice(&self.0);
        if !bytes.is_empty() {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(name);
        if bytes.len() > MAX_PATH {
            return Err(PathError::PathTooLong { start: excerpt(&bytes), length: bytes.len() });
        }
        Ok(Self(bytes))
    }

    /// Whether this is the root of the flist.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The directory that holds this entry; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        let end = self.0.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        Some(Self(self.0[..end].to_vec()))
    }

    /// The last component; empty for the root.
    pub fn name(&self) -> &[u8] {
        let start = self.0.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        &self.0[start..]
    }

    /// The components from the top.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|byte| *byte == b'/').filter(|name| !name.is_empty())
    }

    /// Whether this entry lies in `directory`, at any depth.
    pub fn is_beneath(&self, directory: &Self) -> bool {
        directory.is_root() && !self.is_root()
            || self.0.len() > directory.0.len()
                && self.0.starts_with(&directory.0)
                && self.0[directory.0.len()] == b'/'
    }

    /// The raw bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// As a relative path of the system; `.` for the root.
    pub fn as_path(&self) -> &Path {
        if self.is_root() { Path::new(".") } else { Path::new(OsStr::from_bytes(&self.0)) }
    }
}

fn check_name(name: &[u8]) -> Result<(), PathError> {
    if name.len() > MAX_NAME {
        return Err(PathError::NameTooLong { start: excerpt(name), length: name.len() });
    }
    let bad = name.is_empty() || name == b"." || name == b".." || name.iter().any(|b| matches!(b, b'/' | 0));
    if bad { Err(PathError::BadName(excerpt(name))) } else { Ok(()) }
}

fn excerpt(bytes: &[u8]) -> String {
    bytes[..bytes.len().min(60)].escape_ascii().to_string()
}

impl FromStr for FlistPath {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, PathError> {
        Self::from_bytes(text.as_bytes())
    }
}

/// Bytes that are no UTF-8, control characters and percent signs are written as `%XX`: the text names one
/// path only, takes one line, and cannot command a terminal.
impl fmt::Display for FlistPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escape(&self.0))
    }
}

impl fmt::Debug for FlistPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FlistPath({self})")
    }
}

impl Serialize for FlistPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for FlistPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::from_bytes(&unescape(&text)).map_err(serde::de::Error::custom)
    }
}

/// Bytes from a flist as text, the way [`FlistPath`] is displayed; for targets of symlinks.
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    let percent = |byte: &u8, text: &mut String| text.push_str(&format!("%{byte:02X}"));
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() || character == '%' {
                character
                    .encode_utf8(&mut [0; 4])
                    .as_bytes()
                    .iter()
                    .for_each(|byte| percent(byte, &mut text));
            } else {
                text.push(character);
            }
        }
        chunk.invalid().iter().for_each(|byte| percent(byte, &mut text));
    }
    text
}

/// The inverse of [`escape`].
pub(crate) fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let mut byte = [first];
        rest = match (first, after.get(..2)) {
            (b'%', Some(digits)) if hex::decode_to_slice(digits, &mut byte).is_ok() => &after[2..],
            _ => after,
        };
        bytes.extend_from_slice(&byte);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaping_paths_are_refused() {
        for bad in ["/abs", "a//b", "a/", ".", "a/../b", "..", "a/./b", "nul\0"] {
            assert!(bad.parse::<FlistPath>().is_err(), "{bad:?} was accepted");
        }
        let long = "x".repeat(300);
        assert!(matches!(long.parse::<FlistPath>(), Err(PathError::NameTooLong { length: 300, .. })));
        let deep = vec!["d"; 2100].join("/");
        assert!(matches!(deep.parse::<FlistPath>(), Err(PathError::PathTooLong { .. })));
        assert!(FlistPath::root().join(b"a/b").is_err());
    }

    #[test]
    fn parents_and_names() {
        let path: FlistPath = "usr/bin/app".parse().unwrap();
        assert_eq!(path.name(), b"app");
        assert_eq!(path.parent().unwrap().to_string(), "usr/bin");
        assert_eq!(path.components().count(), 3);
        let top: FlistPath = "usr".parse().unwrap();
        assert_eq!(top.parent(), Some(FlistPath::root()));
        assert_eq!(FlistPath::root().parent(), None);
        assert!(path.is_beneath(&top) && path.is_beneath(&FlistPath::root()));
        assert!(!path.is_beneath(&"us".parse().unwrap()) && !top.is_beneath(&top));
    }

    #[test]
    fn text_form_is_reversible_for_any_bytes() {
        for bytes in [
            &b"plain/name"[..],
            b"100%",
            b"%41",
            b"\xff\xfe/caf\xc3\xa9",
            b"a\nb\x1b[2J\xc2\x85",
            "ünïcödé-文件.txt".as_bytes(),
        ] {
            let path = FlistPath::from_bytes(bytes).unwrap();
            assert!(!path.to_string().contains(char::is_control));
            let json = serde_json::to_string(&path).unwrap();
            assert_eq!(serde_json::from_str::<FlistPath>(&json).unwrap(), path);
        }
        assert_eq!(serde_json::from_str::<FlistPath>("\"ok\"").unwrap().to_string(), "ok");
        assert!(serde_json::from_str::<FlistPath>("\"../x\"").is_err());
    }
}
