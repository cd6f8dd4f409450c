//! Frames decoded whole, in pieces, and those that are wrong.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A frame as a client sends it.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    header(0, payload.len(), &mut bytes);
    bytes[0] = first;
    bytes[1] |= MASKED;
    bytes.extend(MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// Decodes `bytes` in pieces of `size`.
fn decode(bytes: &[u8], size: usize) -> (Frames, Vec<u8>, Result<(), Violation>) {
    let mut frames = Frames::new();
    let mut payload = Vec::new();
    for piece in bytes.chunks(size) {
        let mut piece = piece.to_vec();
        let (len, result) = frames.decode(&mut piece);
        payload.extend(&piece[..len]);
        if result.is_err() {
            return (frames, payload, result);
        }
    }
    (frames, payload, Ok(()))
}

#[test]
fn payloads_follow_one_another_however_they_are_cut() {
    let long: Vec<u8> = (0..70_000_u32).map(|n| n as u8).collect();
    let bytes = [
        frame(0x82, b"one"),
        frame(0x02, b"tw"),
        frame(0x89, b"ping"),
        frame(0x00, b""),
        frame(0x80, b"o"),
        frame(0x82, &long[..300]),
        frame(0x8a, b"nobody asked"),
        frame(0x82, &long),
    ]
    .concat();
    let expected = [b"one", &b"two"[..], &long[..300], &long].concat();
    for size in [1, 2, 3, 5, 7, 64, 1_000, bytes.len()] {
        let (mut frames, payload, result) = decode(&bytes, size);
        assert_eq!(result, Ok(()), "pieces of {size}");
        assert!(payload == expected, "pieces of {size}: {} bytes of {}", payload.len(), expected.len());
        let (ping, len) = frames.take_ping().unwrap();
        assert_eq!(&ping[..len], b"ping");
        assert!(!frames.has_ping() && frames.closed().is_none());
    }
}

#[test]
fn what_follows_a_close_is_not_looked_at() {
    let bytes = [frame(0x82, b"a"), frame(0x88, &[3, 0xe9, b'x']), frame(0x81, b"b")].concat();
    let (frames, payload, result) = decode(&bytes, bytes.len());
    assert_eq!((frames.closed(), &*payload, result), (Some(1001), &b"a"[..], Ok(())));
    assert_eq!(decode(&frame(0x88, b""), 64).0.closed(), Some(1000));
}

#[test]
fn each_violation_is_found_as_soon_as_it_shows() {
    let mut overlong = frame(0x82, &[0; 126]);
    overlong[3] = 125;
    let long_ping = frame(0x89, &[0; 126]);
    for (bytes, expected) in [
        (frame(0x81, b"text"), Violation::Text),
        (frame(0x01, b"text"), Violation::Text),
        (vec![0x82, 0x01, b'a'], Violation::Unmasked),
        (frame(0xc2, b"a"), Violation::Reserved),
        (frame(0x92, b"a"), Violation::Reserved),
        (frame(0x83, b"a"), Violation::Kind),
        (frame(0x8b, b"a"), Violation::Kind),
        (frame(0x80, b"a"), Violation::Order),
        ([frame(0x02, b"a"), frame(0x82, b"b")].concat(), Violation::Order),
        (frame(0x09, b"a"), Violation::Control),
        (long_ping, Violation::Control),
        (frame(0x88, b"a"), Violation::Control),
        (overlong, Violation::Length),
        (vec![0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 1, 2, 3, 4], Violation::Length),
        (vec![0x82, 0xff, 0x80, 0, 0, 0, 0, 1, 0, 0, 1, 2, 3, 4], Violation::Length),
    ] {
        for size in [1, 64] {
            assert_eq!(decode(&bytes, size).2, Err(expected), "{bytes:02x?} in pieces of {size}");
        }
    }
    assert_eq!(decode(&[0x81], 1).2, Err(Violation::Text), "one byte is enough");
}

#[test]
fn what_was_good_before_a_violation_is_kept() {
    let bytes = [frame(0x82, b"good"), frame(0x81, b"bad")].concat();
    assert_eq!(decode(&bytes, bytes.len()).1, b"good");
}

#[test]
fn headers_are_as_short_as_they_can_be() {
    for (len, expected) in [
        (0, vec![0x82, 0]),
        (125, vec![0x82, 125]),
        (126, vec![0x82, 126, 0, 126]),
        (65_535, vec![0x82, 126, 0xff, 0xff]),
        (65_536, vec![0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
    ] {
        let mut output = Vec::new();
        binary_header(len, &mut output);
        assert_eq!(output, expected, "{len}");
    }
}

/// Whatever comes, in whatever pieces: the payload is never longer than what it came in, and a violation does not depend on
/// where the pieces were cut.
#[test]
fn any_bytes_end_in_payload_or_a_violation() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..20_000 {
        let mut bytes: Vec<u8> = (0..random() % 40).map(|_| random() as u8).collect();
        // Mostly frames that begin well, so that what follows is looked at.
        if let [first, second, ..] = &mut *bytes
            && random() % 8 != 0
        {
            *first = [0x82, 0x02, 0x80, 0x89, 0x8a, 0x88][random() as usize % 6];
            *second = MASKED | (*second & 0x0f);
        }
        let (whole, payload, result) = decode(&bytes, bytes.len().max(1));
        assert!(payload.len() <= bytes.len());
        let size = random() as usize % 5 + 1;
        let (pieces, in_pieces, result_of_pieces) = decode(&bytes, size);
        assert_eq!(
            (&payload, result, whole.closed()),
            (&in_pieces, result_of_pieces, pieces.closed()),
            "{bytes:02x?} {size}"
        );
    }
}
