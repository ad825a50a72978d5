//! Why a subcommand did not do what it should.

use std::error::Error;
use std::io;

use flist::causes;
use flist::exit::Exit;
use flist::format::FormatError;
use flist::hub::HubError;

/// An error, how the program ends for it, and what to do about it.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: Box<dyn Error>,
    pub(super) exit: Exit,
    pub(super) remedy: Option<String>,
}

/// An error of the command itself.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Message(String);

impl Failure {
    /// A command line that makes no sense, though it has the right form.
    pub(super) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    pub(super) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { error: Box::new(Message(message.into())), exit, remedy: None }
    }

    /// An error whose type nobody knows any more.
    pub(super) fn of(error: Box<dyn Error>) -> Self {
        Self { exit: exit_of(error.as_ref()), error, remedy: None }
    }

    /// Says how to insist, if the hub says that one can.
    pub(super) fn or_insist(mut self, remedy: &str) -> Self {
        let overridable = |error: &(dyn Error + 'static)| {
            matches!(error.downcast_ref(), Some(HubError::Status { overridable: true, .. }))
        };
        if causes(self.error.as_ref()).any(overridable) {
            self.remedy = Some(remedy.to_owned());
        }
        self
    }
}

impl<E: Error + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { exit: exit_of(&error), error: Box::new(error), remedy: None }
    }
}

/// How the program ends for an error. Here flists come from the command line, so one that is not there was named wrongly.
fn exit_of(error: &(dyn Error + 'static)) -> Exit {
    let is_missing = |error: &(dyn Error + 'static)| match error.downcast_ref() {
        Some(FormatError::File { source, .. }) => source.kind() == io::ErrorKind::NotFound,
        _ => false,
    };
    match Exit::of(error) {
        Exit::Failed if causes(error).any(is_missing) => Exit::Usage,
        exit => exit,
    }
}
