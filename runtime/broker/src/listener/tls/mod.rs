//! TLS of a listener: the handshake, who the client is by its certificate, and new files while it serves.

mod der;
mod error;
mod files;
mod names;
mod reload;

use std::sync::Arc;

use arc_swap::ArcSwap;
use bytestring::ByteString;
use metrics::{counter, gauge};
use rustls::ServerConfig;
use rustls::server::{NoClientAuth, WebPkiClientVerifier};
use tidegate_event::Certificate;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

pub use self::error::TlsError;
use self::files::Stamp;
use self::names::Names;
pub(super) use self::reload::follow;
use super::config::{TlsConfig, UsernameFrom, Verify};

/// What is kept encrypted for a client that does not read, bytes: one record.
pub(crate) const BUFFER: usize = 16 * 1024;

/// The TLS of a listener as its files say it now.
pub(super) struct Tls {
    listener: Arc<str>,
    config: TlsConfig,
    websocket: bool,
    /// The files' state before they were read for the first time.
    opened: Stamp,
    current: ArcSwap<ServerConfig>,
}

impl TlsConfig {
    /// Reads the files and puts them together, as a listener would.
    ///
    /// # Errors
    /// What is wrong, with the file. On success: what an operator should know, one line each.
    pub fn check(&self) -> Result<Vec<String>, TlsError> {
        build(self, false).map(|built| built.warnings())
    }
}

/// What the files hold.
struct Built {
    server: Arc<ServerConfig>,
    /// Every certificate's file and when it ends, seconds since the epoch.
    ends: Vec<(String, i64)>,
}

impl Built {
    /// Certificates that are of no use any more.
    fn warnings(&self) -> Vec<String> {
        let now = now();
        let ended = self.ends.iter().filter(|(_, end)| *end < now);
        ended
            .map(|(file, end)| {
                format!("{file}: the certificate has expired {} days ago", (now - end) / 86_400)
            })
            .collect()
    }
}

fn build(config: &TlsConfig, websocket: bool) -> Result<Built, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut certificates = Vec::new();
    let mut ends = Vec::new();
    for of in &config.certificates {
        let certified = files::certified(of, &provider)?;
        let end = certified.end_entity_cert().ok().and_then(|certificate| der::not_after(certificate));
        ends.extend(end.map(|end| (of.cert.display().to_string(), end)));
        certificates.push((certified, &*of.server_names));
    }
    let names = Names::new(certificates)?;
    let verifier = match (&config.client_ca, config.verify) {
        (Some(_), Verify::None) => {
            return Err(TlsError::Contradiction(
                "client_ca names authorities, but clients are not asked for a certificate: say verify = \"required\" \
                 or \"optional\""
                    .into(),
            ));
        }
        (_, Verify::None) if config.username != UsernameFrom::Connect => {
            return Err(TlsError::Contradiction(
                "the user name is to come from the certificate, but clients are not asked for one: say verify".into(),
            ));
        }
        (_, Verify::None) => Arc::new(NoClientAuth) as Arc<dyn rustls::server::danger::ClientCertVerifier>,
        (None, _) => {
            return Err(TlsError::Contradiction(
                "clients are asked for a certificate, but client_ca names no authorities".into(),
            ));
        }
        (Some(path), verify) => {
            let roots = Arc::new(files::authorities(path)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider));
            let verifier =
                if verify == Verify::Optional { verifier.allow_unauthenticated() } else { verifier };
            verifier
                .build()
                .map_err(|error| TlsError::Authorities { path: path.clone(), problem: error.to_string() })?
        }
    };
    // Sessions are resumed from a bounded memory of this configuration: after a change of the files, or of the
    // authorities, every client is looked at anew.
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(names));
    if websocket {
        // Browsers offer HTTP/2 too, which knows no upgrade.
        server.alpn_protocols = vec![b"http/1.1".to_vec()];
    }
    Ok(Built { server: Arc::new(server), ends })
}

impl Tls {
    /// Reads the files of `config`.
    pub(super) fn open(listener: Arc<str>, config: TlsConfig, websocket: bool) -> Result<Self, TlsError> {
        let opened = Stamp::now(&config);
        let built = build(&config, websocket)?;
        let current = ArcSwap::new(Arc::clone(&built.server));
        let tls = Self { listener, config, websocket, opened, current };
        tls.note(&built);
        Ok(tls)
    }

    /// Reads the files again; what cannot be used changes nothing.
    fn reopen(&self) -> Result<(), TlsError> {
        let built = build(&self.config, self.websocket)?;
        self.note(&built);
        self.current.store(built.server);
        Ok(())
    }

    /// Shows until when the certificates are valid.
    fn note(&self, built: &Built) {
        for (file, end) in &built.ends {
            gauge!(
                "tidegate_broker_certificate_expires_seconds",
                "listener" => self.listener.to_string(), "file" => file.clone()
            )
            .set(*end as f64);
        }
        for warning in built.warnings() {
            tracing::warn!(listener = %self.listener, "{warning}");
        }
    }

    fn count_reload(&self, result: &'static str) {
        counter!(
            "tidegate_broker_certificate_reloads_total",
            "listener" => self.listener.to_string(), "result" => result
        )
        .increment(1);
    }

    /// The handshake, by the files as they are now.
    pub(super) async fn accept(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        let mut stream = TlsAcceptor::from(self.current.load_full()).accept(stream).await?;
        // A session that is resumed is not looked at again by the library.
        let shown = stream.get_ref().1.peer_certificates().and_then(|shown| shown.first());
        if shown.is_some_and(|shown| der::has_ended(shown, now())) {
            return Err(std::io::Error::other("the client's certificate has expired"));
        }
        stream.get_mut().1.set_buffer_limit(Some(BUFFER));
        Ok(stream)
    }

    /// Whether the certificate is the user's name.
    pub(super) fn names_users(&self) -> bool {
        self.config.username == UsernameFrom::CommonName
    }
}

/// Seconds since the epoch.
fn now() -> i64 {
    i64::try_from(tidegate_event::now_ms() / 1_000).unwrap_or(i64::MAX)
}

/// Who the client is by the certificate that it has shown: nobody by one that cannot be read, which is not the same as none.
pub(super) fn identity(stream: &TlsStream<TcpStream>) -> Option<Certificate> {
    let shown = stream.get_ref().1.peer_certificates()?.first()?;
    let nobody = || Certificate { common_name: None, subject: ByteString::new() };
    Some(der::identity(shown).unwrap_or_else(nobody))
}

/// The name of the server that the client asked for.
pub(super) fn server_name(stream: &TlsStream<TcpStream>) -> Option<Arc<str>> {
    stream.get_ref().1.server_name().map(|name| Arc::from(name.to_ascii_lowercase()))
}
