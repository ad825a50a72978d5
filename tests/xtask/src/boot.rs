//! `cargo xtask boot`: the image in a virtual machine, beside a hub, for a person to watch.

use std::process::Stdio;

use flist::hub::RunMode;
use molt_tests::image::{Contents, Image, Programs};
use molt_tests::vm::{Console, DiskImage, Drive, Machine, Start, hub_seen_from_inside, publish_for_machines};
use molt_tests::{
    Binaries, CHANNEL_NAME, CHANNEL_REPO, Error, Hub, NetNs, Payload, Signing, scratch, tools, workspace,
};

/// Settings of the machine: nobody wants to wait ten minutes for it to look for a new release.
const CONFIG: &str = "poll_interval: 3\nhealth_window: 3\n";

/// What is offered at first, and what a person can publish then.
const VERSIONS: [&str; 2] = ["1.0.0", "2.0.0"];

/// How to boot.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The run mode that the kernel is started with, and that the hub has a release for
    #[arg(long, value_name = "MODE", default_value = "dev")]
    runmode: RunMode,
    /// More words of the kernel command line
    #[arg(long, value_name = "WORDS", default_value = "")]
    append: String,
    /// Memory of the machine
    #[arg(long, value_name = "MIB", default_value_t = 768, value_parser = clap::value_parser!(u32).range(128..=65536))]
    memory: u32,
    /// Without a disk for the state: it is kept in RAM
    #[arg(long)]
    no_disk: bool,
}

/// Runs the machine until it ends; `false` when the emulator failed.
pub(crate) fn run(options: &Options) -> Result<bool, Error> {
    let emulator = tools::qemu()?;
    println!("building the programs");
    let programs = Programs::of_the_tests()?;
    let hub = Hub::start(&NetNs::of_the_machine()?)?;
    let signing = Signing::new(&hub)?;
    let [old, new] = [payload(&programs, VERSIONS[0])?, payload(&programs, VERSIONS[1])?];
    publish_for_machines(&hub, &signing, VERSIONS[0], &old, options.runmode.as_str())?;
    let at = scratch("image")?;
    let mut contents = Contents::new(programs);
    contents.config = CONFIG.to_owned();
    contents.root_json = Some(signing.root_path());
    contents.units.push("shell");
    let image = Image::write(&contents, at.path(), false)?;
    let disk = if options.no_disk { None } else { Some(DiskImage::ext4("MOLT", 256)?) };
    let append = format!(
        "console=ttyS0 quiet panic=-1 runmode={} hub={} {}",
        options.runmode,
        hub_seen_from_inside(&hub)?,
        options.append
    );
    let machine = Machine {
        start: Start::Kernel { image: image.kernel, initramfs: image.initramfs, append },
        memory_mib: options.memory,
        disks: disk.iter().map(|disk| Drive { image: disk.path(), log: None }).collect(),
        ports: Vec::new(),
        agent: None,
    };
    explain((&hub, &signing), &new, options)?;
    let mut qemu = machine.command(&emulator, Console::Terminal, None);
    qemu.stdin(Stdio::inherit());
    let status =
        qemu.status().map_err(|source| Error::System { action: "run the emulator".to_owned(), source })?;
    Ok(status.success())
}

fn explain((hub, signing): (&Hub, &Signing), new: &Payload, options: &Options) -> Result<(), Error> {
    let link = format!("{CHANNEL_REPO}/{CHANNEL_NAME}:{}:latest.flist", options.runmode.hub_name());
    println!("the hub is {}; the machine follows {link}, which is version {}", hub.url(), VERSIONS[0]);
    println!("let it upgrade, from another terminal in {}:", workspace().display());
    println!(
        "  {} publish --hub {} --repo {CHANNEL_REPO} --name {CHANNEL_NAME} --version {} --run-mode {} \
         --route {}/store --sign {} {}",
        Binaries::ensure()?.flist().display(),
        hub.url(),
        VERSIONS[1],
        options.runmode,
        hub_seen_from_inside(hub)?,
        signing.options().join(" "),
        new.directory().display(),
    );
    println!("look at it from inside: identityd status, identityd why, zinit list");
    println!("end it: Ctrl-A X\n");
    Ok(())
}

fn payload(programs: &Programs, version: &str) -> Result<Payload, Error> {
    let payload = Payload::new()?;
    payload
        .program("/sbin/identityd", &programs.identityd())?
        .asset_unit("identityd")?
        .program("/usr/bin/demo-web", &programs.web())?
        .marked("/usr/bin/demo-web", version)?
        .file("/usr/bin/demo-web.version", 0o644, version)?
        .unit("web", "exec: /usr/bin/demo-web --listen 0.0.0.0:8000\n")?
        .file("/etc/os-release", 0o644, format!("NAME=\"Demo OS\"\nVERSION_ID={version}\n"))?;
    Ok(payload)
}
