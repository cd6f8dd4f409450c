//! What is read of a certificate that rustls has parsed and does not give: its subject and when it ends (RFC 5280).

use std::fmt::Write as _;

use bytestring::ByteString;
use tidegate_event::Certificate;

/// Tags (X.690 clause 8).
const INTEGER: u8 = 0x02;
const OBJECT_ID: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// 2.5.4.3.
const COMMON_NAME: &[u8] = &[0x55, 4, 3];

/// Attributes with a short name (RFC 4514 clause 3, and the serial number of RFC 4519).
const NAMES: [(&[u8], &str); 10] = [
    (COMMON_NAME, "CN"),
    (&[0x55, 4, 5], "serialNumber"),
    (&[0x55, 4, 6], "C"),
    (&[0x55, 4, 7], "L"),
    (&[0x55, 4, 8], "ST"),
    (&[0x55, 4, 9], "STREET"),
    (&[0x55, 4, 10], "O"),
    (&[0x55, 4, 11], "OU"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 1], "UID"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25], "DC"),
];

/// Bytes of values, one behind the other.
#[derive(Clone, Copy)]
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The next value: its tag and content.
    fn value(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, mut rest) = rest.split_first()?;
        let mut len = usize::from(first);
        if first & 0x80 != 0 {
            let (bytes, after) = rest.split_at_checked(usize::from(first & 0x7f))?;
            if bytes.is_empty() || bytes.len() > 4 {
                return None;
            }
            len = bytes.iter().fold(0, |len, byte| len << 8 | usize::from(*byte));
            rest = after;
        }
        let (content, rest) = rest.split_at_checked(len)?;
        self.0 = rest;
        Some((tag, content))
    }

    /// The next value, which is of `tag`.
    fn of(&mut self, tag: u8) -> Option<Der<'a>> {
        self.value().filter(|(found, _)| *found == tag).map(|(_, content)| Der(content))
    }

    /// The values of `tag` that follow.
    fn all_of(mut self, tag: u8) -> impl Iterator<Item = Der<'a>> {
        std::iter::from_fn(move || self.of(tag))
    }
}

/// Validity and subject of a certificate (RFC 5280 clause 4.1).
fn parts(certificate: &[u8]) -> Option<(Der<'_>, Der<'_>)> {
    let mut fields = Der(certificate).of(SEQUENCE)?.of(SEQUENCE)?;
    if fields.0.first() == Some(&VERSION) {
        fields.value()?;
    }
    fields.of(INTEGER)?;
    let (_algorithm, _issuer) = (fields.of(SEQUENCE)?, fields.of(SEQUENCE)?);
    Some((fields.of(SEQUENCE)?, fields.of(SEQUENCE)?))
}

/// Who `certificate` says its owner is; `None`: it is no certificate.
pub(super) fn identity(certificate: &[u8]) -> Option<Certificate> {
    let (_, subject) = parts(certificate)?;
    let mut common_name = None;
    let mut relative = Vec::new();
    for set in subject.all_of(SET) {
        let mut text = String::new();
        for mut attribute in set.all_of(SEQUENCE) {
            let id = attribute.of(OBJECT_ID)?;
            let (tag, content) = attribute.value()?;
            let value = string(tag, content);
            if !text.is_empty() {
                text.push('+');
            }
            print(&mut text, id.0, value.as_deref(), content);
            if id.0 == COMMON_NAME {
                // What may not be in a user name (MQTT 5 clause 1.5.4) is in no name that one relies on.
                common_name = value.filter(|name| !name.is_empty() && !name.contains(char::is_control));
            }
        }
        relative.push(text);
    }
    relative.reverse();
    Some(Certificate { common_name: common_name.map(ByteString::from), subject: relative.join(",").into() })
}

