//! The kernel command line. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use flist::hub::{Channel, ChannelNameError, RunMode, RunModeError, shown_address};
use semver::Version;

/// Longest command line that is looked at, in bytes; Linux itself allows 4096 on most machines.
const MAX_LENGTH: usize = 16 * 1024;

const GROUP: &str = "molt.group";

const KERNEL_TRIAL: &str = "molt.kernel_trial";

/// What the command line asks for. What it does not mention is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelParams {
    /// `runmode=`
    pub run_mode: Option<RunMode>,
    /// `flist=`: this flist, tag or taglink instead of what the run mode follows.
    pub flist: Option<Channel>,
    /// `hub=`: addresses of hubs with the same content, the best one first.
    pub hubs: Vec<String>,
    /// `version=`: this version instead of the newest of the run mode's channel.
    pub version: Option<Version>,
    /// `molt.group=` or `farmer_id=`: the group of nodes that this one belongs to.
    pub group: Option<String>,
    /// `molt.kernel_trial=SECONDS`: how long the kernel has until all has to be well with it.
    pub kernel_trial: Option<Duration>,
    /// The parameters that are on or off.
    pub switches: Switches,
    /// Parameters in our own name space that are not known, to be reported.
    pub unknown: Vec<String>,
}

/// Parameters that are on (`molt.debug` or `molt.debug=1`) or off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Switches {
    /// `molt.hold`: nothing is upgraded until a boot without it.
    pub hold: bool,
    /// `molt.insecure`: releases that nobody has signed are accepted.
    pub insecure: bool,
    /// `molt.debug`: both programs log more.
    pub debug: bool,
    /// `molt.downgrade`: a lower version than the installed one is taken.
    pub downgrade: bool,
}

/// The names of all switches.
const SWITCHES: [&str; 4] = ["molt.hold", "molt.insecure", "molt.debug", "molt.downgrade"];

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
    /// `version=` is no version.
    #[error("kernel parameter 'version' is '{0}', expected three numbers such as 1.2.3")]
    Version(String),
    /// Two parameters name a release.
    #[error("the kernel parameters 'flist' and 'version' both say what to install; keep one of them")]
    FlistAndVersion,
    /// `farmer_id=` is no number.
    #[error("kernel parameter 'farmer_id' is '{0}', expected a number")]
    Group(String),
    /// `molt.kernel_trial=` is no time.
    #[error("kernel parameter 'molt.kernel_trial' is '{0}', expected a number of seconds from 1 on")]
    KernelTrial(String),
    /// A switch is neither on nor off.
    #[error("kernel parameter '{name}' is '{value}', expected 1 or 0")]
    Switch {
        /// The parameter.
        name: &'static str,
        /// Its value.
        value: String,
    },
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
    let version = value("version", "1.2.3")?.map(version_of).transpose()?;
    if version.is_some() && flist.is_some() {
        return Err(KernelParamsError::FlistAndVersion);
    }
    let farmer = value("farmer_id", "1")?;
    let farmer = farmer.map(|id| match id.parse::<u32>() {
        Ok(number) => Ok(number.to_string()),
        Err(_) => Err(KernelParamsError::Group(id.to_owned())),
    });
    let group = value(GROUP, "canary")?.map(str::to_owned).or(farmer.transpose()?);
    let trial = value(KERNEL_TRIAL, "900")?.map(|text| match text.parse::<u32>() {
        Ok(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds.into())),
        _ => Err(KernelParamsError::KernelTrial(text.to_owned())),
    });
    let [hold, insecure, debug, downgrade] = SWITCHES.map(|name| switch(name, last.get(name)));
    let known =
        |name: &&String| SWITCHES.contains(&name.as_str()) || [GROUP, KERNEL_TRIAL].contains(&name.as_str());
    Ok(KernelParams {
        run_mode: run_mode.map(str::parse).transpose().map_err(KernelParamsError::RunMode)?,
        flist: flist.map(str::parse).transpose().map_err(KernelParamsError::Flist)?,
        hubs,
        version,
        group,
        kernel_trial: trial.transpose()?,
        switches: Switches { hold: hold?, insecure: insecure?, debug: debug?, downgrade: downgrade? },
        unknown: last.keys().filter(|name| name.starts_with("molt.") && !known(name)).cloned().collect(),
    })
}

