//! What is true of the node at one moment.

use std::collections::BTreeMap;

use molt_tests::{Error, Node, Process, digest_of};

use super::probe::web_version;
use super::releases::SERVICES;

/// Facts about the node.
#[derive(Debug)]
pub(super) struct Facts {
    /// PID 1.
    pub(super) init: Process,
    /// The process of each service.
    pub(super) services: BTreeMap<&'static str, Process>,
    /// SHA-256 of what identityd's process runs.
    pub(super) identityd: String,
    /// The version that the page shows.
    pub(super) page: String,
    /// All mounts.
    pub(super) mounts: Vec<String>,
    /// Bytes that identityd has fetched since the boot.
    pub(super) fetched: u64,
    /// The version that identityd says is installed.
    pub(super) installed: String,
}

impl Facts {
    /// Looks at the node.
    pub(super) fn of(node: &Node) -> Result<Self, Error> {
        let processes = node.processes()?;
        let mut services = BTreeMap::new();
        for service in SERVICES {
            let pid = node.pid_of(service)?;
            let process = processes.iter().find(|process| process.pid == pid).cloned();
            let gone = || Error::Unexpected(format!("the process {pid} of {service} is gone"));
            services.insert(service, process.ok_or_else(gone)?);
        }
        let identityd = digest_of(format!("/proc/{}/exe", node.pid_of("identityd")?))?;
        let page = node.netns().run(web_version)?.unwrap_or_else(|| "nothing".to_owned());
        let status = node.status()?;
        Ok(Self {
            init: node.init()?,
            services,
            identityd,
            page,
            mounts: node.census()?.mounts,
            fetched: status["counters"]["bytes_fetched"].as_u64().unwrap_or_default(),
            installed: status["installed"]["version"].as_str().unwrap_or("nothing").to_owned(),
        })
    }
}
