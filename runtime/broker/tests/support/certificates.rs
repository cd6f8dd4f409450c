//! Certificates made for a test with `openssl`, in a folder of their own, and clients that trust them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

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
}

impl Authority {
    pub(crate) fn new() -> Self {
        let authority = Self { folder: tempfile::tempdir().unwrap() };
        authority.openssl("req -x509 -days 2 -subj /CN=authority -keyout ca.key -out ca.pem NEW");
        authority
    }

    /// Runs `openssl` in the folder. `NEW` asks for a key on an elliptic curve, which is made at once.
    fn openssl(&self, line: &str) {
        let line = line.replace("NEW", "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes");
        let output = Command::new("openssl")
            .current_dir(self.folder.path())
            .args(line.split(' '))
            .output()
            .expect("openssl must be installed (`cargo xtask test` does it)");
        assert!(output.status.success(), "openssl {line}: {}", String::from_utf8_lossy(&output.stderr));
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.file(name)).unwrap()
    }

    /// A certificate for `name`, also as a name of a server, and its key: PEM.
    pub(crate) fn issue(&self, name: &str) -> (String, String) {
        self.files(name);
        (self.text(&format!("{name}.pem")), self.text(&format!("{name}.key")))
    }

    /// A certificate for `name` whose last second is `end`, since the epoch, and its key: PEM.
    pub(crate) fn issue_until(&self, name: &str, end: u64) -> (String, String) {
        self.request(name);
        // `openssl x509` counts in days before its version 3.4. `openssl ca` takes a second, and a file that says how.
        let rules = format!(
            "[ca]\ndefault_ca = own\n[own]\ndatabase = {name}.index\nnew_certs_dir = .\nrand_serial = yes\n\
             default_md = sha256\ncopy_extensions = copy\npolicy = any\n\
             [any]\norganizationName = optional\ncommonName = supplied\n"
        );
        std::fs::write(self.file(&format!("{name}.rules")), rules).unwrap();
        std::fs::write(self.file(&format!("{name}.index")), "").unwrap();
        let date =
            Command::new("date").args(["-u", "-d", &format!("@{end}"), "+%Y%m%d%H%M%SZ"]).output().unwrap();
        let date = String::from_utf8(date.stdout).unwrap();
        self.openssl(&format!(
            "ca -batch -notext -config {name}.rules -cert ca.pem -keyfile ca.key -enddate {} -in {name}.csr -out {name}.pem",
            date.trim()
        ));
        (self.text(&format!("{name}.pem")), self.text(&format!("{name}.key")))
    }

    /// Asks for a certificate for `name`: makes its key and `NAME.csr`.
    fn request(&self, name: &str) {
        self.openssl(&format!(
            "req -subj /O=Tests/CN={name} -addext subjectAltName=DNS:{name} -keyout {name}.key -out {name}.csr NEW"
        ));
    }

    /// What [`issue`](Self::issue) makes, in files.
    pub(crate) fn files(&self, name: &str) -> CertificateFiles {
        self.request(name);
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -copy_extensions copy -out {name}.pem"
        ));
        let (cert, key) = (self.file(&format!("{name}.pem")), self.file(&format!("{name}.key")));
        CertificateFiles { cert, key, server_names: Vec::new() }
    }

    /// TLS of a listener with a certificate for `localhost`.
    pub(crate) fn tls(&self) -> TlsConfig {
        TlsConfig { certificates: vec![self.files("localhost")], ..TlsConfig::default() }
    }

    /// A client that trusts this authority.
    pub(crate) fn trust(&self) -> Trust {
        Trust { authority: self.text("ca.pem"), own: None, versions: rustls::ALL_VERSIONS }
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

    /// A client that comes again and again.
    pub(crate) fn returning(&self) -> Returning {
        Returning { connector: TlsConnector::from(Arc::new(self.config())) }
    }
}

/// A client that keeps the sessions of TLS which it is granted, and asks to resume the last one.
pub(crate) struct Returning {
    connector: TlsConnector,
}

impl Returning {
    pub(crate) async fn try_connect(&self, address: SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        self.connector.connect(name, stream).await
    }
}
