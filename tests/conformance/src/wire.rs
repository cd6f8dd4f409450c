//! The bytes of the protocol: numbers, strings and frames (MQTT 3.1.1 clauses 1.5 and 2.2, MQTT 5 clauses 1.5 and 2.1).

/// A version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// MQTT 3.1: `MQIsdp`, level 3.
    V31,
    /// MQTT 3.1.1: `MQTT`, level 4.
    V311,
    /// MQTT 5: `MQTT`, level 5.
    V5,
}

impl Version {
    /// The protocol name in CONNECT.
    pub fn name(self) -> &'static str {
        if self == Self::V31 { "MQIsdp" } else { "MQTT" }
    }

    /// The protocol level in CONNECT.
    pub fn level(self) -> u8 {
        match self {
            Self::V31 => 3,
            Self::V311 => 4,
            Self::V5 => 5,
        }
    }

    /// Whether packets have properties and acknowledgements have reason codes.
    pub fn is_v5(self) -> bool {
        self == Self::V5
    }
}

/// Appends a big-endian number of two bytes.
pub fn two(out: &mut Vec<u8>, value: u16) {
    out.extend(value.to_be_bytes());
}

/// Appends a string or binary data: its length in two bytes, then the bytes as they are, whatever they are.
///
/// # Panics
/// More than 65,535 bytes: there is no such string.
pub fn text(out: &mut Vec<u8>, value: impl AsRef<[u8]>) {
    let value = value.as_ref();
    two(out, u16::try_from(value.len()).expect("at most 65,535 bytes"));
    out.extend(value);
}

/// Appends a number of one to four bytes, in the fewest (MQTT 3.1.1 clause 2.2.3, MQTT 5 clause 1.5.5).
pub fn variable(out: &mut Vec<u8>, value: usize) {
    let mut rest = value;
    loop {
        let byte = u8::try_from(rest % 128).expect("a remainder");
        rest /= 128;
        out.push(if rest > 0 { byte | 0x80 } else { byte });
        if rest == 0 {
            return;
        }
    }
}

/// A packet: its first byte, the length of `body`, `body`.
pub fn frame(first: u8, body: &[u8]) -> Vec<u8> {
    frame_with_length(first, body.len(), body)
}

/// A packet that announces `length` bytes and has those of `body`.
pub fn frame_with_length(first: u8, length: usize, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![first];
    variable(&mut packet, length);
    packet.extend(body);
    packet
}

/// Byte strings that are no UTF-8, and those that MQTT forbids although they are (MQTT 3.1.1 clause 1.5.3, MQTT 5
/// clause 1.5.4): with a name for the failure report.
pub const ILL_FORMED: [(&str, &[u8]); 10] = [
    ("a byte that no character begins with", b"a\xFFb"),
    ("a continuation byte alone", b"a\x80b"),
    ("a character that is cut off", b"ab\xE2\x82"),
    ("a second byte that is no continuation", b"a\xC3\x28b"),
    ("a slash in two bytes", b"a\xC0\xAFb"),
    ("NUL in two bytes", b"a\xC0\x80b"),
    ("the surrogate U+D800", b"a\xED\xA0\x80b"),
    ("the surrogate U+DFFF", b"a\xED\xBF\xBFb"),
    ("a surrogate pair, each in three bytes", b"a\xED\xA0\xB4\xED\xBC\x81b"),
    ("a code point above U+10FFFF", b"a\xF4\x90\x80\x80b"),
];

/// Reads what [`text`], [`two`] and [`variable`] wrote; every error says what is missing.
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Begins with the first of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Everything that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// The next `count` bytes.
    ///
    /// # Errors
    /// There are fewer.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or_else(|| format!("{count} bytes expected, {} left", self.rest.len()))?;
        self.rest = rest;
        Ok(taken)
    }

    /// A byte.
    ///
    /// # Errors
    /// Nothing is left.
    pub fn byte(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?[0])
    }

    /// A number of two bytes.
    ///
    /// # Errors
    /// Less is left.
    pub fn two(&mut self) -> Result<u16, String> {
        Ok(u16::from_be_bytes(self.take(2)?.try_into().expect("two bytes")))
    }

    /// A number of four bytes.
    ///
    /// # Errors
    /// Less is left.
    pub fn four(&mut self) -> Result<u32, String> {
        Ok(u32::from_be_bytes(self.take(4)?.try_into().expect("four bytes")))
    }

    /// A packet id.
    ///
    /// # Errors
    /// It is 0, or less is left.
    pub fn id(&mut self) -> Result<u16, String> {
        match self.two()? {
            0 => Err("packet id 0".into()),
            id => Ok(id),
        }
    }

    /// Binary data.
    ///
    /// # Errors
    /// Less is left than its length says.
    pub fn binary(&mut self) -> Result<&'a [u8], String> {
        let length = self.two()?;
        self.take(usize::from(length))
    }

    /// A string.
    ///
    /// # Errors
    /// As [`binary`](Self::binary), or it is no UTF-8, or it has U+0000.
    pub fn text(&mut self) -> Result<&'a str, String> {
        let text = str::from_utf8(self.binary()?).map_err(|error| format!("a string: {error}"))?;
        if text.contains('\0') { Err(format!("U+0000 in the string {text:?}")) } else { Ok(text) }
    }

    /// A number of one to four bytes.
    ///
    /// # Errors
    /// It has five, or more than it needs, or less is left.
    pub fn variable(&mut self) -> Result<usize, String> {
        let mut value = 0;
        for at in 0..4 {
            let byte = self.byte()?;
            value |= usize::from(byte & 0x7F) << (7 * at);
            if byte & 0x80 == 0 {
                return if byte == 0 && at > 0 {
                    Err(format!("{value} in more bytes than it needs"))
                } else {
                    Ok(value)
                };
            }
        }
        Err("a number of more than four bytes".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_and_overlong_ones_do_not() {
        for value in [0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152, 268_435_455] {
            let mut bytes = Vec::new();
            variable(&mut bytes, value);
            assert_eq!(Reader::new(&bytes).variable(), Ok(value));
        }
        assert!(Reader::new(&[0x80, 0]).variable().is_err());
        assert!(Reader::new(&[0x80, 0x80, 0x80, 0x80, 1]).variable().is_err());
        assert!(Reader::new(&[0x80]).variable().is_err());
    }

    #[test]
    fn none_of_the_ill_formed_strings_is_taken_for_a_string() {
        for (what, bytes) in ILL_FORMED {
            let mut out = Vec::new();
            text(&mut out, bytes);
            assert!(Reader::new(&out).text().is_err(), "{what}");
        }
        assert!(Reader::new(b"\0\x01\0").text().is_err());
        assert!(Reader::new(b"\0\x02a").text().is_err());
        assert_eq!(Reader::new(b"\0\x02ab").text(), Ok("ab"));
    }
}
