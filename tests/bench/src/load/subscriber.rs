//! A subscriber that counts, checks the order and acknowledges.

use std::convert::Infallible;
use std::sync::Arc;

use anyhow::bail;

use super::{Connection, Flow};
use crate::wire::{self, Payload, kind};

/// Receives until the task is ended.
///
/// # Errors
/// The socket's, and when the broker sends what a subscriber cannot expect.
pub(super) async fn receive(
    mut connection: Connection,
    flow: Arc<Flow>,
    payload: Payload,
) -> anyhow::Result<Infallible> {
    let version = connection.version();
    let mut next = 0_u64;
    loop {
        std::future::poll_fn(|cx| connection.poll_progress(cx)).await?;
        let (mut received, mut misordered) = (0, 0);
        connection.take_frames(|frame, outbox| {
            match frame.kind() {
                kind::PUBLISH => {
                    let publish = frame.publish(version)?;
                    received += 1;
                    if let Some(sequence) = payload.sequence_of(publish.payload) {
                        misordered += u64::from(sequence != next);
                        next = sequence.wrapping_add(1);
                    }
                    match publish.qos {
                        0 => {}
                        1 => wire::acknowledge(outbox, kind::PUBACK, publish.packet_id),
                        _ => wire::acknowledge(outbox, kind::PUBREC, publish.packet_id),
                    }
                }
                kind::PUBREL => wire::acknowledge(outbox, kind::PUBCOMP, frame.packet_id()?),
                kind::DISCONNECT => bail!("the broker sent DISCONNECT: {:02x?}", frame.body()),
                other => bail!("a subscriber was sent packet type {other}"),
            }
            Ok(())
        })?;
        if received > 0 {
            flow.add_received(received, misordered);
        }
    }
}
