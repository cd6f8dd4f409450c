//! One HTTP GET to the management API: too little to need a client library.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, bail};

/// How long the server may take, for each step.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Most bytes of an answer that are read.
const MAX_ANSWER_BYTES: u64 = 64 << 20;

/// Gets `path`; the body of a 200 answer. HTTP/1.0, so that the body ends with the connection.
pub(super) fn get(server: SocketAddr, path: &str) -> anyhow::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&server, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.write_all(
        format!("GET {path} HTTP/1.0\r\nHost: {server}\r\nAccept: application/json\r\n\r\n").as_bytes(),
    )?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer)?;
    body(&answer)
}

fn body(answer: &[u8]) -> anyhow::Result<Vec<u8>> {
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").context("the answer is not HTTP")?;
    let (head, body) = answer.split_at(end);
    let head = std::str::from_utf8(head).context("the answer is not HTTP")?;
    let status = head.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1));
    match status {
        Some("200") => Ok(body.get(4..).unwrap_or_default().to_vec()),
        Some(code) => bail!("the server answers with status {code}"),
        None => bail!("the answer is not HTTP"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn answers_are_split_and_their_status_checked() {
        assert_eq!(body(b"HTTP/1.0 200 OK\r\na: b\r\n\r\n{}").unwrap(), b"{}");
        for bad in [&b"HTTP/1.1 404 Not Found\r\n\r\n"[..], b"", b"SSH-2.0-x\r\n\r\n", b"\xff\r\n\r\n"] {
            assert!(body(bad).is_err());
        }
    }
}
