//! Certificates made for a test, in a folder of their own, and clients that trust them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tempfile::TempDir;
use tidegate_broker::{CertificateFiles, TlsConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// An authority and the folder with what it has signed.
pub(crate) struct Authority {
    folder: TempDir,
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap().pem();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), &certificate).unwrap();
        Self { folder, certificate, issuer: Issuer::new(params, key) }
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A certificate for `name`, also as a name of a server, and its key: PEM.
    pub(crate) fn issue(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationName, "Tests");
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// The same in files.
    pub(crate) fn files(&self, name: &str) -> CertificateFiles {
        let (cert, key) = (self.file(&format!("{name}.pem")), self.file(&format!("{name}.key")));
        let issued = self.issue(name);
        std::fs::write(&cert, issued.0).unwrap();
        std::fs::write(&key, issued.1).unwrap();
        CertificateFiles { cert, key, server_names: Vec::new() }
    }

    /// TLS of a listener with a certificate for `localhost`.
    pub(crate) fn tls(&self) -> TlsConfig {
        TlsConfig { certificates: vec![self.files("localhost")], ..TlsConfig::default() }
    }

    /// A client that trusts this authority.
    pub(crate) fn trust(&self) -> Trust {
        Trust { authority: self.certificate.clone(), own: None, versions: rustls::ALL_VERSIONS }
    }
}

/// How a client sees TLS.
#[derive(Clone)]
pub(crate) struct Trust {
    authority: String,
    own: Option<(String, String)>,
    versions: &'static [&'static SupportedProtocolVersion],
}

impl Trust {
    /// It shows a certificate.
    pub(crate) fn with(self, own: (String, String)) -> Self {
        Self { own: Some(own), ..self }
    }

    pub(crate) fn speaking(self, versions: &'static [&'static SupportedProtocolVersion]) -> Self {
        Self { versions, ..self }
    }

    fn config(&self) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(self.versions)
            .unwrap()
            .with_root_certificates(roots);
        match &self.own {
            None => config.with_no_client_auth(),
            Some((certificate, key)) => config
                .with_client_auth_cert(
                    vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
                    PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
                )
                .unwrap(),
        }
    }

    /// The handshake with the server called `name`.
    pub(crate) async fn try_connect(
        &self,
        address: SocketAddr,
        name: &str,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::try_from(name.to_owned()).unwrap();
        TlsConnector::from(Arc::new(self.config())).connect(name, stream).await
    }

    /// The handshake on a connection that is open.
    pub(crate) async fn continue_on(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(self.config())).connect(name, stream).await
    }

    pub(crate) async fn connect(&self, address: SocketAddr) -> TlsStream<TcpStream> {
        self.try_connect(address, "localhost").await.unwrap()
    }
}
