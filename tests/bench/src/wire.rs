//! A minimal MQTT 3.1.1 / 5 encoder and scanner, made for speed.
//!
//! A PUBLISH is encoded once and only its packet id and sequence number are patched into each copy; the
//! scanner looks at fixed headers and finds the payload, and allocates nothing. It trusts its peer to be a
//! broker: what it does not need it does not check.

/// The protocol version that a client of the load generator speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// MQTT 3.1.1.
    V311,
    /// MQTT 5.
    V5,
}

/// A frame that the scanner cannot follow.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum WireError {
    /// A remaining length of more than four bytes (MQTT 5 clause 1.5.5).
    #[error("a length field of more than four bytes")]
    Length,
    /// A packet that ends inside one of its fields.
    #[error("a {0} packet that ends inside a field")]
    Short(&'static str),
}

/// Packet types as they stand in the high half of the first byte (MQTT 5 clause 2.1.2).
pub mod kind {
    /// CONNACK.
    pub const CONNACK: u8 = 2;
    /// PUBLISH.
    pub const PUBLISH: u8 = 3;
    /// PUBACK.
    pub const PUBACK: u8 = 4;
    /// PUBREC.
    pub const PUBREC: u8 = 5;
    /// PUBREL.
    pub const PUBREL: u8 = 6;
    /// PUBCOMP.
    pub const PUBCOMP: u8 = 7;
    /// SUBACK.
    pub const SUBACK: u8 = 9;
    /// PINGRESP.
    pub const PINGRESP: u8 = 13;
    /// DISCONNECT.
    pub const DISCONNECT: u8 = 14;
}

/// Bytes of a sequence number at the start of a payload.
pub const SEQUENCE_BYTES: usize = 8;

/// The length of the sequence number in numbered payloads.
pub const SEQUENCE_DIGITS: usize = 16;

fn push_varint(out: &mut Vec<u8>, mut value: usize) {
    loop {
        let low = (value % 128) as u8;
        value /= 128;
        out.push(if value > 0 { low | 0x80 } else { low });
        if value == 0 {
            return;
        }
    }
}

fn push_text(out: &mut Vec<u8>, text: &str) {
    debug_assert!(text.len() <= usize::from(u16::MAX), "names of the load generator are short");
    out.extend_from_slice(&(text.len() as u16).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn push_packet(out: &mut Vec<u8>, first: u8, body: &[u8]) {
    out.push(first);
    push_varint(out, body.len());
    out.extend_from_slice(body);
}

/// The keep-alive of clients that are not measured by it, seconds: longer than any run, and not 0, which the rumqttd
/// listener refuses.
pub const NO_KEEP_ALIVE: u16 = 600;

/// How long a session lives that a client asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Session {
    /// As long as the connection: clean session in 3.1.1, clean start and no expiry in 5.
    #[default]
    Clean,
    /// So many seconds longer (MQTT 5 clause 3.1.2.11.2); 3.1.1 leaves it to the server.
    Kept(u32),
}

/// A CONNECT without a login and a will.
#[derive(Clone, Copy, Debug)]
pub struct Connect<'a> {
    /// Protocol version.
    pub version: Version,
    /// Client identifier.
    pub client_id: &'a str,
    /// Keep-alive, seconds.
    pub keep_alive: u16,
    /// How long the session lives.
    pub session: Session,
}

impl<'a> Connect<'a> {
    /// Of a client with a clean session that need not ping.
    pub fn new(version: Version, client_id: &'a str) -> Self {
        Self { version, client_id, keep_alive: NO_KEEP_ALIVE, session: Session::Clean }
    }

    /// Appends the packet.
    pub fn append(&self, out: &mut Vec<u8>) {
        let mut body = Vec::with_capacity(32);
        push_text(&mut body, "MQTT");
        body.push(if self.version == Version::V5 { 5 } else { 4 });
        body.push(if self.session == Session::Clean { 0x02 } else { 0 });
        body.extend_from_slice(&self.keep_alive.to_be_bytes());
        if self.version == Version::V5 {
            if let Session::Kept(seconds) = self.session {
                body.extend_from_slice(&[5, 0x11]);
                body.extend_from_slice(&seconds.to_be_bytes());
            } else {
                body.push(0);
            }
        }
        push_text(&mut body, self.client_id);
        push_packet(out, 0x10, &body);
    }
}

/// Appends a SUBSCRIBE with packet id 1 to one filter.
pub fn subscribe(out: &mut Vec<u8>, version: Version, filter: &str, qos: u8) {
    subscribe_all(out, version, 1, [filter], qos);
}

