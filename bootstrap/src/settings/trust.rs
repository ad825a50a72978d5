//! What a node trusts, and who it is to those who sign.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::file::ConfigFile;
use crate::kernel_params::KernelParams;
use crate::offers::GroupFrom;

/// What is trusted, as the configuration file says it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TrustNames {
    root: Option<PathBuf>,
    director: Option<PathBuf>,
}

/// What stands in the place of the director's root where none is followed, although one may have been.
pub(crate) const NO_DIRECTOR: &str = "none";

/// What is trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustSettings {
    /// The file with the root of trust.
    pub root: PathBuf,
    /// Whether nothing is installed without it: it was named.
    pub is_required: bool,
    /// The file with the director's root.
    pub director: PathBuf,
    /// Whether nothing is installed without a director: its root was named.
    pub is_directed: bool,
    /// Whether no director is followed, because the configuration says so (`none`), also where one was before.
    pub is_undirected: bool,
    /// Whether nothing that a hub says is checked, because somebody said so on the kernel command line.
    pub is_insecure: bool,
    /// Whether a lower version than the installed one is taken.
    pub allow_downgrade: bool,
    /// What hardware this node is, as releases name it.
    pub hardware: Option<String>,
    /// What a director calls this node; `None`: what the machine is called.
    pub node_id: Option<String>,
    /// The group of nodes that it belongs to.
    pub group: Option<String>,
    /// Where that is from.
    pub group_from: Option<GroupFrom>,
}

/// Where the root of trust is in a base image.
const DEFAULT_ROOT: &str = "/etc/molt/root.json";

/// Where the director's root is in a base image.
const DEFAULT_DIRECTOR: &str = "/etc/molt/director.json";

impl TrustSettings {
    pub(super) fn weigh(file: &ConfigFile, params: &KernelParams) -> Self {
        let TrustNames { root, director } = file.trust.clone();
        let is_undirected = director.as_ref().is_some_and(|director| director.as_os_str() == NO_DIRECTOR);
        let director = director.filter(|_| !is_undirected);
        let groups = [(&params.group, GroupFrom::Kernel), (&file.group, GroupFrom::Config)];
        let group = groups.into_iter().find_map(|(group, from)| Some((group.clone()?, from)));
        let (group, group_from) = group.unzip();
        Self {
            is_required: root.is_some(),
            root: root.unwrap_or_else(|| DEFAULT_ROOT.into()),
            is_directed: director.is_some(),
            director: director.unwrap_or_else(|| DEFAULT_DIRECTOR.into()),
            is_undirected,
            is_insecure: params.switches.insecure,
            allow_downgrade: params.switches.downgrade || file.allow_downgrade,
            hardware: file.hardware.clone(),
            node_id: file.node_id.clone(),
            group,
            group_from,
        }
    }
    /// The files that have to be there, because they were named, with the options that name them.
    pub(super) fn named(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let roots = [
            ("trust.root", self.is_required, &self.root),
            ("trust.director", self.is_directed, &self.director),
        ];
        roots
            .into_iter()
            .filter(|(_, is_named, _)| *is_named)
            .map(|(option, _, path)| (option, path.as_path()))
    }
}
