//! HTTP requests to the hosts that the manifest's `[http] allow` names.
//!
//! A call returns when the whole response is there, at the latest when the event's time is over. Redirects are not
//! followed.
//!
//! ```no_run
//! use tidegate_sdk::{Result, http};
//!
//! fn tell(reading: &[u8]) -> Result<()> {
//!     let response = http::post("https://api.example.com/readings", "application/json", reading)?;
//!     if response.status / 100 == 2 { Ok(()) } else { Err(format!("status {}", response.status).into()) }
//! }
//! ```

use std::fmt;
use std::time::Duration;

use crate::bindings::standard::wasi::http::outgoing_handler::handle;
use crate::bindings::standard::wasi::http::types::{
    Fields, IncomingResponse, OutgoingBody, OutgoingRequest, RequestOptions, Scheme, http_error_code,
};
use crate::bindings::standard::wasi::io::streams::StreamError;

pub use crate::bindings::standard::wasi::http::types::{ErrorCode, Method};

/// The most bytes that a stream takes or gives at once.
const CHUNK: usize = 4_096;

/// Why there is no response.
#[derive(Debug)]
pub enum HttpError {
    /// The request cannot be sent as it is: what is wrong with it.
    Invalid(String),
    /// The host refused it, or it failed on the way.
    Failed(ErrorCode),
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(what) => write!(f, "HTTP request: {what}"),
            Self::Failed(code) => write!(f, "HTTP request: {code:?}"),
        }
    }
}

impl std::error::Error for HttpError {}

impl HttpError {
    /// Whether the same request may succeed later.
    pub const fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Failed(
                ErrorCode::DnsTimeout
                    | ErrorCode::DnsError(_)
                    | ErrorCode::DestinationUnavailable
                    | ErrorCode::ConnectionRefused
                    | ErrorCode::ConnectionTerminated
                    | ErrorCode::ConnectionTimeout
                    | ErrorCode::ConnectionReadTimeout
                    | ErrorCode::HttpResponseIncomplete
                    | ErrorCode::HttpResponseTimeout
            )
        )
    }
}

/// A response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// Its status: 200, 404 ...
    pub status: u16,
    /// Names in lower case, and values.
    pub headers: Vec<(String, Vec<u8>)>,
    /// All of its body.
    pub body: Vec<u8>,
}

/// A request that is being made.
#[derive(Debug)]
pub struct Request {
    method: Method,
    url: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
    timeout: Option<Duration>,
}

/// Asks for `url`.
///
/// # Errors
/// [`HttpError`].
pub fn get(url: &str) -> Result<Response, HttpError> {
    Request::new(Method::Get, url).send()
}

/// Sends `body` to `url`.
///
/// # Errors
/// [`HttpError`].
pub fn post(url: &str, content_type: &str, body: &[u8]) -> Result<Response, HttpError> {
    Request::new(Method::Post, url).header("content-type", content_type).body(body).send()
}

impl Request {
    /// A request without headers and body.
    pub fn new(method: Method, url: &str) -> Self {
        Self { method, url: url.to_owned(), headers: Vec::new(), body: Vec::new(), timeout: None }
    }

