//! One request: the list is asked, the name resolved once, the address checked and connected to.
//!
//! There is no pool of connections and redirects are the guest's business, so no request reaches a server that was
//! not checked for it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Method, Request, Response, Uri, header};
use http_body_util::BodyExt as _;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{AlertDescription, ClientConfig, RootCertStore};
use tidegate_event::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody};

use super::address::is_permitted;
use super::body::{Received, Sent, Traffic};
use super::destination::{Destination, Host, Target};

/// Resolving, connecting and the TLS handshake, unless the guest asks for less.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The head of a response, and pauses in its body, unless the guest asks for less.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);
/// The head of a response.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// Finds the addresses of a name.
pub trait Resolve: std::fmt::Debug + Send + Sync + 'static {
    /// The addresses of `host`, each with `port`.
    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>>;
}

/// The system's resolver.
#[derive(Debug)]
struct System;

impl Resolve for System {
    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })
    }
}

/// How modules reach HTTP servers.
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// Finds addresses; the default is the system's resolver.
    pub resolver: Arc<dyn Resolve>,
    /// Certificates (DER) that are trusted besides the system's.
    pub extra_roots: Vec<Vec<u8>>,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self { resolver: Arc::new(System), extra_roots: Vec::new() }
    }
}

/// Sends requests of all modules.
pub(crate) struct HttpClient {
    config: HttpConfig,
    /// Made at the first request that needs it: the system's certificates are read from files.
    tls: OnceCell<Arc<ClientConfig>>,
}

/// What a request may do.
pub(super) struct Terms {
    pub(super) allowed: Arc<[Destination]>,
    pub(super) traffic: Arc<Traffic>,
    /// How long all of it may take.
    pub(super) timeout: Duration,
    pub(super) options: RequestOptions,
}

/// What comes of a request: the response, and what keeps its connection going.
pub(super) type Answer = (Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>);

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// `wanted` of the guest, where it is less than `most`.
fn at_most(wanted: Option<Duration>, most: Duration) -> Duration {
    wanted.map_or(most, |wanted| wanted.min(most))
}

impl HttpClient {
    pub(crate) fn new(config: HttpConfig) -> Self {
        Self { config, tls: OnceCell::new() }
    }

    /// Sends `request` and gives the response as soon as its head is there.
    ///
    /// # Errors
    /// In the words of `wasi:http`.
    pub(super) async fn send(&self, request: Request<WasiBody>, terms: Terms) -> Result<Answer, Error> {
        let target = Target::of(request.uri()).map_err(|_| Error::HttpRequestUriInvalid)?;
        let entry =
            terms.allowed.iter().find(|entry| entry.allows(&target)).ok_or(Error::HttpRequestDenied)?;
        if request.method() == Method::CONNECT {
            return Err(Error::HttpRequestMethodInvalid);
        }
        let start = Instant::now();
        // Configuration bounds it to what a clock can hold.
        let deadline = start + terms.timeout;
        let connected = deadline.min(start + at_most(terms.options.connect_timeout, CONNECT_TIMEOUT));
        let stream = timeout_at(connected, self.connect(&target, entry)).await;
        let stream = stream.map_err(|_| Error::ConnectionTimeout)??;

        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_HEAD_BYTES)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        let connection = wasmtime_wasi::runtime::spawn(async move { connection.await.map_err(broken) });
        let request = prepared(request, &target, &terms.traffic)?;
        let head = deadline.min(Instant::now() + at_most(terms.options.first_byte_timeout, RESPONSE_TIMEOUT));
        let response = timeout_at(head, sender.send_request(request)).await;
        let response = response.map_err(|_| Error::ConnectionReadTimeout)?.map_err(broken)?;
        let pause = at_most(terms.options.between_bytes_timeout, RESPONSE_TIMEOUT);
        let response =
            response.map(|body| Received::new(body, terms.traffic, pause, deadline).boxed_unsync());
        // The body says what goes wrong with the connection; it need not be said twice.
        let going = async move {
            connection.await.ok();
            Ok(())
        };
        Ok((response, Box::new(going)))
    }

    /// A connection to the first permitted address that takes one.
    async fn connect(&self, target: &Target, entry: &Destination) -> Result<Box<dyn Stream>, Error> {
        let addresses = match &target.host {
            Host::Ip(ip) => vec![SocketAddr::new(*ip, target.port)],
            Host::Name(name) => {
                let found = self.config.resolver.resolve(name, target.port).await;
                found.map_err(|error| Error::DnsError { rcode: Some(error.to_string()), info_code: None })?
            }
        };
        if addresses.is_empty() {
            return Err(Error::DestinationNotFound);
        }
        let mut failure = Error::DestinationIpProhibited;
        for address in addresses.into_iter().filter(|address| is_permitted(entry, address.ip())) {
            match TcpStream::connect(address).await {
                Ok(stream) if target.tls => return self.encrypt(stream, &target.host).await,
                Ok(stream) => return Ok(Box::new(stream)),
                Err(error) => failure = unreachable(&error),
            }
        }
        Err(failure)
    }

    async fn encrypt(&self, stream: TcpStream, host: &Host) -> Result<Box<dyn Stream>, Error> {
        let config = self.tls.get_or_try_init(|| tls_config(self.config.extra_roots.clone())).await?;
        let name = match host {
            Host::Ip(ip) => ServerName::from(*ip),
            Host::Name(name) => {
                ServerName::try_from(name.clone()).map_err(|_| Error::HttpRequestUriInvalid)?
            }
        };
        let stream = TlsConnector::from(config.clone()).connect(name, stream).await;
        Ok(Box::new(stream.map_err(|error| untrusted(&error))?))
    }
}

