//! Lengths of time as people write them: `90s`, `30m`, `6h`, `14d`, `1d 12h`. A day has 24 hours. Pure.

use std::time::Duration;

use jiff::SpanRelativeTo;
use jiff::fmt::friendly::SpanParser;

/// Longest text, in bytes.
const LONGEST_TEXT: usize = 64;

/// Why a text is no length of time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is no length of time; expected one like 30m, 6h, 14d or 1d 12h")]
pub struct SpanError {
    text: String,
}

/// The length of time that a text says.
///
/// # Errors
/// [`SpanError`]; also where it is less than nothing, or in months or years, which have no fixed length.
pub fn parse(text: &str) -> Result<Duration, SpanError> {
    let span = (text.len() <= LONGEST_TEXT).then(|| SpanParser::new().parse_span(text.trim()).ok()).flatten();
    let duration = span.and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()).ok());
    let duration = duration.and_then(|duration| Duration::try_from(duration).ok());
    duration.ok_or_else(|| SpanError { text: text.escape_debug().take(LONGEST_TEXT).collect() })
}

/// The text that says so many whole seconds.
pub fn text(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let parts =
        [(seconds / 86_400, 'd'), (seconds / 3600 % 24, 'h'), (seconds / 60 % 60, 'm'), (seconds % 60, 's')];
    let parts =
        parts.iter().filter(|(number, _)| *number > 0).map(|(number, unit)| format!("{number}{unit}"));
    match parts.collect::<Vec<_>>() {
        none if none.is_empty() => "0s".to_owned(),
        parts => parts.join(" "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_is_read_and_written_again() {
        for (said, seconds, again) in [
            ("90s", 90, "1m 30s"),
            ("30m", 1800, "30m"),
            ("6h", 6 * 3600, "6h"),
            ("14d", 14 * 86_400, "14d"),
            ("2w", 14 * 86_400, "14d"),
            ("1d 12h", 36 * 3600, "1d 12h"),
            ("1d12h", 36 * 3600, "1d 12h"),
            (" 2 days ", 2 * 86_400, "2d"),
            ("0s", 0, "0s"),
        ] {
            let duration = parse(said).unwrap();
            assert_eq!((duration.as_secs(), text(duration).as_str()), (seconds, again), "{said}");
            assert_eq!(parse(again), Ok(duration));
        }
        let long = "1h ".repeat(40);
        for bad in
            ["", "2", "-2d", "2d ago", "1mo", "1y", "later", "P2D", "1e9d", "99999999999999999999d", &long]
        {
            let error = parse(bad).unwrap_err();
            assert!(error.to_string().contains("expected one like"), "{bad}: {error}");
        }
    }
}
