//! `cargo xtask image`: a minimal operating system that boots.

use std::fs;
use std::path::{Path, PathBuf};

use molt_tests::image::{BootDisk, Contents, Image, Profile, Programs};
use molt_tests::{Error, target_dir};

/// What the kernel of the disk is told before anything else: where to talk, and not to stay dead. Of two consoles the
/// last one is the one that programs write to.
const COMMAND_LINE: &str = "console=tty0 console=ttyS0 panic=60";

/// What goes into the image.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The directory for the result; target/image if it is not given
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The supervisor, a static zinit that speaks the dialect of 0.2.11; the stand-in of the tests if it is not given
    #[arg(long, value_name = "PATH")]
    zinit: Option<PathBuf>,
    /// The root of trust
    #[arg(long, value_name = "FILE")]
    root_json: Option<PathBuf>,
    /// Address of the hub, where the kernel command line has no other
    #[arg(long, value_name = "URL")]
    hub: Option<String>,
    /// More words of the kernel command line of the disk, such as runmode=dev
    #[arg(long, value_name = "WORDS", default_value = "")]
    append: String,
    /// Size of the partition for the state
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u64).range(64..=1 << 20))]
    state: u64,
    /// Programs as the tests use them: built sooner, but larger and slower
    #[arg(long)]
    quick: bool,
}

/// Makes the image, and the disk with it.
pub(crate) fn run(options: &Options) -> Result<bool, Error> {
    let out = match &options.out {
        Some(directory) => std::path::absolute(directory).map_err(failed("find", directory))?,
        None => target_dir()?.join("image"),
    };
    println!("building the programs");
    let profile = if options.quick { Profile::Vm } else { Profile::Dist };
    let mut contents = Contents::new(Programs::build(profile)?);
    contents.zinit.clone_from(&options.zinit);
    contents.root_json.clone_from(&options.root_json);
    if let Some(hub) = &options.hub {
        flist::hub::HubClient::check_address(hub).map_err(|error| {
            Error::Unexpected(format!("the address of the hub is not usable: {}", flist::report(&error)))
        })?;
        contents.config = format!("hub: {hub}\n");
    }
    let image = Image::write(&contents, &out, true)?;
    for (part, bytes) in &image.parts {
        println!("  {bytes:>9}  {part}");
    }
    println!("kernel     {:>9}  {}, Linux {}", size(&image.kernel)?, image.kernel.display(), image.release);
    println!("initramfs  {:>9}  {}", size(&image.initramfs)?, image.initramfs.display());
    let line = format!("{COMMAND_LINE} {}", options.append);
    let made = BootDisk::write(&image, line.trim_end(), options.state, &out)?;
    println!(
        "program    {:>9}  {}, both with the command line: {}",
        size(&made.program)?,
        made.program.display(),
        line.trim_end()
    );
    println!(
        "disk       {:>9}  {}, GPT: EFI/BOOT/BOOTX64.EFI is that program; MOLT, {} MiB ext4, for the state",
        size(&made.disk)?,
        made.disk.display(),
        options.state
    );
    tell_how_to_boot(&image, &made, options);
    Ok(true)
}

fn tell_how_to_boot(image: &Image, made: &BootDisk, options: &Options) {
    let machine = format!(
        "qemu-system-x86_64 -M q35 -m 768 -nographic -no-reboot -nic user,model=virtio-net-pci \\\n    \
         -drive file={},format=raw,if=virtio",
        made.disk.display()
    );
    println!(
        "boot the disk by itself, with UEFI (Debian's package ovmf):\n  {machine} -bios /usr/share/ovmf/OVMF.fd"
    );
    let hub = if options.hub.is_some() { "" } else { " hub=http://…" };
    println!(
        "or kernel and initramfs, with any command line:\n  {machine} \\\n    -kernel {} -initrd {} \\\n    \
         -append 'console=ttyS0 panic=-1 runmode=dev{hub}'",
        image.kernel.display(),
        image.initramfs.display(),
    );
    println!(
        "or write it to the disk of a machine, which loses what is on it:\n  dd if={} of=/dev/… bs=4M conv=fsync",
        made.disk.display()
    );
    if options.root_json.is_none() {
        println!(
            "WARNING: the image has no root of trust, so whoever runs its hub decides what runs on the machine; \
             --root-json trust/root.json, made by `flist trust init`"
        );
    }
    if options.hub.is_none() && !options.append.split_whitespace().any(|word| word.starts_with("hub=")) {
        println!(
            "the disk's command line names no hub, so it asks the default one; --hub or --append 'hub=http://…'"
        );
    }
}

fn size(path: &Path) -> Result<u64, Error> {
    Ok(fs::metadata(path).map_err(failed("look at", path))?.len())
}

fn failed<'p>(action: &'static str, path: &'p Path) -> impl Fn(std::io::Error) -> Error + 'p {
    move |source| Error::System { action: format!("{action} {}", path.display()), source }
}
