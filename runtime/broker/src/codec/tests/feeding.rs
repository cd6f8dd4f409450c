//! How bytes are cut into reads makes no difference.

use bytes::{BufMut, BytesMut};
use tidegate_event::Protocol::{V5, V31, V311};

use super::{LIMITS, samples};
use crate::codec::{CodecError, Decoder, Incoming};

type Outcome = (Vec<Incoming>, Option<CodecError>);

/// What comes of `pieces`, fed one after the other.
fn feed<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
    let mut decoder = Decoder::new(LIMITS);
    let mut buffer = BytesMut::new();
    let mut packets = Vec::new();
    for piece in pieces {
        buffer.put_slice(piece);
        loop {
            match decoder.decode(&mut buffer) {
                Ok(Some(packet)) => packets.push(packet),
                Ok(None) => break,
                Err(error) => return (packets, Some(error)),
            }
        }
    }
    (packets, None)
}

fn streams() -> Vec<Vec<u8>> {
    let good = [V31, V311, V5]
        .map(|protocol| [&[super::connect(protocol)], &samples::packets(protocol)[..]].concat().concat());
    good.into_iter().chain(samples::BAD.map(<[u8]>::to_vec)).collect()
}

#[test]
fn the_samples_are_good_and_bad() {
    for protocol in [V31, V311, V5] {
        let sent = samples::packets(protocol);
        let (packets, error) = feed([super::connect(protocol), &sent.concat()]);
        assert_eq!((packets.len(), error), (1 + sent.len(), None));
    }
    for bad in samples::BAD {
        assert!(feed([bad]).1.is_some(), "{bad:x?}");
    }
}

#[test]
fn byte_by_byte_is_as_good_as_whole() {
    for stream in streams() {
        assert_eq!(feed(stream.chunks(1)), feed([&stream[..]]), "{stream:x?}");
    }
}

#[test]
fn a_cut_anywhere_changes_nothing() {
    for stream in streams() {
        let whole = feed([&stream[..]]);
        for at in 0..=stream.len() {
            assert_eq!(feed([&stream[..at], &stream[at..]]), whole, "cut at {at}: {stream:x?}");
        }
    }
}

#[test]
fn an_incomplete_packet_takes_nothing_and_says_what_is_missing() {
    let mut decoder = super::connected(V311);
    let packet = b"\x30\x05\x00\x01ahi";
    for end in 0..packet.len() {
        let mut buffer = BytesMut::from(&packet[..end]);
        assert_eq!(decoder.decode(&mut buffer), Ok(None));
        assert_eq!(buffer.len(), end);
        assert_eq!(decoder.missing(end), if end < 2 { 1 } else { packet.len() - end });
    }
    let mut buffer = BytesMut::from(&packet[..]);
    assert!(matches!(decoder.decode(&mut buffer), Ok(Some(Incoming::Publish(_)))));
    assert_eq!((decoder.decode(&mut buffer), decoder.missing(0)), (Ok(None), 1));
}

#[test]
fn a_publish_shares_the_buffer_and_a_connect_does_not() {
    let mut buffer = BytesMut::from(super::connect(V311));
    buffer.put_slice(b"\x30\x05\x00\x01ahi");
    let range = buffer.as_ptr_range();
    let mut decoder = Decoder::new(LIMITS);
    let Ok(Some(Incoming::Connect(connect))) = decoder.decode(&mut buffer) else { panic!() };
    assert!(!range.contains(&connect.client_id.as_ptr()));
    let Ok(Some(Incoming::Publish(publish))) = decoder.decode(&mut buffer) else { panic!() };
    assert!(range.contains(&publish.payload.as_ptr()));
    assert!(range.contains(&publish.topic.unwrap().as_str().as_ptr()));
}
