//! Which drivers of a kernel an image carries, and in which order they are loaded.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Doing, Error};

/// Drivers by name.
pub(super) struct Modules {
    files: BTreeMap<String, PathBuf>,
}

impl Modules {
    /// All drivers beneath a directory.
    ///
    /// # Errors
    /// When it cannot be listed.
    pub(super) fn beneath(directory: &Path) -> Result<Self, Error> {
        let mut files = BTreeMap::new();
        collect(directory, &mut files)?;
        Ok(Self { files })
    }

    /// These drivers and all that they need, in the order in which they have to be loaded.
    ///
    /// # Errors
    /// When one is not there, or cannot be read.
    pub(super) fn in_order(&self, wanted: &[&str]) -> Result<Vec<(String, PathBuf)>, Error> {
        let mut order = Vec::new();
        wanted.iter().try_for_each(|name| self.add(name, &mut order))?;
        Ok(order)
    }

    fn add(&self, name: &str, order: &mut Vec<(String, PathBuf)>) -> Result<(), Error> {
        if order.iter().any(|(there, _)| there == name) {
            return Ok(());
        }
        let path = self.files.get(name);
        let path = path.ok_or_else(|| Error::Unexpected(format!("the kernel has no driver {name}")))?;
        let content = fs::read(path).doing(|| format!("read {}", path.display()))?;
        for needed in needed(&content) {
            self.add(&needed, order)?;
        }
        order.push((name.to_owned(), path.clone()));
        Ok(())
    }
}

fn collect(directory: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<(), Error> {
    for entry in fs::read_dir(directory).doing(|| format!("list {}", directory.display()))? {
        let path = entry.doing(|| format!("list {}", directory.display()))?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if let Some(name) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".ko")) {
            files.insert(canonical(name), path);
        }
    }
    Ok(())
}

/// The kernel takes `-` and `_` in names of drivers as equal.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// What a driver says that it needs: `depends=a,b` among the texts of its section `.modinfo`, each of which
/// ends with a zero byte.
fn needed(driver: &[u8]) -> Vec<String> {
    let texts = driver.split(|byte| *byte == 0);
    let found = texts.filter_map(|text| std::str::from_utf8(text).ok()?.strip_prefix("depends=")).next();
    let names = found.unwrap_or_default().split(',').filter(|name| !name.is_empty());
    names.map(canonical).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_comes_first() {
        let directory = tempfile::tempdir().unwrap();
        let driver = |name: &str, depends: &str| {
            let text = format!("\x7fELF\0license=GPL\0depends={depends}\0name=x\0");
            fs::write(directory.path().join(name), text).unwrap();
        };
        driver("a.ko", "b-c,d");
        driver("b-c.ko", "d");
        driver("d.ko", "");
        let modules = Modules::beneath(directory.path()).unwrap();
        let order = |wanted: &[&str]| {
            let order = modules.in_order(wanted).unwrap();
            order.into_iter().map(|(name, _)| name).collect::<Vec<_>>()
        };
        assert_eq!(order(&["a"]), ["d", "b_c", "a"]);
        assert_eq!(order(&["b_c", "a"]), ["d", "b_c", "a"]);
        assert!(modules.in_order(&["e"]).is_err());
    }
}
