//! `flist gc`

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use flist::server::collect;
use serde_json::json;

use super::failure::Failure;
use super::output::{Output, counted};

/// Remove the blocks of a hub's store that none of its flists needs.
///
/// Blocks stay when a flist is removed, because others may need them. Stop the hub first. A block that was
/// written lately stays too, for the flist that may follow it. When a flist cannot be read, nothing is removed.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// The directory with everything the hub has
    #[arg(long, value_name = "DIR")]
    root: PathBuf,
    /// Only blocks that were written at least this long ago: a number and s, m, h or d
    #[arg(long, value_name = "AGE", default_value = "1d", value_parser = parse_age)]
    older_than: Duration,
    /// Only tell what would be removed
    #[arg(long)]
    dry_run: bool,
}

const EXAMPLES: &str = "Examples:
  flist gc --root /srv/hub --dry-run
  flist gc --root /srv/hub --older-than 7d";

pub(super) fn run(arguments: &Arguments, output: &Output) -> super::Outcome {
    // It would be made into one, and a mistyped directory be found clean.
    if arguments.root.is_dir() && !arguments.root.join("public/users").is_dir() {
        let root = arguments.root.display();
        return Err(Failure::usage(format!("{root} is not the directory of a hub: it has no public/users")));
    }
    let collected = collect(&arguments.root, arguments.older_than, SystemTime::now(), arguments.dry_run)?;
    let mut shown = json!(collected);
    shown["dry_run"] = json!(arguments.dry_run);
    let done = if arguments.dry_run { "would remove" } else { "removed" };
    output.done(&shown, || {
        format!(
            "{done} {} with {} bytes; kept {} that {} and {} that are too young",
            counted(collected.removed as u64, "block"),
            collected.removed_bytes,
            collected.needed,
            need(collected.flists),
            collected.young
        )
    })
}

fn need(flists: usize) -> String {
    let verb = if flists == 1 { "needs" } else { "need" };
    format!("{} {verb}", counted(flists as u64, "flist"))
}

/// Such as `90s`, `30m`, `12h`, `7d`.
fn parse_age(text: &str) -> Result<Duration, String> {
    let expected = || format!("'{text}' is no age: expected a number and s, m, h or d, such as 12h");
    let unit = text.chars().last().ok_or_else(expected)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 24 * 3600,
        _ => return Err(expected()),
    };
    let number: u32 = text[..text.len() - unit.len_utf8()].parse().map_err(|_| expected())?;
    Ok(Duration::from_secs(u64::from(number) * seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages() {
        assert_eq!(parse_age("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_age("0s"), Ok(Duration::ZERO));
        assert_eq!(parse_age("7d"), Ok(Duration::from_secs(7 * 86_400)));
        for bad in ["", "7", "d", "-1d", "1.5h", "7 d", "7dé", "99999999999d"] {
            assert!(parse_age(bad).is_err(), "{bad}");
        }
    }
}
