//! What is signed for a flist besides its length and digest, and whether it is for this node. Pure.

use semver::Version;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::hub::{FlistName, ReleaseId, RunMode};

/// The `custom` field of a target. An unknown field is an error: it may be a condition that an older program
/// would not keep.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    /// The package that the flist installs.
    pub name: String,
    /// The version of the release that it belongs to.
    pub version: Version,
    /// The run mode that the release is for.
    pub run_mode: RunMode,
    /// The id of the release: all its flists carry the same, and it is the hash of all of them.
    pub release: ReleaseId,
    /// The channel that offers the release, as nodes follow it.
    pub channel: String,
    /// The name of the flist on a hub.
    pub flist: FlistName,
    /// The place of the flist in its release, from 0; nodes boot from the last one.
    #[serde(default)]
    pub index: u32,
    /// The lowest installed version that it may follow; nodes below it need one in between.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum_version: Option<Version>,
    /// The processor it is for, as `uname -m` names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    /// The hardware it is for, as nodes are told what they are by `hardware` in their configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hardware: Option<String>,
    /// The lowest schema of the node's data that it understands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema_floor: Option<u64>,
}

/// What a node is, as far as releases care.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeFacts {
    /// Its run mode.
    pub run_mode: RunMode,
    /// Its processor, as `uname -m` names it.
    pub architecture: String,
    /// Its hardware, if it has been told.
    pub hardware: Option<String>,
    /// The schema of its data; `None` when it has none yet.
    pub schema: Option<u64>,
    /// The version that is installed; `None` before the first boot.
    pub installed: Option<Version>,
}

/// A release is not for this node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// It is for another run mode.
    #[error("it is for run mode {wanted}, and this node is in {is}")]
    RunMode {
        /// What it is for.
        wanted: RunMode,
        /// What the node is.
        is: RunMode,
    },
    /// It is for another processor.
    #[error("it is for the architecture {wanted}, and this node is {is}")]
    Architecture {
        /// What it is for.
        wanted: String,
        /// What the node is.
        is: String,
    },
    /// It is for other hardware.
    #[error("it is for the hardware '{wanted}', and this node {}; `hardware` in config.yaml says what a node is", .is.as_ref().map_or("has not been told what it is".to_owned(), |is| format!("is '{is}'")))]
    Hardware {
        /// What it is for.
        wanted: String,
        /// What the node is.
        is: Option<String>,
    },
    /// What is installed is too old to be followed by it.
    #[error("it can follow version {wanted} or newer, and {is} is installed; install one in between first")]
    Minimum {
        /// What it can follow.
        wanted: Version,
        /// What is installed.
        is: Version,
    },
    /// The node's data is too old for it.
    #[error(
        "it understands data of schema {wanted} or newer, and that of this node is {is}; install a release in between first"
    )]
    Schema {
        /// What it understands.
        wanted: u64,
        /// What the node has.
        is: u64,
    },
}

impl Claims {
    /// Reads the `custom` field of a target.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(custom: Option<&Value>) -> Result<Self, String> {
        let custom = custom.ok_or("nothing but its length and digest was signed")?;
        Self::deserialize(custom).map_err(|error| error.to_string())
    }

    /// The path of the target: the run mode's role is responsible for everything under its name.
    pub fn path(&self) -> String {
        path(self.run_mode, &self.flist)
    }

    /// Whether it is for this node.
    ///
    /// # Errors
    /// The first condition that this node does not meet.
    pub fn fit(&self, node: &NodeFacts) -> Result<(), Unfit> {
        if self.run_mode != node.run_mode {
            return Err(Unfit::RunMode { wanted: self.run_mode, is: node.run_mode });
        }
        if let Some(wanted) = self.architecture.as_ref().filter(|wanted| **wanted != node.architecture) {
            return Err(Unfit::Architecture { wanted: wanted.clone(), is: node.architecture.clone() });
        }
        if let Some(wanted) = self.hardware.as_ref().filter(|wanted| node.hardware.as_ref() != Some(wanted)) {
            return Err(Unfit::Hardware { wanted: wanted.clone(), is: node.hardware.clone() });
        }
        if let (Some(wanted), Some(is)) = (&self.minimum_version, &node.installed)
            && is < wanted
        {
            return Err(Unfit::Minimum { wanted: wanted.clone(), is: is.clone() });
        }
        match (self.schema_floor, node.schema) {
            (Some(wanted), Some(is)) if is < wanted => Err(Unfit::Schema { wanted, is }),
            _ => Ok(()),
        }
    }
}

/// The path of the target that is a flist in a run mode.
pub fn path(run_mode: RunMode, flist: &FlistName) -> String {
    format!("{run_mode}/{flist}")
}

/// The paths that the role of a run mode is responsible for.
pub fn pattern(run_mode: RunMode) -> String {
    format!("{run_mode}/*/*")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::Sha256;

    fn claims() -> Claims {
        Claims {
            name: "zos".to_owned(),
            version: Version::new(2, 0, 0),
            run_mode: RunMode::Prod,
            release: ReleaseId::of([("zos", Sha256::of(b"x"))]),
            channel: "tf-zos/zos:production:latest.flist".to_owned(),
            flist: "tf-zos/zos:v2.0.0.flist".parse().unwrap(),
            index: 0,
            minimum_version: Some(Version::new(1, 5, 0)),
            architecture: Some("x86_64".to_owned()),
            hardware: Some("gateway".to_owned()),
            schema_floor: Some(3),
        }
    }

    fn node() -> NodeFacts {
        NodeFacts {
            run_mode: RunMode::Prod,
            architecture: "x86_64".to_owned(),
            hardware: Some("gateway".to_owned()),
            schema: Some(3),
            installed: Some(Version::new(1, 5, 0)),
        }
    }

    #[test]
    fn every_condition_refuses_by_name() {
        assert_eq!(claims().fit(&node()), Ok(()));
        let empty = NodeFacts { schema: None, installed: None, ..node() };
        assert_eq!(claims().fit(&empty), Ok(()));
        let cases = [
            (NodeFacts { run_mode: RunMode::Dev, ..node() }, "run mode prod"),
            (NodeFacts { architecture: "aarch64".to_owned(), ..node() }, "architecture x86_64"),
            (NodeFacts { hardware: None, ..node() }, "not been told"),
            (NodeFacts { hardware: Some("box".to_owned()), ..node() }, "is 'box'"),
            (NodeFacts { installed: Some(Version::new(1, 4, 9)), ..node() }, "1.4.9 is installed"),
            (NodeFacts { schema: Some(2), ..node() }, "schema 3"),
        ];
        for (node, said) in cases {
            let refused = claims().fit(&node).unwrap_err().to_string();
            assert!(refused.contains(said), "{refused}");
        }
    }

    #[test]
    fn what_is_signed_is_read_again_and_nothing_else() {
        let json = serde_json::to_value(claims()).unwrap();
        assert_eq!(Claims::parse(Some(&json)).unwrap(), claims());
        assert_eq!(claims().path(), "prod/tf-zos/zos:v2.0.0.flist");
        let mut more = json.clone();
        more["only_on_sundays"] = true.into();
        assert!(Claims::parse(Some(&more)).unwrap_err().contains("only_on_sundays"));
        let mut bad = json;
        bad["flist"] = "../../etc/passwd.flist".into();
        assert!(Claims::parse(Some(&bad)).is_err());
        assert!(Claims::parse(None).is_err());
    }
}
