//! A release that brings another kernel than the one that runs: what is said about it, and, where the administrator
//! allows it, how it is started.
//!
//! A release has its kernel at `/boot/vmlinuz` and the first root file system for it at `/boot/initramfs`; both are
//! staged, verified and swapped as any other file. No running kernel is replaced by that, so the node says that a
//! reboot is required, and why. With `kernel: {policy: kexec}` or `reboot` it does that by itself, in a maintenance
//! window, once for each kernel; what was tried and what became of it is on the state disk before it is done. A kernel
//! with which not all is well in time is left by a reboot: by `keeper`, and where identityd does not even run, by
//! [`bootstrap::kernel_guard`].
//!
//! | file      | what it does                                                  |
//! |-----------|---------------------------------------------------------------|
//! | `image`   | which kernel a file is; pure                                  |
//! | `decide`  | what is to be done and said; pure                             |
//! | `obstacle`| what keeps a kernel from being started now; pure             |
//! | `shipped` | the kernel of the installed release                           |
//! | `trial`   | what was tried, on disk                                       |
//! | `keeper`  | looks again and again, and has it done                        |
//! | `health`  | whether all is well with a kernel on trial                    |
//! | `act`     | `kexec_file_load`, boot loader, end of the services, reboot   |

mod act;
mod decide;
mod health;
mod image;
mod keeper;
mod obstacle;
mod shipped;
mod trial;

pub use act::StartError;
pub use decide::{Decision, Health, How, KernelState, KernelStatus, Outcome, Trial, View, decide};
pub use image::{ENOUGH, ImageError, KernelId};
pub use keeper::Keeper;
pub use shipped::{IMAGE, INITRAMFS, ShippedError, Startable, shipped, startable};
pub use trial::{TrialError, TrialFile};
