//! `cargo xtask dist`: what goes into a release of Molt: static programs, manual pages, completions, checksums.

mod alone;
mod manuals;
mod sums;
mod weight;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use molt_tests::musl::Toolchain;
use molt_tests::{Error, cargo, target_dir};

/// An optimised build from scratch on a small machine takes many minutes.
const BUILD_LIMIT: Duration = Duration::from_secs(3600);

/// Cargo's profile for what is shipped.
const PROFILE: &str = "dist";

/// How long stripping a program may take.
const STRIP_LIMIT: Duration = Duration::from_secs(60);

/// Where to put it.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The directory for the result, empty or from an earlier run; target/dist if it is not given
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// One program: its name, which is its package's too, its features, and its largest size in 10^6 bytes.
struct Program {
    name: &'static str,
    features: &'static str,
    limit: Option<f64>,
}

const PROGRAMS: [Program; 3] = [
    Program { name: "bootstrap", features: "", limit: Some(8.0) },
    Program { name: "identityd", features: "", limit: Some(12.0) },
    Program { name: "flist", features: "server,publish", limit: None },
];

/// Builds everything; `false` when a program is too big.
pub(crate) fn run(options: &Options) -> Result<bool, Error> {
    let out = match &options.out {
        Some(directory) => std::path::absolute(directory).map_err(failed("find", directory))?,
        None => target_dir()?.join("dist"),
    };
    sums::remove_earlier(&out)?;
    let bin = out.join("bin");
    fs::create_dir_all(&bin).map_err(failed("make", &bin))?;
    // Shows the next run that the directory is ours, also when this one does not get to its end.
    sums::write(&out)?;
    let toolchain = Toolchain::bring()?;
    let mut all_fit = true;
    for program in &PROGRAMS {
        println!("building {} for {}", program.name, toolchain.target());
        let built = build(program, &toolchain)?;
        let shipped = strip(&built, &bin)?;
        all_fit &= weigh(program, &built, &shipped)?;
        match alone::check(&shipped)? {
            Some(version) => println!("  static; in an empty root it says: {version}"),
            None => println!("  static; not tried in an empty root, which needs root"),
        }
    }
    manuals::write(&out)?;
    sums::write(&out)?;
    println!("everything is in {}", out.display());
    Ok(all_fit)
}

/// Each program is built by itself, so that the features of one do not end up in the others.
fn build(program: &Program, toolchain: &Toolchain) -> Result<PathBuf, Error> {
    let target = target_dir()?.join("dist-build");
    let mut build: Command = cargo();
    build.args(["build", "--quiet", "--profile", PROFILE, "--package", program.name, "--bin", program.name]);
    build.args(["--features", program.features, "--target", toolchain.target()]);
    build.env("CARGO_TARGET_DIR", &target).envs(toolchain.environment());
    molt_tests::run(&mut build, BUILD_LIMIT)?;
    Ok(target.join(toolchain.target()).join(PROFILE).join(program.name))
}

/// Copies a program without its symbols.
fn strip(built: &Path, bin: &Path) -> Result<PathBuf, Error> {
    let shipped = bin.join(built.file_name().unwrap_or_default());
    let mut strip = Command::new("strip");
    molt_tests::run(strip.arg("--strip-all").arg("-o").arg(&shipped).arg(built), STRIP_LIMIT)?;
    Ok(shipped)
}

/// Prints the size; of a program that is too big, also what weighs most.
fn weigh(program: &Program, built: &Path, shipped: &Path) -> Result<bool, Error> {
    let bytes = fs::metadata(shipped).map_err(failed("look at", shipped))?.len();
    let size = bytes as f64 / 1e6;
    let Some(limit) = program.limit else {
        println!("  {size:.2} MB");
        return Ok(true);
    };
    if size <= limit {
        println!("  {size:.2} MB of at most {limit} MB");
        return Ok(true);
    }
    println!(
        "  {size:.2} MB: more than {limit} MB by {:.0} %; most of its code is from",
        (size / limit - 1.0) * 100.0
    );
    for (crate_name, bytes) in weight::heaviest(built)? {
        println!("    {crate_name:<20} {:.2} MB", bytes as f64 / 1e6);
    }
    Ok(false)
}

fn failed<'p>(action: &'static str, path: &'p Path) -> impl Fn(std::io::Error) -> Error + 'p {
    move |source| Error::System { action: format!("{action} {}", path.display()), source }
}
