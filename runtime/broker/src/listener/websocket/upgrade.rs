//! From HTTP to WebSocket (RFC 6455 clause 4.2): the request is read, checked and answered.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::listener::config::WebSocketConfig;

/// Longest head of a request, bytes; those of browsers have cookies.
const HEAD_MOST: usize = 16 * 1024;
const HEAD_END: &[u8] = b"\r\n\r\n";
/// Most header fields of a request.
const FIELDS_MOST: usize = 64;
/// Room made before a read.
const READ: usize = 1024;

/// What the key of a request is joined with (clause 1.3).
const KEY_SUFFIX: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Sub-protocols that are served (MQTT 5 clause 6, [MQTT-6.0.0-3]).
const PROTOCOLS: [&str; 2] = ["mqtt", OF_V31];
/// The one that clients of MQTT 3.1 ask for. Those of later versions are not served by it ([MQTT-6.0.0-4]).
const OF_V31: &str = "mqttv3.1";

/// Why a request came to nothing.
#[derive(Debug, thiserror::Error)]
pub(in crate::listener) enum UpgradeError {
    /// The connection closed or failed before.
    #[error("closed before the upgrade to WebSocket: {0}")]
    Gone(#[from] std::io::Error),
    /// It was refused, and the peer was told so.
    #[error("the upgrade to WebSocket was refused with status {status}: {problem}", status = .0.status, problem = .0.problem)]
    Refused(Refusal),
}

/// The answer to a request that is none for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::listener) struct Refusal {
    status: u16,
    phrase: &'static str,
    problem: &'static str,
}

const fn bad(problem: &'static str) -> Refusal {
    Refusal { status: 400, phrase: "Bad Request", problem }
}

const TOO_LONG: Refusal = Refusal {
    status: 431,
    phrase: "Request Header Fields Too Large",
    problem: "the head of the request is longer than 16 KiB or has over 64 fields",
};

/// A request that may go on.
#[derive(Debug, PartialEq, Eq)]
struct Accepted {
    key: String,
    protocol: &'static str,
    is_foreign: bool,
}

/// A request that was granted.
#[derive(Debug)]
pub(in crate::listener) struct Upgraded {
    /// What came behind it.
    pub(in crate::listener) rest: BytesMut,
    /// Whether somebody else than who has the peer's address is behind it: a proxy has handed it on, or the page that a
    /// browser shows is of another machine.
    pub(in crate::listener) is_foreign: bool,
    /// Whether the sub-protocol is that of MQTT 3.1.
    pub(in crate::listener) only_v31: bool,
}

/// Fields that proxies add.
const BY_PROXIES: [&str; 4] = ["Forwarded", "X-Forwarded-For", "X-Real-IP", "Via"];

/// Reads the request and answers it.
///
/// # Errors
/// [`UpgradeError`]: the connection is of no more use.
pub(in crate::listener) async fn upgrade<S>(
    stream: &mut S,
    config: &WebSocketConfig,
) -> Result<Upgraded, UpgradeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut input = BytesMut::new();
    let mut looked_at = 0;
    let checked = loop {
        input.reserve(READ);
        if stream.read_buf(&mut input).await? == 0 {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
        // Parsed when it is whole, or bytes that drip would be parsed again and again; and at first, for what is no HTTP.
        let new = input.get(looked_at..).unwrap_or_default();
        if looked_at == 0 || new.windows(HEAD_END.len()).any(|bytes| bytes == HEAD_END) {
            match check(&input, config) {
                Ok(None) => {}
                Ok(Some(whole)) => break Ok(whole),
                Err(refusal) => break Err(refusal),
            }
        }
        if input.len() >= HEAD_MOST {
            break Err(TOO_LONG);
        }
        looked_at = (input.len() + 1).saturating_sub(HEAD_END.len()).max(1);
    };
    match checked {
        Ok((accepted, len)) => {
            stream.write_all(answer(&accepted).as_bytes()).await?;
            stream.flush().await?;
            let mut rest = input.split_off(len);
            if rest.is_empty() {
                rest = BytesMut::new();
            }
            Ok(Upgraded { rest, is_foreign: accepted.is_foreign, only_v31: accepted.protocol == OF_V31 })
        }
        Err(refusal) => {
            stream.write_all(refusal.answer().as_bytes()).await?;
            stream.shutdown().await?;
            Err(UpgradeError::Refused(refusal))
        }
    }
}

