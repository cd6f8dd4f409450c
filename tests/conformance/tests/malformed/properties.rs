//! Properties by the table of MQTT 5 clause 2.2.2.2, for the second opinion.

use tidegate_conformance::wire::Reader;

use crate::oracle::{Fault, text};

/// Where a client sends them: a column of the table.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Section {
    /// CONNECT.
    Connect,
    /// The will in CONNECT.
    Will,
    /// PUBLISH.
    Publish,
    /// PUBACK, PUBREC, PUBREL and PUBCOMP.
    Ack,
    /// SUBSCRIBE.
    Subscribe,
    /// UNSUBSCRIBE.
    Unsubscribe,
    /// DISCONNECT.
    Disconnect,
}

/// What matters of them later.
#[derive(Default)]
pub(crate) struct Sent {
    /// Session expiry.
    pub(crate) session_expiry: Option<u32>,
    /// Maximum packet size.
    pub(crate) maximum_packet_size: Option<u32>,
    /// Topic alias.
    pub(crate) topic_alias: Option<usize>,
    /// The payload is text, it says.
    pub(crate) says_text: bool,
    /// Authentication method.
    pub(crate) has_method: bool,
    /// Authentication data.
    pub(crate) has_data: bool,
}

/// The identifiers that a client may send in `section`, but for the user property, which may be anywhere.
fn allowed(section: Section) -> &'static [u8] {
    match section {
        Section::Connect => &[0x11, 0x21, 0x27, 0x22, 0x19, 0x17, 0x15, 0x16],
        Section::Will => &[0x18, 0x01, 0x02, 0x03, 0x08, 0x09],
        Section::Publish => &[0x01, 0x02, 0x23, 0x08, 0x09, 0x03],
        Section::Ack => &[0x1F],
        Section::Subscribe => &[0x0B],
        Section::Unsubscribe => &[],
        Section::Disconnect => &[0x11, 0x1F],
    }
}

/// Reads the length and the properties.
pub(crate) fn read(reader: &mut Reader<'_>, section: Section) -> Result<Sent, Fault> {
    let length = reader.variable()?;
    let mut body = Reader::new(reader.take(length)?);
    let mut sent = Sent::default();
    let mut seen = Vec::new();
    while !body.is_empty() {
        let id = u8::try_from(body.variable()?).map_err(|_| "an unknown property")?;
        if id == 0x26 {
            text(&mut body)?;
            text(&mut body)?;
            continue;
        }
        if !allowed(section).contains(&id) {
            return Err("a property that does not belong there".into());
        }
        if seen.contains(&id) {
            return Err("a property twice".into());
        }
        seen.push(id);
        value(&mut body, id, &mut sent)?;
    }
    Ok(sent)
}

fn value(body: &mut Reader<'_>, id: u8, sent: &mut Sent) -> Result<(), Fault> {
    match id {
        0x01 => sent.says_text = flag(body)?,
        0x17 | 0x19 => drop(flag(body)?),
        0x02 | 0x18 => drop(body.four()?),
        0x11 => sent.session_expiry = Some(body.four()?),
        0x27 => match body.four()? {
            0 => return Err("a maximum packet size of 0".into()),
            most => sent.maximum_packet_size = Some(most),
        },
        0x21 => {
            if body.two()? == 0 {
                return Err("a receive maximum of 0".into());
            }
        }
        0x22 => drop(body.two()?),
        0x23 => match body.two()? {
            0 => return Err(Fault::Broken("topic alias 0", &[0x94])),
            alias => sent.topic_alias = Some(alias.into()),
        },
        0x0B => {
            if body.variable()? == 0 {
                return Err("a subscription identifier of 0".into());
            }
        }
        0x08 => {
            let topic = text(body)?;
            if topic.is_empty() || topic.contains(['+', '#']) {
                return Err(Fault::Broken("a response topic", &[0x90]));
            }
        }
        0x15 => {
            text(body)?;
            sent.has_method = true;
        }
        0x16 => {
            body.binary()?;
            sent.has_data = true;
        }
        0x09 => drop(body.binary()?),
        // The rest of what is allowed is text.
        _ => drop(text(body)?.len()),
    }
    Ok(())
}

fn flag(body: &mut Reader<'_>) -> Result<bool, Fault> {
    match body.byte()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err("neither 0 nor 1".into()),
    }
}
