//! The sequences: something right, then something broken in one of many ways. The same ones at every run.

use std::collections::HashSet;

use tidegate_conformance::Version;
use tidegate_conformance::packet::{PINGREQ, ack, ack_with, auth, disconnect_with};
use tidegate_conformance::property::id;
use tidegate_conformance::wire::{ILL_FORMED, frame, text, variable};
use tidegate_conformance::{Connect, Properties, Publish, Subscribe, Unsubscribe, Will, kind};

use crate::packets::{TARGETS, Target, before, client_id, connect, right};

/// What a client sends on one connection.
#[derive(Clone, Debug)]
pub(crate) struct Sequence {
    /// How it was made.
    pub(crate) what: String,
    /// Everything, CONNECT first where there is one.
    pub(crate) bytes: Vec<u8>,
}

/// At most so many of one way to break one packet: every so manieth of more.
const OF_A_KIND: usize = 60;

/// All sequences of a version, none twice.
pub(crate) fn all(version: Version) -> Vec<Sequence> {
    let mut made = Maker { version, sequences: Vec::new(), seen: HashSet::new() };
    for target in TARGETS {
        for (what, ways) in ways(&right(target, version, 0)) {
            let step = ways.len().div_ceil(OF_A_KIND).max(1);
            for way in ways.iter().step_by(step) {
                made.broken(&format!("{target:?}, {what}"), target, |bytes| way.apply(bytes));
            }
        }
        for seed in 0..40 {
            made.broken(&format!("{target:?}, at random {seed}"), target, |bytes| random(bytes, seed));
        }
    }
    made.out_of_order();
    made.strings();
    made.too_large();
    if version.is_v5() {
        made.properties();
    }
    made.sequences
}

/// One way to break a packet.
#[derive(Clone, Debug)]
enum Way {
    Flip(usize),
    Set(usize, u8),
    /// The body ends early, and the length says so.
    Cut(usize),
    Insert(usize, u8),
    Delete(usize),
    Append(Vec<u8>),
    /// The length is not that of the body: what follows is taken for it, or the rest for a packet.
    Length(usize),
    /// The length in more bytes.
    Longer(usize),
}

/// The ways to break this packet, by kind.
fn ways(packet: &[u8]) -> Vec<(&'static str, Vec<Way>)> {
    let body = packet.len() - header(packet);
    let at = || header(packet)..packet.len();
    vec![
        ("a bit", (0..packet.len() * 8).map(Way::Flip).collect()),
        ("a byte of 0", at().map(|at| Way::Set(at, 0)).collect()),
        ("a byte of FF", at().map(|at| Way::Set(at, 0xFF)).collect()),
        ("a byte of 80", at().map(|at| Way::Set(at, 0x80)).collect()),
        ("cut off", (0..body).map(Way::Cut).collect()),
        ("a byte less", at().map(Way::Delete).collect()),
        ("a 0 more", at().map(|at| Way::Insert(at, 0)).collect()),
        ("an FF more", at().map(|at| Way::Insert(at, 0xFF)).collect()),
        ("a letter more", at().map(|at| Way::Insert(at, b'a')).collect()),
        (
            "something behind",
            [&[0][..], &[0xFF], PINGREQ, b"\0\0", b"\0\x01a", b"\0\x01a\0", &[0x26, 0, 0, 0, 0]]
                .map(|bytes| Way::Append(bytes.into()))
                .to_vec(),
        ),
        ("a wrong length", (0..body + 12).filter(|length| *length != body).map(Way::Length).collect()),
        ("a longer length", (2..=5).map(Way::Longer).collect()),
    ]
}

/// How many bytes of a packet are its fixed header.
fn header(packet: &[u8]) -> usize {
    2 + packet.iter().skip(1).take_while(|byte| *byte & 0x80 != 0).count()
}

impl Way {
    fn apply(&self, packet: &[u8]) -> Vec<u8> {
        let at = header(packet);
        let (first, body) = (packet[0], &packet[at..]);
        let with = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut body = body.to_vec();
            change(&mut body);
            frame(first, &body)
        };
        match self {
            Self::Flip(bit) => {
                let mut packet = packet.to_vec();
                packet[bit / 8] ^= 1 << (bit % 8);
                packet
            }
            Self::Set(place, byte) => {
                let mut packet = packet.to_vec();
                packet[*place] = *byte;
                packet
            }
            Self::Cut(length) => frame(first, &body[..*length]),
            Self::Insert(place, byte) => with(&|body| body.insert(place - at, *byte)),
            Self::Delete(place) => with(&|body| drop(body.drain(place - at..=place - at))),
            Self::Append(bytes) => with(&|body| body.extend(bytes)),
            Self::Length(length) => {
                let mut packet = vec![first];
                variable(&mut packet, *length);
                packet.extend(body);
                packet
            }
            Self::Longer(digits) => {
                let mut length = vec![0x80; digits - 1];
                length[0] |= u8::try_from(body.len() & 0x7F).unwrap();
                if let Some(second) = length.get_mut(1) {
                    *second |= u8::try_from(body.len() >> 7).unwrap();
                }
                length.push(if *digits == 2 { u8::try_from(body.len() >> 7).unwrap() } else { 0 });
                [&[first][..], &length, body].concat()
            }
        }
    }
}

