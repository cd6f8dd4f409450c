//! Attackers that subscribe: to everything and never read, to more than they can take, or without end.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::attackers::{Orders, add};
use super::honest;
use crate::load::light::{Light, dial_with, source};
use crate::wire::{self, Connect, PINGREQ, Version, kind, next_frame};

/// Room in the sockets of those that do not read: what the server sends more of waits on its side.
const RECEIVE_BYTES: u32 = 4 * 1024;
/// Seconds: whoever is silent for one and a half times as long is no client any more.
const KEEP_ALIVE: u16 = 2;
/// Time between two PINGREQ.
const PING: Duration = Duration::from_millis(500);
/// After a connection that was refused or closed.
const AGAIN: Duration = Duration::from_millis(10);
/// The time that a too slow subscriber takes for a message: ten times what the publisher takes.
const SLOW: Duration = Duration::from_micros(10 * 1_000_000 / honest::RATE as u64);
/// Filters of one SUBSCRIBE.
const FILTERS: usize = 20;
/// SUBSCRIBE that are sent at once.
const AT_ONCE: usize = 10;

/// Connects and subscribes; counts.
async fn open(number: usize, name: &str, filter: &str, orders: &Orders) -> Option<Light> {
    let opening = async {
        let stream = dial_with(orders.address, source(number), Some(RECEIVE_BYTES)).await?;
        add(&orders.tally.opened, 1);
        let id = format!("{name}-{number}");
        let connect = Connect { keep_alive: KEEP_ALIVE, ..Connect::new(Version::V311, &id) };
        let mut client = Light::open(stream, &connect).await?;
        client.subscribe(Version::V311, filter, 1).await?;
        anyhow::Ok(client)
    };
    match opening.await {
        Ok(client) => Some(client),
        Err(_) => {
            add(&orders.tally.refused, 1);
            tokio::time::sleep(AGAIN).await;
            None
        }
    }
}

/// Subscribes to everything, pings, and never reads. At the end it does not even ping, but holds its socket.
pub(super) async fn never_read(number: usize, orders: Orders) {
    while !orders.is_over() {
        let Some(mut client) = open(number, "never-reads", "#", &orders).await else { continue };
        while !orders.is_over() && client.send(&PINGREQ).await.is_ok() {
            add(&orders.tally.bytes, PINGREQ.len());
            tokio::time::sleep(PING).await;
        }
        if orders.is_over() {
            std::future::pending::<()>().await;
        }
        add(&orders.tally.closed, 1);
    }
}

/// Takes an honest publisher's messages, each ten times slower than they come. At the end it takes nothing more, but
/// holds its socket.
pub(super) async fn read_slowly(number: usize, orders: Orders) {
    while !orders.is_over() {
        let filter = honest::topic(0);
        let Some(mut client) = open(number, "too-slow", &filter, &orders).await else { continue };
        let mut acknowledgement = Vec::new();
        while !orders.is_over() {
            let taken = client
                .packet(|frame| {
                    acknowledgement.clear();
                    if let (kind::PUBLISH, Ok(publish)) = (frame.kind(), frame.publish(Version::V311)) {
                        wire::acknowledge(&mut acknowledgement, kind::PUBACK, publish.packet_id);
                    }
                })
                .await;
            if taken.is_err() || client.send(&acknowledgement).await.is_err() {
                break;
            }
            add(&orders.tally.taken, 1);
            tokio::time::sleep(SLOW).await;
        }
        if orders.is_over() {
            std::future::pending::<()>().await;
        }
        add(&orders.tally.closed, 1);
    }
}

/// Subscribes to ever more filters, as fast as the server takes them; begins again, as the same client, when it takes no
/// more.
pub(super) async fn flood(number: usize, orders: Orders) {
    let flooding = async {
        for time in 0_usize.. {
            let id = format!("subscribes-{number}");
            let opened = async {
                let stream = dial_with(orders.address, source(number), None).await?;
                add(&orders.tally.opened, 1);
                Light::open(stream, &Connect::new(Version::V5, &id)).await
            };
            let Ok(client) = opened.await else {
                add(&orders.tally.refused, 1);
                tokio::time::sleep(AGAIN).await;
                continue;
            };
            let (read, write) = client.into_stream().into_split();
            let prefix = format!("flood/{number}/{time}");
            tokio::select! {
                () = count_answers(read, &orders) => {}
                () = subscribe(write, &prefix, &orders) => {}
            }
        }
    };
    orders.until_over(flooding).await;
}

/// Sends SUBSCRIBE, each to filters of its own, until the server closes.
async fn subscribe(mut socket: OwnedWriteHalf, prefix: &str, orders: &Orders) {
    let mut bytes = Vec::new();
    for first in (0_usize..).step_by(FILTERS * AT_ONCE) {
        bytes.clear();
        for packet in 0..AT_ONCE {
            let from = first + packet * FILTERS;
            let filters = (from..from + FILTERS).map(|filter| format!("{prefix}/{filter}/+/state"));
            let id = wire::packet_id_of((from / FILTERS) as u64);
            wire::subscribe_all(&mut bytes, Version::V5, id, filters, 1);
        }
        if socket.write_all(&bytes).await.is_err() {
            return;
        }
        add(&orders.tally.bytes, bytes.len());
    }
}

/// Counts what was granted and what was not, until the server grants nothing more or closes.
async fn count_answers(mut socket: OwnedReadHalf, orders: &Orders) {
    let mut received = Vec::with_capacity(16 * 1024);
    while socket.read_buf(&mut received).await.is_ok_and(|read| read > 0) {
        let mut at = 0;
        while let Ok(Some((frame, used))) = next_frame(received.get(at..).unwrap_or_default()) {
            at += used;
            if frame.kind() == kind::SUBACK {
                let codes = frame.body().len().saturating_sub(FILTERS);
                let refused = frame.body().iter().skip(codes).filter(|code| **code >= 0x80).count();
                add(&orders.tally.denied, refused);
                add(&orders.tally.taken, FILTERS - refused);
                if refused == FILTERS {
                    return;
                }
            }
        }
        received.drain(..at);
    }
    add(&orders.tally.closed, 1);
}
