//! The real supervisor, driven through its socket, with real processes.
//!
//! With `MOLT_ZINIT=/path/to/zinit` in the environment a real zinit of the line dialect runs in its
//! place, which shows whether the stand-in is like it.

mod cli;
mod node;
mod pid1;
mod services;
mod shutdown;
mod wire;
