//! The other end of the control socket: one request, its answer, and an end.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::SOCKET;
use super::messages::Mistake;

/// How long the server may take to read a request.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Most bytes of an answer that is read whole.
const MAX_ANSWER_BYTES: u64 = 64 << 20;
/// Most bytes of a head.
const MAX_HEAD_BYTES: u64 = 16 << 10;

/// An answer with status 200 whose body has not been read.
pub(crate) struct Answer(BufReader<UnixStream>);

/// Whether a server may listen for the data directory `data`.
pub(crate) fn is_there(data: &Path) -> bool {
    UnixStream::connect(data.join(SOCKET)).is_ok()
}

/// Gets `path`.
///
/// # Errors
/// No server, or its mistake in its own words.
pub(crate) fn get<T: DeserializeOwned>(data: &Path, path: &str) -> anyhow::Result<T> {
    ask(data, "GET", path, &[])?.json()
}

/// Posts `request` to `path`. It takes as long as the server needs: a compiler may have minutes of work.
///
/// # Errors
/// As [`get`].
pub(crate) fn post(data: &Path, path: &str, request: &impl Serialize) -> anyhow::Result<Answer> {
    ask(data, "POST", path, &serde_json::to_vec(request)?)
}

/// HTTP/1.0, so that the body ends with the connection.
fn ask(data: &Path, method: &str, path: &str, body: &[u8]) -> anyhow::Result<Answer> {
    let socket = data.join(SOCKET);
    let mut stream = UnixStream::connect(&socket).with_context(|| {
        format!(
            "no tidegate server answers on {} (is it running? --data names its data directory)",
            socket.display()
        )
    })?;
    stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
    let head = format!("{method} {path} HTTP/1.0\r\nHost: control\r\nContent-Length: {}\r\n\r\n", body.len());
    let closed = "the server closed the connection: it is stopping, or it serves its own user and root alone";
    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).context(closed)?;
    let mut answer = BufReader::new(stream);
    let status = status(&mut answer).context(closed)?;
    if status == 200 {
        return Ok(Answer(answer));
    }
    let mut text = Vec::new();
    answer.take(MAX_ANSWER_BYTES).read_to_end(&mut text)?;
    match serde_json::from_slice::<Mistake>(&text) {
        Ok(mistake) => bail!("{}", mistake.error),
        Err(_) => bail!("the server answers with status {status}"),
    }
}

/// Reads the head of an answer; gives its status.
fn status(answer: &mut BufReader<UnixStream>) -> anyhow::Result<u16> {
    let mut status = None;
    let mut head = answer.take(MAX_HEAD_BYTES);
    loop {
        let mut line = String::new();
        head.read_line(&mut line)?;
        if !line.ends_with('\n') {
            bail!("the answer is not HTTP");
        }
        match (status, line.trim_end()) {
            (Some(status), "") => return Ok(status),
            (None, line) => {
                let code = line.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1));
                status = Some(code.and_then(|code| code.parse().ok()).context("the answer is not HTTP")?);
            }
            (Some(_), _) => {}
        }
    }
}

impl Answer {
    /// The whole body as one value.
    ///
    /// # Errors
    /// It is no JSON, or none of this kind.
    pub(crate) fn json<T: DeserializeOwned>(self) -> anyhow::Result<T> {
        let mut text = Vec::new();
        self.0.take(MAX_ANSWER_BYTES).read_to_end(&mut text)?;
        serde_json::from_slice(&text).context("the server's answer is of another version of tidegate")
    }

    /// The lines of the body as they come.
    pub(crate) fn lines(self) -> impl Iterator<Item = std::io::Result<String>> {
        self.0.lines()
    }
}
