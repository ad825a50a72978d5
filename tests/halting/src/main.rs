//! identityd, made from its library, that halts at a named point.
//!
//! It is the real program in all it does. Only its log has another listener besides: engine and handover
//! have a span for each step and each effect, and every beginning and end of one is a **point**. Its name
//! tells who is at work and the way down to the effect, for instance
//!
//! ```text
//! daemon/apply:Upgrade/step:commit/rename:/var/lib/molt/.new-current,/var/lib/molt/current/leave
//! ```
//!
//! The campaign that runs it talks to it through files in `/run/points`: every point goes to `reached`, if that is
//! there; at the point whose name is in `armed` it writes its pid to `halted` and stops as by SIGSTOP, all its
//! threads, until it is killed. A point in `always` ends or stops everybody who comes by, each time: that is an identityd
//! that is no good. Without that directory it is identityd.
//!
//! It has one option more than identityd, which does nothing: `--dropped`, an option that another version does not have.

mod name;
mod points;

use std::process::ExitCode;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use name::Role;
use points::Points;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().filter(|word| word != "--dropped").collect();
    let role = Role::of(&arguments);
    let engine = Targets::new()
        .with_target("bootstrap", LevelFilter::TRACE)
        .with_target("identityd", LevelFilter::TRACE);
    let log = fmt::layer().compact().with_target(false).with_ansi(false).with_writer(std::io::stderr);
    let shown = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::registry()
        .with(log.with_filter(shown))
        .with(Points::new(role).with_filter(engine))
        .init();
    identityd::cli::run(arguments)
}