/// Addresses with commas between them.
fn hubs(text: &str) -> Result<Vec<String>, KernelParamsError> {
    let usable = |hub: &str| match hub.starts_with("http://") || hub.starts_with("https://") {
        true => Ok(hub.to_owned()),
        false => Err(KernelParamsError::Hub(shown_address(hub))),
    };
    text.split(',').map(usable).collect()
}

/// A version in three numbers, a `v` before it or not.
fn version_of(text: &str) -> Result<Version, KernelParamsError> {
    let plain = text.strip_prefix('v').unwrap_or(text).parse::<Version>().ok();
    let numbers = plain.filter(|version| version.pre.is_empty() && version.build.is_empty());
    numbers.ok_or_else(|| KernelParamsError::Version(text.to_owned()))
}

fn switch(name: &'static str, value: Option<&Option<&str>>) -> Result<bool, KernelParamsError> {
    match value {
        None => Ok(false),
        Some(None) => Ok(true),
        Some(Some("1" | "yes" | "true" | "on")) => Ok(true),
        Some(Some("0" | "no" | "false" | "off")) => Ok(false),
        Some(Some(other)) => Err(KernelParamsError::Switch { name, value: (*other).to_owned() }),
    }
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
    fn switches_are_on_or_off() {
        let params = parse("molt.insecure=1 molt.downgrade=0").unwrap();
        assert!(params.switches.insecure && !params.switches.downgrade && params.unknown.is_empty());
        assert!(!parse("quiet").unwrap().switches.insecure);
        assert!(parse("molt.insecure").unwrap().switches.insecure);
        assert!(matches!(parse("molt.insecure=2"), Err(KernelParamsError::Switch { .. })));
    }

    #[test]
    fn other_parameters() {
        let params = parse("flist=tf-zos/zos:v1.flist hub=http://10.0.2.2:8080 molt.fast=1").unwrap();
        assert_eq!(params.flist.unwrap().to_string(), "tf-zos/zos:v1.flist");
        assert_eq!(
            (params.hubs, params.unknown),
            (vec!["http://10.0.2.2:8080".to_owned()], vec!["molt.fast".to_owned()])
        );
        let params = parse("flist=tf-zos/testing hub=http://a,https://b:8080/x").unwrap();
        assert_eq!(params.flist.unwrap().to_string(), "tf-zos/testing");
        assert_eq!(params.hubs, ["http://a", "https://b:8080/x"]);
        assert!(matches!(parse("hub=http://a,,http://b"), Err(KernelParamsError::Hub(_))));
        let params = parse("version=v1.2.3 farmer_id=17 molt.hold molt.debug=1 molt.insecure=0").unwrap();
        assert_eq!((params.version, params.group.as_deref()), (Some(Version::new(1, 2, 3)), Some("17")));
        assert_eq!(params.switches, Switches { hold: true, insecure: false, debug: true, downgrade: false });
        assert!(params.unknown.is_empty());
        for text in ["new", "1.2", "1.2.3.4", "1.2.3-rc.1", "1.02.3"] {
            assert!(
                matches!(parse(&format!("version={text}")), Err(KernelParamsError::Version(_))),
                "{text}"
            );
        }
        assert!(matches!(parse("version=1.2.3 flist=a/b.flist"), Err(KernelParamsError::FlistAndVersion)));
        assert!(matches!(parse("farmer_id=me"), Err(KernelParamsError::Group(_))));
        let error = parse("molt.hold=maybe").unwrap_err();
        assert!(error.to_string().contains("'molt.hold' is 'maybe', expected 1 or 0"), "{error}");
        assert_eq!(parse("molt.kernel_trial=60").unwrap().kernel_trial, Some(Duration::from_secs(60)));
        for text in ["0", "-1", "soon", "99999999999"] {
            let parsed = parse(&format!("molt.kernel_trial={text}"));
            assert_eq!(parsed, Err(KernelParamsError::KernelTrial(text.to_owned())));
        }
        assert!(matches!(parse("flist=../x"), Err(KernelParamsError::Flist(_))));
        assert!(matches!(parse("hub=ftp://x"), Err(KernelParamsError::Hub(_))));
        let error = parse("hub=ftp://u:secret@x").unwrap_err().to_string();
        assert!(error.contains("@x") && !error.contains("secret"), "{error}");
        assert!(matches!(parse(&"x".repeat(20_000)), Err(KernelParamsError::TooLong(20_000))));
    }
}
