//! HTML that cannot hold unescaped text: markup comes from this program's own literals, everything else is
//! escaped when it is added.

use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::response::{IntoResponse, Response};

/// Nothing but the page and its own style is loaded or run.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const STYLE: &str = include_str!("hub.css");

/// A page, or a part of one.
#[derive(Debug, Default)]
pub(super) struct Html(String);

impl Html {
    /// Starts a page. `title` is also its heading; `up` is the way from here to the start page, and the
    /// repo that the page belongs to.
    pub(super) fn page(title: &str, up: &'static str, repo: Option<&str>) -> Self {
        let html = Self::default()
            .raw("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n")
            .raw("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>")
            .text(title)
            .raw("</title>\n<style>\n")
            .raw(STYLE)
            .raw("</style>\n</head>\n<body>\n<header><a href=\"")
            .raw(up)
            .raw("\">Hub</a>");
        let html = match repo {
            Some(repo) => {
                html.raw(" <span>/</span> <a href=\"").raw(up).path(&[repo]).raw("\">").text(repo).raw("</a>")
            }
            None => html,
        };
        html.raw("</header>\n<main>\n<h1>").text(title).raw("</h1>\n")
    }

    /// Adds markup.
    pub(super) fn raw(mut self, markup: &'static str) -> Self {
        self.0.push_str(markup);
        self
    }

    /// Adds text.
    pub(super) fn text(mut self, text: &str) -> Self {
        for character in text.chars() {
            match character {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                c if c.is_control() && c != '\n' => self.0.push('\u{fffd}'),
                c => self.0.push(c),
            }
        }
        self
    }

    /// Adds a path within an address, each part of it quoted.
    pub(super) fn path(mut self, parts: &[&str]) -> Self {
        for (index, part) in parts.iter().enumerate() {
            if index > 0 {
                self.0.push('/');
            }
            for byte in part.bytes() {
                // A ':' in the first part would be the end of a scheme.
                match byte {
                    b'-' | b'.' | b'_' | b'~' => self.0.push(char::from(byte)),
                    _ if byte.is_ascii_alphanumeric() => self.0.push(char::from(byte)),
                    _ => self.0.push_str(&format!("%{byte:02X}")),
                }
            }
        }
        self
    }

    /// Adds a link.
    pub(super) fn link(self, up: &'static str, parts: &[&str], text: &str) -> Self {
        self.raw("<a href=\"").raw(up).path(parts).raw("\">").text(text).raw("</a>")
    }

    /// Adds a table; without rows, a sentence instead.
    pub(super) fn table(self, head: &'static str, rows: Vec<Self>, empty: &'static str) -> Self {
        if rows.is_empty() {
            return self.raw("<p class=\"none\">").raw(empty).raw("</p>\n");
        }
        let start = self.raw("<table>\n<thead><tr>").raw(head).raw("</tr></thead>\n<tbody>\n");
        let body = rows.into_iter().fold(start, |html, row| html.raw("<tr>").add(row).raw("</tr>\n"));
        body.raw("</tbody>\n</table>\n")
    }

    /// Adds a part.
    pub(super) fn add(mut self, part: Self) -> Self {
        self.0.push_str(&part.0);
        self
    }

    /// The finished page as an answer.
    pub(super) fn answer(self) -> Response {
        let headers = [
            (CONTENT_TYPE, "text/html; charset=utf-8"),
            (CONTENT_SECURITY_POLICY, POLICY),
            (X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (CACHE_CONTROL, "no-cache"),
        ];
        (headers, self.raw("</main>\n</body>\n</html>\n").0).into_response()
    }
}

/// Seconds since 1970 as `2026-11-20 19:47 UTC`.
pub(super) fn date(seconds: i64) -> String {
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days are counted from the first of March of the year 0, so that leap days come last.
    let shifted = days + 719_468;
    let (era, day) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day_of_month:02} {:02}:{:02} UTC", rest / 3600, rest % 3600 / 60)
}

/// A length for people.
#[expect(clippy::cast_precision_loss, reason = "one decimal for people")]
pub(super) fn length(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    match units.into_iter().find(|(shift, _)| bytes >> shift > 0) {
        Some((shift, unit)) => format!("{:.1} {unit}", bytes as f64 / (1_u64 << shift) as f64),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_from_outside_is_text() {
        let html = Html::default().link("../", &["a b", "\"x:<y>"], "<script>&'\"\u{1b}").0;
        assert_eq!(html, "<a href=\"../a%20b/%22x%3A%3Cy%3E\">&lt;script&gt;&amp;&#39;&quot;\u{fffd}</a>");
    }

    #[test]
    fn dates_and_lengths() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_399, "2000-02-28 23:59 UTC"),
            (951_782_400, "2000-02-29 00:00 UTC"),
            (1_704_164_645, "2024-01-02 03:04 UTC"),
            (1_767_225_599, "2025-12-31 23:59 UTC"),
            (-1, "1969-12-31 23:59 UTC"),
        ] {
            assert_eq!(date(seconds), text);
        }
        assert_eq!([length(0), length(1023), length(3876)], ["0 B", "1023 B", "3.8 KiB"]);
        assert_eq!([length(5 << 20), length(3 << 40)], ["5.0 MiB", "3072.0 GiB"]);
    }
}
