//! Watching the log go by, and halting.

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io::Write;

use nix::sys::signal::{Signal, raise};
use tracing::span::{Attributes, Id};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use crate::name::{Role, Values};

/// The name of the point to halt at.
const ARMED: &str = "/run/points/armed";

/// Gets the pid of who has halted.
const HALTED: &str = "/run/points/halted";

/// What becomes of every process that comes by a point, as `ends NAME` or `hangs NAME`.
const ALWAYS: &str = "/run/points/always";

/// Gets the names of all points.
const REACHED: &str = "/run/points/reached";

/// The listener.
pub(crate) struct Points {
    role: Role,
}

/// A span, and how often it has had children of a name.
struct Named {
    name: String,
    children: HashMap<String, usize>,
}

impl Points {
    pub(crate) fn new(role: Role) -> Self {
        Self { role }
    }

    fn reach(&self, name: &str, side: &str) {
        let name = format!("{name}/{side}");
        if let Ok(mut reached) = OpenOptions::new().append(true).open(REACHED) {
            // One write a line: several processes write.
            let _ = reached.write_all(format!("{name}\n").as_bytes());
        }
        match fs::read_to_string(ALWAYS).unwrap_or_default().split_once(' ') {
            Some(("ends", point)) if point == name => std::process::abort(),
            Some(("hangs", point)) if point == name => {
                let _ = raise(Signal::SIGSTOP);
            }
            _ => {}
        }
        if fs::read_to_string(ARMED).is_ok_and(|armed| armed == name) && fs::remove_file(ARMED).is_ok() {
            let _ = fs::write(HALTED, std::process::id().to_string());
            let _ = raise(Signal::SIGSTOP);
        }
    }
}

impl<S: Subscriber + for<'s> LookupSpan<'s>> Layer<S> for Points {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut values = Values::default();
        attributes.record(&mut values);
        let own = values.after(attributes.metadata().name());
        let name = match span.parent() {
            None => format!("{}/{own}", self.role),
            Some(parent) => {
                let mut extensions = parent.extensions_mut();
                let Some(parent) = extensions.get_mut::<Named>() else { return };
                let count = parent.children.entry(own.clone()).or_default();
                *count += 1;
                let number = if *count > 1 { format!("#{count}") } else { String::new() };
                format!("{}/{own}{number}", parent.name)
            }
        };
        span.extensions_mut().insert(Named { name: name.clone(), children: HashMap::new() });
        self.reach(&name, "enter");
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let named = context.span(&id).and_then(|span| span.extensions_mut().remove::<Named>());
        if let Some(named) = named {
            self.reach(&named.name, "leave");
        }
    }

    /// The agent tells its stages in events.
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut stage = Stage::default();
        event.record(&mut stage);
        if let Stage { entered: Some(entered), left: Some(left) } = stage {
            self.reach(&format!("{}/stage:{left}", self.role), "leave");
            self.reach(&format!("{}/stage:{entered}", self.role), "enter");
        }
    }
}

/// What an event says about stages.
#[derive(Default)]
struct Stage {
    entered: Option<String>,
    left: Option<String>,
}

impl tracing::field::Visit for Stage {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        match field.name() {
            "stage" => self.entered = Some(format!("{value:?}")),
            "from" => self.left = Some(format!("{value:?}")),
            _ => {}
        }
    }
}
