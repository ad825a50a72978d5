//! The kernel command line. Pure.

use std::collections::BTreeMap;

use flist::hub::{Channel, ChannelNameError, RunMode, RunModeError};

/// Longest command line that is looked at, in bytes; Linux itself allows 4096 on most machines.
const MAX_LENGTH: usize = 16 * 1024;

/// What the command line asks for. What it does not mention is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelParams {
    /// `runmode=`
    pub run_mode: Option<RunMode>,
    /// `flist=`: this flist, tag or taglink instead of what the run mode follows.
    pub flist: Option<Channel>,
    /// `hub=`: addresses of hubs with the same content, the best one first.
    pub hubs: Vec<String>,
    /// Parameters in our own name space that are not known, to be reported.
    pub unknown: Vec<String>,
}

/// A parameter that cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum KernelParamsError {
    /// A parameter has no value.
    #[error("kernel parameter '{name}' has no value; write {name}={example}")]
    NoValue {
        /// The parameter.
        name: &'static str,
        /// What it could be.
        example: &'static str,
    },
    /// `runmode=` names no run mode.
    #[error("kernel parameter 'runmode' is not usable")]
    RunMode(#[source] RunModeError),
    /// `flist=` names no flist.
    #[error("kernel parameter 'flist' is not usable")]
    Flist(#[source] ChannelNameError),
    /// `hub=` is no address.
    #[error("kernel parameter 'hub' is '{0}', expected http://… or https://…")]
    Hub(String),
    /// The command line is absurdly long.
    #[error("the kernel command line has {0} bytes, the limit is {MAX_LENGTH}")]
    TooLong(usize),
}

/// Parses a command line: words separated by white space, double quotes around values or whole words
/// (they keep white space together and are dropped), everything after a bare `--` is for init. When a
/// parameter is given twice, the last one wins.
///
/// # Errors
/// [`KernelParamsError`] for our parameters; those of others are ignored.
pub fn parse(line: &str) -> Result<KernelParams, KernelParamsError> {
    if line.len() > MAX_LENGTH {
        return Err(KernelParamsError::TooLong(line.len()));
    }
    let words = words(line);
    let ours = words.iter().take_while(|word| *word != "--").map(|word| match word.split_once('=') {
        Some((name, value)) => (name, Some(value).filter(|value| !value.is_empty())),
        None => (word.as_str(), None),
    });
    // The kernel takes '-' and '_' in names as equal, and so does everybody's memory.
    let last: BTreeMap<String, Option<&str>> =
        ours.map(|(name, value)| (name.replace('-', "_"), value)).collect();
    let value = |name: &'static str, example| match last.get(name) {
        None => Ok(None),
        Some(Some(value)) => Ok(Some(*value)),
        Some(None) => Err(KernelParamsError::NoValue { name, example }),
    };
    let run_mode = value("runmode", "prod (or dev, test, qa)")?;
    let flist = value("flist", "<repo>/<name>.flist")?;
    let hubs = value("hub", "https://hub.example.org")?.map(hubs).transpose()?.unwrap_or_default();
    Ok(KernelParams {
        run_mode: run_mode.map(str::parse).transpose().map_err(KernelParamsError::RunMode)?,
        flist: flist.map(str::parse).transpose().map_err(KernelParamsError::Flist)?,
        hubs,
        unknown: last.keys().filter(|name| name.starts_with("molt.")).cloned().collect(),
    })
}

/// Addresses with commas between them.
fn hubs(text: &str) -> Result<Vec<String>, KernelParamsError> {
    let usable = |hub: &str| match hub.starts_with("http://") || hub.starts_with("https://") {
        true => Ok(hub.to_owned()),
        false => Err(KernelParamsError::Hub(hub.to_owned())),
    };
    text.split(',').map(usable).collect()
}

fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
    for character in line.chars() {
        match character {
            '"' => quoted = !quoted,
            c if c.is_whitespace() && !quoted => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            c => word.push(c),
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_of_command_lines() {
        let mode = |line: &str| parse(line).unwrap().run_mode;
        assert_eq!(mode("console=ttyS0 quiet"), None);
        assert_eq!(mode("runmode=dev quiet\n"), Some(RunMode::Dev));
        assert_eq!(mode("runmode=dev runmode=prod"), Some(RunMode::Prod));
        assert_eq!(mode("runmode=\"test\" x=\"a b\""), Some(RunMode::Test));
        assert_eq!(mode("\"runmode=qa\""), Some(RunMode::Qa));
        assert_eq!(mode("notrunmode=dev"), None);
        assert_eq!(mode("x=\"runmode=dev\""), None);
        assert_eq!(mode("-- runmode=dev"), None);
        assert_eq!(mode("x=\"unclosed runmode=dev"), None);
    }

    #[test]
    fn a_run_mode_that_is_none_is_an_error_that_names_the_allowed_ones() {
        for line in ["runmode", "runmode=", "runmode=\"\"", "runmode=dev runmode="] {
            let error = parse(line).unwrap_err();
            assert!(matches!(error, KernelParamsError::NoValue { name: "runmode", .. }), "{line}");
            assert!(error.to_string().contains("prod (or dev, test, qa)"));
        }
        let error = parse("runmode=staging").unwrap_err();
        assert!(flist::report(&error).contains("the run modes are dev"), "{}", flist::report(&error));
    }

    #[test]
    fn other_parameters() {
        let params = parse("flist=tf-zos/zos:v1.flist hub=http://10.0.2.2:8080 molt.fast=1").unwrap();
        assert_eq!(params.flist.unwrap().to_string(), "tf-zos/zos:v1.flist");
        assert_eq!(params.hubs, ["http://10.0.2.2:8080"]);
        let params = parse("flist=tf-zos/testing hub=http://a,https://b:8080/x").unwrap();
        assert_eq!(params.flist.unwrap().to_string(), "tf-zos/testing");
        assert_eq!(params.hubs, ["http://a", "https://b:8080/x"]);
        assert!(matches!(parse("hub=http://a,,http://b"), Err(KernelParamsError::Hub(_))));
        assert_eq!(params.unknown, ["molt.fast"]);
        assert!(matches!(parse("flist=../x"), Err(KernelParamsError::Flist(_))));
        assert!(matches!(parse("hub=ftp://x"), Err(KernelParamsError::Hub(_))));
        assert!(matches!(parse(&"x".repeat(20_000)), Err(KernelParamsError::TooLong(20_000))));
    }
}
