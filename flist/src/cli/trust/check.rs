//! `flist trust check`

use std::path::PathBuf;

use flist::exit::Exit;
use flist::hub::RunMode;
use flist::trust::clock::Clocks;
use serde_json::json;

use super::access::new_node;
use crate::cli::failure::Failure;
use crate::cli::output::Output;

/// Tell whether a node would accept what a hub serves, and for how long.
///
/// Does what a node does on its first boot: from the root file on, with nothing remembered.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Address of the hub
    #[arg(long, value_name = "URL", env = "FLIST_HUB")]
    hub: String,
    /// The root file of the nodes
    #[arg(long, value_name = "FILE", default_value = "trust/root.json")]
    root: PathBuf,
    /// Show the releases of this run mode (dev, test, prod, qa) only
    #[arg(long, value_name = "MODE")]
    run_mode: Option<RunMode>,
}

const EXAMPLES: &str = "Examples:
  flist trust check --hub http://127.0.0.1:8080 --root trust/root.json
  flist trust check --hub https://hub.example --root /etc/molt/root.json --run-mode prod --json";

pub(super) fn run(arguments: &Arguments, output: &Output) -> crate::cli::Outcome {
    let (client, _state) = new_node(&arguments.root, &arguments.hub)?;
    let modes = arguments
        .run_mode
        .map_or(vec![RunMode::Dev, RunMode::Test, RunMode::Prod, RunMode::Qa], |mode| vec![mode]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let checked = runtime.block_on(async {
        let mut fresh = client.refresh(&Clocks::read()).await?;
        let mut releases = Vec::new();
        for mode in modes {
            releases.extend(fresh.releases(mode).await?);
        }
        Ok::<_, Failure>((fresh.expires(), releases))
    });
    let (expires, releases) = checked.map_err(|mut failure| {
        if failure.exit == Exit::NotFound {
            failure.remedy = Some("send the metadata to this hub: flist trust refresh --hub".to_owned());
        }
        failure
    })?;
    let shown: Vec<_> = releases
        .iter()
        .map(|release| {
            json!({
                "run_mode": release.run_mode.as_str(),
                "channel": release.channel,
                "version": release.version.to_string(),
                "release": release.release,
                "flists": release.flists.iter().map(|(target, _)| target.path.clone()).collect::<Vec<_>>(),
            })
        })
        .collect();
    output.data(&json!({"accepted": true, "until": expires.to_string(), "releases": shown}), || {
        let mut text =
            format!("a node with this root accepts what {} serves, until {expires}\n", arguments.hub);
        for release in &releases {
            text.push_str(&format!(
                "{:<5} {} {} ({})\n",
                release.run_mode, release.channel, release.version, release.release
            ));
        }
        if releases.is_empty() {
            text.push_str(
                "there is no release yet; sign one with: flist publish --sign, or flist trust release\n",
            );
        }
        text
    })
}
