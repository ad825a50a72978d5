//! Addresses as they may be shown.

use super::name::printable;

/// An address as it may stand in a message: without user name and password, and without a query, in which tokens are
/// given too. Also for what is no address at all: who writes one that cannot be used has often written a secret into it.
pub fn shown_address(text: &str) -> String {
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), text),
    };
    // People write passwords with any characters, so all that comes before the last `@` may be one.
    let (secret, rest) = rest.rsplit_once('@').map_or(("", rest), |(_, after)| ("…@", after));
    let (rest, query) = match rest.find(['?', '#']) {
        Some(at) => (&rest[..=at], "…"),
        None => (rest, ""),
    };
    printable(&format!("{scheme}{secret}{rest}{query}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_shown() {
        for (text, shown) in [
            ("http://hub:8080/under", "http://hub:8080/under"),
            ("https://u:secret@hub", "https://…@hub"),
            ("https://u:se@cr/et@hub/x", "https://…@hub/x"),
            ("ftp://secret@hub", "ftp://…@hub"),
            ("u:secret@hub", "…@hub"),
            ("https://hub/?token=secret", "https://hub/?…"),
            ("https://hub/#secret", "https://hub/#…"),
            ("https://u:sec?ret@hub", "https://…@hub"),
            ("", ""),
        ] {
            assert_eq!(shown_address(text), shown);
        }
        assert_eq!(shown_address(&"x".repeat(1000)).len(), 200);
    }
}
