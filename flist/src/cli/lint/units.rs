//! The units of a root file system.

use std::collections::BTreeMap;
use std::error::Error;

use flist::path::FlistPath;
use flist::rehearsal::{Finding, FutureRoot, Node, Purpose, Resolved, Service, resolve};
use zinit_client::{MAX_UNIT_BYTES, OrderError, ServiceUnit, UnitName, missing_dependencies, start_order};

/// Where zinit looks for units.
const DIRECTORY: &[u8] = b"etc/zinit";

/// What the units of a root say.
#[derive(Default)]
pub(super) struct Units {
    /// Their commands.
    pub(super) services: Vec<Service>,
    /// What is wrong with them.
    pub(super) findings: Vec<Finding>,
    /// The file of each, by name, readable or not.
    pub(super) files: BTreeMap<String, FlistPath>,
}

impl Units {
    /// Reads all units of a root.
    pub(super) fn read(root: &dyn FutureRoot) -> Result<Self, Box<dyn Error>> {
        let mut units = Self::default();
        let Resolved::Found(directory, Node::Directory) = resolve(root, DIRECTORY)? else { return Ok(units) };
        let mut parsed = BTreeMap::new();
        for file in root.list(&directory)? {
            let Some(name) = file.strip_suffix(b".yaml") else { continue };
            let name = String::from_utf8_lossy(name).into_owned();
            let path = directory.join(&file)?;
            if let Resolved::Found(real, Node::File { .. }) = resolve(root, path.as_bytes())? {
                let text = root.read(&real, 0, MAX_UNIT_BYTES + 1)?;
                match parse(&name, &text) {
                    Ok((unit_name, unit)) => drop(parsed.insert(unit_name, unit)),
                    Err(reason) => units.findings.push(Finding::unit_invalid(&name, &reason)),
                }
            } else {
                units.findings.push(Finding::unit_invalid(&name, "its file is no regular file"));
            }
            units.files.insert(name, path);
        }
        units.order(&parsed);
        parsed.iter().for_each(|(name, unit)| units.commands(name, unit));
        Ok(units)
    }

    fn order(&mut self, parsed: &BTreeMap<UnitName, ServiceUnit>) {
        match start_order(parsed) {
            Err(OrderError::Cycle { path }) => {
                let names: Vec<_> = path.iter().map(|name| name.as_str().to_owned()).collect();
                self.findings.push(Finding::unit_cycle(&names));
            }
            Err(OrderError::NoSuchUnit { .. }) | Ok(_) => {}
        }
        for (name, absent) in missing_dependencies(parsed) {
            let found =
                absent.iter().map(|absent| Finding::unit_missing_dependency(name.as_str(), absent.as_str()));
            self.findings.extend(found);
        }
    }

    fn commands(&mut self, name: &UnitName, unit: &ServiceUnit) {
        let commands = [(Purpose::Exec, unit.command().map(Some)), (Purpose::Test, unit.test_command())];
        for (purpose, command) in commands {
            match command {
                Ok(Some(argv)) => self.services.push(Service {
                    unit: name.as_str().to_owned(),
                    purpose,
                    argv,
                    directory: unit.dir.clone(),
                    path: unit.env.get("PATH").cloned(),
                    library_path: unit.env.get("LD_LIBRARY_PATH").cloned(),
                }),
                Ok(None) => {}
                Err(error) => {
                    let reason = format!("{}: {}", purpose.key(), flist::report(&error));
                    self.findings.push(Finding::unit_invalid(name.as_str(), &reason));
                }
            }
        }
    }
}

/// Parses one unit, or says in one line why it cannot be used.
fn parse(name: &str, text: &[u8]) -> Result<(UnitName, ServiceUnit), String> {
    let name: UnitName = name.parse().map_err(|error| flist::report(&error))?;
    let text = str::from_utf8(text).map_err(|_| "it is no UTF-8 text".to_owned())?;
    let unit = ServiceUnit::parse(&name, text).map_err(|error| flist::report(&error).replace('\n', " "))?;
    Ok((name, unit))
}
