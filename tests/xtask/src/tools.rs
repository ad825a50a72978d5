//! `cargo xtask tools`

use molt_tests::{Binaries, Error, tools};

/// Downloads what is not there yet.
pub(crate) fn run() -> Result<bool, Error> {
    let redis = bring(&Binaries::ensure()?)?;
    println!("busybox  {}", tools::busybox()?.display());
    println!("redis    {}", redis.server.display());
    for library in &redis.libraries {
        println!("         {}", library.display());
    }
    println!("rsync    {}", tools::rsync()?.program.display());
    Ok(true)
}

/// Busybox, rsync and redis.
pub(crate) fn bring(binaries: &Binaries) -> Result<tools::Redis, Error> {
    tools::busybox()?;
    tools::rsync()?;
    tools::redis(binaries)
}
