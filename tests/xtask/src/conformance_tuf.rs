//! `cargo xtask conformance --tuf DIR`: the public suite of client cases of The Update Framework, against our client.
//!
//! The suite is on no package index, so whoever runs this has a copy of it; what it is written with comes from there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use molt_tests::{Error, cargo, output, profile_dir, run, scratch, target_dir, tools};
use serde::Deserialize;

/// Environment variable with the directory of the suite, for `cargo xtask test`.
pub(crate) const SUITE: &str = "MOLT_TUF_CONFORMANCE";

/// The release of the suite that is known, and how many cases for clients it has.
const VERSION: &str = "2.4.0";
const CASES: usize = 110;

/// Where the suite is from, for whoever has none.
const ORIGIN: &str = "https://github.com/theupdateframework/tuf-conformance";

/// What this release of the suite is written with.
const PACKAGES: [&str; 4] =
    ["tuf==7.0.0", "securesystemslib[crypto]==1.4.0", "pytest==9.1.1", "pytest-json-report==1.5.0"];

/// How long all cases may take, and the build before them.
const LIMIT: Duration = Duration::from_secs(1800);

/// Runs all cases and prints a table; `false` when one fails, or there are others than is known.
pub(crate) fn table(suite: &Path) -> Result<bool, Error> {
    let suite = checked(suite)?;
    let client = client()?;
    let python = tools::python("tuf-conformance-python", &PACKAGES)?;
    let scratch = scratch("tuf-conformance")?;
    let report = scratch.path().join("report.json");
    let mut pytest = Command::new(python);
    pytest.args(["-m", "pytest", "tuf_conformance", "--quiet", "-p", "no:cacheprovider", "--json-report"]);
    // These are about the suite itself.
    pytest.arg("--ignore=tuf_conformance/test_repository_simulator.py");
    pytest.arg(format!("--json-report-file={}", report.display())).arg("--entrypoint").arg(client);
    pytest.current_dir(&suite).env("PYTHONDONTWRITEBYTECODE", "1").env("TMPDIR", scratch.path());
    if let Some(programs) = tools::faketime()? {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths([programs].into_iter().chain(std::env::split_paths(&path)));
        pytest.env("PATH", path.map_err(|error| Error::Unexpected(error.to_string()))?);
    }
    let started = Instant::now();
    let ended = output(&mut pytest, LIMIT)?;
    let text = std::fs::read_to_string(&report).map_err(|source| {
        let said = String::from_utf8_lossy(&[ended.stdout, ended.stderr].concat()).into_owned();
        Error::System { action: format!("read what the suite found; it said:\n{said}"), source }
    })?;
    let report: Report = serde_json::from_str(&text)
        .map_err(|error| Error::Unexpected(format!("the suite's report is not understood: {error}")))?;
    Ok(shown(&report, started.elapsed()))
}

/// The directory, if it is the suite in the release that is known.
fn checked(suite: &Path) -> Result<PathBuf, Error> {
    let hint = format!("get it with: git clone --branch v{VERSION} {ORIGIN}");
    let module = suite.join("tuf_conformance/__init__.py");
    let text = std::fs::read_to_string(&module).map_err(|source| Error::System {
        action: format!("find tuf-conformance in {}; {hint}", suite.display()),
        source,
    })?;
    match text.lines().any(|line| line.trim() == format!("__version__ = \"{VERSION}\"")) {
        true => suite
            .canonicalize()
            .map_err(|source| Error::System { action: format!("find {}", suite.display()), source }),
        false => {
            Err(Error::Unexpected(format!("{} is not tuf-conformance {VERSION}; {hint}", suite.display())))
        }
    }
}

/// Our client behind the suite's command line, built.
fn client() -> Result<PathBuf, Error> {
    let profile = profile_dir()?;
    let name = profile.file_name().unwrap_or_default().to_owned();
    let mut build = cargo();
    build.args(["build", "--quiet", "--package", "conformance-tuf", "--profile"]);
    build.arg(if name == "debug" { "dev".into() } else { name }).env("CARGO_TARGET_DIR", target_dir()?);
    run(&mut build, LIMIT)?;
    Ok(profile.join("conformance-tuf"))
}

#[derive(Deserialize)]
struct Report {
    #[serde(default)]
    tests: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    nodeid: String,
    outcome: String,
}

impl Case {
    /// A case that is expected to fail, or left out, has not passed.
    fn passes(&self) -> bool {
        self.outcome == "passed"
    }

    /// `test_basic` of `tuf_conformance/test_basic.py::test_init`.
    fn group(&self) -> &str {
        let file = self.nodeid.split("::").next().unwrap_or_default();
        file.rsplit('/').next().unwrap_or_default().trim_end_matches(".py")
    }
}

/// Prints what came of the cases, by the suite's files.
fn shown(report: &Report, took: Duration) -> bool {
    let mut groups: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for case in &report.tests {
        let (passed, all) = groups.entry(case.group()).or_default();
        (*passed, *all) = (*passed + usize::from(case.passes()), *all + 1);
    }
    println!("tuf-conformance {VERSION}, the client of flist::trust, {:.0} s", took.as_secs_f32());
    for (group, (passed, all)) in &groups {
        println!("{} {group:32} {passed:3} of {all:3}", if passed == all { '+' } else { '-' });
    }
    for case in report.tests.iter().filter(|case| !case.passes()) {
        println!("- {}: {}", case.nodeid, case.outcome);
    }
    let passed = report.tests.iter().filter(|case| case.passes()).count();
    println!("{passed} of {} cases pass", report.tests.len());
    if report.tests.len() != CASES {
        println!("- release {VERSION} of the suite has {CASES} cases");
    }
    passed == CASES && report.tests.len() == CASES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(outcomes: &[(&str, usize)]) -> Report {
        let case = |outcome: &str| Case {
            nodeid: "tuf_conformance/test_basic.py::test_x[1]".to_owned(),
            outcome: outcome.to_owned(),
        };
        let tests = outcomes.iter().flat_map(|(outcome, count)| (0..*count).map(move |_| case(outcome)));
        Report { tests: tests.collect() }
    }

    #[test]
    fn only_all_of_the_known_cases_are_a_success() {
        assert_eq!(report(&[("passed", 1)]).tests[0].group(), "test_basic");
        assert!(shown(&report(&[("passed", CASES)]), Duration::ZERO));
        for other in [&[("passed", CASES - 1)][..], &[("passed", CASES), ("failed", 1)], &[]] {
            assert!(!shown(&report(other), Duration::ZERO), "{other:?}");
        }
        for outcome in ["failed", "skipped", "xfailed", "error"] {
            assert!(!shown(&report(&[("passed", CASES - 1), (outcome, 1)]), Duration::ZERO), "{outcome}");
        }
        assert!(checked(Path::new("/nowhere")).unwrap_err().to_string().contains(ORIGIN));
    }
}
