//! Wills (MQTT 5 clause 3.1.2.5).

use std::sync::Arc;

use bytes::Bytes;
use tidegate_event::{Client, Message, Origin};

use crate::broker::Shared;
use crate::codec::Will;
use crate::session::delivery::{detached_properties, detached_topic};

/// A copy of `will` that owns its memory: CONNECT, of which it is a part, may be much larger, and has a password in it.
pub(crate) fn detached(will: &Will) -> Will {
    Will {
        topic: detached_topic(&will.topic),
        payload: Bytes::copy_from_slice(&will.payload),
        properties: will.properties.as_deref().map(|properties| Box::new(detached_properties(properties))),
        ..*will
    }
}

/// The message that a will becomes.
pub(crate) fn message(shared: &Shared, will: Will, client: &Arc<Client>) -> Message {
    let id = shared.ids.next_id();
    Message {
        id,
        topic: will.topic,
        payload: will.payload,
        qos: will.qos,
        retain: will.retain,
        dup: false,
        timestamp_ms: id.micros() / 1_000,
        sender: client.id.clone(),
        publisher: Some(Arc::clone(client)),
        properties: will.properties,
        origin: Origin::Will,
        hops: 0,
    }
}

/// The will as it is published after its delay: a message is as old as its publication.
pub(crate) fn renewed(shared: &Shared, mut message: Message) -> Message {
    message.id = shared.ids.next_id();
    message.timestamp_ms = message.id.micros() / 1_000;
    message
}
