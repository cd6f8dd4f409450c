//! Whether a stream of bytes from a client must be refused, by the words of MQTT 3.1, 3.1.1 and 5: the second opinion
//! that the server's behaviour is held against.
//!
//! It reads the packets one after the other until one breaks a rule. What a server may do this way or that, it calls
//! [`Verdict::Open`]: such a stream is no case. MQTT 3.1 leaves much: bits that it calls "not used" may be looked at or not.

use tidegate_conformance::kind;
use tidegate_conformance::wire::{Reader, Version};

use crate::properties::{self, Section, Sent};

/// The greatest packet that the server takes, as its CONNACK says by default.
pub(crate) const MAX_PACKET: usize = 1024 * 1024;
/// The greatest topic alias that it takes, as its CONNACK says by default.
const MAX_ALIAS: usize = 32;
/// Characters of a client id in MQTT 3.1, at most (its clause 3.1).
const MAX_CLIENT_ID_V31: usize = 23;

/// What must become of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Every packet is right: the server goes on.
    Served,
    /// The client said good-bye; what follows does not matter.
    Left,
    /// The server must end the connection.
    Refused(Refusal),
    /// Not to be told: the last packet is not whole, or the standard leaves it to the server.
    Open,
}

/// Why a stream must be refused, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The rule.
    pub(crate) rule: &'static str,
    /// Whether CONNECT was accepted before.
    pub(crate) connected: bool,
    /// The client's version, when CONNECT says it.
    pub(crate) version: Option<Version>,
    /// Reason codes that fit; before MQTT 5 a return code of CONNACK, or none.
    pub(crate) codes: Vec<u8>,
    /// What the right packets before it are answered by.
    pub(crate) answers: Answers,
}

/// How many packets of each type right packets are answered by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Answers([usize; 16]);

impl Answers {
    /// Counts the answer to a right packet by its first byte.
    fn expect(&mut self, first: u8) {
        let answer = match (first >> 4, first >> 1 & 3) {
            (kind::PUBLISH, 1) => kind::PUBACK,
            (kind::PUBLISH, 2) => kind::PUBREC,
            (kind::PUBREC, _) => kind::PUBREL,
            (kind::PUBREL, _) => kind::PUBCOMP,
            (kind::SUBSCRIBE, _) => kind::SUBACK,
            (kind::UNSUBSCRIBE, _) => kind::UNSUBACK,
            (kind::PINGREQ, _) => kind::PINGRESP,
            _ => return,
        };
        self.0[usize::from(answer)] += 1;
    }

    /// A type of answer that is more often among these first bytes than right packets asked for it: to a packet that had
    /// to be refused, or to one that followed it.
    pub(crate) fn too_many(&self, firsts: impl Iterator<Item = u8>) -> Option<u8> {
        let mut left = self.0;
        for kind in firsts.map(|first| first >> 4) {
            if !matches!(kind, kind::PUBACK..=kind::PUBCOMP | kind::SUBACK | kind::UNSUBACK | kind::PINGRESP)
            {
                continue;
            }
            let left = &mut left[usize::from(kind)];
            *left = match left.checked_sub(1) {
                Some(left) => left,
                None => return Some(kind),
            };
        }
        None
    }
}

/// A broken rule, with the codes that tell of it better than "malformed" and "protocol error" do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The connection must end.
    Broken(&'static str, &'static [u8]),
    /// The server may take it or not.
    Open,
}

impl From<&'static str> for Fault {
    fn from(rule: &'static str) -> Self {
        Self::Broken(rule, &[])
    }
}

impl From<String> for Fault {
    fn from(_: String) -> Self {
        Self::Broken("a field is cut off or no string", &[])
    }
}

/// What is known of a connection.
struct Connection {
    version: Option<Version>,
    connected: bool,
    /// Session expiry of CONNECT.
    expiry: u32,
    /// Aliases that stand for a topic.
    aliases: Vec<usize>,
    /// What the packets so far are answered by.
    answers: Answers,
}

