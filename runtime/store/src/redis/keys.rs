//! The keys, exactly as document 003 prints them. They are made, never parsed: ids and topics may contain `:`.

use tidegate_event::MsgId;

/// The hash of a client's state: `state`, `online_at`, `offline_at`.
pub(super) fn client(id: &str) -> String {
    format!("mqtt:client:{id}")
}

/// The hash of a node's clients: client id -> since when.
pub(super) fn node(name: &str) -> String {
    format!("mqtt:node:{name}")
}

/// The hash of a client's subscriptions: filter -> QoS.
pub(super) fn subscriptions(client: &str) -> String {
    format!("mqtt:sub:{client}")
}

/// The hash of a topic's retained message.
pub(super) fn retained(topic: &str) -> String {
    format!("mqtt:retain:{topic}")
}

/// The hash of a message.
pub(super) fn message(id: &str) -> String {
    format!("mqtt:msg:{id}")
}

/// The sorted set of a topic's message ids, all with score 1: its order is that of the ids.
pub(super) fn topic(topic: &str) -> String {
    format!("mqtt:msg:{topic}")
}

/// A client's position in a topic: the id of the last message that it has.
pub(super) fn position(client: &str, topic: &str) -> String {
    format!("mqtt:acked:{client}:{topic}")
}

/// The values of guests' key-value pairs, and the sorted set of their keys: the braces keep both in one slot.
pub(super) const PAIRS: &str = "mqtt:{kv}";
/// See [`PAIRS`].
pub(super) const PAIR_KEYS: &str = "mqtt:{kv}:keys";

/// Ids of this runtime sort between these two texts until the year 2112. Ids of other writers, which sort anywhere,
/// cannot be positions: one of them could hide every later message.
pub(super) const OURS: (&str, &str) = ("000", "001");

/// The id, when the text is one that this runtime writes.
pub(super) fn our_id(text: &str) -> Option<MsgId> {
    let ours = text.starts_with(OURS.0) && !text.bytes().any(|b| b.is_ascii_lowercase());
    text.parse().ok().filter(|id: &MsgId| ours && id.micros() > 0)
}

/// The text before all ids of what arrived at this time, milliseconds since the epoch, or later.
pub(super) fn first_id(ms: u64) -> String {
    MsgId::from_bits(u128::from(ms.saturating_mul(1_000)) << 64).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ids_of_our_form_and_time_are_ours() {
        assert!(our_id("0005F65F239F03FEF44300000BB40002").is_some());
        for other in [
            "0005f65f239f03fef44300000bb40002",
            "53F98F80F66017005000004A60003000",
            "0000000000000000000000000000FFFF",
            "6P9NLcJ65VXBbC22sYb4",
            "",
        ] {
            assert!(our_id(other).is_none(), "{other}");
        }
    }
}
