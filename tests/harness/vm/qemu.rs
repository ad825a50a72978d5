//! The command line of the emulator.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::error::Error;
use crate::tools::{self, Emulator, Firmware};

/// How the console of the machine is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Console {
    /// To the terminal, with the emulator's own keys (Ctrl-A X ends it).
    Terminal,
    /// To standard output, for a program that reads it.
    Output,
}

/// A disk of a machine.
#[derive(Debug, Clone)]
pub struct Drive {
    /// Its raw image.
    pub image: PathBuf,
    /// Where everything that is written to it is logged too; an empty file, before the machine starts.
    pub log: Option<PathBuf>,
}

/// What a machine starts.
#[derive(Debug, Clone)]
pub enum Start {
    /// This, as a boot loader would.
    Kernel {
        /// The kernel.
        image: PathBuf,
        /// The kernel's first root file system.
        initramfs: PathBuf,
        /// The kernel's command line.
        append: String,
    },
    /// What its firmware finds on its first disk. The file with the firmware's variables is written to.
    Disk(Firmware),
}

/// A machine to emulate.
#[derive(Debug, Clone)]
pub struct Machine {
    /// What it starts.
    pub start: Start,
    /// Its memory.
    pub memory_mib: u32,
    /// Its disks.
    pub disks: Vec<Drive>,
    /// Ports of 127.0.0.1 that lead to the same ports of the machine.
    pub ports: Vec<u16>,
    /// The socket that leads to its virtio port.
    pub agent: Option<PathBuf>,
}

/// Environment variable that says that virtual machines have to run: what keeps them from it is a failure then, and
/// how little time is left is not looked at.
pub const NEEDS_VM: &str = "MOLT_NEEDS_VM";

/// An emulator; `Err` says why there are no virtual machines here and now: none can be had, or less time is left
/// than `needed`.
///
/// # Errors
/// When somebody has interrupted; with [`NEEDS_VM`], when there is none.
pub fn available(needed: Duration) -> Result<Result<Emulator, String>, Error> {
    if std::env::var_os(NEEDS_VM).is_some_and(|value| !value.is_empty()) {
        return required(tools::qemu()).map(Ok);
    }
    if let Some(left) = tools::left().filter(|left| *left < needed) {
        return Ok(Err(format!("they take up to {} s, and {} s are left", needed.as_secs(), left.as_secs())));
    }
    match tools::qemu() {
        Err(Error::Interrupted) => Err(Error::Interrupted),
        found => Ok(found.map_err(|error| format!("{error:?}"))),
    }
}

fn required(found: Result<Emulator, Error>) -> Result<Emulator, Error> {
    found.map_err(|error| match error {
        Error::Interrupted => Error::Interrupted,
        error => Error::Unexpected(format!(
            "{NEEDS_VM} is set, so that tests with a real kernel are not left out, and there is no emulator: {error:?}"
        )),
    })
}

impl Machine {
    /// The command that emulates it, run by `runner` where there is one.
    pub fn command(&self, emulator: &Emulator, console: Console, runner: Option<(PathBuf, &str)>) -> Command {
        let mut command = emulator.command(runner);
        command.args(self.arguments(console, accelerator()));
        command
    }