/// Judges everything that a client sends on a connection.
pub(crate) fn judge(mut stream: &[u8]) -> Verdict {
    let mut connection = Connection {
        version: None,
        connected: false,
        expiry: 0,
        aliases: Vec::new(),
        answers: Answers::default(),
    };
    while let Some((first, rest)) = stream.split_first() {
        let (remaining, digits) = match remaining_length(rest) {
            Ok(found) => found,
            Err(fault) => return connection.verdict(fault),
        };
        if let Err(fault) = connection.header(*first) {
            return connection.verdict(fault);
        }
        // Before MQTT 5 nothing was said about more bytes than needed.
        if digits > shortest(remaining) {
            let fault = if connection.version == Some(Version::V5) {
                "an overlong length".into()
            } else {
                Fault::Open
            };
            return connection.verdict(fault);
        }
        if 1 + digits + remaining > MAX_PACKET {
            // CONNECT shows its version only in its body, which need not be there.
            let fault = if connection.connected { Fault::Broken("too large", &[0x95]) } else { Fault::Open };
            return connection.verdict(fault);
        }
        let Some(body) = rest.get(digits..digits + remaining) else { return Verdict::Open };
        match connection.packet(*first, body) {
            Ok(true) => {
                connection.answers.expect(*first);
                stream = &rest[digits + remaining..];
            }
            Ok(false) => return Verdict::Left,
            Err(fault) => return connection.verdict(fault),
        }
    }
    Verdict::Served
}

/// The number after the first byte, and how many bytes it takes.
fn remaining_length(rest: &[u8]) -> Result<(usize, usize), Fault> {
    match rest.iter().take(4).position(|byte| byte & 0x80 == 0) {
        Some(at) => {
            let value = rest[..=at].iter().rev().fold(0, |sum, byte| sum << 7 | usize::from(byte & 0x7F));
            Ok((value, at + 1))
        }
        None if rest.len() >= 4 => Err("a length of more than four bytes".into()),
        None => Err(Fault::Open),
    }
}

/// How many bytes a number needs.
fn shortest(value: usize) -> usize {
    match value {
        0..128 => 1,
        128..16_384 => 2,
        16_384..2_097_152 => 3,
        _ => 4,
    }
}

impl Connection {
    fn verdict(&self, fault: Fault) -> Verdict {
        let Fault::Broken(rule, better) = fault else { return Verdict::Open };
        let codes = match (better, self.version) {
            // There is only one way to say this.
            (&[0x95], _) => vec![0x95],
            (better, Some(Version::V5)) => [&[0x81, 0x82], better].concat(),
            (better, _) => better.to_vec(),
        };
        let answers = self.answers.clone();
        Verdict::Refused(Refusal { rule, connected: self.connected, version: self.version, codes, answers })
    }

    fn v5(&self) -> bool {
        self.version == Some(Version::V5)
    }

    fn v31(&self) -> bool {
        self.version == Some(Version::V31)
    }

    /// Packet type and flags.
    fn header(&self, first: u8) -> Result<(), Fault> {
        let (kind, flags) = (first >> 4, first & 0x0F);
        if !self.connected {
            return match (kind, flags) {
                (1, 0) => Ok(()),
                (1, _) => Err("flags of CONNECT".into()),
                _ => Err("the first packet is not CONNECT".into()),
            };
        }
        match kind {
            1 => Err("a second CONNECT".into()),
            2 | 9 | 11 | 13 => Err("a packet that only a server sends".into()),
            0 => Err("the reserved type".into()),
            15 if !self.v5() => Err("a type that is reserved in this version".into()),
            3 if flags >> 1 & 3 == 3 => Err("QoS 3".into()),
            // MQTT 3.1 says where DUP tells something, and not that it is 0 elsewhere (its clause 2.1).
            3 if flags & 0b1110 == 0b1000 && self.v31() => Err(Fault::Open),
            3 if flags & 0b1110 == 0b1000 => Err("DUP at QoS 0".into()),
            3 => Ok(()),
            6 | 8 | 10 if flags == 2 => Ok(()),
            4 | 5 | 7 | 12 | 14 | 15 if flags == 0 => Ok(()),
            // There, what is sent again has DUP, too; these packets are of QoS 1, and RETAIN is not used.
            6 | 8 | 10 if self.v31() && flags == 0b1010 => Ok(()),
            6 | 8 | 10 if self.v31() && flags & 0b0110 == 2 => Err(Fault::Open),
            // In these no flag is.
            4 | 5 | 7 | 12 | 14 if self.v31() => Err(Fault::Open),
            _ => Err("reserved flags".into()),
        }
    }