/// Two to five changes at places that `seed` decides.
fn random(packet: &[u8], seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x2545_F491_4F6C_DD1D;
    let mut next = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 33).unwrap() % below.max(1)
    };
    let mut packet = packet.to_vec();
    for _ in 0..2 + next(4) {
        let at = header(&packet);
        let place = at + next(packet.len() - at);
        let byte = u8::try_from(next(256)).unwrap();
        let way = match next(4) {
            0 if place < packet.len() => Way::Set(place, byte),
            1 if place < packet.len() => Way::Delete(place),
            2 => Way::Flip(next(packet.len() * 8)),
            _ => Way::Insert(place, byte),
        };
        packet = way.apply(&packet);
        if packet.len() < 2 || header(&packet) > packet.len() {
            break;
        }
    }
    packet
}

struct Maker {
    version: Version,
    sequences: Vec<Sequence>,
    /// The broken packets so far.
    seen: HashSet<Vec<u8>>,
}

impl Maker {
    /// A right beginning, then `target` as `change` makes it, then enough for a length that is too great.
    fn broken(&mut self, what: &str, target: Target, change: impl Fn(&[u8]) -> Vec<u8>) {
        // The same change twice shows with the same number.
        if self.seen.insert(change(&right(target, self.version, 0))) {
            let number = self.sequences.len();
            let broken = change(&right(target, self.version, number));
            if target.is_connect() {
                self.push(what, broken);
            } else {
                self.after_connect(what, &broken);
            }
        }
    }

    fn after_connect(&mut self, what: &str, broken: &[u8]) {
        let number = self.sequences.len();
        let bytes = [&connect(self.version, number)[..], &before(self.version, number), broken].concat();
        self.push(what, bytes);
    }

    fn push(&mut self, what: &str, mut bytes: Vec<u8>) {
        bytes.extend(PINGREQ.repeat(8));
        let what = format!("{:?} {}: {what}", self.version, self.sequences.len());
        self.sequences.push(Sequence { what, bytes });
    }

    /// Right packets at the wrong time, and packets that no client sends.
    fn out_of_order(&mut self) {
        let version = self.version;
        for target in TARGETS.iter().filter(|target| !target.is_connect()) {
            self.push(&format!("{target:?} first"), right(*target, version, 0));
            let number = self.sequences.len();
            let late = [right(*target, version, 0), connect(version, number)].concat();
            self.push(&format!("{target:?} before CONNECT"), late);
        }
        for target in TARGETS.iter().filter(|target| target.is_connect()) {
            for _ in 0..5 {
                let again = right(*target, version, self.sequences.len());
                self.after_connect(&format!("{target:?} again"), &again);
            }
        }
        for first in 0..=u8::MAX {
            self.after_connect("a first byte and nothing", &[first, 0]);
            self.push("a first byte first", vec![first, 0]);
        }
        for (what, bytes) in [
            ("CONNACK", frame(0x20, &[0, 0, 0])),
            ("CONNACK of 3.1.1", frame(0x20, &[0, 0])),
            ("SUBACK", frame(0x90, &[0, 10, 0, 0])),
            ("UNSUBACK", frame(0xB0, &[0, 13, 0, 0])),
            ("PINGRESP", frame(0xD0, &[])),
            ("AUTH", auth(0x18, &Properties::new().text(id::AUTHENTICATION_METHOD, "m"))),
            ("AUTH again", auth(0x19, &Properties::new())),
            ("a prolonged session", disconnect_with(0, &Properties::new().four(id::SESSION_EXPIRY, 9))),
            ("HTTP", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()),
            ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xFC\x03\x03".repeat(4)),
            ("zeros", vec![0; 64]),
            ("ones", vec![0xFF; 64]),
        ] {
            for _ in 0..5 {
                self.after_connect(what, &bytes);
            }
            self.push(what, bytes);
        }
        if version.is_v5() {
            for code in 0..=u8::MAX {
                for kind in [kind::PUBACK, kind::PUBREC, kind::PUBREL, kind::PUBCOMP] {
                    if usize::from(code) % 4 == usize::from(kind - kind::PUBACK) {
                        self.after_connect("a reason code", &ack_with(kind, 61, code, &Properties::new()));
                    }
                }
                self.after_connect("a reason code", &disconnect_with(code, &Properties::new()));
            }
        } else {
            for kind in [kind::PUBACK, kind::PUBREC, kind::PUBREL, kind::PUBCOMP] {
                let mut longer = ack(kind, 61);
                longer[1] = 3;
                longer.push(0);
                self.after_connect("a reason code of MQTT 5", &longer);
            }
            for options in 0..=u8::MAX {
                self.after_connect(
                    "subscription options",
                    &Subscribe::new(62).filter("malformed/o", options).encode(version),
                );
            }
        }
    }

