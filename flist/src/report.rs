//! Errors as one line for people.

use std::error::Error;

/// An error and all its causes, joined by ": ". Each error of this project leaves its cause to
/// [`Error::source`], so nothing is said twice.
pub fn report(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        // Some foreign errors do repeat their cause.
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}
