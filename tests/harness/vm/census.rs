//! What lies at certain paths of a machine.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::Vm;
use crate::campaign::image::Entry;
use crate::error::Error;

/// Most bytes of paths in one command.
const AT_ONCE: usize = 2000;

/// Modes, digests and targets of everything at the paths that are the arguments.
const LOOK: &str = r#"stat -c 'mode %f %n' "$@" 2>/dev/null; sha256sum "$@" 2>/dev/null;
for p; do [ -L "$p" ] && echo "link $(readlink "$p") $p"; done; true"#;

impl Vm {
    /// What is at these paths: mode, and digest of the content or target. Paths without white space.
    ///
    /// # Errors
    /// When the machine does not tell.
    pub(crate) fn census(&self, paths: &BTreeSet<PathBuf>) -> Result<BTreeMap<PathBuf, Entry>, Error> {
        let (mut found, mut some) = (BTreeMap::new(), String::new());
        let mut left = paths.iter().peekable();
        while let Some(path) = left.next() {
            some += &format!(" {}", path.display());
            if some.len() > AT_ONCE || left.peek().is_none() {
                found.extend(parse(&self.run(&format!("cd / && set --{some}; {LOOK}"))?));
                some.clear();
            }
        }
        Ok(found)
    }
}

fn parse(text: &str) -> BTreeMap<PathBuf, Entry> {
    let (mut found, mut contents) = (BTreeMap::new(), BTreeMap::new());
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some(first), Some(second)) = (words.next(), words.next()) else { continue };
        match (first, words.next()) {
            ("mode", Some(path)) => {
                let mode = u32::from_str_radix(second, 16).unwrap_or_default();
                found.insert(PathBuf::from(path), Entry { mode, content: String::new() });
            }
            // After the digest of what it leads to.
            ("link", Some(path)) => {
                contents.insert(PathBuf::from(path), second);
            }
            (digest, None) => {
                contents.insert(PathBuf::from(second), digest);
            }
            _ => {}
        }
    }
    for (path, entry) in &mut found {
        entry.content = contents.get(path.as_path()).copied().unwrap_or_default().to_owned();
    }
    found
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn what_the_shell_prints_is_understood() {
        let text = "mode 81a4 etc/a\nmode a1ff b\n00ff  etc/a\n11ff  b\nlink c b\n";
        let found = parse(text);
        assert_eq!(found[Path::new("etc/a")], Entry { mode: 0o100_644, content: "00ff".to_owned() });
        assert_eq!(found[Path::new("b")], Entry { mode: 0o120_777, content: "c".to_owned() });
        assert_eq!(found.len(), 2);
    }
}
