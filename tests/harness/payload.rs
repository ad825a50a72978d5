//! What a release consists of: a directory that is packed and published.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::error::{Doing, Error};
use crate::place;

/// A directory tree under construction. Paths are those in the node; a leading `/` does not matter.
pub struct Payload {
    directory: TempDir,
}

impl Payload {
    /// An empty one.
    ///
    /// # Errors
    /// When no directory can be made.
    pub fn new() -> Result<Self, Error> {
        let directory = place::scratch("payload")?;
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))
            .doing(|| "set the mode of a payload".to_owned())?;
        Ok(Self { directory })
    }

    /// The directory to publish.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Writes a file; one that is there is replaced.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn file(&self, path: &str, mode: u32, content: impl AsRef<[u8]>) -> Result<&Self, Error> {
        let at = self.place(path)?;
        fs::write(&at, content)
            .and_then(|()| fs::set_permissions(&at, fs::Permissions::from_mode(mode)))
            .doing(|| format!("write {path} of the payload"))?;
        Ok(self)
    }

    /// Copies a program; its mode is 0755.
    ///
    /// # Errors
    /// When it cannot be copied.
    pub fn program(&self, path: &str, from: &Path) -> Result<&Self, Error> {
        let at = self.place(path)?;
        fs::copy(from, &at)
            .and_then(|_| fs::set_permissions(&at, fs::Permissions::from_mode(0o755)))
            .doing(|| format!("copy {} to {path} of the payload", from.display()))?;
        Ok(self)
    }

    /// Appends `mark` to a program, which makes it another program that does the same: what follows the
    /// sections of an ELF file is never loaded.
    ///
    /// # Errors
    /// When it is not there.
    pub fn marked(&self, path: &str, mark: &str) -> Result<&Self, Error> {
        let at = self.place(path)?;
        fs::OpenOptions::new()
            .append(true)
            .open(at)
            .and_then(|mut file| file.write_all(mark.as_bytes()))
            .doing(|| format!("mark {path} of the payload"))?;
        Ok(self)
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn link(&self, path: &str, target: &str) -> Result<&Self, Error> {
        let at = self.place(path)?;
        symlink(target, at).doing(|| format!("link {path} of the payload"))?;
        Ok(self)
    }

    /// Writes the service unit `name`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn unit(&self, name: &str, yaml: &str) -> Result<&Self, Error> {
        self.file(&format!("etc/zinit/{name}.yaml"), 0o644, yaml)
    }

    /// Copies the service unit `name` from `assets/units`.
    ///
    /// # Errors
    /// When there is none.
    pub fn asset_unit(&self, name: &str) -> Result<&Self, Error> {
        self.unit(name, &asset_unit(name)?)
    }

    /// Removes a file.
    ///
    /// # Errors
    /// When it is not there.
    pub fn remove(&self, path: &str) -> Result<&Self, Error> {
        let at = self.place(path)?;
        fs::remove_file(at).doing(|| format!("remove {path} from the payload"))?;
        Ok(self)
    }

    fn place(&self, path: &str) -> Result<PathBuf, Error> {
        let at = self.directory.path().join(path.trim_start_matches('/'));
        let parent = at.parent().unwrap_or(self.directory.path());
        fs::create_dir_all(parent).doing(|| format!("make {}", parent.display()))?;
        Ok(at)
    }
}

/// The text of `assets/units/NAME.yaml`.
pub(crate) fn asset_unit(name: &str) -> Result<String, Error> {
    let path = place::workspace().join("assets/units").join(format!("{name}.yaml"));
    fs::read_to_string(&path).doing(|| format!("read {}", path.display()))
}
