//! Attackers that publish: for those that do not read, and retained messages without end.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::attackers::{Orders, add};
use crate::load::light::{Light, dial, source};
use crate::wire::{Connect, Payload, PublishTemplate, Version, kind, packet_id_of};

/// Messages for those that do not read: so many at once, of this size, every so often; 5,000 a second.
const FILL_AT_ONCE: u64 = 50;
const FILL_BYTES: usize = 1024;
const FILL_EVERY: Duration = Duration::from_millis(10);
/// A retained message, half of the largest packet.
const HUGE_BYTES: usize = 512 * 1024;
/// After a connection that was refused or closed.
const AGAIN: Duration = Duration::from_millis(10);

async fn open(number: usize, name: &str, orders: &Orders) -> Option<Light> {
    let opening = async {
        let stream = dial(orders.address, source(number)).await?;
        add(&orders.tally.opened, 1);
        Light::open(stream, &Connect::new(Version::V5, &format!("{name}-{number}"))).await
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

/// Publishes what fills the queues of those that never read, at a rate that any server carries.
pub(super) async fn fill(orders: Orders) {
    let payload = Payload::Sequenced(FILL_BYTES);
    let template = PublishTemplate::new(Version::V5, "flood/fill", 1, &payload);
    let filling = async {
        let mut sequence = 0;
        loop {
            let Some(client) = open(0, "fills", &orders).await else { continue };
            let (mut read, mut write) = client.into_stream().into_split();
            let publishing = async {
                let mut ticks = tokio::time::interval(FILL_EVERY);
                let mut bytes = Vec::new();
                loop {
                    ticks.tick().await;
                    bytes.clear();
                    for _ in 0..FILL_AT_ONCE {
                        template.append(&mut bytes, packet_id_of(sequence), sequence);
                        sequence += 1;
                    }
                    if write.write_all(&bytes).await.is_err() {
                        break;
                    }
                    add(&orders.tally.bytes, bytes.len());
                }
            };
            let acknowledged = async {
                let mut space = [0; 4096];
                while read.read(&mut space).await.is_ok_and(|read| read > 0) {}
            };
            tokio::select! {
                () = publishing => {}
                () = acknowledged => {}
            }
            add(&orders.tally.closed, 1);
        }
    };
    orders.until_over(filling).await;
}

/// Publishes huge retained messages, each to a topic of its own.
pub(super) async fn retain(number: usize, orders: Orders) {
    let payload = Payload::Sequenced(HUGE_BYTES);
    let retaining = async {
        let mut sequence = 0;
        loop {
            let Some(mut client) = open(number, "retains", &orders).await else { continue };
            let mut bytes = Vec::new();
            loop {
                bytes.clear();
                let topic = format!("flood/retained/{number}/{sequence}");
                let template = PublishTemplate::new(Version::V5, &topic, 1, &payload).retained();
                template.append(&mut bytes, packet_id_of(sequence), sequence);
                sequence += 1;
                if client.send(&bytes).await.is_err() {
                    break;
                }
                add(&orders.tally.bytes, bytes.len());
                match client.packet(|frame| (frame.kind(), frame.reason())).await {
                    Ok((kind::PUBACK, code)) if code < 0x80 => add(&orders.tally.taken, 1),
                    Ok((kind::PUBACK, _)) => add(&orders.tally.denied, 1),
                    _ => break,
                }
            }
            add(&orders.tally.closed, 1);
        }
    };
    orders.until_over(retaining).await;
}
