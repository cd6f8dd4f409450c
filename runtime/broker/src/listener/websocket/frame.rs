//! Frames (RFC 6455 clause 5), decoded in place.

/// Longest payload of a control frame (clause 5.5).
const CONTROL_MOST: usize = 125;
/// Longest header: two bytes, eight of length, four of mask.
const HEADER_MOST: usize = 14;

const FINAL: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;

const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;

/// What a peer did that the standards forbid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Violation {
    /// MQTT 5 clause 6, [MQTT-6.0.0-1].
    #[error("a text frame, where only binary ones may be")]
    Text,
    /// Clause 5.1.
    #[error("a frame that is not masked")]
    Unmasked,
    /// Clause 5.2: no extension was agreed on.
    #[error("a frame with reserved bits")]
    Reserved,
    /// Clause 5.2.
    #[error("a frame of an unknown kind")]
    Kind,
    /// Clause 5.4.
    #[error("frames of a message in a wrong order")]
    Order,
    /// Clause 5.5.
    #[error("a control frame that is too long or in pieces")]
    Control,
    /// Clause 5.2.
    #[error("a length that is not written in the shortest form, or has its first bit set")]
    Length,
    /// Not forbidden, but no use either: no rate of MQTT counts them.
    #[error("too many frames without anything of MQTT in them")]
    Flood,
}

impl Violation {
    /// The status code of the close frame (clause 7.4.1).
    pub(super) fn code(self) -> u16 {
        match self {
            Self::Text => 1003,
            Self::Flood => 1008,
            _ => 1002,
        }
    }
}

/// Decodes the frames of a client as their bytes come.
#[derive(Debug)]
pub(super) struct Frames {
    header: [u8; HEADER_MOST],
    /// Bytes of the header that are there.
    have: usize,
    kind: u8,
    is_final: bool,
    mask: [u8; 4],
    /// Payload that is still to come. The mask is turned so that it begins with it.
    left: u64,
    /// Whether a header is whole and its payload is not.
    in_payload: bool,
    /// Whether a message has begun and not ended.
    in_message: bool,
    control: [u8; CONTROL_MOST],
    control_len: usize,
    ping: Option<([u8; CONTROL_MOST], usize)>,
    closed: Option<u16>,
    /// Control frames and empty ones, since the number was last taken.
    idle: u32,
    /// Whether the frame at hand has no payload.
    is_empty: bool,
}

impl Frames {
    pub(super) fn new() -> Self {
        Self {
            header: [0; HEADER_MOST],
            have: 0,
            kind: BINARY,
            is_final: false,
            mask: [0; 4],
            left: 0,
            in_payload: false,
            in_message: false,
            control: [0; CONTROL_MOST],
            control_len: 0,
            ping: None,
            closed: None,
            idle: 0,
            is_empty: false,
        }
    }

    /// Whether `most` frames without anything of MQTT in them came since it was last said so.
    pub(super) fn take_idle(&mut self, most: u32) -> bool {
        let is_full = self.idle >= most;
        if is_full {
            self.idle = 0;
        }
        is_full
    }

    /// Whether the peer has sent a close frame, and the status it gave: 1000 when it gave none.
    pub(super) fn closed(&self) -> Option<u16> {
        self.closed
    }

    /// The payload of the last ping that was not answered (clause 5.5.3: the last one may be answered alone).
    pub(super) fn take_ping(&mut self) -> Option<([u8; CONTROL_MOST], usize)> {
        self.ping.take()
    }

    /// Whether there is a ping that was not answered.
    pub(super) fn has_ping(&self) -> bool {
        self.ping.is_some()
    }

