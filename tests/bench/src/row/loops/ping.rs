//! Clients that only ping: whether the broker keeps them, and how soon it answers.
//!
//! Plain threads with blocking sockets, so that nothing but the broker delays them.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use tokio::task::JoinHandle;

use crate::load::Connection;
use crate::wire::{PINGREQ, Version, kind};

/// Seconds: a broker closes the connection of a client that is silent for one and a half times as long (MQTT 3.1.1
/// clause 3.1.2.10).
pub(super) const KEEP_ALIVE: u16 = 2;
/// One client pings often, to find the longest wait, the other as rarely as it may.
const INTERVALS: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(1_900)];
/// How long a PINGRESP may take before the client gives the broker up.
const PATIENCE: Duration = Duration::from_secs(10);

/// The clients, pinging.
pub(super) struct Pinger {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<anyhow::Result<Vec<Ping>>>>,
}

/// A PINGREQ: when it was sent, and how long its answer took.
struct Ping {
    sent: Instant,
    took: Duration,
}

/// Every ping of a run.
pub(super) struct Pings(Vec<Ping>);

impl Pings {
    /// The longest wait of those that were under way in `when`, in milliseconds; NaN when there is none.
    pub(super) fn longest_ms(&self, when: &Range<Instant>) -> f64 {
        let under_way =
            self.0.iter().filter(|ping| ping.sent < when.end && ping.sent + ping.took >= when.start);
        under_way.map(|ping| ping.took.as_secs_f64() * 1e3).fold(f64::NAN, f64::max)
    }
}

impl Pinger {
    /// Connects the clients; they ping until [`stop`](Self::stop).
    ///
    /// # Errors
    /// When one cannot connect.
    pub(super) async fn start(address: SocketAddr) -> anyhow::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut clients = Vec::new();
        for (number, interval) in INTERVALS.into_iter().enumerate() {
            let id = format!("ping-{number}");
            let connection = Connection::open_with(address, Version::V311, &id, KEEP_ALIVE).await?;
            let (socket, stop) = (connection.into_std()?, stop.clone());
            clients.push(tokio::task::spawn_blocking(move || ping(socket, interval, &stop)));
        }
        Ok(Self { stop, clients })
    }

    /// Ends the clients; gives their pings.
    ///
    /// # Errors
    /// When the broker closed one, or did not answer it in ten seconds.
    pub(super) async fn stop(self) -> anyhow::Result<Pings> {
        self.stop.store(true, Ordering::Relaxed);
        let mut pings = Vec::new();
        for client in self.clients {
            pings.extend(client.await??);
        }
        Ok(Pings(pings))
    }
}

fn ping(mut socket: TcpStream, interval: Duration, stop: &AtomicBool) -> anyhow::Result<Vec<Ping>> {
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut pings = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let sent = Instant::now();
        socket.write_all(&PINGREQ).context("PINGREQ")?;
        let mut answer = [0; 2];
        socket.read_exact(&mut answer).context("waiting for PINGRESP")?;
        ensure!(answer == [kind::PINGRESP << 4, 0], "PINGREQ was answered with {answer:02x?}");
        let took = sent.elapsed();
        pings.push(Ping { sent, took });
        std::thread::sleep(interval.saturating_sub(took));
    }
    Ok(pings)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    /// A broker that answers `pings` of each client and then closes it.
    fn broker(pings: usize) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().take(INTERVALS.len()) {
                let mut stream = stream.unwrap();
                std::thread::spawn(move || {
                    let mut connect = [0; 256];
                    assert!(stream.read(&mut connect).unwrap() > 0);
                    stream.write_all(&[0x20, 2, 0, 0]).unwrap();
                    for _ in 0..pings {
                        let mut request = [0; 2];
                        stream.read_exact(&mut request).unwrap();
                        stream.write_all(&[0xd0, 0]).unwrap();
                    }
                });
            }
        });
        address
    }

    #[tokio::test]
    async fn answered_pings_are_timed_and_kept_apart_by_phase() {
        let begun = Instant::now();
        let pinger = Pinger::start(broker(1_000)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        let pings = pinger.stop().await.unwrap();
        assert!(pings.0.len() >= 3);
        assert!(pings.longest_ms(&(begun..Instant::now())) > 0.0);
        assert!(pings.longest_ms(&(begun..begun)).is_nan());
    }

    #[tokio::test]
    async fn a_broker_that_closes_a_client_is_found() {
        let pinger = Pinger::start(broker(1)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(pinger.stop().await.is_err());
    }
}
