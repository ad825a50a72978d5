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
//! Of zinit's three wire dialects the client speaks one, *line*: zinit up to 0.2.19, the one that
//! production nodes run. What a dialect has to do is in one private module, so another one is
//! added beside it without a change to [`Client`]'s methods.
//!
//! [zinit]: https://github.com/threefoldtech/zinit

mod client;
mod dialect;
mod error;
mod status;
mod unit;

pub use client::{Client, DEFAULT_DEADLINE, DEFAULT_SOCKET};
pub use error::{Error, Malformed, Refusal};
pub use status::{ExitCause, ServiceStatus, State, Target};
pub use unit::{
    LogTarget, MAX_NAME_BYTES, MAX_STOP_TIMEOUT, MAX_UNIT_BYTES, MoltSettings, NameError, OrderError,
    ServiceUnit, SignalError, SignalName, UnitError, UnitName, missing_dependencies, order_subset,
    start_order, stop_order,
};
