//! Project tasks, run as `cargo xtask <task>`.

mod bench;
mod boot;
mod conformance;
mod conformance_tuf;
mod demo;
mod dist;
mod image;
mod test;
mod tools;
mod torture;

use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;

use clap::{Parser, Subcommand};
use molt_tests::{Error, interrupt};
use tokio::signal::unix::{SignalKind, signal};

/// Tasks of this project. `bench`, `conformance`, `demo` and `test` need root, for namespaces and FUSE.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Measure flist beside `cp -a` and its peers (needs root)
    Bench(bench::Options),
    /// Run the cases that any zinit must pass against one, and print a table (needs root); with --tuf, the public cases
    /// for clients of The Update Framework
    Conformance(conformance::Options),
    /// Boot the image in a virtual machine, beside a hub, with the console on the terminal
    Boot(boot::Options),
    /// Watch a node boot from a flist and replace its own programs without a reboot (needs root)
    Demo {
        /// Write the claims, and what was measured, to this file
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// Build what is shipped: static programs, manual pages, completions
    Dist(dist::Options),
    /// Make a minimal operating system that boots: kernel, initramfs, disk
    Image(image::Options),
    /// Bring what the tests need and run all of them (needs root)
    Test(test::Options),
    /// Download the programs that nodes and tests need to target/tools; the other tasks do it by themselves
    Tools,
    /// Let upgrades go wrong: in a model of a node at every single effect, or in real nodes (needs root)
    Torture(torture::Options),
}

fn main() -> ExitCode {
    let done = end_on_signals().and_then(|()| match Arguments::parse().task {
        Task::Bench(options) => bench::run(&options),
        Task::Conformance(options) => conformance::run(&options),
        Task::Boot(options) => boot::run(&options),
        Task::Demo { json } => demo::run(json.as_deref()),
        Task::Dist(options) => dist::run(&options),
        Task::Image(options) => image::run(&options),
        Task::Test(options) => test::run(&options),
        Task::Tools => tools::run(),
        Task::Torture(options) => torture::run(&options),
    });
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:?}");
            ExitCode::FAILURE
        }
    }
}

/// Turns SIGINT and SIGTERM into the end of every wait, so that what a task started is cleaned up.
fn end_on_signals() -> Result<(), Error> {
    let failed = |source| Error::System { action: "handle signals".to_owned(), source };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let guard = runtime.enter();
    let mut interrupted = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminated = signal(SignalKind::terminate()).map_err(failed)?;
    drop(guard);
    thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupted.recv() => {}
                _ = terminated.recv() => {}
            }
        });
        interrupt();
    });
    Ok(())
}
