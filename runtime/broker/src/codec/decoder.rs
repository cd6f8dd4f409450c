//! The decoder of one connection: cuts its bytes into packets.

use bytes::{Buf, Bytes, BytesMut};
use tidegate_event::{Protocol, ReasonCode};

use super::header::{self, Varint, varint, varint_len};
use super::{
    Ack, CodecError, Incoming, PacketType, auth, connect, disconnect, publish, validate, version, wire,
};

/// What a client may send at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Greatest packet with its fixed header, bytes. A larger one is refused before it is buffered.
    pub max_packet_bytes: u32,
    /// Greatest number of levels of a topic name or filter.
    pub max_topic_levels: usize,
    /// Greatest number of topic filters in one SUBSCRIBE or UNSUBSCRIBE.
    pub max_filters: usize,
    /// Greatest number of user properties in one packet; the will's are counted for themselves.
    pub max_user_properties: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_packet_bytes: 1024 * 1024,
            max_topic_levels: 128,
            max_filters: 1_000,
            max_user_properties: 1_000,
        }
    }
}

/// Greatest CONNECT, bytes: four fields of 64 KiB, the most that one may have, fit. Nobody knows yet who sends it.
const MAX_CONNECT_BYTES: u32 = 256 * 1024 + 4 * 1024;

/// Cuts the bytes of one connection into packets. The first must be CONNECT, which sets the version.
///
/// After an error the connection must be closed (MQTT 5 clause 4.13): the decoder gives the same error for ever.
#[derive(Debug)]
pub struct Decoder {
    limits: Limits,
    state: State,
    /// Known from the first bytes of CONNECT on, even when the rest of it is refused.
    protocol: Option<Protocol>,
    /// How many buffered bytes the next step takes: fewer need not be looked at again.
    needed: usize,
    /// The greatest packet the client takes, when CONNECT has told so far.
    client_takes: Option<usize>,
}

/// Bytes of a remaining length, which has four at most, that are looked past.
const LENGTH_LOOKED_AT: usize = 5;

#[derive(Clone, Copy, Debug)]
enum State {
    ExpectConnect,
    Connected(Protocol),
    Failed(CodecError),
}

impl Decoder {
    /// A decoder for a new connection.
    pub fn new(limits: Limits) -> Self {
        Self { limits, state: State::ExpectConnect, protocol: None, needed: 1, client_takes: None }
    }

    /// The client's version, as soon as CONNECT has told it.
    pub fn protocol(&self) -> Option<Protocol> {
        self.protocol
    }

    /// The greatest packet that the client takes, bytes (MQTT 5 clause 3.1.2.11.4; no limit when it names none).
    /// `None`: CONNECT has not come, or broke a rule before it said so.
    pub fn client_takes(&self) -> Option<usize> {
        self.client_takes
    }

    /// How large the packet at the start of the buffer is, bytes, when its fixed header is there and the last
    /// [`Decoder::decode`] gave `None`; less than [`Decoder::decode`] could tell before.
    pub fn packet_bytes(&self) -> usize {
        self.needed
    }

    /// How many bytes more are needed, at least, when `buffered` bytes are in the buffer and the last
    /// [`Decoder::decode`] gave `None`. Room worth having before the next read.
    pub fn missing(&self, buffered: usize) -> usize {
        self.needed.saturating_sub(buffered)
    }

    /// Takes the next packet from the start of `buffer`. `None`: it is not complete; append to the buffer and
    /// call again. The payload and texts of a PUBLISH keep the memory of the buffer alive.
    ///
    /// # Errors
    /// [`CodecError`] for the first packet that breaks a rule, as early as its bytes show it. It is final.
    #[inline]
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Incoming>, CodecError> {
        if buffer.len() < self.needed {
            return Ok(None);
        }
        let result = self.next(buffer);
        if let Err(error) = &result {
            self.state = State::Failed(*error);
            self.needed = 0;
        }
        result
    }

    fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Incoming>, CodecError> {
        let connected = match &self.state {
            State::Connected(protocol) => Some(*protocol),
            State::ExpectConnect => None,
            State::Failed(error) => return Err(*error),
        };
        let Some(&first) = buffer.first() else {
            return Ok(None);
        };
        match connected {
            Some(protocol) => header::check_next(first, protocol)?,
            None => {
                if let Err(error) = header::check_first(first) {
                    self.glimpse(first, buffer);
                    return Err(error);
                }
            }
        }
        let packet = PacketType::of(first);
        let (remaining, length_len) = match varint(buffer.get(1..).unwrap_or_default()) {
            Varint::Whole(value, len) => (value, len),
            Varint::Partial => return self.wait(buffer.len() + 1),
            Varint::Overlong => {
                if connected.is_none() {
                    self.glimpse(first, buffer);
                }
                return Err(CodecError::Malformed {
                    packet,
                    rule: "its remaining length has over four bytes",
                });
            }
        };
        let header = 1 + length_len;
        let total = header + remaining;
        let protocol = match connected {
            Some(protocol) => protocol,
            None => match version::peek(buffer.get(header..).unwrap_or_default(), remaining)? {
                Some(protocol) => *self.protocol.insert(protocol),
                None => return self.wait(buffer.len() + 1),
            },
        };
        if protocol.is_v5() && length_len != varint_len(remaining) {
            return Err(CodecError::Malformed {
                packet,
                rule: "its remaining length is longer than need be",
            });
        }
        let limit = match connected {
            Some(_) => self.limits.max_packet_bytes,
            None => self.limits.max_packet_bytes.min(MAX_CONNECT_BYTES),
        };
        if total > usize::try_from(limit).unwrap_or(usize::MAX) {
            return Err(CodecError::TooLarge { packet, size: total, limit });
        }
        if buffer.len() < total {
            return self.wait(total);
        }
        self.needed = 1;
        // Acknowledgements first: most have only their packet id, which leaves nothing for the wire decoder; it
        // would share and unshare the buffer to find the same two bytes. Packets are made in the place where they
        // are returned: moving one costs as much as reading it.
        if let Some(&[high, low]) = buffer.get(header..total)
            && let packet_id @ 1.. = u16::from_be_bytes([high, low])
        {
            let ack = Ack { packet_id, reason: ReasonCode::SUCCESS };
            let incoming = match packet {
                PacketType::PubAck => Some(Incoming::PubAck(ack)),
                PacketType::PubRec => Some(Incoming::PubRec(ack)),
                PacketType::PubRel => Some(Incoming::PubRel(ack)),
                PacketType::PubComp => Some(Incoming::PubComp(ack)),
                _ => None,
            };
            if incoming.is_some() {
                buffer.advance(total);
                return Ok(incoming);
            }
        }
        if packet == PacketType::Publish {
            return publish::decode(buffer, header, total, protocol, self.limits)
                .map(|publish| Some(Incoming::Publish(publish)));
        }
        self.whole(packet, buffer, header, total, protocol).map(Some)
    }

    /// Looks which version a client speaks whose CONNECT is refused for its fixed header, so that it is answered in that: as
    /// far as it is there already, nothing is waited for.
    fn glimpse(&mut self, first: u8, buffer: &[u8]) {
        let rest = buffer.get(1..).unwrap_or_default();
        let end = rest.iter().take(LENGTH_LOOKED_AT).position(|byte| byte & 0x80 == 0);
        if PacketType::of(first) == PacketType::Connect
            && let Some(body) = end.and_then(|end| rest.get(end + 1..))
        {
            self.protocol = version::peek(body, usize::MAX).ok().flatten();
        }
    }

    /// Reads the packet of `total` bytes at the start of `buffer`, `header` of them fixed header.
    fn whole(
        &mut self,
        packet: PacketType,
        buffer: &mut BytesMut,
        header: usize,
        total: usize,
        protocol: Protocol,
    ) -> Result<Incoming, CodecError> {
        Ok(match packet {
            PacketType::Connect => {
                // Copied out: the client id and the will live as long as the session and must not keep a
                // read buffer with them.
                let frame = Bytes::copy_from_slice(buffer.get(header..total).unwrap_or_default());
                let connect = connect::decode(&frame, protocol, self.limits, &mut self.client_takes)?;
                buffer.advance(total);
                self.state = State::Connected(protocol);
                Incoming::Connect(Box::new(connect))
            }
            PacketType::PingReq if total == header => {
                buffer.advance(total);
                Incoming::PingReq
            }
            PacketType::PingReq => {
                return Err(CodecError::Malformed { packet, rule: "it must have no body" });
            }
            PacketType::Disconnect | PacketType::Auth => {
                let mut frame = buffer.split_to(total).freeze();
                frame.advance(header);
                if packet == PacketType::Auth {
                    Incoming::Auth(auth::decode(&frame, self.limits)?)
                } else {
                    Incoming::Disconnect(disconnect::decode(&frame, protocol, self.limits)?)
                }
            }
            _ => {
                let body = buffer.get(header..total).unwrap_or_default();
                validate::check(packet, body, protocol, self.limits)?;
                wire::decode(packet, buffer, total, protocol)?
            }
        })
    }

    fn wait(&mut self, needed: usize) -> Result<Option<Incoming>, CodecError> {
        self.needed = needed;
        Ok(None)
    }
}