    fn arguments(&self, console: Console, accelerator: &str) -> Vec<OsString> {
        let mut line = Line::default();
        let flash = if matches!(self.start, Start::Disk(_)) { ",pflash0=code,pflash1=variables" } else { "" };
        line.option("-machine", format!("q35,accel={accelerator}{flash}"));
        line.option("-cpu", if accelerator == "kvm" { "host" } else { "max" });
        line.option("-m", self.memory_mib.to_string());
        line.option("-smp", "1");
        for flag in ["-nodefaults", "-no-user-config", "-no-reboot"] {
            line.0.push(flag.into());
        }
        line.option("-display", "none");
        match &self.start {
            Start::Kernel { image, initramfs, append } => {
                line.option("-kernel", image);
                line.option("-initrd", initramfs);
                line.option("-append", append);
            }
            Start::Disk(Firmware { code, variables }) => {
                for (name, path, mode) in [("code", code, "on"), ("variables", variables, "off")] {
                    let file = format!("file.driver=file,file.filename={}", escaped(path));
                    line.option("-blockdev", format!("driver=raw,node-name={name},read-only={mode},{file}"));
                }
            }
        }
        let stdio = match console {
            Console::Terminal => "stdio,id=console,mux=on,signal=off",
            Console::Output => "stdio,id=console,signal=off",
        };
        line.option("-chardev", stdio);
        line.option("-device", "isa-serial,chardev=console");
        if console == Console::Terminal {
            line.option("-mon", "chardev=console,mode=readline");
        }
        if let Some(socket) = &self.agent {
            line.option("-chardev", format!("socket,id=agent,server=on,wait=off,path={}", escaped(socket)));
            line.option("-device", "virtio-serial-pci");
            line.option("-device", "virtserialport,chardev=agent,name=agent");
        }
        let ports: String =
            self.ports.iter().map(|port| format!(",hostfwd=tcp:127.0.0.1:{port}-:{port}")).collect();
        line.option("-netdev", format!("user,id=net{ports}"));
        line.option("-device", "virtio-net-pci,netdev=net,romfile=");
        for (number, disk) in self.disks.iter().enumerate() {
            let is_first = number == 0 && matches!(self.start, Start::Disk(_));
            line.drive(number, disk, if is_first { ",bootindex=0" } else { "" });
        }
        line.0
    }
}

/// Hardware help is used only where the processor says that it has it: /dev/kvm can be there and be of no use.
fn accelerator() -> &'static str {
    let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    if Path::new("/dev/kvm").exists() && virtualizes(&processor) { "kvm" } else { "tcg" }
}

fn virtualizes(processor: &str) -> bool {
    let flags = processor.lines().filter_map(|line| line.strip_prefix("flags"));
    flags.flat_map(str::split_whitespace).any(|flag| flag == "vmx" || flag == "svm")
}

#[derive(Default)]
struct Line(Vec<OsString>);

impl Line {
    fn drive(&mut self, number: usize, disk: &Drive, more: &str) {
        let file = |path| format!("driver=file,filename={}", escaped(path));
        self.option("-blockdev", format!("{},node-name=file{number}", file(&disk.image)));
        match &disk.log {
            None => self.option("-blockdev", format!("driver=raw,node-name=disk{number},file=file{number}")),
            Some(log) => {
                self.option("-blockdev", format!("driver=raw,node-name=raw{number},file=file{number}"));
                self.option("-blockdev", format!("{},node-name=log{number}", file(log)));
                let (driver, sector) = ("driver=blklogwrites", super::writes::SECTOR);
                let nodes = format!("node-name=disk{number},file=raw{number},log=log{number}");
                self.option("-blockdev", format!("{driver},{nodes},log-sector-size={sector}"));
            }
        }
        self.option("-device", format!("virtio-blk-pci,drive=disk{number}{more}"));
    }

    fn option(&mut self, name: &str, value: impl Into<OsString>) {
        self.0.extend([name.into(), value.into()]);
    }
}

/// In the emulator's option lists a comma is doubled.
fn escaped(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_machines_have_to_run_their_absence_is_a_failure() {
        let missing = required(Err(Error::Unexpected("no package".to_owned()))).unwrap_err();
        assert!(
            missing.to_string().contains(NEEDS_VM) && missing.to_string().contains("no package"),
            "{missing}"
        );
        assert!(matches!(required(Err(Error::Interrupted)), Err(Error::Interrupted)));
    }

    #[test]
    fn hardware_help_is_taken_only_where_the_processor_has_it() {
        assert!(virtualizes("model name\t: x\nflags\t\t: fpu vmx sse\n"));
        assert!(!virtualizes("flags\t\t: fpu hypervisor svmx\nbugs\t: vmx\n"));
    }
}
