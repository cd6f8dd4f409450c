//! Streams through frames: what is read and written, and in which order control frames come.
#![allow(clippy::unwrap_used, reason = "tests")]

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

use super::*;

/// A short frame as a client sends it, masked with zeros.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let len = u8::try_from(payload.len()).unwrap();
    assert!(len < 126);
    [&[first, 0x80 | len, 0, 0, 0, 0], payload].concat()
}

/// A client's end and the server's.
fn pair(room: usize) -> (DuplexStream, WebSocket<DuplexStream>) {
    let (client, server) = duplex(room);
    (client, WebSocket::new(server, BytesMut::new(), Counter::noop()))
}

async fn next(client: &mut DuplexStream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    client.read_exact(&mut bytes).await.unwrap();
    bytes
}

#[tokio::test]
async fn frames_are_read_as_one_stream() {
    let (mut client, server) = duplex(1_000);
    let mut socket = WebSocket::new(server, BytesMut::from(&frame(0x82, b"ab")[..]), Counter::noop());
    client.write_all(&frame(0x02, b"c")).await.unwrap();
    client.write_all(&frame(0x80, b"def")).await.unwrap();
    let mut bytes = [0; 6];
    socket.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"abcdef");
    // A buffer with something in it, and less room than there is.
    client.write_all(&frame(0x82, b"0123456789")).await.unwrap();
    let mut buffer = BytesMut::from(&b"x"[..]);
    while buffer.len() < 11 {
        socket.read_buf(&mut buffer).await.unwrap();
    }
    assert_eq!(buffer, b"x0123456789"[..]);
}

#[tokio::test]
async fn a_write_is_a_frame_and_goes_on_where_it_stopped() {
    let (mut client, mut socket) = pair(5);
    let reader = tokio::spawn(async move { next(&mut client, 14).await });
    socket.write_all(b"hello, world").await.unwrap();
    socket.flush().await.unwrap();
    assert_eq!(reader.await.unwrap(), b"\x82\x0chello, world");
}

#[tokio::test]
async fn a_ping_is_answered_though_nobody_writes() {
    let (mut client, mut socket) = pair(1_000);
    client.write_all(&frame(0x89, b"are you there")).await.unwrap();
    client.write_all(&frame(0x82, b"x")).await.unwrap();
    assert_eq!(socket.read_u8().await.unwrap(), b'x');
    assert_eq!(next(&mut client, 15).await, b"\x8a\x0dare you there");
}

/// A pong in the middle of a frame would be taken for its payload.
#[tokio::test]
async fn a_pong_waits_for_the_end_of_a_frame() {
    let (mut client, mut socket) = pair(8);
    let written = socket.write(b"0123456789").await.unwrap();
    assert_eq!(written, 6, "two of eight bytes are the header");
    client.write_all(&frame(0x89, b"")).await.unwrap();
    let mut byte = [0];
    let reading = tokio::time::timeout(std::time::Duration::from_millis(50), socket.read(&mut byte));
    assert!(reading.await.is_err(), "there is nothing to read");
    let reader = tokio::spawn(async move { next(&mut client, 14).await });
    socket.write_all(&b"0123456789"[written..]).await.unwrap();
    socket.flush().await.unwrap();
    assert_eq!(reader.await.unwrap(), b"\x82\x0a0123456789\x8a\x00");
}

#[tokio::test]
async fn a_text_frame_ends_the_stream_with_its_status() {
    let (mut client, mut socket) = pair(1_000);
    client.write_all(&[frame(0x82, b"ok"), frame(0x81, b"text")].concat()).await.unwrap();
    let mut buffer = BytesMut::with_capacity(100);
    assert_eq!(socket.read_buf(&mut buffer).await.unwrap(), 2);
    let error = socket.read_buf(&mut buffer).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidData);
    socket.shutdown().await.unwrap();
    assert_eq!(next(&mut client, 4).await, [0x88, 2, 0x03, 0xeb], "1003, unsupported data");
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_close_is_the_end_and_is_answered_with_its_status() {
    let (mut client, mut socket) = pair(1_000);
    client.write_all(&frame(0x88, &[0x03, 0xe9])).await.unwrap();
    assert_eq!(socket.read(&mut [0; 8]).await.unwrap(), 0);
    socket.shutdown().await.unwrap();
    assert_eq!(next(&mut client, 4).await, [0x88, 2, 0x03, 0xe9]);
    assert_eq!(socket.write(b"x").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn a_flood_of_frames_without_payload_ends_the_connection() {
    for (first, payload) in [(0x89, &b"ping"[..]), (0x8a, b""), (0x82, b"")] {
        let (mut client, mut socket) = pair(64 * 1024);
        client.write_all(&frame(first, payload).repeat(999)).await.unwrap();
        client.write_all(&frame(0x82, b"x")).await.unwrap();
        assert_eq!(socket.read_u8().await.unwrap(), b'x');
        client.write_all(&frame(first, payload)).await.unwrap();
        let error = socket.read_u8().await.unwrap_err();
        assert!(error.to_string().contains("too many frames"), "{error}");
    }
}
