//! Addresses of hubs: what is one, and as they may be shown.

use reqwest::Url;

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

/// The address of a hub, or what is wrong with it.
pub(super) fn hub_address(text: &str) -> Result<Url, String> {
    let url = Url::parse(text);
    if !url.as_ref().map_or(text.contains("://"), |url| matches!(url.scheme(), "http" | "https")) {
        return Err("it must start with http:// or https://".to_owned());
    }
    let url = url.map_err(|error| error.to_string())?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("it must not contain a user name or a password".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("it must not have a query or a fragment".to_owned());
    }
    Ok(url)
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
