//! TLS as this project uses it: CA certificates that are part of the program, and a clock with a floor.
//!
//! A minimal node has no CA certificates, and may have a clock that stands in 1970; neither shall keep it from its
//! hub. What the machine has is trusted as well. A hub only carries, so a certificate is good if it is valid now by
//! the clock, or at the time that it is at least by what was signed: nobody who has signed a wrong time can cut a node
//! off from its hub with that.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, WebPkiServerVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use crate::trust::clock::BUILT;

/// The time that it is at least, in seconds since 1970. Of the process, because time is the same for all of it.
static FLOOR: AtomicI64 = AtomicI64::new(0);

/// Learns that it is this time at least, in seconds since 1970, instead of what was learnt before: that may have been
/// signed with a key that was stolen.
pub(crate) fn time_is_at_least(seconds: i64) {
    FLOOR.store(seconds, Ordering::Relaxed);
}

/// The clock, unless it is before the day on which this program was built.
#[derive(Debug)]
struct Floored;

impl TimeProvider for Floored {
    fn current_time(&self) -> Option<UnixTime> {
        let now = UnixTime::now().as_secs();
        Some(UnixTime::since_unix_epoch(Duration::from_secs(now.max(BUILT.try_into().unwrap_or(0)))))
    }
}

/// Checks certificates at the time that it is at least, and if need be at the time of the clock.
#[derive(Debug)]
struct Verifier {
    inner: Arc<WebPkiServerVerifier>,
    floor: &'static AtomicI64,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let at = |time| self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp, time);
        let floor = u64::try_from(self.floor.load(Ordering::Relaxed)).unwrap_or(0);
        let floored = UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs().max(floor)));
        match at(floored) {
            Err(error) if floored != now && is_about_time(&error) => at(now),
            checked => checked,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

fn is_about_time(error: &Error) -> bool {
    matches!(
        error,
        Error::InvalidCertificate(
            CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. }
        )
    )
}

/// The configuration of clients that show nothing; `None` when the cryptography has no version of TLS, and then
/// reqwest says so.
pub(crate) fn config() -> Option<ClientConfig> {
    static CONFIG: LazyLock<Option<ClientConfig>> = LazyLock::new(|| make(None).ok());
    CONFIG.clone()
}

/// The configuration of clients that show this certificate.
///
/// # Errors
/// The key does not belong to it.
pub(crate) fn config_of(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ClientConfig, Error> {
    make(Some((chain, key)))
}

type Shown = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn make(shown: Option<Shown>) -> Result<ClientConfig, Error> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    // What cannot be read of the machine's own is not trusted.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_details(Arc::clone(&provider), Arc::new(Floored));
    let config = config.with_safe_default_protocol_versions()?;
    let verifier = Arc::new(verifier(roots, provider, &FLOOR)?);
    let config = config.dangerous().with_custom_certificate_verifier(verifier);
    match shown {
        Some((chain, key)) => config.with_client_auth_cert(chain, key),
        None => Ok(config.with_no_client_auth()),
    }
}

fn verifier(
    roots: RootCertStore,
    provider: Arc<rustls::crypto::CryptoProvider>,
    floor: &'static AtomicI64,
) -> Result<Verifier, Error> {
    let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
    Ok(Verifier { inner: inner.map_err(|error| Error::General(error.to_string()))?, floor })
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::pem::PemObject;

    use super::*;

    #[test]
    fn there_are_certificates_without_the_machines_own_and_time_has_a_floor() {
        assert!(webpki_roots::TLS_SERVER_ROOTS.len() > 50);
        assert!(config().is_some());
        assert!(Floored.current_time().unwrap().as_secs() >= u64::try_from(BUILT).unwrap());
    }

    /// Whether a certificate of the tests is good by a clock in 2027, where it is at least this time.
    fn is_good(name: &str, floor: i64) -> bool {
        static OF_TEST: AtomicI64 = AtomicI64::new(0);
        let read = |name: &str| {
            let path = format!("{}/tests/fixtures/tls/{name}.pem", env!("CARGO_MANIFEST_DIR"));
            CertificateDer::from_pem_file(path).unwrap()
        };
        let mut roots = RootCertStore::empty();
        roots.add(read("ca")).unwrap();
        OF_TEST.store(floor, Ordering::Relaxed);
        let verifier = verifier(roots, Arc::new(aws_lc_rs::default_provider()), &OF_TEST).unwrap();
        let (host, now) = (ServerName::try_from("localhost").unwrap(), Duration::from_secs(1_800_000_000));
        verifier.verify_server_cert(&read(name), &[], &host, &[], UnixTime::since_unix_epoch(now)).is_ok()
    }

    #[test]
    fn what_was_signed_tells_the_time_of_certificates_and_cannot_cut_a_node_off() {
        // `late` is good in the year 2090.
        assert!(!is_good("late", 0));
        assert!(is_good("late", 3_800_000_000));
        assert!(!is_good("late", 3_900_000_000));
        // The other one is good by the clock, whatever somebody has signed.
        for floor in [0, 3_800_000_000, 253_402_300_799, i64::MAX] {
            assert!(is_good("server", floor), "{floor}");
        }
        // And one of another CA never is.
        assert!(!is_good("stranger", 0));
    }
}
