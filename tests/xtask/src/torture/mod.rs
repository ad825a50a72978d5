//! `cargo xtask torture`: campaigns that let upgrades go wrong.
//!
//! | part | what goes wrong | where |
//! |---|---|---|
//! | `model` | every single effect of the engine, each in every way | a model of a node |
//! | `kill` | identityd is killed at random moments | real nodes |
//! | `named` | identityd is killed at each named point | real nodes |
//! | `chaos` | bad releases, a dying hub, a corrupt store, a full disk, kills, load | real nodes |
//! | `neutral` | nothing, but the machine is busy | real nodes |
//! | `power` | the power, with ext4 and with a root in RAM; writes that were not flushed, reordered | a real kernel |
//! | `guest-dm` | the power; writes that were not flushed, reordered from a log of the machine's own kernel | a real kernel |
//! | `hub` | the hub, during boots | a real kernel |

mod model;
mod real;
mod vm;

use clap::ValueEnum;
use molt_tests::Error;
use molt_tests::campaign::Roots;

/// How much is tried.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// What to run; all but `model` need root
    #[arg(long, value_enum, default_value_t = Part::Model)]
    part: Part,
    /// A fixed part; all of it takes some minutes then
    #[arg(long)]
    quick: bool,
    /// Only scenarios of the model whose name contains this
    #[arg(long, value_name = "TEXT")]
    scenario: Option<String>,
    /// Second faults at every so many-th effect of a recovery in the model; 0 for none
    #[arg(long, value_name = "N")]
    second_stride: Option<usize>,
    /// Kills, upgrades of the chaos, power cuts, or boots
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    runs: Option<u32>,
    /// Root file systems of real nodes; virtual machines have their own
    #[arg(long, value_enum, default_value_t = Roots::Mixed)]
    root: Roots,
    /// Real nodes at the same time
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=64))]
    nodes: u32,
    /// Repeats the random choices of an earlier campaign; by default they are new ones, or, with --quick,
    /// always the same
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
}

/// A campaign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Fail the engine at every single effect, in a model of a node
    Model,
    /// Kill identityd of real nodes at random moments of upgrades
    Kill,
    /// Kill identityd of real nodes at every named point of upgrades
    Named,
    /// Upgrade real nodes to bad releases, with a dying hub, a corrupt store, a full disk, kills, under load
    Chaos,
    /// Upgrade real nodes to good releases on a busy machine
    Neutral,
    /// Cut the power of a virtual machine at random moments of upgrades
    Power,
    /// Cut the power of a virtual machine whose own kernel logs what it writes (dm-log-writes)
    GuestDm,
    /// Kill the hub at random moments of boots of a virtual machine
    Hub,
    /// One after the other, without virtual machines
    All,
}

/// Runs all campaigns with virtual machines, one after the other; `false` when a case went wrong.
///
/// # Errors
/// A machine cannot be set up.
pub(crate) fn with_machines() -> Result<bool, Error> {
    let whole = Options {
        part: Part::Power,
        quick: false,
        scenario: None,
        second_stride: None,
        runs: None,
        root: Roots::Mixed,
        nodes: 1,
        seed: None,
    };
    Ok(vm::power(&whole)? & vm::guest_dm(&whole)? & vm::hub(&whole)?)
}

/// Runs campaigns and prints their tables; `false` when a case went wrong.
///
/// # Errors
/// A campaign cannot be set up.
pub(crate) fn run(options: &Options) -> Result<bool, Error> {
    match options.part {
        Part::Model => model::run(options),
        Part::Kill => real::kill(options),
        Part::Named => real::named(options),
        Part::Chaos => real::chaos(options),
        Part::Power => vm::power(options),
        Part::GuestDm => vm::guest_dm(options),
        Part::Hub => vm::hub(options),
        Part::Neutral => real::neutral(options),
        Part::All => {
            let model = model::run(options)?;
            let kills = real::kill(options)? & real::named(options)?;
            Ok(model & kills & real::chaos(options)? & real::neutral(options)?)
        }
    }
}
