//! Reads certificates, keys and authorities.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::error::TlsError;
use crate::listener::config::{CertificateFiles, TlsConfig};

/// Largest file that is read, bytes: a bundle of all public authorities has a quarter of it.
const MAX_BYTES: u64 = 1 << 20;

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let unreadable = |source| TlsError::Unreadable { path: path.into(), source };
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes)).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(unreadable(std::io::Error::other("it is larger than 1 MiB")));
    }
    Ok(bytes)
}

fn not_pem(path: &Path, error: &pem::Error) -> TlsError {
    TlsError::NotPem { path: path.into(), problem: error.to_string() }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(path)?;
    let found = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| not_pem(path, &error))?;
    if found.is_empty() {
        return Err(TlsError::NoCertificate { path: path.into() });
    }
    Ok(found)
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let bytes = read(path)?;
    let marks = |mark: &[u8]| bytes.windows(mark.len()).any(|window| window == mark);
    match PrivateKeyDer::from_pem_slice(&bytes) {
        // Both old and new forms of encryption say so in the clear.
        _ if marks(b"BEGIN ENCRYPTED PRIVATE KEY") || marks(b"Proc-Type: 4,ENCRYPTED") => {
            Err(TlsError::EncryptedKey { path: path.into() })
        }
        Ok(key) => Ok(key),
        Err(pem::Error::NoItemsFound) => Err(TlsError::NoKey { path: path.into() }),
        Err(error) => Err(not_pem(path, &error)),
    }
}

/// Reads a certificate with its key, and whether they belong together.
pub(super) fn certified(
    files: &CertificateFiles,
    provider: &CryptoProvider,
) -> Result<Arc<CertifiedKey>, TlsError> {
    let chain = certificates(&files.cert)?;
    let key = provider
        .key_provider
        .load_private_key(key(&files.key)?)
        .map_err(|source| TlsError::Unusable { path: files.key.clone(), source })?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        // A key that cannot say which it is belongs to hardware: rustls takes it as it is.
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {
            Ok(Arc::new(certified))
        }
        Err(rustls::Error::InconsistentKeys(_)) => {
            Err(TlsError::WrongKey { cert: files.cert.clone(), key: files.key.clone() })
        }
        Err(source) => Err(TlsError::Unusable { path: files.cert.clone(), source }),
    }
}

/// Reads the authorities of clients.
pub(super) fn authorities(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(path)? {
        store.add(certificate).map_err(|source| TlsError::Unusable { path: path.into(), source })?;
    }
    Ok(store)
}

/// The files that `config` names.
pub(super) fn named(config: &TlsConfig) -> impl Iterator<Item = &PathBuf> {
    config.certificates.iter().flat_map(|files| [&files.cert, &files.key]).chain(&config.client_ca)
}

/// What tells one state of the files from another without reading them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamp(Vec<Option<[i128; 4]>>);

impl Stamp {
    /// Of the files as they are now.
    pub(super) fn now(config: &TlsConfig) -> Self {
        let of = |path: &PathBuf| {
            let data = std::fs::metadata(path).ok()?;
            let nanoseconds =
                |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
            Some([
                i128::from(data.dev()) << 64 | i128::from(data.ino()),
                i128::from(data.size()),
                nanoseconds(data.mtime(), data.mtime_nsec()),
                // Also changes when the times of a copy are set to those of the original.
                nanoseconds(data.ctime(), data.ctime_nsec()),
            ])
        };
        Self(named(config).map(of).collect())
    }
}