    /// The body of a packet whose header is right. False: it is a good-bye.
    fn packet(&mut self, first: u8, body: &[u8]) -> Result<bool, Fault> {
        let mut reader = Reader::new(body);
        match first >> 4 {
            1 => self.connect(&mut reader)?,
            3 => self.publish(first, &mut reader)?,
            4..=7 => self.ack(first >> 4, &mut reader)?,
            8 => self.subscribe(&mut reader)?,
            10 => self.unsubscribe(&mut reader)?,
            14 => {
                self.disconnect(&mut reader)?;
                return Ok(false);
            }
            15 => return Err("AUTH without a method".into()),
            _ => {}
        }
        if reader.is_empty() { Ok(true) } else { Err("bytes after the last field".into()) }
    }

    fn connect(&mut self, reader: &mut Reader<'_>) -> Result<(), Fault> {
        let unknown = || Fault::Broken("an unknown protocol", &[]);
        let name = reader.binary().map_err(|_| unknown())?;
        let level = reader.byte().map_err(|_| unknown())?;
        self.version = match (name, level) {
            (b"MQTT", 4) => Some(Version::V311),
            (b"MQTT", 5) => Some(Version::V5),
            (b"MQIsdp", 3) => Some(Version::V31),
            _ => return Err(unknown()),
        };
        let flags = reader.byte()?;
        let [clean, will, password, user] = [2, 4, 0x40, 0x80].map(|bit| flags & bit != 0);
        // MQTT 3.1 does not use bit 0, and passes over what is said of a will that is not there.
        if flags & 1 != 0 && !self.v31() {
            return Err("the reserved connect flag".into());
        }
        if !will && flags & 0b11_1000 != 0 && !self.v31() {
            return Err("flags of a will that is not there".into());
        }
        if will && flags & 0b1_1000 == 0b1_1000 {
            return Err("will QoS 3".into());
        }
        if !self.v5() && password && !user {
            return Err("a password without a user name".into());
        }
        reader.two()?;
        let mut sent = Sent::default();
        if self.v5() {
            sent = properties::read(reader, Section::Connect)?;
        }
        let client_id = self.text(reader)?;
        let characters = client_id.chars().count();
        let unwanted = match self.version {
            Some(Version::V31) if !(1..=MAX_CLIENT_ID_V31).contains(&characters) => {
                Some("a client id that has not 1 to 23 characters")
            }
            Some(Version::V311) if !clean && characters == 0 => {
                Some("an empty client id without a clean session")
            }
            _ => None,
        };
        if let Some(rule) = unwanted {
            // The only error that has an answer before MQTT 5 (3.1.3-8); what follows is not looked at.
            return Err(Fault::Broken(rule, &[2]));
        }
        let mut unchecked = false;
        if will {
            let will = match self.v5() {
                true => properties::read(reader, Section::Will)?,
                false => Sent::default(),
            };
            topic_name(self.topic(reader)?)?;
            let payload = reader.binary()?;
            // Whether it is text as it says need not be looked at.
            unchecked = will.says_text && std::str::from_utf8(payload).is_err();
        }
        if user && !self.may_end_at(reader) {
            self.text(reader)?;
        }
        if password && !self.may_end_at(reader) {
            reader.binary()?;
        }
        if !reader.is_empty() {
            return Err("bytes after the last field".into());
        }
        if sent.has_data && !sent.has_method {
            return Err("authentication data without a method".into());
        }
        if sent.has_method {
            return Err(Fault::Broken("an unknown method", &[0x8C, 0x87]));
        }
        if unchecked || sent.maximum_packet_size.is_some_and(|most| most < 200) {
            // CONNACK may not fit.
            return Err(Fault::Open);
        }
        self.expiry = sent.session_expiry.unwrap_or(0);
        self.connected = true;
        Ok(())
    }

    /// Whether user name or password may be missing although their flags are set: MQTT 3.1 lets a CONNECT end before them
    /// (its clause 3.1).
    fn may_end_at(&self, reader: &Reader<'_>) -> bool {
        self.v31() && reader.is_empty()
    }

