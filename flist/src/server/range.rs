//! Requests for a part of a file (RFC 9110 §14): one range of bytes. Several ranges at once, and units
//! other than bytes, are not understood, and then the whole file is the answer, as the RFC allows.

use std::time::SystemTime;

use axum::http::HeaderMap;
use axum::http::header::{IF_RANGE, RANGE};

/// What to send of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// All of it.
    Whole,
    /// The bytes `first..=last`.
    Bytes {
        /// The first one.
        first: u64,
        /// The last one; it exists.
        last: u64,
    },
    /// Nothing: the range starts after the end.
    Beyond,
}

/// What a request asks for of a file of `length` bytes with this tag and date.
pub(super) fn requested(headers: &HeaderMap, length: u64, etag: &str, modified: SystemTime) -> Part {
    let mut ranges = headers.get_all(RANGE).into_iter();
    let (Some(range), None) = (ranges.next(), ranges.next()) else { return Part::Whole };
    if !is_current(headers, etag, modified) {
        return Part::Whole;
    }
    range.to_str().ok().and_then(|range| parse(range, length)).unwrap_or(Part::Whole)
}

/// Whether the client's copy, which it wants the rest of, is of this content.
fn is_current(headers: &HeaderMap, etag: &str, modified: SystemTime) -> bool {
    let Some(condition) = headers.get(IF_RANGE) else { return true };
    let Ok(condition) = condition.to_str().map(str::trim) else { return false };
    // Weak tags never match here: equal enough to show is not equal enough to be glued together.
    condition == etag || httpdate::parse_http_date(condition).is_ok_and(|date| date == modified)
}

/// None for what is to be ignored.
fn parse(range: &str, length: u64) -> Option<Part> {
    let (unit, spec) = range.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let (first, last) = spec.trim().split_once('-')?;
    let part = match (number(first)?, number(last)?) {
        (None, None) => return None,
        (None, Some(0)) => Part::Beyond,
        (None, Some(_)) if length == 0 => Part::Whole,
        (None, Some(suffix)) => Part::Bytes { first: length.saturating_sub(suffix), last: length - 1 },
        (Some(first), Some(last)) if last < first => return None,
        (Some(first), _) if first >= length => Part::Beyond,
        (Some(first), last) => Part::Bytes { first, last: last.unwrap_or(u64::MAX).min(length - 1) },
    };
    Some(part)
}

/// The outer none is for what is no number, the inner one for nothing at all.
fn number(text: &str) -> Option<Option<u64>> {
    match text {
        "" => Some(None),
        _ if !text.bytes().all(|byte| byte.is_ascii_digit()) => None,
        // What does not fit is after every end.
        _ => Some(Some(text.parse().unwrap_or(u64::MAX))),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn ranges() {
        let bytes = |first, last| Some(Part::Bytes { first, last });
        for (range, part) in [
            ("bytes=0-0", bytes(0, 0)),
            ("bytes=0-9", bytes(0, 9)),
            ("bytes=0-99999999999999999999", bytes(0, 9)),
            ("bytes=5-", bytes(5, 9)),
            ("Bytes= 5-6 ", bytes(5, 6)),
            ("bytes=-3", bytes(7, 9)),
            ("bytes=-30", bytes(0, 9)),
            ("bytes=-0", Some(Part::Beyond)),
            ("bytes=10-", Some(Part::Beyond)),
            ("bytes=99999999999999999999-", Some(Part::Beyond)),
            ("bytes=6-5", None),
            ("bytes=-", None),
            ("bytes=", None),
            ("bytes", None),
            ("lines=1-2", None),
            ("bytes=0-1,3-4", None),
            ("bytes=+1-2", None),
            ("bytes=a-b", None),
        ] {
            assert_eq!(parse(range, 10), part, "{range}");
        }
        assert_eq!(parse("bytes=-3", 0), Some(Part::Whole));
        assert_eq!(parse("bytes=0-", 0), Some(Part::Beyond));
    }

    #[test]
    fn the_rest_of_another_content_is_not_sent() {
        let modified = UNIX_EPOCH + Duration::from_secs(86_400);
        let part = |condition: Option<&str>| {
            let mut headers = HeaderMap::from_iter([(RANGE, "bytes=5-".parse().unwrap())]);
            headers.extend(condition.map(|condition| (IF_RANGE, condition.parse().unwrap())));
            requested(&headers, 10, "\"abc\"", modified)
        };
        let rest = Part::Bytes { first: 5, last: 9 };
        assert_eq!(part(None), rest);
        assert_eq!(part(Some("\"abc\"")), rest);
        assert_eq!(part(Some("Fri, 02 Jan 1970 00:00:00 GMT")), rest);
        for other in
            ["\"x\"", "W/\"abc\"", "Sat, 03 Jan 1970 00:00:00 GMT", "Thu, 01 Jan 1970 00:00:00 GMT", "?"]
        {
            assert_eq!(part(Some(other)), Part::Whole, "{other}");
        }
        assert_eq!(requested(&HeaderMap::new(), 10, "\"abc\"", modified), Part::Whole);
    }
}