/// The request as HTTP/1.1 sends it: the path alone, and the host as it was checked.
fn prepared(
    request: Request<WasiBody>,
    target: &Target,
    traffic: &Arc<Traffic>,
) -> Result<Request<Sent>, Error> {
    let (mut parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    parts.uri = Uri::builder().path_and_query(path).build().map_err(|_| Error::HttpRequestUriInvalid)?;
    let host = HeaderValue::try_from(target.header()).map_err(|_| Error::HttpRequestUriInvalid)?;
    parts.headers.insert(header::HOST, host);
    Ok(Request::from_parts(parts, Sent { inner: body, traffic: traffic.clone() }))
}

async fn tls_config(extra: Vec<Vec<u8>>) -> Result<Arc<ClientConfig>, Error> {
    let made = tokio::task::spawn_blocking(move || {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!("certificates for modules' requests: {error}");
        }
        let mut roots = RootCertStore::empty();
        let own = extra.into_iter().map(CertificateDer::from);
        let (trusted, ignored) = roots.add_parsable_certificates(found.certs.into_iter().chain(own));
        tracing::debug!(trusted, ignored, "certificates for modules' requests");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok::<_, rustls::Error>(Arc::new(config))
    });
    match made.await {
        Ok(Ok(config)) => Ok(config),
        Ok(Err(error)) => Err(Error::InternalError(Some(error.to_string()))),
        Err(_) => Err(Error::InternalError(Some("the node stops".into()))),
    }
}

fn unreachable(error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Error::ConnectionRefused,
        io::ErrorKind::TimedOut => Error::ConnectionTimeout,
        _ => Error::DestinationUnavailable,
    }
}

fn untrusted(error: &io::Error) -> Error {
    match error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
            Error::TlsCertificateError
        }
        Some(rustls::Error::AlertReceived(alert)) => Error::TlsAlertReceived {
            alert_id: Some(alert_id(*alert)),
            alert_message: Some(format!("{alert:?}")),
        },
        _ => Error::TlsProtocolError,
    }
}

fn alert_id(alert: AlertDescription) -> u8 {
    alert.into()
}

/// What went wrong with a connection that had begun.
pub(super) fn broken(error: hyper::Error) -> Error {
    let source = std::error::Error::source(&error);
    if let Some(Error::HttpRequestBodySize(limit)) = source.and_then(|source| source.downcast_ref::<Error>())
    {
        return Error::HttpRequestBodySize(*limit);
    }
    let cut = source
        .and_then(|source| source.downcast_ref::<io::Error>())
        .is_some_and(|error| error.kind() == io::ErrorKind::UnexpectedEof);
    if error.is_parse_too_large() {
        Error::HttpResponseHeaderSectionSize(None)
    } else if cut || error.is_incomplete_message() {
        Error::HttpResponseIncomplete
    } else if error.is_timeout() {
        Error::HttpResponseTimeout
    } else if source.is_some_and(|source| source.is::<io::Error>())
        || error.is_canceled()
        || error.is_closed()
    {
        Error::ConnectionTerminated
    } else {
        Error::HttpProtocolError
    }
}
