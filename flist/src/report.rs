//! Errors for people, as one line, and for programs, as JSON.

use std::error::Error;

use serde::Serialize;

use crate::exit::Exit;

/// An error as programs get it with `--json`, on standard output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ErrorReport {
    /// What could not be done.
    pub error: String,
    /// Why, from the next cause to the last.
    pub causes: Vec<String>,
    /// What to do about it, where a command knows that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// The exit code, see [`Exit`].
    pub exit_code: u8,
}

impl ErrorReport {
    /// The report of an error and its causes.
    pub fn new(error: &(dyn Error + 'static), exit: Exit, remedy: Option<String>) -> Self {
        let mut said = chain(error);
        let error = said.remove(0);
        Self { error, causes: said, remedy, exit_code: exit.code() }
    }
}

/// An error and all its causes, joined by ": ". Each error of this project leaves its cause to
/// [`Error::source`], so nothing is said twice.
pub fn report(error: &(dyn Error + 'static)) -> String {
    chain(error).join(": ")
}

/// What an error says, and then each of its causes.
fn chain(error: &(dyn Error + 'static)) -> Vec<String> {
    let mut texts: Vec<String> = Vec::new();
    for said in causes(error).map(ToString::to_string) {
        // Some foreign errors do repeat their cause.
        if !texts.last().is_some_and(|text| text.ends_with(&said)) {
            texts.push(said);
        }
    }
    texts
}

/// An error and its causes, down to the first one.
pub fn causes<'e>(error: &'e (dyn Error + 'static)) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| <dyn Error>::source(*error))
}
