//! A release that brings another kernel than the one that runs.
//!
//! A release has its kernel at `/boot/vmlinuz`; it is staged, verified and swapped as any other file. No running kernel
//! is replaced by that, so the node says that a reboot is required, and why.
//!
//! | file      | what it does                                                  |
//! |-----------|---------------------------------------------------------------|
//! | `image`   | which kernel a file is; pure                                  |
//! | `decide`  | what is to be shown; pure                                     |
//! | `shipped` | the kernel of the installed release                           |
//! | `keeper`  | looks again after each upgrade                                |

mod decide;
mod image;
mod keeper;
mod shipped;

pub use decide::{KernelState, KernelStatus, View, decide};
pub use image::{ENOUGH, ImageError, KernelId};
pub use keeper::Keeper;
pub use shipped::{IMAGE, ShippedError, shipped};