    /// A string that is no topic. Of topics alone MQTT 3.1 says that they have no U+0000 (its appendix A).
    fn text<'a>(&self, reader: &mut Reader<'a>) -> Result<&'a str, Fault> {
        let bytes = reader.binary()?;
        if self.v31() && (bytes.contains(&0) || may_be_of_java(bytes)) {
            return Err(Fault::Open);
        }
        usual(bytes)
    }

    /// A topic name or filter.
    fn topic<'a>(&self, reader: &mut Reader<'a>) -> Result<&'a str, Fault> {
        let bytes = reader.binary()?;
        if self.v31() && may_be_of_java(bytes) {
            return Err(Fault::Open);
        }
        usual(bytes)
    }

    fn publish(&mut self, first: u8, reader: &mut Reader<'_>) -> Result<(), Fault> {
        let topic = self.topic(reader)?;
        if first & 0b110 != 0 {
            id(reader)?;
        }
        if !self.v5() {
            topic_name(topic)?;
            reader.rest();
            return Ok(());
        }
        let sent = properties::read(reader, Section::Publish)?;
        let payload = reader.rest();
        if !topic.is_empty() {
            topic_name(topic)?;
        }
        match sent.topic_alias {
            Some(alias) if alias > MAX_ALIAS => {
                return Err(Fault::Broken("an alias above the maximum", &[0x94]));
            }
            Some(alias) if topic.is_empty() && !self.aliases.contains(&alias) => {
                return Err(Fault::Broken("an alias that stands for nothing", &[0x94]));
            }
            Some(alias) => self.aliases.push(alias),
            None if topic.is_empty() => return Err(Fault::Broken("an empty topic", &[0x90])),
            None => {}
        }
        if sent.says_text && std::str::from_utf8(payload).is_err() {
            // A server may look.
            return Err(Fault::Open);
        }
        Ok(())
    }

    fn ack(&self, kind: u8, reader: &mut Reader<'_>) -> Result<(), Fault> {
        id(reader)?;
        if !self.v5() || reader.is_empty() {
            return Ok(());
        }
        let code = reader.byte()?;
        let known = match kind {
            4 | 5 => matches!(code, 0 | 0x10 | 0x80 | 0x83 | 0x87 | 0x90 | 0x91 | 0x97 | 0x99),
            _ => matches!(code, 0 | 0x92),
        };
        if !known {
            return Err("an unknown reason code".into());
        }
        if !reader.is_empty() {
            properties::read(reader, Section::Ack)?;
        }
        Ok(())
    }

    fn subscribe(&self, reader: &mut Reader<'_>) -> Result<(), Fault> {
        id(reader)?;
        if self.v5() {
            properties::read(reader, Section::Subscribe)?;
        }
        if reader.is_empty() {
            return Err(self.no_filter());
        }
        while !reader.is_empty() {
            let filter = self.topic(reader)?;
            let options = reader.byte()?;
            let reserved = if self.v5() { 0b1100_0000 } else { 0b1111_1100 };
            if self.v31() && options & 3 != 3 && options & reserved != 0 {
                // "Not used", and of QoS 3 alone it is said that it ends the connection (its clause 3.8).
                return Err(Fault::Open);
            }
            if options & reserved != 0 || options & 3 == 3 || options >> 4 & 3 == 3 {
                return Err("subscription options".into());
            }
            let plain = self.unshared(filter)?;
            if plain.len() < filter.len() && options & 0b100 != 0 {
                return Err("no local on a shared subscription".into());
            }
            topic_filter(plain)?;
        }
        Ok(())
    }

    /// What a SUBSCRIBE or UNSUBSCRIBE without a filter is: MQTT 3.1 does not say that there is one.
    fn no_filter(&self) -> Fault {
        if self.v31() { Fault::Open } else { "no filter".into() }
    }

    /// The filter behind `$share/<name>/`.
    fn unshared<'a>(&self, filter: &'a str) -> Result<&'a str, Fault> {
        let Some(rest) = filter.strip_prefix("$share/") else { return Ok(filter) };
        if !self.v5() {
            // Shared subscriptions are no part of the standard before MQTT 5.
            return Err(Fault::Open);
        }
        match rest.split_once('/') {
            Some((name, filter)) if !name.is_empty() && !name.contains(['+', '#']) && !filter.is_empty() => {
                Ok(filter)
            }
            _ => Err(Fault::Broken("a shared filter", &[0x8F])),
        }
    }

    fn unsubscribe(&self, reader: &mut Reader<'_>) -> Result<(), Fault> {
        id(reader)?;
        if self.v5() {
            properties::read(reader, Section::Unsubscribe)?;
        }
        if reader.is_empty() {
            return Err(self.no_filter());
        }
        let mut misplaced = false;
        while !reader.is_empty() {
            let filter = self.topic(reader)?;
            if filter.is_empty() {
                return Err(Fault::Broken("an empty filter", &[0x8F]));
            }
            misplaced |= topic_filter(filter).is_err() || filter.starts_with("$share/");
        }
        // Nobody can have subscribed to it: to end the connection or to say so is up to the server.
        if misplaced { Err(Fault::Open) } else { Ok(()) }
    }

    fn disconnect(&self, reader: &mut Reader<'_>) -> Result<(), Fault> {
        if self.v5() && !reader.is_empty() {
            let code = reader.byte()?;
            if !matches!(code, 0 | 4 | 0x80..=0x83 | 0x90 | 0x93..=0x99) {
                return Err("an unknown reason code".into());
            }
            if !reader.is_empty() {
                let sent = properties::read(reader, Section::Disconnect)?;
                if self.expiry == 0 && sent.session_expiry.is_some_and(|seconds| seconds > 0) {
                    return Err("a session that was to end is prolonged".into());
                }
            }
        }
        if reader.is_empty() { Ok(()) } else { Err("bytes after the last field".into()) }
    }
}

