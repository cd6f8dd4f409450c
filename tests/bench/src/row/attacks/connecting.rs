//! Attackers that never get far: they drip bytes, connect in a loop, or send what is no MQTT.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::attack::Attack;
use super::attackers::{Orders, add};
use crate::load::light::{Light, dial, source};
use crate::wire::{Connect, Version};

/// Time between two bytes of a CONNECT that never ends.
const DRIP: Duration = Duration::from_millis(100);
/// After a connection that was refused.
const AGAIN: Duration = Duration::from_millis(10);
/// Most bytes on one connection: a server that swallows them for ever gets another one.
const EACH_BYTES: usize = 4 << 20;
/// Bytes that are sent at once.
const CHUNK: usize = 64 * 1024;
/// Random bytes that all connections take from, each from another place.
const NOISE_BYTES: usize = 4 << 20;

/// How many bytes of garbage are sent at least.
pub(super) fn garbage_bytes(attack: Attack, quick: bool) -> u64 {
    match attack {
        Attack::Garbage if quick => 16 << 20,
        Attack::Garbage => 1 << 30,
        _ => 0,
    }
}

/// Connects; counts.
async fn open(number: usize, orders: &Orders) -> Option<TcpStream> {
    match dial(orders.address, source(number)).await {
        Ok(stream) => {
            add(&orders.tally.opened, 1);
            Some(stream)
        }
        Err(_) => {
            add(&orders.tally.refused, 1);
            tokio::time::sleep(AGAIN).await;
            None
        }
    }
}

/// Sends CONNECT byte by byte, and begins again when the server has closed the connection. At the end it is silent.
pub(super) async fn drip(number: usize, orders: Orders) {
    let mut bytes = Vec::new();
    Connect::new(Version::V311, &"x".repeat(60_000)).append(&mut bytes);
    while !orders.is_over() {
        let Some(mut stream) = open(number, &orders).await else { continue };
        for byte in &bytes {
            if orders.is_over() {
                // Whether it ends is the server's business.
                stream.read_exact(&mut [0]).await.ok();
                break;
            }
            if stream.write_all(&[*byte]).await.is_err() {
                break;
            }
            add(&orders.tally.bytes, 1);
            tokio::time::sleep(DRIP).await;
        }
        add(&orders.tally.closed, 1);
    }
}

/// Connects again and again: as one client, which takes its own session over each time, or always as a new one.
pub(super) async fn reconnect(number: usize, as_another: bool, orders: Orders) {
    let looping = async {
        // Not closed before the next one is connected.
        let mut last = None;
        for time in 0_u64.. {
            let id = if as_another { format!("new-{number}-{time}") } else { "the same".to_owned() };
            let Some(stream) = open(number, &orders).await else { continue };
            match Light::open(stream, &Connect::new(Version::V311, &id)).await {
                Ok(client) => {
                    add(&orders.tally.taken, 1);
                    last.replace(client);
                }
                Err(_) => add(&orders.tally.denied, 1),
            }
        }
    };
    orders.until_over(looping).await;
}

/// Random bytes, the same in every run.
pub(super) fn noise() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(NOISE_BYTES);
    while bytes.len() < NOISE_BYTES {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}

/// Sends random bytes until the server closes the connection, again and again: from the first byte, as the rest of
/// a huge CONNECT, or once it is connected.
pub(super) async fn garble(number: usize, noise: Arc<[u8]>, orders: Orders) {
    let garbling = async {
        for time in 0.. {
            let Some(mut stream) = open(number + time, &orders).await else { continue };
            let mut begin = Vec::new();
            match time % 4 {
                // CONNECT of 512 KiB.
                2 => begin.extend_from_slice(&[0x10, 0x80, 0x80, 0x20]),
                3 => Connect::new(Version::V5, &format!("garbage-{number}")).append(&mut begin),
                _ => {}
            }
            let from = (time * 7_919 + number * 104_729) % (NOISE_BYTES - CHUNK);
            let mut sent = stream.write(&begin).await.unwrap_or_default();
            while sent < EACH_BYTES {
                let at = (from + sent) % (NOISE_BYTES - CHUNK);
                match stream.write(noise.get(at..at + CHUNK).unwrap_or_default()).await {
                    Ok(written) => {
                        sent += written;
                        add(&orders.tally.bytes, written);
                    }
                    Err(_) => {
                        add(&orders.tally.closed, 1);
                        break;
                    }
                }
            }
        }
    };
    orders.until_over(garbling).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_evenly_spread() {
        let noise = noise();
        let mut count = [0_usize; 256];
        noise.iter().for_each(|byte| count[usize::from(*byte)] += 1);
        let each = noise.len() / 256;
        assert!(count.iter().all(|count| count.abs_diff(each) < each / 10), "{count:?}");
    }

    #[test]
    fn only_garbage_has_a_least_size() {
        assert_eq!(garbage_bytes(Attack::Garbage, false), 1 << 30);
        assert_eq!(garbage_bytes(Attack::Slowloris, false), 0);
    }
}
