//! The TUF client of this project behind the command line of the public conformance suite
//! (<https://github.com/theupdateframework/tuf-conformance>, CLIENT-CLI.md).

use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use flist::hub::HubClient;
use flist::trust::clock::Clocks;
use flist::trust::{Fresh, SignedTarget, Source, TrustClient, TrustError};

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

#[derive(Parser)]
struct Arguments {
    /// What is trusted
    #[arg(long)]
    metadata_dir: PathBuf,
    /// Where metadata comes from
    #[arg(long)]
    metadata_url: Option<String>,
    /// What to download
    #[arg(long)]
    target_name: Vec<String>,
    /// Where targets come from
    #[arg(long)]
    target_base_url: Option<String>,
    /// Where they go
    #[arg(long)]
    target_dir: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Begin to trust this root
    Init { root: PathBuf },
    /// Bring the metadata up to date
    Refresh,
    /// Bring the metadata up to date, and download targets
    Download,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", flist::report(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Outcome {
    match &arguments.verb {
        Verb::Init { root } => init(&arguments.metadata_dir, root),
        Verb::Refresh => refresh(arguments).await.map(drop),
        Verb::Download => download(arguments).await,
    }
}

fn pinned(metadata_dir: &Path) -> PathBuf {
    metadata_dir.join("pinned").join("root.json")
}

fn init(metadata_dir: &Path, root: &Path) -> Outcome {
    let pinned = pinned(metadata_dir);
    std::fs::create_dir_all(pinned.parent().ok_or("no parent")?)?;
    std::fs::copy(root, pinned)?;
    std::fs::copy(root, metadata_dir.join("root.json"))?;
    Ok(())
}

async fn refresh(arguments: &Arguments) -> Outcome<Fresh> {
    let url = arguments.metadata_url.as_ref().ok_or("--metadata-url is missing")?;
    let root = std::fs::read(pinned(&arguments.metadata_dir))?;
    let client = TrustClient::open(&root, &arguments.metadata_dir, source(url)?)?;
    Ok(client.refresh(&clocks()).await?)
}

/// The clocks of a node, but for one thing: the suite replays repositories of years ago, so time may be earlier than when
/// this program was built.
fn clocks() -> Clocks {
    Clocks { built: 0, ..Clocks::read() }
}

/// What lies under this address, asked for as nodes ask their hubs.
fn source(url: &str) -> Outcome<Source> {
    let (hub, directory) =
        url.trim_end_matches('/').rsplit_once('/').ok_or("the address names no directory")?;
    let hub = HubClient::new(hub, concat!("conformance-tuf/", env!("CARGO_PKG_VERSION")))?;
    Ok(Source::of_hub(&hub, directory)?)
}

async fn download(arguments: &Arguments) -> Outcome {
    let url = arguments.target_base_url.as_ref().ok_or("--target-base-url is missing")?;
    let directory = arguments.target_dir.as_ref().ok_or("--target-dir is missing")?;
    let source = source(url)?;
    let mut fresh = refresh(arguments).await?;
    for name in &arguments.target_name {
        let target = fresh.target(name).await?;
        let file = directory.join(quoted(name));
        if !std::fs::read(&file).is_ok_and(|bytes| is(&target, &bytes)) {
            fetch(&source, fresh.is_consistent(), &target, &file).await?;
        }
    }
    Ok(())
}

fn is(target: &SignedTarget, bytes: &[u8]) -> bool {
    let mut check = target.check();
    check.update(bytes).and_then(|()| check.finish()).is_ok()
}

async fn fetch(source: &Source, consistent: bool, target: &SignedTarget, to: &Path) -> Outcome {
    let path = if consistent { target.consistent_path() } else { target.path.clone() };
    let failed = |source| TrustError::Content { target: target.path.clone(), source };
    let mut body =
        source.open(&path, target.length).await.map_err(failed)?.ok_or("the target is not there")?;
    let mut file = tempfile::NamedTempFile::new_in(to.parent().ok_or("no parent")?)?;
    let mut check = target.check();
    while let Some(bytes) = body.next().await.map_err(failed)? {
        check.update(&bytes)?;
        file.write_all(&bytes)?;
    }
    check.finish()?;
    file.persist(to)?;
    Ok(())
}

/// A target's path as one file name.
fn quoted(path: &str) -> String {
    let quote = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    path.bytes().map(quote).collect()
}