/// A string. With characters that should not be there a receiver may take it or not (MQTT 3.1.1 clause 1.5.3, MQTT 5
/// clause 1.5.4): control characters, and those that are none.
pub(crate) fn text<'a>(reader: &mut Reader<'a>) -> Result<&'a str, Fault> {
    usual(reader.binary()?)
}

/// The string of these bytes, if it has only characters that should be there.
fn usual(bytes: &[u8]) -> Result<&str, Fault> {
    let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
    if text.contains('\0') {
        return Err("U+0000 in a string".into());
    }
    let none = |character: char| {
        let code = u32::from(character);
        (0xFDD0..=0xFDEF).contains(&code) || code & 0xFFFE == 0xFFFE
    };
    if text.chars().any(|character| character.is_control() || none(character)) {
        return Err(Fault::Open);
    }
    Ok(text)
}

/// Whether bytes that are no UTF-8 may be a string all the same in MQTT 3.1, which names the format of Java (its clause
/// 2.5): that has U+0000 in two bytes, and what is above U+FFFF as two surrogates.
fn may_be_of_java(bytes: &[u8]) -> bool {
    bytes.windows(2).any(|pair| matches!(pair, [0xC0, 0x80] | [0xED, 0xA0..=0xBF]))
}

fn id(reader: &mut Reader<'_>) -> Result<(), Fault> {
    if reader.two()? == 0 { Err("packet identifier 0".into()) } else { Ok(()) }
}

fn topic_name(topic: &str) -> Result<(), Fault> {
    if topic.is_empty() || topic.contains(['+', '#']) {
        return Err(Fault::Broken("a topic name", &[0x90]));
    }
    Ok(())
}