/// Appends a SUBSCRIBE to several filters.
pub fn subscribe_all<F: AsRef<str>>(
    out: &mut Vec<u8>,
    version: Version,
    packet_id: u16,
    filters: impl IntoIterator<Item = F>,
    qos: u8,
) {
    let mut body = Vec::with_capacity(32);
    body.extend_from_slice(&packet_id.to_be_bytes());
    if version == Version::V5 {
        body.push(0);
    }
    for filter in filters {
        push_text(&mut body, filter.as_ref());
        body.push(qos);
    }
    push_packet(out, 0x82, &body);
}

/// PINGREQ, whole.
pub const PINGREQ: [u8; 2] = [0xc0, 0];

/// Appends a DISCONNECT.
pub fn disconnect(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0xe0, 0]);
}

/// Appends PUBACK, PUBREC, PUBREL or PUBCOMP: the two-byte form is valid in both versions (MQTT 5 clause
/// 3.4.2.1: success may be left out).
pub fn acknowledge(out: &mut Vec<u8>, packet: u8, packet_id: u16) {
    let flags = if packet == kind::PUBREL { 2 } else { 0 };
    let [high, low] = packet_id.to_be_bytes();
    out.extend_from_slice(&[(packet << 4) | flags, 2, high, low]);
}

/// What the payloads of a run look like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// This many bytes (at least [`SEQUENCE_BYTES`]); each message begins with its sequence number.
    Sequenced(usize),
    /// These bytes; each message has its sequence number as [`SEQUENCE_DIGITS`] hexadecimal digits at this place,
    /// where a guest that changes what comes after it leaves it.
    Numbered(Vec<u8>, usize),
    /// The same bytes in every message.
    Fixed(Vec<u8>),
}

impl Payload {
    /// The sequence number in `received`: `u64::MAX` when it is not there, `None` when this kind has none.
    #[inline]
    pub fn sequence_of(&self, received: &[u8]) -> Option<u64> {
        let found = match self {
            Self::Fixed(_) => return None,
            Self::Sequenced(_) => received.first_chunk().map(|bytes| u64::from_be_bytes(*bytes)),
            Self::Numbered(_, at) => received.get(*at..at + SEQUENCE_DIGITS).and_then(digits),
        };
        Some(found.unwrap_or(u64::MAX))
    }
}

/// Reads hexadecimal digits.
fn digits(text: &[u8]) -> Option<u64> {
    text.iter()
        .try_fold(0, |number: u64, digit| Some(number << 4 | u64::from(char::from(*digit).to_digit(16)?)))
}

/// Where a frame has its sequence number, and how it is written.
#[derive(Clone, Copy, Debug)]
enum SequenceAt {
    Bytes(usize),
    Digits(usize),
}

/// A PUBLISH encoded once, copied many times.
#[derive(Clone, Debug)]
pub struct PublishTemplate {
    frame: Vec<u8>,
    packet_id_at: Option<usize>,
    sequence_at: Option<SequenceAt>,
}

impl PublishTemplate {
    /// Encodes a PUBLISH of `payload` to `topic` at `qos` (0, 1, 2).
    pub fn new(version: Version, topic: &str, qos: u8, payload: &Payload) -> Self {
        let mut body = Vec::new();
        push_text(&mut body, topic);
        let packet_id_in_body = (qos > 0).then_some(body.len());
        if qos > 0 {
            body.extend_from_slice(&[0, 0]);
        }
        if version == Version::V5 {
            body.push(0);
        }
        let payload_in_body = body.len();
        match payload {
            Payload::Sequenced(bytes) => {
                body.resize(payload_in_body + (*bytes).max(SEQUENCE_BYTES), b'x');
            }
            Payload::Numbered(bytes, _) | Payload::Fixed(bytes) => body.extend_from_slice(bytes),
        }
        let mut frame = Vec::with_capacity(body.len() + 5);
        push_packet(&mut frame, 0x30 | (qos << 1), &body);
        let header = frame.len() - body.len();
        Self {
            packet_id_at: packet_id_in_body.map(|at| at + header),
            sequence_at: match payload {
                Payload::Sequenced(_) => Some(SequenceAt::Bytes(payload_in_body + header)),
                Payload::Numbered(_, at) => Some(SequenceAt::Digits(payload_in_body + header + at)),
                Payload::Fixed(_) => None,
            },
            frame,
        }
    }

    /// The same with the RETAIN flag (MQTT 5 clause 3.3.1.3).
    #[must_use]
    pub fn retained(mut self) -> Self {
        if let Some(first) = self.frame.first_mut() {
            *first |= 1;
        }
        self
    }

    /// Bytes of one frame.
    pub fn frame_bytes(&self) -> usize {
        self.frame.len()
    }

