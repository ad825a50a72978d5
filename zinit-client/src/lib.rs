//! Async client of the service supervisor [zinit], and a model of its unit files.
//!
//! The crate has two halves that do not need each other:
//!
//! * [`Client`] talks to a running supervisor through its unix socket. Every call is one short
//!   conversation with a deadline and a size limit, so that a supervisor that hangs, dies or talks
//!   nonsense costs the caller an [`Error`], never its life.
//! * [`ServiceUnit`] and the functions beside it are pure: they parse and render the YAML units
//!   that zinit reads, and put services in the order in which they start and stop.
//!
//! ```no_run
//! use zinit_client::{Client, Refusal, UnitName};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let zinit = Client::new("/var/run/zinit.sock");
//! let redis: UnitName = "redis".parse()?;
//!
//! match zinit.monitor(&redis).await {
//!     Err(error) if matches!(error.refusal(), Some(Refusal::AlreadyMonitored { .. })) => {}
//!     answer => answer?,
//! }
//! let status = zinit.status(&redis).await?;
//! println!("{} is {} (wanted {})", status.name, status.state, status.target);
//! # Ok(())
//! # }
//! ```
//!
//! zinit has three wire dialects: *line* up to 0.2.19, *jsonrpc* from there to 0.2.28, *service* in 0.3. The
//! client finds out by itself which one a socket speaks ([`Client::dialect`]), and says the same in all of
//! them; what they do differently is told at each method. Each is one private module.
//!
//! [zinit]: https://github.com/threefoldtech/zinit

mod client;
mod dialect;
mod error;
mod status;
mod unit;
mod unit_file;

pub use client::{Client, DEFAULT_DEADLINE, DEFAULT_SOCKET, DEFAULT_UNITS};
pub use dialect::{Dialect, MAX_SERVICES};
pub use error::{Error, Hazard, Malformed, Refusal, Untranslatable};
pub use status::{ExitCause, ServiceStatus, State, Target};
pub use unit::{
    LogTarget, MAX_NAME_BYTES, MAX_STOP_TIMEOUT, MAX_UNIT_BYTES, MoltSettings, NameError, OrderError,
    ServiceUnit, SignalError, SignalName, UnitError, UnitName, missing_dependencies, order_subset,
    start_order, stop_order,
};
pub use unit_file::read_unit_file;
