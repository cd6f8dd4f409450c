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
    let key = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".into();
    assert_eq!(accepted, Accepted { key, protocol: "mqtt", is_foreign: true });
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

#[test]
fn what_a_proxy_hands_on_and_pages_of_elsewhere_are_foreign() {
    let local = REQUEST.replace("Origin: http://example.com\r\n", "");
    let is_foreign = |fields: &str, origins: &[&str]| {
        let origins = origins.iter().map(|&origin| origin.to_owned()).collect();
        let config = WebSocketConfig { origins, ..WebSocketConfig::default() };
        let request = local.replace("\r\n\r\n", &format!("\r\n{fields}\r\n"));
        check(request.as_bytes(), &config).unwrap().unwrap().0.is_foreign
    };
    assert!(!is_foreign("", &[]), "a client that is no browser");
    for here in [
        "http://localhost",
        "https://LOCALHOST:8443",
        "http://127.0.0.1:80",
        "http://[::1]:3000",
        "http://[::1]",
    ] {
        assert!(!is_foreign(&format!("Origin: {here}\r\n"), &[]), "{here}");
    }
    for elsewhere in
        ["http://example.com", "null", "http://localhost.example.com", "http://127.0.0.2", "http://[::2]:1"]
    {
        assert!(is_foreign(&format!("Origin: {elsewhere}\r\n"), &[]), "{elsewhere}");
    }
    assert!(
        !is_foreign("Origin: http://good.example\r\n", &["http://good.example"]),
        "the operator trusts it"
    );
    for field in
        ["Forwarded: for=10.0.0.1", "x-forwarded-for: 10.0.0.1", "X-Real-IP: 10.0.0.1", "Via: 1.1 proxy"]
    {
        assert!(is_foreign(&format!("{field}\r\n"), &[]), "{field}");
    }
}

/// Sends `request` and gives what is answered, and what the upgrade came to.
async fn exchange(request: &[u8]) -> (String, Result<Upgraded, UpgradeError>) {
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
    assert_eq!(rest.unwrap().rest, b"\x82\x80abcd"[..]);
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
