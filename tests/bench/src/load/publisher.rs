//! A publisher that keeps its window full.

use std::sync::Arc;

use anyhow::bail;

use super::flow::sourced;
use super::{Connection, Flow};
use crate::wire::{self, PublishTemplate, kind};

/// How much is encoded ahead of the socket: large enough for one system call per thousand small messages.
const OUTBOX_BYTES: usize = 64 * 1024;

/// Publishes copies of `template` until the flow is finished, then until all is acknowledged.
///
/// The numbers of a `source` other than 0 carry it ([`sourced`]). At QoS 1 and 2 at most `window` messages are unacknowledged. Gives the connection back, still open.
///
/// # Errors
/// The socket's, and when the broker sends what a publisher cannot expect or refuses a message.
pub(super) async fn publish(
    mut connection: Connection,
    flow: Arc<Flow>,
    template: PublishTemplate,
    source: usize,
    qos: u8,
    window: u64,
) -> anyhow::Result<Connection> {
    let mut sequence = 0_u64;
    let mut acknowledged = 0_u64;
    loop {
        let finished = flow.is_finished();
        let mut blocked_by_lead = false;
        if finished {
            let settled = qos == 0 || acknowledged == sequence;
            if settled && connection.unsent() == 0 {
                return Ok(connection);
            }
        } else if connection.unsent() < OUTBOX_BYTES {
            let room = flow.room();
            blocked_by_lead = room == 0;
            let by_window = if qos == 0 { u64::MAX } else { window - (sequence - acknowledged) };
            let by_space = ((OUTBOX_BYTES - connection.unsent()) / template.frame_bytes()).max(1) as u64;
            let count = room.min(by_window).min(by_space);
            for _ in 0..count {
                template.append(
                    &mut connection.outbox,
                    wire::packet_id_of(sequence),
                    sourced(source, sequence),
                );
                sequence += 1;
            }
            flow.add_sent(count);
        }
        if blocked_by_lead {
            tokio::select! {
                progress = std::future::poll_fn(|cx| connection.poll_progress(cx)) => progress?,
                () = flow.wait_for_room() => continue,
            }
        } else {
            std::future::poll_fn(|cx| connection.poll_progress(cx)).await?;
        }
        let before = acknowledged;
        connection.take_frames(|frame, outbox| {
            match frame.kind() {
                kind::PUBACK | kind::PUBCOMP => acknowledged += 1,
                kind::PUBREC => wire::acknowledge(outbox, kind::PUBREL, frame.packet_id()?),
                other => bail!("a publisher was sent packet type {other}"),
            }
            if frame.reason() >= 0x80 {
                bail!("a message was refused with reason code {:#04x}", frame.reason());
            }
            Ok(())
        })?;
        if acknowledged > before {
            flow.add_acknowledged(acknowledged - before);
        }
    }
}
