//! What a program consists of, by crate.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use molt_tests::Error;

/// How long reading the symbols may take.
const LIMIT: Duration = Duration::from_secs(120);

/// How many are worth telling.
const HEAVIEST: usize = 12;

/// Everything whose symbols are not Rust's; for us that is AWS-LC and SQLite.
const C: &str = "C and assembly";

/// The crates with the most code and data, in bytes, from the symbols of a program that was not stripped.
/// What has no Rust name counts as C.
///
/// # Errors
/// When the symbols cannot be read.
pub(super) fn heaviest(program: &Path) -> Result<Vec<(String, u64)>, Error> {
    let mut nm = Command::new("nm");
    let symbols = molt_tests::run(nm.args(["--print-size", "--demangle=rust"]).arg(program), LIMIT)?;
    let mut found: Vec<_> = by_crate(&symbols).into_iter().collect();
    found.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    found.truncate(HEAVIEST);
    Ok(found)
}

fn by_crate(symbols: &str) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for line in symbols.lines() {
        // address, size, type, name
        let mut words = line.splitn(4, ' ');
        let (Some(_), Some(size), Some(_), Some(name)) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            continue;
        };
        if let Ok(bytes) = u64::from_str_radix(size, 16) {
            *sums.entry(crate_of(name)).or_default() += bytes;
        }
    }
    sums
}

/// The first crate in a name such as `<alloc::vec::Vec<T> as core::fmt::Debug>::fmt`.
fn crate_of(name: &str) -> String {
    let plain = name.trim_start_matches(['<', '&', '*', '(', '[']);
    let plain = ["mut ", "const ", "dyn "].iter().fold(plain, |text, word| text.trim_start_matches(word));
    match plain.split_once("::") {
        Some((first, _)) if first.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') => first.to_owned(),
        Some(_) => "other Rust".to_owned(),
        None => C.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbols_are_summed_by_crate() {
        let symbols = "0000000000001000 0000000000000010 T sqlite3_open\n\
                       0000000000002000 0000000000000020 t <alloc::vec::Vec<T> as core::fmt::Debug>::fmt\n\
                       0000000000003000 0000000000000001 t alloc::raw_vec::finish_grow\n\
                       0000000000004000 T without_a_size\n";
        let sums = by_crate(symbols);
        assert_eq!(sums[C], 16);
        assert_eq!(sums["alloc"], 33);
        assert_eq!(sums.len(), 2);
    }
}
