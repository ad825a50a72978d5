//! Run modes and what hubs call them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What kind of node this is; it decides which channel the node follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum RunMode {
    /// For developers: every change at once.
    Dev,
    /// For testers.
    Test,
    /// For users; what a node is that says nothing.
    #[default]
    Prod,
    /// For acceptance.
    Qa,
}

/// A text is not the name of a run mode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is not a run mode; the run modes are dev (development), test (testing), prod (production) and qa"
)]
pub struct RunModeError(pub String);

impl RunMode {
    /// The short name, as on the kernel command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Test => "test",
            Self::Prod => "prod",
            Self::Qa => "qa",
        }
    }

    /// The name in the links of a hub.
    pub fn hub_name(self) -> &'static str {
        match self {
            Self::Dev => "development",
            Self::Test => "testing",
            Self::Prod => "production",
            Self::Qa => "qa",
        }
    }
}

impl fmt::Display for RunMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for RunMode {
    type Err = RunModeError;

    fn from_str(text: &str) -> Result<Self, RunModeError> {
        match text {
            "dev" | "development" => Ok(Self::Dev),
            "test" | "testing" => Ok(Self::Test),
            "prod" | "production" => Ok(Self::Prod),
            "qa" => Ok(Self::Qa),
            other => Err(RunModeError(other.chars().filter(|c| !c.is_control()).take(60).collect())),
        }
    }
}

impl TryFrom<String> for RunMode {
    type Error = RunModeError;

    fn try_from(text: String) -> Result<Self, RunModeError> {
        text.parse()
    }
}

impl From<RunMode> for String {
    fn from(mode: RunMode) -> Self {
        mode.as_str().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for mode in [RunMode::Dev, RunMode::Test, RunMode::Prod, RunMode::Qa] {
            assert_eq!(mode.as_str().parse(), Ok(mode));
            assert_eq!(mode.hub_name().parse(), Ok(mode));
        }
        for bad in ["", "DEV", "prod ", "staging"] {
            let error = bad.parse::<RunMode>().unwrap_err().to_string();
            assert!(error.contains("dev") && error.contains("qa"), "{error}");
        }
    }
}
