//! How connections are closed: what a client is told last must reach it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tidegate_broker::BrokerConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::client::PATIENCE;
use crate::support::packet::{Connect, frame};
use crate::support::{plain, with_config};

/// Sends all of `bytes`, then reads to the end of the connection.
async fn conversation(address: SocketAddr, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    let mut answer = Vec::new();
    let talk = async {
        stream.write_all(bytes).await?;
        // The server has closed by now. A reset would be found here at the latest.
        tokio::time::sleep(Duration::from_millis(100)).await;
        stream.write_all(b"more").await?;
        stream.read_to_end(&mut answer).await
    };
    tokio::time::timeout(PATIENCE, talk).await.expect("the end of the connection in time")?;
    Ok(answer)
}

/// A socket that is closed over bytes that nobody has read is reset: clients that were still sending got "connection
/// reset by peer" in place of the packet that says why.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_is_still_sending_is_told_why_it_is_closed() {
    let server = plain().await;
    let rest = vec![0x30; 500_000];
    let after_connect = |connect: Connect| [&connect.bytes()[..], &[0x38, 0], &rest].concat();
    let answer = conversation(server.address, &after_connect(Connect::v5("five"))).await.unwrap();
    let disconnect = answer.iter().rposition(|&byte| byte == 0xe0).expect("DISCONNECT");
    assert_eq!(answer[disconnect + 2], 0x81, "{answer:x?}");
    // 3.1.1 is told nothing, but its end is an end and no error.
    let answer = conversation(server.address, &after_connect(Connect::v4("four"))).await.unwrap();
    assert_eq!(answer, [0x20, 2, 0, 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_whose_connect_is_refused_is_told_so_while_it_sends() {
    let server = plain().await;
    let rest = vec![0x30; 500_000];
    let refused = |connect: &[u8]| [connect, &rest].concat();
    let bad_level = frame(0x10, b"\0\x04MQTT\x03\x02\0\x3c\0\x01c");
    assert_eq!(conversation(server.address, &refused(&bad_level)).await.unwrap(), [0x20, 2, 0, 1]);
    let method = Connect::v5("c").property(0x15, b"\0\x01m").bytes();
    let answer = conversation(server.address, &refused(&method)).await.unwrap();
    assert_eq!((answer[0], answer[3]), (0x20, 0x8c));
    // Nothing is answered to what is no CONNECT.
    let answer = conversation(server.address, &refused(b"GET / HTTP/1.1\r\n\r\n")).await.unwrap();
    assert!(answer.is_empty(), "{answer:x?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_never_stops_sending_is_not_listened_to_for_ever() {
    let server = plain().await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(&[&Connect::v5("c").bytes()[..], &[0x38, 0]].concat()).await.unwrap();
    let flood = async {
        let mut sent = 0_usize;
        while let Ok(bytes) = stream.write(&[0; 64 * 1024]).await {
            sent += bytes;
        }
        sent
    };
    let sent = tokio::time::timeout(PATIENCE, flood).await.expect("the connection is reset");
    // A mebibyte is thrown away; the rest was in the sockets' buffers.
    assert!(sent < 64 * 1024 * 1024, "{sent} bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_close_is_not_waited_for_for_long() {
    let config = BrokerConfig { flush_timeout: Duration::from_millis(300), ..BrokerConfig::default() };
    let server = with_config(config).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(&[&Connect::v5("c").bytes()[..], &[0x38, 0]].concat()).await.unwrap();
    stream.read_to_end(&mut Vec::new()).await.unwrap();
    let start = Instant::now();
    while server.broker.connections() > 0 {
        assert!(start.elapsed() < PATIENCE, "the connection is still there");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(start.elapsed() >= Duration::from_millis(200), "it was waited for");
}
