//! The stand-in passes what every zinit must pass, in both dialects that it speaks. `cargo xtask conformance`
//! runs the same cases against a real one.

use molt_tests::{Binaries, Error, Zinit, conformance};
use zinit_client::Dialect;

fn passes(dialect: Dialect) -> Result<(), Error> {
    let zinit = Zinit::at(&Binaries::ensure()?.stand_in(), Some(dialect))?;
    let mut failed = Vec::new();
    conformance::run(&zinit, "", |outcome| {
        if let Err(reason) = &outcome.result {
            failed.push(format!("{}: {reason}", outcome.name));
        }
    })?;
    if failed.is_empty() { Ok(()) } else { Err(Error::Unexpected(failed.join("\n"))) }
}

#[test]
fn the_stand_in_in_the_line_dialect() -> Result<(), Error> {
    passes(Dialect::Line)
}

#[test]
fn the_stand_in_in_the_jsonrpc_dialect() -> Result<(), Error> {
    passes(Dialect::Jsonrpc)
}