    /// Bad strings, names and filters where there can be some.
    fn strings(&mut self) {
        let version = self.version;
        let bad = ILL_FORMED.iter().map(|(_, bytes)| bytes.to_vec()).chain(
            ["\0", "a\0", "a/\0/b", "", "#/a", "a#", "a/#/b", "+a", "a+/b", "a/+b", "##", "++"]
                .map(|text| text.into()),
        );
        for text in bad {
            let what = format!("{:?}", String::from_utf8_lossy(&text));
            self.after_connect(&format!("PUBLISH to {what}"), &Publish::new(&text, "x").encode(version));
            self.after_connect(
                &format!("QoS 2 to {what}"),
                &Publish::new(&text, "x").qos(2, 71).encode(version),
            );
            self.after_connect(
                &format!("SUBSCRIBE to {what}"),
                &Subscribe::new(72).filter(&text, 0).encode(version),
            );
            let second = Subscribe::new(73).filter("malformed/good", 0).filter(&text, 0);
            self.after_connect(&format!("SUBSCRIBE to another and {what}"), &second.encode(version));
            self.after_connect(
                &format!("UNSUBSCRIBE from {what}"),
                &Unsubscribe::new(74).filter(&text).encode(version),
            );
            let connect = |number| Connect::new(version).client_id(client_id(version, number));
            let will = connect(self.sequences.len()).will(Will::new(&text, "x"));
            self.push(&format!("a will for {what}"), will.encode());
            let login = connect(self.sequences.len()).login(&text, "x");
            self.push(&format!("the user {what}"), login.encode());
            self.push(&format!("the client {what}"), connect(0).client_id(&text).clean(false).encode());
        }
        for filter in
            ["$share/", "$share//a", "$share/g", "$share/g/", "$share/+/a", "$share/g#/a", "$share/g/a#"]
        {
            self.after_connect(filter, &Subscribe::new(75).filter(filter, 0).encode(version));
        }
    }

    /// Lengths that no packet can have, or that the server does not take.
    fn too_large(&mut self) {
        for first in [0x30, 0x32, 0x40, 0x50, 0x62, 0x70, 0x82, 0xA2, 0xC0, 0xE0] {
            for length in [1_048_573, 1_048_577, 2_097_151, 2_097_152, 268_435_455] {
                let mut bytes = vec![first];
                variable(&mut bytes, length);
                self.after_connect(&format!("{length} bytes of {first:#04x}"), &bytes);
            }
            for last in [0, 1, 0x7F, 0x80, 0xFF] {
                self.after_connect("a length of five bytes", &[first, 0xFF, 0xFF, 0xFF, 0xFF, last]);
            }
        }
        for last in [0, 1, 0x7F, 0x80, 0xFF] {
            self.push("a first length of five bytes", vec![0x10, 0xFF, 0xFF, 0xFF, 0xFF, last]);
        }
    }

    /// Every property in every packet: where it does not belong, twice, cut off, and with other values.
    fn properties(&mut self) {
        for id in (0..=0x2C).chain([0x7F, 0x80, 0xFF]) {
            for value in [
                &[0][..],
                &[1],
                &[2],
                &[0, 0],
                &[0, 1],
                b"\0\x01a",
                &[0, 0, 0, 0],
                &[0, 0, 0, 1],
                b"\0\x01a\0\x01b",
            ] {
                let once = Properties::new().raw(&[id]).raw(value);
                let twice = once.clone().raw(&[id]).raw(value);
                // Packets and repetitions in turn: all together they would be too many.
                let turn = self.sequences.len();
                for properties in [once, twice] {
                    self.with_properties(turn, &properties);
                    self.with_properties(turn + 3, &properties);
                }
            }
        }
        let mut pair = vec![id::USER];
        text(&mut pair, b"n");
        text(&mut pair, b"v\xFF");
        for turn in 0..8 {
            self.with_properties(turn, &Properties::new().raw(&pair));
        }
    }

    fn with_properties(&mut self, turn: usize, properties: &Properties) {
        let what = format!("properties {:02X?}", properties.raw);
        let properties = properties.clone();
        let bytes = match turn % 7 {
            0 => Publish::new("malformed/p", "x").properties(properties).encode(Version::V5),
            1 => Subscribe::new(81).filter("malformed/p", 0).properties(properties).encode(Version::V5),
            2 => Unsubscribe::new(82).filter("malformed/p").properties(properties).encode(Version::V5),
            3 => ack_with(kind::PUBREL, 83, 0, &properties),
            4 => disconnect_with(0, &properties),
            5 => {
                let id = client_id(Version::V5, self.sequences.len());
                let connect = Connect::new(Version::V5).client_id(id).properties(properties);
                return self.push(&format!("CONNECT, {what}"), connect.encode());
            }
            _ => {
                let id = client_id(Version::V5, self.sequences.len());
                let will = Will::new("malformed/p", "w").properties(properties);
                let connect = Connect::new(Version::V5).client_id(id).will(will);
                return self.push(&format!("will, {what}"), connect.encode());
            }
        };
        self.after_connect(&what, &bytes);
    }
}