    /// Appends a copy with its packet id (ignored at QoS 0) and sequence number.
    #[inline]
    pub fn append(&self, out: &mut Vec<u8>, packet_id: u16, sequence: u64) {
        let start = out.len();
        out.extend_from_slice(&self.frame);
        if let Some(at) = self.packet_id_at
            && let Some(place) = out.get_mut(start + at..start + at + 2)
        {
            place.copy_from_slice(&packet_id.to_be_bytes());
        }
        match self.sequence_at {
            Some(SequenceAt::Bytes(at)) => {
                if let Some(place) = out.get_mut(start + at..start + at + SEQUENCE_BYTES) {
                    place.copy_from_slice(&sequence.to_be_bytes());
                }
            }
            Some(SequenceAt::Digits(at)) => {
                let places = out.get_mut(start + at..start + at + SEQUENCE_DIGITS).unwrap_or_default();
                for (place, shift) in places.iter_mut().rev().zip((0..).step_by(4)) {
                    *place = b"0123456789abcdef"[(sequence >> shift & 15) as usize];
                }
            }
            None => {}
        }
    }
}

/// The packet id of the n-th PUBLISH of a client: 1 to 65,535 and round again.
pub fn packet_id_of(sequence: u64) -> u16 {
    (sequence % 65_535) as u16 + 1
}

/// One packet in a read buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    first: u8,
    body: &'a [u8],
}

/// The parts of a received PUBLISH that the load generator needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publish<'a> {
    /// 0, 1 or 2.
    pub qos: u8,
    /// Packet id, 0 at QoS 0.
    pub packet_id: u16,
    /// Payload.
    pub payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The packet type, one of [`kind`].
    #[inline]
    pub fn kind(&self) -> u8 {
        self.first >> 4
    }

    /// Everything after the fixed header.
    pub fn body(&self) -> &'a [u8] {
        self.body
    }

    /// The packet id of an acknowledgement.
    ///
    /// # Errors
    /// [`WireError::Short`].
    #[inline]
    pub fn packet_id(&self) -> Result<u16, WireError> {
        self.body
            .first_chunk::<2>()
            .map(|id| u16::from_be_bytes(*id))
            .ok_or(WireError::Short("acknowledgement"))
    }

    /// The reason code of an MQTT 5 acknowledgement, 0 when left out. 3.1.1 has none: 0.
    pub fn reason(&self) -> u8 {
        self.body.get(2).copied().unwrap_or(0)
    }

    /// Splits a PUBLISH.
    ///
    /// # Errors
    /// [`WireError`] when a field is cut off.
    #[inline]
    pub fn publish(&self, version: Version) -> Result<Publish<'a>, WireError> {
        const SHORT: WireError = WireError::Short("PUBLISH");
        let (length, rest) = self.body.split_first_chunk::<2>().ok_or(SHORT)?;
        let mut rest = rest.get(usize::from(u16::from_be_bytes(*length))..).ok_or(SHORT)?;
        let qos = (self.first >> 1) & 3;
        let mut packet_id = 0;
        if qos > 0 {
            let (id, after) = rest.split_first_chunk::<2>().ok_or(SHORT)?;
            packet_id = u16::from_be_bytes(*id);
            rest = after;
        }
        if version == Version::V5 {
            let (properties, digits) = varint(rest)?.ok_or(SHORT)?;
            rest = rest.get(digits + properties..).ok_or(SHORT)?;
        }
        Ok(Publish { qos, packet_id, payload: rest })
    }
}

/// Reads a variable byte integer: value and how many bytes it takes; `None` when bytes are missing.
#[inline]
fn varint(bytes: &[u8]) -> Result<Option<(usize, usize)>, WireError> {
    let mut value = 0;
    for (index, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((value, index + 1)));
        }
    }
    if bytes.len() >= 4 { Err(WireError::Length) } else { Ok(None) }
}

