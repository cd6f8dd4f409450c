//! Which certificate a client gets: by the name of the server that it asks for (RFC 6066 clause 3).

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::error::TlsError;

/// Certificates by name.
#[derive(Debug)]
pub(super) struct Names {
    exact: HashMap<String, Arc<CertifiedKey>, RandomState>,
    /// What follows the `*.` of names that begin with it.
    below: HashMap<String, Arc<CertifiedKey>, RandomState>,
    /// For everybody else.
    otherwise: Arc<CertifiedKey>,
}

impl Names {
    /// Certificates, each with its names.
    ///
    /// # Errors
    /// There is none, or a name is no name of a server or stands twice.
    pub(super) fn new(certificates: Vec<(Arc<CertifiedKey>, &[String])>) -> Result<Self, TlsError> {
        let unnamed = certificates.iter().find(|(_, names)| names.is_empty());
        let Some((otherwise, _)) = unnamed.or(certificates.first()) else {
            return Err(TlsError::Contradiction("TLS needs at least one certificate".into()));
        };
        let otherwise = Arc::clone(otherwise);
        let (mut exact, mut below) = (HashMap::default(), HashMap::default());
        for (certificate, names) in &certificates {
            for name in *names {
                let lower = name.to_ascii_lowercase();
                let (map, key) = match lower.strip_prefix("*.") {
                    Some(rest) => (&mut below, rest),
                    None => (&mut exact, &*lower),
                };
                if rustls::pki_types::DnsName::try_from(key).is_err() {
                    return Err(TlsError::Contradiction(format!(
                        "{name:?} is no name of a server: expected one such as \"mqtt.example.com\" or \"*.example.com\""
                    )));
                }
                if map.insert(key.to_owned(), Arc::clone(certificate)).is_some() {
                    return Err(TlsError::Contradiction(format!("two certificates have the name {name:?}")));
                }
            }
        }
        Ok(Self { exact, below, otherwise })
    }

    fn of(&self, name: Option<&str>) -> &Arc<CertifiedKey> {
        let named = name.and_then(|name| {
            let name = name.to_ascii_lowercase();
            let above = || name.split_once('.').and_then(|(_, rest)| self.below.get(rest));
            self.exact.get(&name).or_else(above)
        });
        named.unwrap_or(&self.otherwise)
    }
}

impl ResolvesServerCert for Names {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(self.of(hello.server_name())))
    }
}
