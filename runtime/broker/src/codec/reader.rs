//! Reads the data types of MQTT (MQTT 5 clause 1.5) from a packet's body, never beyond its end.

use bytes::Bytes;
use bytestring::ByteString;
use tidegate_event::TopicError;

use super::header::{Varint, varint, varint_len};
use super::{CodecError, PacketType};

/// What is left of a packet's body.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    packet: PacketType,
}

impl<'a> Reader<'a> {
    pub(super) fn new(body: &'a [u8], packet: PacketType) -> Self {
        Self { rest: body, packet }
    }

    pub(super) fn packet(&self) -> PacketType {
        self.packet
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn malformed(&self, rule: &'static str) -> CodecError {
        CodecError::Malformed { packet: self.packet, rule }
    }

    pub(super) fn protocol_error(&self, rule: &'static str) -> CodecError {
        CodecError::Protocol { packet: self.packet, rule }
    }

    pub(super) fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// The next `count` bytes.
    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], CodecError> {
        let Some((taken, rest)) = self.rest.split_at_checked(count) else {
            return Err(self.malformed("it ends in the middle of a field"));
        };
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let Some((taken, rest)) = self.rest.split_first_chunk() else {
            return Err(self.malformed("it ends in the middle of a field"));
        };
        self.rest = rest;
        Ok(*taken)
    }

    pub(super) fn byte(&mut self) -> Result<u8, CodecError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn two(&mut self) -> Result<u16, CodecError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn four(&mut self) -> Result<u32, CodecError> {
        self.array().map(u32::from_be_bytes)
    }

    /// A variable byte integer (clause 1.5.5), in as few bytes as it can be written.
    pub(super) fn varint(&mut self) -> Result<usize, CodecError> {
        match varint(self.rest) {
            Varint::Whole(value, len) if len == varint_len(value) => {
                self.take(len)?;
                Ok(value)
            }
            Varint::Whole(..) | Varint::Overlong => {
                Err(self.malformed("a variable byte integer is longer than it need be"))
            }
            Varint::Partial => Err(self.malformed("it ends in the middle of a field")),
        }
    }

    /// Binary data (clause 1.5.6).
    pub(super) fn binary(&mut self) -> Result<&'a [u8], CodecError> {
        let length = self.two()?;
        self.take(usize::from(length))
    }

    /// A UTF-8 string (clause 1.5.4): valid UTF-8, which has no surrogates, and no U+0000.
    pub(super) fn text(&mut self) -> Result<&'a str, CodecError> {
        let bytes = self.binary()?;
        if bytes.contains(&0) {
            return Err(self.malformed(TEXT_RULE_NULL));
        }
        std::str::from_utf8(bytes).map_err(|_| self.malformed(TEXT_RULE))
    }

    /// A packet identifier, not zero (clause 2.2.1).
    pub(super) fn packet_id(&mut self) -> Result<u16, CodecError> {
        match self.two()? {
            0 => Err(self.protocol_error("packet identifier must not be 0")),
            id => Ok(id),
        }
    }

    /// The end of the packet must have come.
    pub(super) fn end(&self) -> Result<(), CodecError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.malformed("bytes follow its last field")) }
    }
}

pub(super) const TEXT_RULE: &str = "a string is not valid UTF-8";
const TEXT_RULE_NULL: &str = "a string contains U+0000";

/// The part `text` of `frame`, sharing its memory.
pub(super) fn shared_text(frame: &Bytes, text: &str) -> ByteString {
    // It was a `str` already: the second check of a short text is cheaper than a copy, and cannot fail.
    ByteString::try_from(frame.slice_ref(text.as_bytes())).unwrap_or_else(|_| ByteString::from(text))
}

/// What a bad topic name means for the connection: a broken string is malformed, a name that breaks the rules
/// of topic names is an invalid topic name.
pub(super) fn topic_error(packet: PacketType, error: TopicError) -> CodecError {
    match error {
        TopicError::Null => CodecError::Malformed { packet, rule: TEXT_RULE_NULL },
        error => CodecError::TopicName { packet, error },
    }
}

/// The number of levels of a topic name or filter, when it is over `limit`.
#[inline]
pub(super) fn levels_over(topic: &[u8], limit: usize) -> Option<usize> {
    // Fewer bytes than levels allowed: cannot be over, and need not be counted.
    if topic.len() < limit {
        return None;
    }
    let levels = topic.iter().filter(|&&byte| byte == b'/').count() + 1;
    (levels > limit).then_some(levels)
}
