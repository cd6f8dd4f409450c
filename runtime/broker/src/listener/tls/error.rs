//! Why TLS of a listener cannot be set up: always with the file that is to blame.

use std::path::PathBuf;

/// Why the TLS of a listener cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file is missing or may not be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file is no PEM.
    #[error("{}: not PEM: {problem}", path.display())]
    NotPem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A file holds no certificate.
    #[error("{}: there is no certificate in it (a section BEGIN CERTIFICATE)", path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// A file holds no private key.
    #[error("{}: there is no private key in it (a section BEGIN PRIVATE KEY)", path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// A private key is protected by a password.
    #[error("{}: the private key is encrypted; only keys without a password can be used", path.display())]
    EncryptedKey {
        /// The file.
        path: PathBuf,
    },
    /// A certificate or key cannot be used.
    #[error("{}: {source}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// A key is not that of its certificate.
    #[error("{} is not the private key of {}", key.display(), cert.display())]
    WrongKey {
        /// File of the certificate.
        cert: PathBuf,
        /// File of the key.
        key: PathBuf,
    },
    /// The authorities cannot be used.
    #[error("{}: no authority can be used: {problem}", path.display())]
    Authorities {
        /// The file.
        path: PathBuf,
        /// Why.
        problem: String,
    },
    /// The configuration contradicts itself.
    #[error("{0}")]
    Contradiction(String),
    /// The TLS library refuses the settings.
    #[error("TLS cannot be set up: {0}")]
    Library(#[from] rustls::Error),
}
