//! How often a client's socket is written to: each time is a call of the system, and wakes the client up.

use std::io::Result;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tidegate_broker::BrokerConfig;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};

use crate::support::client::{Client, PUBCOMP, PUBREC, PUBREL};
use crate::support::packet::{Connect, Publish, ack};
use crate::support::with_config;

/// A stream that counts the writes.
struct Counted(DuplexStream, Arc<AtomicUsize>);

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<Result<usize>> {
        self.1.fetch_add(1, Ordering::Relaxed);
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// The 64 packets of each turn were answered in a write of their own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_that_is_sent_at_once_is_answered_in_one_write() {
    const WINDOW: u16 = 200;
    let server = with_config(BrokerConfig { receive_maximum: WINDOW, ..BrokerConfig::default() }).await;
    let writes = Arc::new(AtomicUsize::new(0));
    let (near, far) = duplex(65_536);
    let peer: SocketAddr = "192.0.2.7:1000".parse().unwrap();
    let serving = tokio::spawn(server.broker.serve(Counted(far, Arc::clone(&writes)), peer));
    let mut client = Client::connect_on(near, &Connect::v5("c")).await;
    client.subscribe("other", 2).await;
    let published = |id| Publish { qos: 2, id, ..client.draft("t", "") }.bytes();
    let publishes: Vec<u8> = (1..=WINDOW).flat_map(published).collect();
    let releases: Vec<u8> = (1..=WINDOW).flat_map(|id| ack(PUBREL, id)).collect();
    for (window, answer) in [(publishes, PUBREC), (releases, PUBCOMP)] {
        let before = writes.load(Ordering::Relaxed);
        client.send(&window).await;
        for id in 1..=WINDOW {
            assert_eq!(client.expect(answer).await.id(), id);
        }
        assert_eq!(writes.load(Ordering::Relaxed) - before, 1);
    }
    client.disconnect().await;
    serving.await.unwrap();
}
