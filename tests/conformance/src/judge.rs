//! What a packet of MQTT 3.1.1 from a client deserves, read from the standard a second time: for packets that nobody has
//! thought of, made by changing right ones.

use crate::wire::Reader;

/// What the server must do with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deserves {
    /// Take it and keep the connection open.
    Open,
    /// Close the connection and send nothing.
    Close,
    /// CONNACK with this return code, and close the connection.
    Code(u8),
    /// The standard leaves it to the server.
    Either,
}

use Deserves::{Close, Code, Either, Open};

/// A packet that is not the first one.
pub fn packet(first: u8, body: &[u8]) -> Deserves {
    let mut reader = Reader::new(body);
    let flags = first & 0x0F;
    let read = match first >> 4 {
        3 => publish(flags, &mut reader),
        4 | 5 | 7 if flags == 0 => identifier(&mut reader),
        6 if flags == 0b0010 => identifier(&mut reader),
        8 if flags == 0b0010 => filters(&mut reader, true),
        10 if flags == 0b0010 => filters(&mut reader, false),
        12 if flags == 0 => Ok(Open),
        14 if flags == 0 => Ok(Close),
        _ => Err("type or flags".into()),
    };
    match read {
        Ok(verdict) if reader.is_empty() => verdict,
        _ => Close,
    }
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP of a message that is not there: all that matters is the form. PUBREL is answered,
/// what becomes of the others is open.
fn identifier(reader: &mut Reader<'_>) -> Result<Deserves, String> {
    reader.id()?;
    Ok(Either)
}

fn publish(flags: u8, reader: &mut Reader<'_>) -> Result<Deserves, String> {
    let (dup, qos) = (flags & 8 != 0, flags >> 1 & 3);
    if qos == 3 || qos == 0 && dup {
        return Err("flags".into());
    }
    let topic = reader.text()?;
    if topic.is_empty() || topic.contains(['+', '#']) {
        return Err("topic".into());
    }
    if qos > 0 {
        reader.id()?;
    }
    reader.rest();
    Ok(of_text(topic))
}

fn filters(reader: &mut Reader<'_>, with_qos: bool) -> Result<Deserves, String> {
    reader.id()?;
    let mut verdict = Open;
    loop {
        let filter = reader.text()?;
        if with_qos && reader.byte()? > 2 {
            return Err("requested QoS".into());
        }
        // A filter that none can be is a violation, or fails alone.
        if filter.is_empty() || !wildcards_stand_right(filter) || of_text(filter) == Either {
            verdict = Either;
        }
        if reader.is_empty() {
            return Ok(verdict);
        }
    }
}

/// Whether wildcards are whole levels and `#` is the last one (clause 4.7.1).
pub fn wildcards_stand_right(filter: &str) -> bool {
    let levels: Vec<&str> = filter.split('/').collect();
    levels.iter().enumerate().all(|(at, level)| match *level {
        "+" => true,
        "#" => at + 1 == levels.len(),
        other => !other.contains(['+', '#']),
    })
}

/// Control characters and non-characters should not be sent, and a receiver may close the connection (clause 1.5.3).
fn of_text(text: &str) -> Deserves {
    let odd =
        |c: char| c.is_control() || u32::from(c) & 0xFFFE == 0xFFFE || ('\u{FDD0}'..='\u{FDEF}').contains(&c);
    if text.contains(odd) { Either } else { Open }
}

/// The body of a CONNECT with the flags 0000.
pub fn connect(body: &[u8]) -> Deserves {
    let mut reader = Reader::new(body);
    let Ok(name) = reader.binary() else { return Close };
    let Ok(level) = reader.byte() else { return Close };
    match (name, level) {
        (b"MQTT", 4) => {}
        // Other rules hold.
        (b"MQTT", 5) | (b"MQIsdp", 3) => return Either,
        // Before the rest is looked at, or after; a packet that ends here is malformed.
        (b"MQTT", _) => return if fields(&mut reader).is_ok() { Code(1) } else { Either },
        // It may be told that the level is not known.
        _ => return Either,
    }
    match fields(&mut reader) {
        Ok(verdict) => verdict,
        Err(_) => Close,
    }
}

/// Flags, keep-alive and payload.
fn fields(reader: &mut Reader<'_>) -> Result<Deserves, String> {
    let flags = reader.byte()?;
    let set = |bit: u8| flags >> bit & 1 == 1;
    let will_qos = flags >> 3 & 3;
    let will = set(2);
    if set(0) || will_qos == 3 || !will && (will_qos > 0 || set(5)) || set(6) && !set(7) {
        return Err("flags".into());
    }
    reader.two()?;
    let client_id = reader.text()?;
    let mut verdict = of_text(client_id);
    if will {
        let topic = reader.text()?;
        if topic.is_empty() || topic.contains(['+', '#']) {
            return Err("will topic".into());
        }
        reader.binary()?;
        if of_text(topic) == Either {
            verdict = Either;
        }
    }
    if set(7) && of_text(reader.text()?) == Either {
        verdict = Either;
    }
    if set(6) {
        reader.binary()?;
    }
    match (reader.is_empty(), client_id.is_empty() && !set(1)) {
        (false, _) => Err("bytes after the end".into()),
        // A control character elsewhere may close it before.
        (true, true) if verdict == Open => Ok(Code(2)),
        (true, _) => Ok(verdict),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_judged_by_the_standard() {
        for (first, body, verdict) in [
            (0x30, &b"\0\x01a"[..], Open),
            (0x38, b"\0\x01a", Close),
            (0x32, b"\0\x01a\0\0", Close),
            (0x32, b"\0\x01a\0\x01", Open),
            (0x30, b"\0\x01#", Close),
            (0x30, b"\0\x01\x01", Either),
            (0x82, b"\0\x01\0\x01a\x02", Open),
            (0x82, b"\0\x01\0\x01a\x03", Close),
            (0x82, b"\0\x01\0\x02a#\0", Either),
            (0x82, b"\0\x01", Close),
            (0xA2, b"\0\x01\0\x01a", Open),
            (0xA2, b"\0\x01\0\x01a\0", Close),
            (0x62, b"\0\x01", Either),
            (0x60, b"\0\x01", Close),
            (0xC0, b"", Open),
            (0xC0, b"x", Close),
            (0xF0, b"", Close),
        ] {
            assert_eq!(packet(first, body), verdict, "{first:#04x} {body:?}");
        }
    }

    #[test]
    fn connects_are_judged_by_the_standard() {
        for (body, verdict) in [
            (&b"\0\x04MQTT\x04\x02\0\0\0\x01a"[..], Open),
            (b"\0\x04MQTT\x04\x02\0\0\0\0", Open),
            (b"\0\x04MQTT\x04\0\0\0\0\0", Code(2)),
            (b"\0\x04MQTT\x06\0\0\0\0\x01a", Code(1)),
            (b"\0\x04MQTT\x04\x03\0\0\0\x01a", Close),
            (b"\0\x04MQTT\x04\x42\0\0\0\x01a\0\x01b", Close),
            (b"\0\x04MQTT\x04\x06\0\0\0\x01a\0\x01b", Close),
            (b"\0\x04MQTT\x04\x02\0\0\0\x01ab", Close),
            (b"\0\x04MQ", Close),
        ] {
            assert_eq!(connect(body), verdict, "{body:?}");
        }
        assert!(
            wildcards_stand_right("+/a/#") && !wildcards_stand_right("#/a") && !wildcards_stand_right("a+")
        );
    }
}