/// The text of a value (RFC 5280 clause 4.1.2.4); `None`: it is no text.
fn string(tag: u8, content: &[u8]) -> Option<String> {
    match tag {
        // UTF8String; NumericString, PrintableString, IA5String and VisibleString are ASCII.
        0x0c => String::from_utf8(content.to_vec()).ok(),
        0x12 | 0x13 | 0x16 | 0x1a if content.is_ascii() => String::from_utf8(content.to_vec()).ok(),
        // TeletexString is written as ISO 8859-1.
        0x14 => Some(content.iter().copied().map(char::from).collect()),
        // BMPString.
        0x1e if content.len().is_multiple_of(2) => {
            let units =
                content.chunks_exact(2).map(|pair| pair.iter().fold(0, |u, b| u << 8 | u16::from(*b)));
            char::decode_utf16(units).collect::<Result<String, _>>().ok()
        }
        _ => None,
    }
}

/// Appends `CN=value` with what RFC 4514 clause 2.4 escapes; a value that is no text as its bytes.
fn print(text: &mut String, id: &[u8], value: Option<&str>, content: &[u8]) {
    match NAMES.iter().find(|(known, _)| *known == id) {
        Some((_, name)) => text.push_str(name),
        None => text.push_str(&dotted(id)),
    }
    text.push('=');
    let Some(value) = value else {
        text.push('#');
        for byte in content {
            // Writing to a text cannot fail.
            write!(text, "{byte:02x}").ok();
        }
        return;
    };
    let last = value.chars().count().saturating_sub(1);
    for (at, c) in value.chars().enumerate() {
        match c {
            ',' | '+' | '"' | '\\' | '<' | '>' | ';' => text.extend(['\\', c]),
            ' ' if at == 0 || at == last => text.push_str("\\ "),
            '#' if at == 0 => text.push_str("\\#"),
            c if c.is_control() => {
                let mut bytes = [0; 4];
                for byte in c.encode_utf8(&mut bytes).bytes() {
                    write!(text, "\\{byte:02x}").ok();
                }
            }
            c => text.push(c),
        }
    }
}

/// An object identifier as `2.5.4.3` (X.690 clause 8.19).
fn dotted(id: &[u8]) -> String {
    let mut parts = Vec::new();
    let mut part = 0_u64;
    for byte in id {
        part = part << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            if parts.is_empty() {
                let first = (part / 40).min(2);
                parts.push(first.to_string());
                part -= first * 40;
            }
            parts.push(part.to_string());
            part = 0;
        }
    }
    parts.join(".")
}

/// Whether `certificate` is no longer valid at `now`, seconds since the epoch.
pub(super) fn has_ended(certificate: &[u8], now: i64) -> bool {
    not_after(certificate).is_some_and(|end| end < now)
}

