//! Requests that are upgraded, and those that are not.
#![allow(clippy::unwrap_used, reason = "tests")]

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

/// The request of RFC 6455 clause 1.3, with our path and sub-protocol.
const REQUEST: &str = "GET /mqtt HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: websocket\r\n\
    Connection: keep-alive, Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Origin: http://example.com\r\nSec-WebSocket-Protocol: chat, mqtt\r\nSec-WebSocket-Version: 13\r\n\r\n";

fn status(request: &str, config: &WebSocketConfig) -> u16 {
    match check(request.as_bytes(), config) {
        Ok(Some(_)) => 101,
        Ok(None) => 0,
        Err(refusal) => refusal.status,
    }
}

#[test]
fn the_sample_of_the_standard_is_accepted() {
    let (accepted, len) = check(REQUEST.as_bytes(), &WebSocketConfig::default()).unwrap().unwrap();
    assert_eq!(accepted, Accepted { key: "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".into(), protocol: "mqtt" });
    assert_eq!(len, REQUEST.len());
    for cut in 0..REQUEST.len() {
        assert_eq!(status(&REQUEST[..cut], &WebSocketConfig::default()), 0, "the first {cut} bytes");
    }
}

#[test]
fn each_missing_part_has_its_status() {
    let config = WebSocketConfig::default();
    for (from, to, expected) in [
        ("GET", "POST", 405),
        ("HTTP/1.1", "HTTP/1.0", 405),
        ("/mqtt", "/", 404),
        ("/mqtt", "/mqtt/x", 404),
        ("/mqtt", "/mqtt?a=b", 101),
        ("Upgrade: websocket", "Upgrade: h2c", 426),
        ("keep-alive, Upgrade", "keep-alive", 426),
        ("Version: 13", "Version: 8", 426),
        ("Host: server.example.com\r\n", "", 400),
        ("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ=", 400),
        ("chat, mqtt", "chat", 400),
        ("chat, mqtt", "MQTT", 400),
        ("Sec-WebSocket-Protocol: chat, mqtt\r\n", "", 400),
        ("chat, mqtt", "mqttv3.1", 101),
        ("chat, mqtt", "chat\r\nSec-WebSocket-Protocol: mqtt", 101),
        ("GET", "\u{16}\u{3}\u{1}", 400),
    ] {
        assert_eq!(status(&REQUEST.replacen(from, to, 1), &config), expected, "{from:?} -> {to:?}");
    }
}

#[test]
fn origins_bind_browsers_alone() {
    let config =
        WebSocketConfig { origins: vec!["https://good.example".into()], ..WebSocketConfig::default() };
    assert_eq!(status(REQUEST, &config), 403);
    assert_eq!(status(&REQUEST.replace("http://example.com", "https://GOOD.example"), &config), 101);
    assert_eq!(status(&REQUEST.replace("Origin: http://example.com\r\n", ""), &config), 101);
}

/// Sends `request` and gives what is answered, and what the upgrade came to.
async fn exchange(request: &[u8]) -> (String, Result<BytesMut, UpgradeError>) {
    let (mut client, mut server) = tokio::io::duplex(64 * 1024);
    client.write_all(request).await.unwrap();
    let result = upgrade(&mut server, &WebSocketConfig::default()).await;
    drop(server);
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    (answer, result)
}

#[tokio::test]
async fn what_follows_the_request_is_not_lost() {
    let (answer, rest) = exchange(&[REQUEST.as_bytes(), b"\x82\x80abcd"].concat()).await;
    assert!(
        answer.starts_with("HTTP/1.1 101 ") && answer.ends_with("Sec-WebSocket-Protocol: mqtt\r\n\r\n"),
        "{answer}"
    );
    assert_eq!(rest.unwrap(), b"\x82\x80abcd"[..]);
}

#[tokio::test]
async fn a_refusal_says_why() {
    let (answer, result) = exchange(REQUEST.replace("chat, mqtt", "chat").as_bytes()).await;
    assert!(
        answer.starts_with("HTTP/1.1 400 Bad Request\r\n") && answer.contains("must offer mqtt"),
        "{answer}"
    );
    assert!(matches!(result, Err(UpgradeError::Refused(Refusal { status: 400, .. }))));
    let (answer, _) = exchange(REQUEST.replace("Version: 13", "Version: 8").as_bytes()).await;
    assert!(
        answer.contains("426 Upgrade Required\r\n") && answer.contains("Sec-WebSocket-Version: 13\r\n"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_head_without_end_is_refused() {
    let endless = REQUEST.replace("\r\n\r\n", &format!("\r\nCookie: {}", "x".repeat(HEAD_MOST)));
    let (answer, _) = exchange(endless.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    let fields = REQUEST.replace("\r\n\r\n", &format!("{}\r\n\r\n", "\r\nA: b".repeat(100)));
    assert!(exchange(fields.as_bytes()).await.0.starts_with("HTTP/1.1 431 "));
}