    /// With one more header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.as_bytes().to_vec()));
        self
    }

    /// With this body.
    pub fn body(mut self, body: &[u8]) -> Self {
        self.body = body.to_vec();
        self
    }

    /// Waits so long, and no longer, for the connection, for the first byte and for each one after it.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sends it and waits for the response.
    ///
    /// # Errors
    /// [`HttpError`].
    pub fn send(self) -> Result<Response, HttpError> {
        let invalid = |what: &str| HttpError::Invalid(what.to_owned());
        let (scheme, authority, path) =
            parts(&self.url).ok_or_else(|| invalid("the URL is no http(s)://..."))?;
        let fields = Fields::new();
        for (name, value) in &self.headers {
            fields
                .append(name, value)
                .map_err(|error| HttpError::Invalid(format!("header {name}: {error:?}")))?;
        }
        if !self.body.is_empty() {
            // A header of the guest's own stays, whatever it says: the host compares.
            let length = self.body.len().to_string();
            let known = self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length"));
            if !known && fields.append("content-length", length.as_bytes()).is_err() {
                return Err(invalid("header content-length"));
            }
        }
        let request = OutgoingRequest::new(fields);
        request.set_method(&self.method).map_err(|()| invalid("the method"))?;
        request.set_scheme(Some(&scheme)).map_err(|()| invalid("the scheme"))?;
        request.set_authority(Some(authority)).map_err(|()| invalid("the host"))?;
        request.set_path_with_query(Some(path)).map_err(|()| invalid("the path"))?;
        let body = request.body().map_err(|()| invalid("the body"))?;
        let options = self.timeout.map(options);
        let response = handle(request, options).map_err(HttpError::Failed)?;
        // A response may come before all of the body is taken, and says then what is wrong with it.
        let written = write(body, &self.body);
        response.subscribe().block();
        match response.get() {
            Some(Ok(Ok(response))) => read(response),
            Some(Ok(Err(code))) => Err(HttpError::Failed(code)),
            Some(Err(())) | None => Err(written.err().unwrap_or_else(|| invalid("no response"))),
        }
    }
}

fn options(timeout: Duration) -> RequestOptions {
    let options = RequestOptions::new();
    let nanoseconds = Some(u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX));
    // A host without one of them has its own.
    options.set_connect_timeout(nanoseconds).ok();
    options.set_first_byte_timeout(nanoseconds).ok();
    options.set_between_bytes_timeout(nanoseconds).ok();
    options
}

fn broken(error: &StreamError) -> HttpError {
    let code = match error {
        StreamError::LastOperationFailed(error) => http_error_code(error),
        StreamError::Closed => None,
    };
    HttpError::Failed(code.unwrap_or(ErrorCode::ConnectionTerminated))
}

fn write(body: OutgoingBody, bytes: &[u8]) -> Result<(), HttpError> {
    if !bytes.is_empty() {
        let stream = body.write().map_err(|()| HttpError::Invalid("the body".to_owned()))?;
        for chunk in bytes.chunks(CHUNK) {
            stream.blocking_write_and_flush(chunk).map_err(|error| broken(&error))?;
        }
    }
    OutgoingBody::finish(body, None).map_err(HttpError::Failed)
}

fn read(response: IncomingResponse) -> Result<Response, HttpError> {
    let mut whole =
        Response { status: response.status(), headers: response.headers().entries(), body: Vec::new() };
    let unreadable = |()| HttpError::Failed(ErrorCode::HttpResponseIncomplete);
    let body = response.consume().map_err(unreadable)?;
    let stream = body.stream().map_err(unreadable)?;
    loop {
        match stream.blocking_read(CHUNK as u64 * 16) {
            Ok(bytes) => whole.body.extend(bytes),
            Err(StreamError::Closed) => return Ok(whole),
            Err(error) => return Err(broken(&error)),
        }
    }
}

/// Scheme, host with port, and path with query.
fn parts(url: &str) -> Option<(Scheme, &str, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    let scheme = match scheme {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        _ => return None,
    };
    let rest = rest.split('#').next().unwrap_or_default();
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    Some((scheme, authority, if path.is_empty() { "/" } else { path }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::expect_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_url_is_taken_apart() {
        let (scheme, authority, path) = parts("https://a.example:8443/b?c=d#e").expect("a URL");
        assert!(matches!(scheme, Scheme::Https));
        assert_eq!((authority, path), ("a.example:8443", "/b?c=d"));
        let (scheme, authority, path) = parts("http://[::1]:80").expect("a URL");
        assert!(matches!(scheme, Scheme::Http));
        assert_eq!((authority, path), ("[::1]:80", "/"));
        assert!(parts("ftp://a/").is_none() && parts("a.example").is_none());
    }
}