/// The last second, since the epoch, at which `certificate` is valid; `None`: it is no certificate.
pub(super) fn not_after(certificate: &[u8]) -> Option<i64> {
    let (mut validity, _) = parts(certificate)?;
    validity.value()?;
    let (tag, time) = validity.value()?;
    let digits = std::str::from_utf8(time).ok()?.strip_suffix('Z')?;
    let (year, rest) = match tag {
        UTC_TIME => {
            let (year, rest) = digits.split_at_checked(2)?;
            let year: i64 = year.parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        GENERALIZED_TIME => {
            let (year, rest) = digits.split_at_checked(4)?;
            (year.parse().ok()?, rest)
        }
        _ => return None,
    };
    let two = |at: usize| rest.get(at..at + 2)?.parse::<i64>().ok();
    let (month, day) = (two(0)?, two(2)?);
    let days = days_since_epoch(year, month, day);
    Some(days * 86_400 + two(4)? * 3_600 + two(6)? * 60 + two(8)?)
}

/// Days from 1970-01-01 to a day of the Gregorian calendar.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    // Years that begin in March have the leap day at their end.
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    /// A value with a short length.
    fn der(tag: u8, content: &[u8]) -> Vec<u8> {
        assert!(content.len() < 256, "longer lengths are not written here");
        let len = u8::try_from(content.len()).unwrap();
        let mut bytes = if len < 128 { vec![tag, len] } else { vec![tag, 0x81, len] };
        bytes.extend(content);
        bytes
    }

    fn attribute(id: &[u8], tag: u8, value: &[u8]) -> Vec<u8> {
        der(SEQUENCE, &[der(OBJECT_ID, id), der(tag, value)].concat())
    }

    fn certificate(subject: &[u8], ends: &[u8]) -> Vec<u8> {
        let validity = [der(UTC_TIME, b"200101000000Z"), ends.to_vec()].concat();
        let fields = [
            der(VERSION, &der(INTEGER, &[2])),
            der(INTEGER, &[1]),
            der(SEQUENCE, &[]),
            der(SEQUENCE, &[]),
            der(SEQUENCE, &validity),
            der(SEQUENCE, subject),
        ];
        der(SEQUENCE, &der(SEQUENCE, &fields.concat()))
    }

    fn subject_of(sets: &[Vec<u8>]) -> Certificate {
        let subject: Vec<u8> = sets.iter().flat_map(|attributes| der(SET, attributes)).collect();
        identity(&certificate(&subject, &der(UTC_TIME, b"300101000000Z"))).unwrap()
    }

    #[test]
    fn the_subject_is_printed_with_the_most_specific_part_first() {
        let found = subject_of(&[
            attribute(&[0x55, 4, 6], 0x13, b"DE"),
            attribute(&[0x55, 4, 10], 0x0c, "Bär, \"Co\"".as_bytes()),
            [attribute(COMMON_NAME, 0x0c, b"sensor-7"), attribute(&[0x55, 4, 5], 0x13, b"42")].concat(),
        ]);
        assert_eq!(found.subject, "CN=sensor-7+serialNumber=42,O=Bär\\, \\\"Co\\\",C=DE");
        assert_eq!(found.common_name.as_deref(), Some("sensor-7"));
    }

    #[test]
    fn the_last_common_name_is_the_name_unless_it_could_deceive() {
        let two = subject_of(&[attribute(COMMON_NAME, 0x0c, b"a"), attribute(COMMON_NAME, 0x1e, b"\0b")]);
        assert_eq!((two.common_name.as_deref(), &*two.subject), (Some("b"), "CN=b,CN=a"));
        let nul = subject_of(&[attribute(COMMON_NAME, 0x0c, b"admin\0.example.com")]);
        assert_eq!((nul.common_name, &*nul.subject), (None, "CN=admin\\00.example.com"));
        let none = subject_of(&[attribute(&[0x2a, 0x03], 0x0c, b"x")]);
        assert_eq!((none.common_name, &*none.subject), (None, "1.2.3=x"));
        let binary = subject_of(&[attribute(COMMON_NAME, 0x0c, &[0xff])]);
        assert_eq!((binary.common_name, &*binary.subject), (None, "CN=#ff"));
    }

    #[test]
    fn the_end_is_a_second_since_the_epoch() {
        let end = |tag, text: &[u8]| not_after(&certificate(&[], &der(tag, text)));
        assert_eq!(end(UTC_TIME, b"700101000000Z"), Some(0));
        assert_eq!(end(UTC_TIME, b"240229123456Z"), Some(1_709_210_096));
        assert_eq!(end(GENERALIZED_TIME, b"20500101000000Z"), Some(2_524_608_000));
        assert_eq!(end(UTC_TIME, b"soon"), None);
        let ended = |now| has_ended(&certificate(&[], &der(UTC_TIME, b"240229123456Z")), now);
        assert!(!ended(1_709_210_096) && ended(1_709_210_097));
    }

    #[test]
    fn what_is_no_certificate_is_none() {
        let whole =
            certificate(&der(SET, &attribute(COMMON_NAME, 0x0c, b"a")), &der(UTC_TIME, b"300101000000Z"));
        assert!(identity(&whole).is_some());
        for cut in 0..whole.len() {
            assert_eq!(identity(&whole[..cut]), None, "the first {cut} bytes");
        }
    }
}