/// The first packet of `buffer` and how many bytes it takes; `None` when it is not complete.
///
/// # Errors
/// [`WireError::Length`].
#[inline]
pub fn next_frame(buffer: &[u8]) -> Result<Option<(Frame<'_>, usize)>, WireError> {
    let Some((first, rest)) = buffer.split_first() else { return Ok(None) };
    let Some((length, digits)) = varint(rest)? else { return Ok(None) };
    Ok(rest.get(digits..digits + length).map(|body| (Frame { first: *first, body }, 1 + digits + length)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_publish_reads_back_in_both_versions_and_every_qos() {
        for version in [Version::V311, Version::V5] {
            for qos in 0..3 {
                let payload = Payload::Sequenced(200);
                let template = PublishTemplate::new(version, "a/b", qos, &payload);
                let mut bytes = Vec::new();
                template.append(&mut bytes, 7, 1_234_567);
                template.append(&mut bytes, 8, 1_234_568);
                assert_eq!(bytes.len(), 2 * template.frame_bytes());
                let (frame, used) = next_frame(&bytes).unwrap().unwrap();
                assert_eq!((frame.kind(), used), (kind::PUBLISH, template.frame_bytes()));
                let publish = frame.publish(version).unwrap();
                assert_eq!(publish.qos, qos);
                assert_eq!(publish.packet_id, if qos == 0 { 0 } else { 7 });
                assert_eq!(publish.payload.len(), 200);
                assert_eq!(payload.sequence_of(publish.payload), Some(1_234_567));
                let (second, _) = next_frame(bytes.get(used..).unwrap()).unwrap().unwrap();
                let second = second.publish(version).unwrap();
                assert_eq!(payload.sequence_of(second.payload), Some(1_234_568));
            }
        }
    }

    #[test]
    fn a_fixed_payload_is_left_alone() {
        let numbered = Payload::Numbered(b"{\"n\":\"................\",\"c\":1}".to_vec(), 6);
        for sequence in [0, 0x1234_5678_9abc_def0, u64::MAX - 1] {
            let mut bytes = Vec::new();
            PublishTemplate::new(Version::V5, "t", 1, &numbered).append(&mut bytes, 1, sequence);
            let (frame, _) = next_frame(&bytes).unwrap().unwrap();
            let publish = frame.publish(Version::V5).unwrap();
            assert_eq!(numbered.sequence_of(publish.payload), Some(sequence));
            assert!(publish.payload.ends_with(b"\",\"c\":1}"));
        }
        assert_eq!(numbered.sequence_of(b"{}"), Some(u64::MAX));

        let payload = Payload::Fixed(b"{\"celsius\":1}".to_vec());
        let mut bytes = Vec::new();
        PublishTemplate::new(Version::V5, "t", 1, &payload).append(&mut bytes, 1, u64::MAX);
        let (frame, _) = next_frame(&bytes).unwrap().unwrap();
        assert_eq!(frame.publish(Version::V5).unwrap().payload, b"{\"celsius\":1}");
    }

    #[test]
    fn incomplete_frames_wait_and_endless_lengths_are_refused() {
        let mut bytes = Vec::new();
        PublishTemplate::new(Version::V311, "topic", 0, &Payload::Sequenced(300)).append(&mut bytes, 0, 0);
        for cut in 0..bytes.len() {
            assert_eq!(next_frame(bytes.get(..cut).unwrap()), Ok(None), "{cut} bytes");
        }
        assert_eq!(next_frame(&[0x30, 0xff, 0xff, 0xff, 0xff]), Err(WireError::Length));
        let (frame, _) = next_frame(&[0x32, 3, 0, 1, b'a']).unwrap().unwrap();
        assert_eq!(frame.publish(Version::V311), Err(WireError::Short("PUBLISH")));
    }

    #[test]
    fn acknowledgements_carry_their_flags_and_packet_id() {
        let mut bytes = Vec::new();
        acknowledge(&mut bytes, kind::PUBREL, 0x1234);
        assert_eq!(bytes, [0x62, 2, 0x12, 0x34]);
        let (frame, _) = next_frame(&bytes).unwrap().unwrap();
        assert_eq!((frame.kind(), frame.packet_id(), frame.reason()), (kind::PUBREL, Ok(0x1234), 0));
    }

    #[test]
    fn packet_ids_are_never_zero() {
        assert_eq!(packet_id_of(0), 1);
        assert_eq!(packet_id_of(65_534), 65_535);
        assert_eq!(packet_id_of(65_535), 1);
    }

    #[test]
    fn connect_is_what_the_clauses_say() {
        let mut bytes = Vec::new();
        Connect::new(Version::V311, "c").append(&mut bytes);
        assert_eq!(bytes, [0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0x02, 0x58, 0, 1, b'c']);
        bytes.clear();
        let kept = Connect { keep_alive: 2, session: Session::Kept(300), ..Connect::new(Version::V5, "c") };
        kept.append(&mut bytes);
        let body = [0, 4, b'M', b'Q', b'T', b'T', 5, 0, 0, 2, 5, 0x11, 0, 0, 1, 0x2c, 0, 1, b'c'];
        assert_eq!(bytes, [[0x10, 19].as_slice(), &body].concat());
        bytes.clear();
        subscribe(&mut bytes, Version::V5, "a", 2);
        assert_eq!(bytes, [0x82, 7, 0, 1, 0, 0, 1, b'a', 2]);
        bytes.clear();
        subscribe_all(&mut bytes, Version::V311, 0x102, ["a", "b/#"], 1);
        assert_eq!(bytes, [0x82, 12, 1, 2, 0, 1, b'a', 1, 0, 3, b'b', b'/', b'#', 1]);
    }
}
