//! TLS as this project uses it: CA certificates that are part of the program, and a clock with a floor.
//!
//! A minimal node has no CA certificates, and may have a clock that stands in 1970; neither shall keep it from its
//! hub. What the machine has is trusted as well.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use rustls::client::ClientConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;
use rustls::{Error, RootCertStore};

use crate::trust::clock::BUILT;

/// The clock, unless it is before the day on which this program was built.
#[derive(Debug)]
struct Floored;

impl TimeProvider for Floored {
    fn current_time(&self) -> Option<UnixTime> {
        let now = UnixTime::now().as_secs();
        Some(UnixTime::since_unix_epoch(Duration::from_secs(now.max(BUILT.try_into().unwrap_or(0)))))
    }
}

/// The configuration of every client; `None` when the cryptography has no version of TLS, and then reqwest says so.
pub(crate) fn config() -> Option<ClientConfig> {
    static CONFIG: LazyLock<Option<ClientConfig>> = LazyLock::new(|| make().ok());
    CONFIG.clone()
}

fn make() -> Result<ClientConfig, Error> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    // What cannot be read of the machine's own is not trusted.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_details(provider, Arc::new(Floored));
    Ok(config.with_safe_default_protocol_versions()?.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_certificates_without_the_machines_own_and_time_has_a_floor() {
        assert!(webpki_roots::TLS_SERVER_ROOTS.len() > 50);
        assert!(config().is_some());
        assert!(Floored.current_time().unwrap().as_secs() >= u64::try_from(BUILT).unwrap());
    }
}
