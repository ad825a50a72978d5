//! `cargo xtask conformance`: what any zinit must do for the engine, case by case.

use std::path::PathBuf;

use molt_tests::{Binaries, Error, Zinit, conformance};
use zinit_client::Dialect;

/// Which supervisor, and which cases.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The program: zinit 0.2, or zinit-server 0.3; the stand-in of this project if none is given
    #[arg(long, value_name = "PATH")]
    zinit: Option<PathBuf>,
    /// What it speaks, where its version does not tell: line, jsonrpc or service
    #[arg(long, value_name = "DIALECT", value_parser = dialect)]
    dialect: Option<Dialect>,
    /// Only cases whose name contains this
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// Instead, the client cases of tuf-conformance, of which this is a copy, against the client that nodes have
    #[arg(long, value_name = "DIR", conflicts_with_all = ["zinit", "dialect", "only"])]
    tuf: Option<PathBuf>,
}

/// Runs the cases and prints a table; `false` when one fails.
pub(crate) fn run(options: &Options) -> Result<bool, Error> {
    if let Some(suite) = &options.tuf {
        return crate::conformance_tuf::table(suite);
    }
    let program = match &options.zinit {
        Some(program) => program.clone(),
        None => Binaries::ensure()?.stand_in(),
    };
    table(&Zinit::at(&program, options.dialect)?, &options.only)
}

/// The table of one supervisor.
pub(crate) fn table(zinit: &Zinit, only: &str) -> Result<bool, Error> {
    println!("{}, dialect {}", zinit.version(), zinit.dialect());
    let outcomes = conformance::run(zinit, only, |outcome| {
        let (mark, remark) = match &outcome.result {
            Ok(remark) => ('+', remark.as_str()),
            Err(reason) => ('-', reason.as_str()),
        };
        let line = format!("{mark} {:6.2} s  {:44} {remark}", outcome.took.as_secs_f32(), outcome.name);
        println!("{}", line.trim_end());
    })?;
    let failed = outcomes.iter().filter(|outcome| outcome.result.is_err()).count();
    println!("{} of {} cases pass", outcomes.len() - failed, outcomes.len());
    Ok(failed == 0 && !outcomes.is_empty())
}

fn dialect(text: &str) -> Result<Dialect, String> {
    let all = [Dialect::Line, Dialect::Jsonrpc, Dialect::Service];
    let found = all.into_iter().find(|dialect| dialect.to_string() == text);
    found.ok_or_else(|| "it is line, jsonrpc or service".to_owned())
}
