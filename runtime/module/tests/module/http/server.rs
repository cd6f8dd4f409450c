//! An HTTP/1.1 server that answers by the path it is asked for, with or without TLS.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// Who signed the server's certificate.
pub enum Tls {
    Signed,
    SelfSigned,
}

/// A running server; ends when dropped.
pub struct Server {
    pub port: u16,
    seen: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The certificates of a file in `tls`, as DER.
pub fn pem(file: &str) -> Vec<Vec<u8>> {
    certificates(file).into_iter().map(|certificate| certificate.to_vec()).collect()
}

fn path(file: &str) -> String {
    format!("{}/tests/module/tls/{file}", env!("CARGO_MANIFEST_DIR"))
}

fn certificates(file: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(path(file)).unwrap().map(Result::unwrap).collect()
}

fn acceptor(tls: &Tls) -> TlsAcceptor {
    let chain = certificates(match tls {
        Tls::Signed => "server.pem",
        Tls::SelfSigned => "self-signed.pem",
    });
    let key = PrivateKeyDer::from_pem_file(path("server.key")).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

impl Server {
    pub async fn start(tls: Option<Tls>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (heads, acceptor) = (seen.clone(), tls.as_ref().map(acceptor));
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (heads, acceptor) = (heads.clone(), acceptor.clone());
                tokio::spawn(async move {
                    match acceptor {
                        None => answer(stream, &heads).await,
                        Some(acceptor) => match acceptor.accept(stream).await {
                            Ok(stream) => answer(stream, &heads).await,
                            Err(_) => return,
                        },
                    }
                    .ok();
                });
            }
        });
        Self { port, seen, task }
    }

    /// The heads of the requests that came.
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().clone()
    }
}

/// Reads one request and answers it. Errors: the client has gone.
async fn answer(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    heads: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut input = Vec::new();
    let end = loop {
        if let Some(end) = input.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut input).await? == 0 {
            return Ok(());
        }
    };
    let head = String::from_utf8_lossy(&input[..end]).into_owned();
    heads.lock().push(head.clone());
    let length: usize = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .map_or(0, |digits| digits.parse().unwrap());
    while input.len() < end + length {
        if stream.read_buf(&mut input).await? == 0 {
            return Ok(());
        }
    }
    let path = head.split(' ').nth(1).unwrap_or_default().split('?').next().unwrap_or_default().to_owned();
    let mut say = async |text: &[u8]| {
        stream.write_all(text).await?;
        stream.flush().await
    };
    let head = |length: usize| format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
    match path.as_str() {
        "/hello" => say(format!("{}hello", head(5)).as_bytes()).await,
        "/echo" => {
            say(head(length).as_bytes()).await?;
            say(&input[end..]).await
        }
        "/redirect" => {
            say(b"HTTP/1.1 302 Found\r\nlocation: /hello\r\ncontent-length: 9\r\n\r\nelsewhere").await
        }
        "/long-head" => {
            say(b"HTTP/1.1 200 OK\r\n").await?;
            for n in 0..100 {
                say(format!("x-{n}: {}\r\n", "y".repeat(2_000)).as_bytes()).await?;
            }
            say(b"content-length: 0\r\n\r\n").await
        }
        "/cut" => say(format!("{}half", head(1_000)).as_bytes()).await,
        "/slow" => {
            tokio::time::sleep(Duration::from_secs(60)).await;
            Ok(())
        }
        // Never silent for long, never at its end.
        "/drip" => {
            say(head(1_000_000).as_bytes()).await?;
            loop {
                say(b"x").await?;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        bytes => {
            let many = bytes.strip_prefix("/bytes/").and_then(|many| many.parse().ok()).unwrap_or(0);
            say(head(many).as_bytes()).await?;
            say(&vec![b'b'; many]).await
        }
    }
}
