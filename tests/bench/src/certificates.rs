//! A certificate for the servers of a run, made with `openssl`, and clients that trust it.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use anyhow::Context as _;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;

use crate::load::Transport;
use crate::process;

/// A certificate for `localhost` (ECDSA on P-256, as public authorities give them), until this is dropped.
#[derive(Debug)]
pub struct Certificates {
    directory: TempDir,
    transport: Transport,
}

impl Certificates {
    /// Makes a certificate.
    ///
    /// # Errors
    /// When openssl is missing or fails.
    pub fn new() -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let mut openssl = Command::new("openssl");
        openssl.current_dir(directory.path());
        openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
        openssl.args(["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]);
        // No authority, or rustls would not take it for a server; it is trusted as itself.
        openssl.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
        openssl.args(["-keyout", "server.key", "-out", "server.pem"]);
        process::output(openssl).context("making a certificate (Debian package openssl)")?;

        let mut trusted = RootCertStore::empty();
        trusted.add(CertificateDer::from_pem_file(directory.path().join("server.pem"))?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(trusted)
            .with_no_client_auth();
        Ok(Self { directory, transport: Transport::Tls(Arc::new(config)) })
    }

    /// The certificate, PEM.
    pub fn certificate(&self) -> PathBuf {
        self.directory.path().join("server.pem")
    }

    /// Its key, PEM.
    pub fn key(&self) -> PathBuf {
        self.directory.path().join("server.key")
    }

    /// What clients connect with that trust it.
    pub fn transport(&self) -> Transport {
        self.transport.clone()
    }
}