    /// Decodes `bytes`, the next that came: moves what is payload to their beginning, and gives how much that is. What comes
    /// behind a violation or a close frame is not looked at.
    pub(super) fn decode(&mut self, bytes: &mut [u8]) -> (usize, Result<(), Violation>) {
        let (mut read, mut written) = (0, 0);
        while read < bytes.len() && self.closed.is_none() {
            if !self.in_payload {
                let rest = bytes.get(read..).unwrap_or_default();
                match self.take_header(rest) {
                    Ok(used) => read += used,
                    Err(violation) => return (written, Err(violation)),
                }
                continue;
            }
            let here = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len() - read);
            if self.kind & 0x8 == 0 {
                bytes.copy_within(read..read + here, written);
                if let Some(payload) = bytes.get_mut(written..written + here) {
                    self.unmask(payload);
                }
                written += here;
            } else if let Some(payload) = bytes.get_mut(read..read + here) {
                self.unmask(payload);
                let end = self.control_len + here;
                if let Some(room) = self.control.get_mut(self.control_len..end) {
                    room.copy_from_slice(payload);
                }
                self.control_len = end;
            }
            read += here;
            self.left -= here as u64;
            if self.left == 0
                && let Err(violation) = self.end_frame()
            {
                return (written, Err(violation));
            }
        }
        (written, Ok(()))
    }

    /// Takes bytes of a header; gives how many.
    fn take_header(&mut self, bytes: &[u8]) -> Result<usize, Violation> {
        let mut used = 0;
        for byte in bytes {
            if let Some(place) = self.header.get_mut(self.have) {
                *place = *byte;
            }
            self.have += 1;
            used += 1;
            if self.have >= 2 && self.have == self.header_len() {
                self.begin_frame()?;
                break;
            }
            self.check_header()?;
        }
        Ok(used)
    }

    /// What can be said of a header as soon as its first bytes are there.
    fn check_header(&mut self) -> Result<(), Violation> {
        let [first, second, ..] = self.header;
        if self.have == 1 {
            let kind = first & 0x0f;
            if first & RESERVED != 0 {
                return Err(Violation::Reserved);
            }
            match kind {
                TEXT => return Err(Violation::Text),
                CONTINUATION if !self.in_message => return Err(Violation::Order),
                BINARY if self.in_message => return Err(Violation::Order),
                CONTINUATION | BINARY => {}
                CLOSE | PING | PONG if first & FINAL == 0 => return Err(Violation::Control),
                CLOSE | PING | PONG => {}
                _ => return Err(Violation::Kind),
            }
        } else if self.have == 2 {
            if second & MASKED == 0 {
                return Err(Violation::Unmasked);
            }
            if first & 0x8 != 0 && usize::from(second & !MASKED) > CONTROL_MOST {
                return Err(Violation::Control);
            }
        }
        Ok(())
    }

    /// Length of the header whose first two bytes are there.
    fn header_len(&self) -> usize {
        let [_, second, ..] = self.header;
        let length = match second & !MASKED {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        2 + length + 4
    }

    /// The header is whole.
    fn begin_frame(&mut self) -> Result<(), Violation> {
        let [first, second, rest @ ..] = self.header;
        let number = |bytes: &[u8]| bytes.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        let (length, mask) = match second & !MASKED {
            126 => (number(&rest[..2]), [rest[2], rest[3], rest[4], rest[5]]),
            127 => (number(&rest[..8]), [rest[8], rest[9], rest[10], rest[11]]),
            short => (u64::from(short), [rest[0], rest[1], rest[2], rest[3]]),
        };
        let shortest = match second & !MASKED {
            126 => length > 125,
            127 => length > 0xffff && length >> 63 == 0,
            _ => true,
        };
        if !shortest {
            return Err(Violation::Length);
        }
        self.have = 0;
        self.kind = first & 0x0f;
        self.is_final = first & FINAL != 0;
        self.mask = mask;
        self.left = length;
        self.control_len = 0;
        self.in_payload = true;
        self.is_empty = length == 0;
        if length == 0 { self.end_frame() } else { Ok(()) }
    }

    fn end_frame(&mut self) -> Result<(), Violation> {
        self.in_payload = false;
        self.idle = self.idle.saturating_add(u32::from(self.is_empty || self.kind & 0x8 != 0));
        match self.kind {
            PING => self.ping = Some((self.control, self.control_len)),
            CLOSE => {
                let payload = self.control.get(..self.control_len).unwrap_or_default();
                self.closed = match *payload {
                    [] => Some(1000),
                    [high, low, ..] => Some(u16::from_be_bytes([high, low])),
                    // Clause 5.5.1: a status has two bytes.
                    [_] => return Err(Violation::Control),
                };
            }
            PONG => {}
            _ => self.in_message = !self.is_final,
        }
        Ok(())
    }

    /// Unmasks the next bytes of a payload (clause 5.3) and turns the mask to what follows them.
    fn unmask(&mut self, payload: &mut [u8]) {
        let mask = u64::from_ne_bytes({
            let [a, b, c, d] = self.mask;
            [a, b, c, d, a, b, c, d]
        });
        let mut eights = payload.chunks_exact_mut(8);
        for eight in &mut eights {
            if let Ok(bytes) = <[u8; 8]>::try_from(&*eight) {
                eight.copy_from_slice(&(u64::from_ne_bytes(bytes) ^ mask).to_ne_bytes());
            }
        }
        for (byte, mask) in eights.into_remainder().iter_mut().zip(self.mask.iter().cycle()) {
            *byte ^= mask;
        }
        self.mask.rotate_left(payload.len() % 4);
    }
}

/// Appends the header of a binary frame with `len` bytes of payload.
pub(super) fn binary_header(len: usize, output: &mut Vec<u8>) {
    header(BINARY, len, output);
}

/// Appends a pong with the payload of its ping.
pub(super) fn pong(payload: &[u8], output: &mut Vec<u8>) {
    header(PONG, payload.len(), output);
    output.extend(payload);
}

/// Appends a close frame with a status.
pub(super) fn close(code: u16, output: &mut Vec<u8>) {
    header(CLOSE, 2, output);
    output.extend(code.to_be_bytes());
}

/// Appends the header of a whole message. A server masks nothing (clause 5.1).
fn header(kind: u8, len: usize, output: &mut Vec<u8>) {
    output.push(FINAL | kind);
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(short @ ..=125), _) => output.push(short),
        (_, Ok(middle)) => {
            output.push(126);
            output.extend(middle.to_be_bytes());
        }
        _ => {
            output.push(127);
            output.extend((len as u64).to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests;
