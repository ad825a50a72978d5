//! Manual pages and completions, from the command lines themselves.

use std::fs;
use std::path::Path;

use clap_complete::Shell;
use molt_tests::Error;

/// The shells that people use on servers.
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Fish, Shell::Zsh];

/// Writes `man/man1`, with a page for each program and each of its subcommands, and `completions`.
///
/// # Errors
/// When a file cannot be written.
pub(super) fn write(out: &Path) -> Result<(), Error> {
    let (pages, completions) = (out.join("man/man1"), out.join("completions"));
    for directory in [&pages, &completions] {
        fs::create_dir_all(directory).map_err(failed("make", directory))?;
    }
    for mut command in [bootstrap::cli::command(), flist::cli::command(), identityd::cli::command()] {
        clap_mangen::generate_to(command.clone(), &pages).map_err(failed("write manual pages to", &pages))?;
        let name = command.get_name().to_owned();
        for shell in SHELLS {
            clap_complete::generate_to(shell, &mut command, name.as_str(), &completions)
                .map_err(failed("write completions to", &completions))?;
        }
    }
    Ok(())
}

fn failed<'p>(action: &'static str, path: &'p Path) -> impl Fn(std::io::Error) -> Error + 'p {
    move |source| Error::System { action: format!("{action} {}", path.display()), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_program_and_subcommand_has_a_page() {
        let out = tempfile::tempdir().unwrap();
        write(out.path()).unwrap();
        let exists = |name: &str| out.path().join(name).is_file();
        for name in ["bootstrap.1", "flist.1", "flist-pack.1", "flist-mount.1", "identityd-status.1"] {
            assert!(exists(&format!("man/man1/{name}")), "{name} is missing");
        }
        assert!(!exists("man/man1/identityd-guardian.1"), "a hidden subcommand has a page");
        for name in ["flist.bash", "flist.fish", "_flist", "identityd.bash", "_bootstrap"] {
            assert!(exists(&format!("completions/{name}")), "{name} is missing");
        }
    }
}
