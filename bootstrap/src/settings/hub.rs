//! Where releases come from: hubs, and the store of blocks whose flists name none.

use std::path::{Path, PathBuf};

use flist::hub::{Access, HubClient, MAX_HUBS, shown_address};
use flist::store::{StoreError, StoreUrl};
use flist::tree::Route;
use serde::Deserialize;

use super::file::ConfigFile;
use super::{Overrides, SettingsError};
use crate::kernel_params::KernelParams;

pub(super) const DEFAULT_HUB: &str = "https://hub.grid.tf";

/// Where the blocks of flists are that do not say so themselves, as few classic ones do.
pub(super) const DEFAULT_STORE: &str = "zdb://hub.grid.tf:9900";

/// Where releases come from.
#[derive(Debug, Clone)]
pub struct HubSettings {
    /// Addresses of hubs with the same content, the best one first.
    pub urls: Vec<String>,
    /// Where the blocks of flists are that do not say so themselves.
    pub store: Route,
    /// What hubs are shown that ask who this node is.
    pub access: Access,
    /// Where that is kept.
    pub shown: AccessFiles,
}

/// The files with what hubs are shown, as the configuration file names them.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AccessFiles {
    token: Option<PathBuf>,
    certificate: Option<PathBuf>,
}

/// Where a base image, or `identityd provision`, has the token.
const DEFAULT_TOKEN: &str = "/etc/molt/hub.token";

/// Where it has the client certificate, with its key.
const DEFAULT_CERTIFICATE: &str = "/etc/molt/hub.pem";

impl AccessFiles {
    /// The files that have to be there, because they were named, with the options that name them.
    pub(super) fn named(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let files = [("hub_access.token", &self.token), ("hub_access.certificate", &self.certificate)];
        files.into_iter().filter_map(|(option, file)| Some((option, file.as_deref()?)))
    }

    /// Where they are looked for.
    pub(super) fn all(&self) -> [&Path; 2] {
        [
            self.token.as_deref().unwrap_or(Path::new(DEFAULT_TOKEN)),
            self.certificate.as_deref().unwrap_or(Path::new(DEFAULT_CERTIFICATE)),
        ]
    }

    /// Reads what these `hubs` are shown.
    ///
    /// # Errors
    /// [`SettingsError::Access`] names the file, what is wrong with it, and the remedy.
    pub fn read(&self, hubs: &[String]) -> Result<Access, SettingsError> {
        // What was named has to be there.
        let chosen = |named: &Option<PathBuf>, usual: &str| {
            named.clone().or_else(|| Some(PathBuf::from(usual)).filter(|usual| usual.exists()))
        };
        let token = chosen(&self.token, DEFAULT_TOKEN);
        let certificate = chosen(&self.certificate, DEFAULT_CERTIFICATE);
        Access::read(hubs, token.as_deref(), certificate.as_deref()).map_err(SettingsError::Access)
    }
}

impl HubSettings {
    /// Without what hubs are shown.
    pub(super) fn weigh(
        file: &ConfigFile,
        params: &KernelParams,
        overrides: &Overrides,
    ) -> Result<Self, SettingsError> {
        let given = [&overrides.hub, &params.hubs, &file.hub];
        let urls = given.into_iter().find(|urls| !urls.is_empty()).cloned();
        let urls = urls.unwrap_or_else(|| vec![DEFAULT_HUB.to_owned()]);
        urls.iter().try_for_each(|url| HubClient::check_address(url)).map_err(SettingsError::Hub)?;
        if urls.len() > MAX_HUBS {
            return Err(SettingsError::Range {
                path: overrides.config().to_owned(),
                key: "hub",
                value: format!("a list of {}", urls.len()),
                expected: format!("at most {MAX_HUBS} addresses"),
            });
        }
        let store = overrides.store.as_ref().or(file.store.as_ref()).cloned();
        let store = store.unwrap_or_else(|| DEFAULT_STORE.to_owned());
        // The directory that both programs are started in is nothing that anybody means.
        if matches!(store.parse().map_err(SettingsError::Store)?, StoreUrl::Dir(path) if !path.is_absolute())
        {
            let reason = "a directory has to be absolute, as in dir:///srv/blocks".to_owned();
            return Err(SettingsError::Store(StoreError::BadUrl { url: shown_address(&store), reason }));
        }
        Ok(Self {
            urls,
            store: Route::everything(store),
            access: Access::default(),
            shown: file.hub_access.clone(),
        })
    }
}