impl Refusal {
    fn answer(&self) -> String {
        let Self { status, phrase, problem } = self;
        // Clause 4.4: the version that is spoken.
        let version = if *status == 426 { "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" } else { "" };
        let len = problem.len() + 1;
        format!(
            "HTTP/1.1 {status} {phrase}\r\nConnection: close\r\n{version}Content-Type: text/plain\r\n\
             Content-Length: {len}\r\n\r\n{problem}\n"
        )
    }
}

fn answer(accepted: &Accepted) -> String {
    let Accepted { key, protocol, .. } = accepted;
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {key}\r\nSec-WebSocket-Protocol: {protocol}\r\n\r\n"
    )
}

/// Looks at what there is of a request; `None`: it is not whole. Gives also the length of its head.
fn check(input: &[u8], config: &WebSocketConfig) -> Result<Option<(Accepted, usize)>, Refusal> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MOST];
    let mut request = httparse::Request::new(&mut fields);
    let len = match request.parse(input) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(TOO_LONG),
        Err(_) => return Err(bad("this is no HTTP request")),
    };
    let values = |name: &'static str| {
        let of_name = request.headers.iter().filter(move |field| field.name.eq_ignore_ascii_case(name));
        of_name.map(|field| std::str::from_utf8(field.value).unwrap_or_default())
    };
    let listed = |name: &'static str| values(name).flat_map(|value| value.split(',')).map(str::trim);
    let has = |name: &'static str, word: &str| listed(name).any(|found| found.eq_ignore_ascii_case(word));

    if request.method != Some("GET") || request.version != Some(1) {
        return Err(Refusal {
            status: 405,
            phrase: "Method Not Allowed",
            problem: "expected GET and HTTP/1.1",
        });
    }
    let path = request.path.and_then(|target| target.split('?').next()).unwrap_or_default();
    if path != config.path {
        return Err(Refusal { status: 404, phrase: "Not Found", problem: "MQTT is served at another path" });
    }
    if !has("Upgrade", "websocket") || !has("Connection", "upgrade") {
        return Err(Refusal {
            status: 426,
            phrase: "Upgrade Required",
            problem: "MQTT over WebSocket is served here: Upgrade: websocket and Connection: Upgrade are missing",
        });
    }
    if !has("Sec-WebSocket-Version", "13") {
        return Err(Refusal {
            status: 426,
            phrase: "Upgrade Required",
            problem: "only version 13 of WebSocket is known",
        });
    }
    if values("Host").count() != 1 {
        return Err(bad("expected one field Host"));
    }
    let key = values("Sec-WebSocket-Key").next().unwrap_or_default();
    if STANDARD.decode(key).map_or(true, |key| key.len() != 16) {
        return Err(bad("Sec-WebSocket-Key is no base64 of 16 bytes"));
    }
    let origin = values("Origin").next();
    let is_listed = |origin: &str| config.origins.iter().any(|known| known.eq_ignore_ascii_case(origin));
    if !config.origins.is_empty() && origin.is_some_and(|origin| !is_listed(origin)) {
        return Err(Refusal {
            status: 403,
            phrase: "Forbidden",
            problem: "pages of this origin may not connect",
        });
    }
    // "mqtt" whenever it is offered ([MQTT-6.0.0-4]), in whatever order.
    let is_offered = |known: &&str| listed("Sec-WebSocket-Protocol").any(|offered| offered == *known);
    let Some(protocol) = PROTOCOLS.into_iter().find(is_offered) else {
        return Err(bad("Sec-WebSocket-Protocol must offer mqtt (MQTT 5 clause 6)"));
    };
    let is_foreign = BY_PROXIES.iter().any(|name| values(name).next().is_some())
        || origin.is_some_and(|origin| !is_listed(origin) && !is_of_this_machine(origin));
    Ok(Some((Accepted { key: accept(key), protocol, is_foreign }, len)))
}

/// Whether a page of this origin (RFC 6454 clause 7) came from this machine.
fn is_of_this_machine(origin: &str) -> bool {
    let Some((_, authority)) = origin.split_once("://") else { return false };
    let host = match authority.rsplit_once(':') {
        // The colon may be one of an IPv6 address.
        Some((host, port)) if !port.contains(']') => host,
        _ => authority,
    };
    ["localhost", "127.0.0.1", "[::1]"].iter().any(|here| host.eq_ignore_ascii_case(here))
}

/// The proof that the server has understood (clause 4.2.2, 5.4).
fn accept(key: &str) -> String {
    let mut digest = sha1_smol::Sha1::new();
    digest.update(key.as_bytes());
    digest.update(KEY_SUFFIX);
    STANDARD.encode(digest.digest().bytes())
}

#[cfg(test)]
mod tests;
