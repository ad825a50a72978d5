//! `flist serve`

use std::net::SocketAddr;
use std::path::PathBuf;

use flist::server::{ServerConfig, serve};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// Run a hub: flists under /, blocks under /store. Uploads are accepted from this machine only.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The directory with everything the hub has; it is created if it is not there
    #[arg(long, value_name = "DIR")]
    root: PathBuf,
    /// The address to listen on
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
}

pub(super) fn run(arguments: Arguments) -> super::Outcome {
    tokio::runtime::Runtime::new()?.block_on(async {
        let listener = TcpListener::bind(arguments.listen)
            .await
            .map_err(|error| format!("cannot listen on {}: {error}", arguments.listen))?;
        let (mut interrupt, mut terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let shutdown = async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        };
        println!("serving {} on http://{}", arguments.root.display(), listener.local_addr()?);
        serve(listener, ServerConfig::new(arguments.root), shutdown).await?;
        Ok(())
    })
}