fn topic_filter(filter: &str) -> Result<(), Fault> {
    let levels: Vec<&str> = filter.split('/').collect();
    let last = levels.len() - 1;
    let good = levels.iter().enumerate().all(|(at, level)| match *level {
        "#" => at == last,
        "+" => true,
        level => !level.contains(['+', '#']),
    });
    if filter.is_empty() || !good {
        return Err(Fault::Broken("a topic filter", &[0x8F]));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tidegate_conformance::Version::{V5, V31, V311};
    use tidegate_conformance::wire::frame;
    use tidegate_conformance::{Connect, Properties, Publish, Subscribe};

    use super::*;

    fn after_connect(version: Version, bytes: &[u8]) -> Verdict {
        let mut stream = Connect::new(version).encode();
        stream.extend(bytes);
        judge(&stream)
    }

    #[test]
    fn what_is_right_is_served() {
        for version in [V31, V311, V5] {
            assert_eq!(after_connect(version, &[]), Verdict::Served);
            assert_eq!(after_connect(version, &[0xC0, 0]), Verdict::Served);
            assert_eq!(
                after_connect(version, &Publish::new("a", "x").qos(2, 1).encode(version)),
                Verdict::Served
            );
            assert_eq!(
                after_connect(version, &Subscribe::new(1).filter("a/+/#", 2).encode(version)),
                Verdict::Served
            );
            assert_eq!(after_connect(version, &[0xE0, 0, 0, 0]), Verdict::Left);
        }
        let alias = |topic| Publish::new(topic, "x").properties(Properties::new().two(0x23, 1)).encode(V5);
        assert_eq!(after_connect(V5, &[alias("a"), alias("")].concat()), Verdict::Served);
    }

    #[test]
    fn what_is_wrong_is_refused() {
        for version in [V311, V5] {
            for bytes in [
                &[0x00, 0][..],
                &[0x30, 0],
                &[0x36, 5, 0, 1, b'a', 0, 1],
                &[0x38, 3, 0, 1, b'a'],
                &[0x32, 5, 0, 1, b'a', 0, 0],
                &[0x80, 0],
                &[0x82, 2, 0, 1],
                &[0xC0, 1, 0],
                &[0xC0, 0x80, 0x80, 0x80, 0x80],
                &[0x30, 0xFF, 0xFF, 0xFF, 0x7F],
                &[0x10, 0],
            ] {
                let verdict = after_connect(version, bytes);
                assert!(
                    matches!(&verdict, Verdict::Refused(refusal) if refusal.connected),
                    "{bytes:02X?}: {verdict:?}"
                );
            }
            assert!(matches!(judge(&[0xC0, 0]), Verdict::Refused(refusal) if !refusal.connected));
        }
    }

    #[test]
    fn mqtt_3_1_has_its_own_rules_and_leaves_the_rest() {
        let first = |connect: Connect| judge(&connect.encode());
        let connect = || Connect::new(V31);
        for served in [connect().flags(0b11), connect().flags(0b11_1010), connect().flags(0b1100_0010)] {
            assert_eq!(first(served.clone()), Verdict::Served, "{served:?}");
        }
        for wrong in [connect().client_id(""), connect().client_id("x".repeat(24))] {
            let verdict = first(wrong);
            assert!(
                matches!(&verdict, Verdict::Refused(refusal) if refusal.codes == [2] && !refusal.connected),
                "{verdict:?}"
            );
        }
        assert!(matches!(first(connect().flags(0b0100_0010)), Verdict::Refused(_)), "a password alone");
        let subscribe = |first, options| frame(first, &Subscribe::new(1).filter("a", options).body(V31));
        assert_eq!(after_connect(V31, &subscribe(0x8A, 1)), Verdict::Served, "sent again");
        for open in [
            subscribe(0x83, 1),
            subscribe(0x82, 4),
            vec![0xC1, 0],
            vec![0x38, 3, 0, 1, b'a'],
            vec![0x82, 2, 0, 1],
            b"\x30\x06\0\x04\xED\xA0\x80b".to_vec(),
        ] {
            assert_eq!(after_connect(V31, &open), Verdict::Open, "{open:02X?}");
        }
        for wrong in
            [subscribe(0x80, 1), subscribe(0x82, 3), vec![0x36, 5, 0, 1, b'a', 0, 1], vec![0xC0, 1, 0]]
        {
            let verdict = after_connect(V31, &wrong);
            assert!(matches!(&verdict, Verdict::Refused(_)), "{wrong:02X?}: {verdict:?}");
        }
    }

    #[test]
    fn only_right_packets_are_answered() {
        let publish = Publish::new("a", "x").qos(1, 1).encode(V5);
        let bad = [&[0x32, 5, 0, 1, b'a', 0, 0][..], &[0xC0, 0]].concat();
        let Verdict::Refused(refusal) = after_connect(V5, &[&publish[..], &[0xC0, 0], &bad].concat()) else {
            panic!("it must be refused")
        };
        let too_many = |firsts: &[u8]| refusal.answers.too_many(firsts.iter().copied());
        assert_eq!(too_many(&[0x20, 0x40, 0xD0, 0xE0]), None);
        assert_eq!(too_many(&[0x20, 0x30, 0xE0]), None, "they need not come");
        assert_eq!(too_many(&[0x40, 0x40]), Some(kind::PUBACK));
        assert_eq!(too_many(&[0xD0, 0xD0]), Some(kind::PINGRESP));
        assert_eq!(too_many(&[0x90]), Some(kind::SUBACK));
    }

    #[test]
    fn what_is_not_whole_is_open() {
        for version in [V31, V311, V5] {
            let bytes = Connect::new(version).encode();
            for length in 1..bytes.len() {
                assert_eq!(judge(&bytes[..length]), Verdict::Open);
            }
        }
    }
}
