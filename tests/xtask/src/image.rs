//! `cargo xtask image`: a minimal operating system that boots.

use std::fs;
use std::path::{Path, PathBuf};

use molt_tests::image::{Contents, Image, Profile, Programs};
use molt_tests::vm::make_ext4;
use molt_tests::{Error, target_dir};

/// Most bytes of the initramfs.
const LIMIT: u64 = 25 << 20;

/// Size of the disk for the state.
const STATE_MIB: u64 = 256;

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
    /// Programs as the tests use them: built sooner, but larger and slower
    #[arg(long)]
    quick: bool,
}

/// Makes the image; `false` when it is too big.
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
    let disk = out.join("molt.img");
    make_ext4(&disk, "MOLT", STATE_MIB)?;
    for (part, bytes) in &image.parts {
        println!("  {bytes:>9}  {part}");
    }
    println!("kernel     {:>9}  {}, Linux {}", size(&image.kernel)?, image.kernel.display(), image.release);
    let bytes = size(&image.initramfs)?;
    println!("initramfs  {bytes:>9}  {}", image.initramfs.display());
    println!("disk       {:>9}  {}, ext4 with the label MOLT", size(&disk)?, disk.display());
    let hub = if options.hub.is_some() { "" } else { " hub=http://…" };
    println!("try it:");
    println!(
        "  qemu-system-x86_64 -m 512 -nographic -no-reboot -kernel {} -initrd {} \\\n    \
         -append 'console=ttyS0 panic=-1 runmode=dev{hub}' -nic user,model=virtio-net-pci \\\n    \
         -drive file={},format=raw,if=virtio",
        image.kernel.display(),
        image.initramfs.display(),
        disk.display(),
    );
    if bytes > LIMIT {
        println!("the initramfs is larger than {LIMIT} bytes");
    }
    Ok(bytes <= LIMIT)
}

fn size(path: &Path) -> Result<u64, Error> {
    Ok(fs::metadata(path).map_err(failed("look at", path))?.len())
}

fn failed<'p>(action: &'static str, path: &'p Path) -> impl Fn(std::io::Error) -> Error + 'p {
    move |source| Error::System { action: format!("{action} {}", path.display()), source }
}
