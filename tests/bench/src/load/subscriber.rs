//! A subscriber that counts, checks the order and acknowledges.

use std::convert::Infallible;
use std::sync::Arc;

use anyhow::bail;

use super::flow::source_of;
use super::{Connection, Flow};
use crate::wire::{self, Payload, kind};

/// What has come of one flow.
struct Source {
    flow: Arc<Flow>,
    /// The number that comes next.
    next: u64,
    /// What came since the flow was told, and how many of them were not the next one.
    received: u64,
    misordered: u64,
}

/// Receives the messages of `flows`, the number of each in its messages' numbers, until the task is ended.
///
/// # Errors
/// The socket's, and when the broker sends what a subscriber cannot expect.
pub(super) async fn receive(
    mut connection: Connection,
    flows: Vec<Arc<Flow>>,
    payload: Payload,
) -> anyhow::Result<Infallible> {
    let version = connection.version();
    let source = |flow| Source { flow, next: 0, received: 0, misordered: 0 };
    let mut sources: Vec<_> = flows.into_iter().map(source).collect();
    loop {
        std::future::poll_fn(|cx| connection.poll_progress(cx)).await?;
        connection.take_frames(|frame, outbox| {
            match frame.kind() {
                kind::PUBLISH => {
                    let publish = frame.publish(version)?;
                    let number = payload.sequence_of(publish.payload).map(source_of);
                    let from = number.map_or(0, |(from, _)| from);
                    // A number that nobody published counts where it cannot be missed.
                    let known = from < sources.len();
                    if let Some(source) = sources.get_mut(if known { from } else { 0 }) {
                        source.received += 1;
                        if let Some((_, found)) = number {
                            source.misordered += u64::from(!known || found != source.next);
                            source.next = found + 1;
                        }
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
        for source in &mut sources {
            if source.received > 0 {
                source.flow.add_received(source.received, source.misordered);
                (source.received, source.misordered) = (0, 0);
            }
        }
    }
}
