//! The `flist` command: arguments in, output out.

mod convert;
mod destination;
mod diff;
mod director;
mod failure;
mod gc;
mod hub_access;
mod inspect;
mod link;
mod lint;
mod list;
mod mount;
mod output;
mod pack;
mod passphrase;
mod progress;
mod promote;
mod publish;
mod reading;
mod rm;
mod serve;
mod tag;
mod terminal;
mod trust;
mod unpack;
mod verify;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use flist::exit::{EXIT_CODES, Exit};
use tracing_subscriber::EnvFilter;

use failure::Failure;
use output::{Output, OutputOptions};

type Outcome = Result<Exit, Failure>;

/// Read, write, mount, publish and serve flists.
///
/// A flist describes a file tree; the content of the files lies in a store as compressed, encrypted
/// blocks that many flists share.
#[derive(Parser)]
#[command(name = "flist", version, after_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"))]
struct Arguments {
    #[command(flatten)]
    output: OutputOptions,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  flist pack -m app.fl -s dir:///srv/blocks ./app        make a flist of a directory
  flist inspect app.fl                                   show what is in it
  flist unpack app.fl /tmp/app                           make the directory again
  flist lint --base / ./app                              would it run on a node like this machine?
  flist mount app.fl /mnt/app                            look at it without unpacking
  flist serve --root /srv/hub --listen 127.0.0.1:8080    run a hub
  flist publish --hub http://127.0.0.1:8080 --repo tf-zos --name zos --version 1.0.0 --run-mode dev ./app
  flist promote --hub http://127.0.0.1:8080 --repo tf-zos --name zos dev test
  flist list --hub http://127.0.0.1:8080 tf-zos

Set RUST_LOG=debug to see more.";

#[derive(Subcommand)]
enum Command {
    Pack(pack::Arguments),
    Convert(convert::Arguments),
    Unpack(unpack::Arguments),
    Mount(mount::Arguments),
    Inspect(inspect::Arguments),
    Verify(verify::Arguments),
    Lint(lint::Arguments),
    Diff(diff::Arguments),
    Serve(serve::Arguments),
    Publish(publish::Arguments),
    Tag(tag::Arguments),
    Link(link::Arguments),
    Promote(promote::Arguments),
    List(list::Arguments),
    Rm(rm::Arguments),
    Gc(gc::Arguments),
    Trust(trust::Arguments),
    Director(director::Arguments),
}

/// The command line as data, for manual pages and completions.
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Runs one subcommand and says how it ended. The first argument is the program's own name.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let words: Vec<OsString> = arguments.into_iter().collect();
    let arguments = match Arguments::try_parse_from(&words) {
        Ok(arguments) => arguments,
        Err(error) => return flist::exit::end_of_parsing(&error, &words),
    };
    let output = Output::new(&arguments.output);
    start_log(&output);
    match run_command(arguments.command, &output) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            output.failed(&failure);
            failure.exit.into()
        }
    }
}

fn start_log(output: &Output) {
    let level = if output.quiet { "error" } else { "info" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let writer = output.log();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || writer.clone())
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}

fn run_command(command: Command, output: &Output) -> Outcome {
    match command {
        Command::Pack(arguments) => pack::run(&arguments, output),
        Command::Convert(arguments) => convert::run(&arguments, output),
        Command::Unpack(arguments) => unpack::run(&arguments, output),
        Command::Mount(arguments) => mount::run(&arguments, output),
        Command::Inspect(arguments) => inspect::run(&arguments, output),
        Command::Verify(arguments) => verify::run(&arguments, output),
        Command::Lint(arguments) => lint::run(&arguments, output),
        Command::Diff(arguments) => diff::run(&arguments, output),
        Command::Serve(arguments) => serve::run(arguments, output),
        Command::Publish(arguments) => publish::run(arguments, output),
        Command::Tag(arguments) => tag::run(arguments, output),
        Command::Link(arguments) => link::run(arguments, output),
        Command::Promote(arguments) => promote::run(arguments, output),
        Command::List(arguments) => list::run(arguments, output),
        Command::Rm(arguments) => rm::run(arguments, output),
        Command::Gc(arguments) => gc::run(&arguments, output),
        Command::Trust(arguments) => trust::run(arguments, output),
        Command::Director(arguments) => director::run(arguments, output),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    /// The lines of a help text that show a command, without the remark that may follow.
    fn examples(help: &str) -> Vec<Vec<String>> {
        let lines = help.lines().map(str::trim).filter(|line| line.starts_with("flist "));
        let commands = lines.map(|line| line.split(" #").next().unwrap().split("   ").next().unwrap());
        let commands = commands.map(|line| line.split(" && ").next().unwrap().trim_end_matches(" &"));
        commands.map(|command| shlex::split(command).unwrap()).collect()
    }

    #[test]
    fn every_example_in_the_help_is_a_good_command_line() {
        has_examples(&command(), &[]);
    }

    /// A command has examples, with its own name in one of them where it is none of the others' parent, and so have its
    /// subcommands.
    fn has_examples(command: &clap::Command, parents: &[&str]) {
        let examples = examples(&command.get_after_help().unwrap_or_default().to_string());
        let path: Vec<&str> = parents.iter().copied().chain([command.get_name()]).collect();
        // Those that only have others in them may leave it to them.
        if command.get_subcommands().next().is_none() || path.len() < 3 {
            assert!(examples.len() >= 2, "{path:?} has too few examples: {examples:?}");
            assert!(
                examples.iter().any(|example| example.iter().zip(&path).all(|(a, b)| a == b)),
                "{path:?}"
            );
        }
        examples.iter().for_each(|example| assert_parses(example));
        command.get_subcommands().for_each(|command| has_examples(command, &path));
    }

    #[test]
    fn every_command_in_the_readme_is_a_good_command_line() {
        let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md")).unwrap();
        let examples = examples(&readme);
        assert!(examples.len() >= 10, "{examples:?}");
        let of_hub = ["list", "promote", "link", "tag", "rm"];
        for mut example in examples {
            // The variable FLIST_HUB is set there.
            if of_hub.contains(&example[1].as_str()) {
                example.extend(["--hub".to_owned(), "http://127.0.0.1:8080".to_owned()]);
            }
            assert_parses(&example);
        }
    }

    fn assert_parses(example: &[String]) {
        if let Err(error) = Arguments::try_parse_from(example) {
            panic!("{example:?}: {error}");
        }
    }
}
