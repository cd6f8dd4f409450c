//! What CONNACK says (MQTT 5 clause 3.2): what the server grants, its limits, or why a CONNECT was refused.

use bytes::BytesMut;
use bytestring::ByteString;
use tidegate_event::{Protocol, ReasonCode};
use tokio::io::{AsyncRead, AsyncWrite};

use super::aliases::Aliases;
use super::close::hang_up;
use super::output::Output;
use super::packets::has_stated_format;
use crate::broker::Shared;
use crate::codec::{
    CodecError, ConnAck, ConnAckProperties, Connect, Decoder, Outgoing, Terms, encode_within,
};
use crate::config::BrokerConfig;
use crate::reason;

/// In [`BrokerConfig::response_information`], stands for the client's id.
const CLIENT_ID: &str = "${clientid}";

/// What the client that sent `connect` takes of what it is sent.
pub(super) fn terms(shared: &Shared, connect: &Connect) -> Terms {
    let most = connect.properties.maximum_packet_size.unwrap_or(u32::MAX);
    Terms {
        max_packet: usize::try_from(most).unwrap_or(usize::MAX),
        reason_strings: shared.config.reason_strings,
        problem_information: connect.properties.request_problem_information != Some(false),
    }
}

/// What may be said to a client whose CONNECT could not be read. Unless it came to say how large its packets may be, they
/// are as small as possible.
pub(super) fn terms_so_far(shared: &Shared, decoder: &Decoder) -> Terms {
    Terms {
        max_packet: decoder.client_takes().unwrap_or(usize::MAX),
        reason_strings: shared.config.reason_strings && decoder.client_takes().is_some(),
        problem_information: false,
    }
}

/// The aliases that what is sent to the client may have.
pub(super) fn aliases(shared: &Shared, connect: &Connect) -> Aliases {
    let taken = connect.properties.topic_alias_maximum.unwrap_or(0);
    Aliases::new(taken.min(shared.config.max_topic_alias_out))
}

/// The keep-alive that the client must keep to, seconds; 0 = none.
pub(super) fn keep_alive(config: &BrokerConfig, connect: &Connect) -> u16 {
    match (connect.keep_alive, config.max_keep_alive) {
        (asked, 0) => asked,
        // Nobody can tell an earlier version: closing on it for keeping to what it asked for would help nobody.
        (asked, _) if !connect.protocol.is_v5() => asked,
        (0, most) => most,
        (asked, most) => asked.min(most),
    }
}

/// A client id for a client that has none: unique, and not to be guessed, because who knows a client's id can take its
/// session over.
///
/// # Errors
/// The system has no random bits to give.
pub(super) fn new_client_id() -> Result<ByteString, getrandom::Error> {
    let mut bits = [0; 16];
    getrandom::fill(&mut bits)?;
    Ok(ByteString::from(format!("auto-{}", base32(u128::from_be_bytes(bits)))))
}

/// `number` in 26 letters and digits (RFC 4648, lower case).
fn base32(number: u128) -> String {
    const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let digit =
        |place: u32| DIGITS.get((number >> (5 * place) & 31) as usize).map_or('a', |&d| char::from(d));
    (0..26).rev().map(digit).collect()
}

/// How many times as long as a client id a user name may be: some are tokens.
const USER_NAME: usize = 4;

/// Why a CONNECT that can be read is refused, whoever the client is: code and words.
/// `only_v31`: it was agreed that the client is one of MQTT 3.1.
pub(super) fn objection(
    config: &BrokerConfig,
    connect: &Connect,
    only_v31: bool,
) -> Option<(ReasonCode, &'static str)> {
    if only_v31 && connect.protocol != Protocol::V31 {
        return Some((reason::UNSUPPORTED_VERSION, "the sub-protocol of this version of MQTT is mqtt"));
    }
    if connect.client_id.len() > config.max_client_id_bytes {
        return Some((reason::CLIENT_ID_NOT_VALID, "the client id is too long"));
    }
    let longest = config.max_client_id_bytes.saturating_mul(USER_NAME);
    if connect.username.as_ref().is_some_and(|name| name.len() > longest) {
        return Some((ReasonCode::BAD_USER_NAME_OR_PASSWORD, "the user name is too long"));
    }
    if connect.properties.authentication_method.is_some() {
        // Clause 4.12: there is no method this server knows.
        return Some((reason::BAD_AUTHENTICATION_METHOD, "enhanced authentication is not supported"));
    }
    let will = connect.will.as_ref()?;
    if will.qos > config.max_qos {
        return Some((reason::QOS_NOT_SUPPORTED, "the will's QoS is above the server's maximum"));
    }
    if will.retain && !config.retain_available {
        return Some((reason::RETAIN_NOT_SUPPORTED, "the will is to be retained, which is not supported"));
    }
    if config.check_payload_format && !has_stated_format(&will.payload, will.properties.as_deref()) {
        return Some((reason::PAYLOAD_FORMAT_INVALID, "the will is not the UTF-8 text it is said to be"));
    }
    None
}

/// The answer to a client that is connected. What differs from what the client asked for, or would have to assume, is
/// named; what is not (wildcards, shared subscriptions, subscription identifiers) is there.
pub(super) fn accepted(
    config: &BrokerConfig,
    connect: &Connect,
    client_id: &ByteString,
    expiry: u32,
    session_present: bool,
) -> Outgoing {
    let mut properties = ConnAckProperties::default();
    if connect.protocol.is_v5() {
        let asked = connect.properties.session_expiry.unwrap_or(0);
        let keep_alive = keep_alive(config, connect);
        let asks = connect.properties.request_response_information;
        properties = ConnAckProperties {
            session_expiry: (expiry != asked).then_some(expiry),
            receive_maximum: (config.window() != u16::MAX).then(|| config.window()),
            maximum_packet_size: Some(config.max_packet_bytes),
            assigned_client_id: connect.client_id.is_empty().then(|| client_id.clone()),
            topic_alias_maximum: (config.max_topic_alias > 0).then_some(config.max_topic_alias),
            reason_string: None,
            server_keep_alive: (keep_alive != connect.keep_alive).then_some(keep_alive),
            maximum_qos: (config.max_qos.level() < 2).then(|| config.max_qos.level()),
            retain_available: (!config.retain_available).then_some(false),
            response_information: (asks && !config.response_information.is_empty())
                .then(|| config.response_information.replace(CLIENT_ID, client_id).into()),
        };
    }
    Outgoing::ConnAck(Box::new(ConnAck { session_present, reason: ReasonCode::SUCCESS, properties }))
}

/// Whether the client takes `packet`.
pub(super) fn fits(packet: &Outgoing, protocol: Protocol, terms: Terms) -> bool {
    encode_within(packet, protocol, terms, &mut BytesMut::new())
}

/// The answer to a CONNECT that is refused with `code`. Without `text` it says what the code means.
pub(super) fn refusal(code: ReasonCode, text: Option<ByteString>) -> Outgoing {
    Outgoing::ConnAck(Box::new(ConnAck {
        session_present: false,
        reason: code,
        properties: ConnAckProperties { reason_string: text, ..ConnAckProperties::default() },
    }))
}

/// In which version a refused CONNECT is answered; `None`: not at all (MQTT 5 clause 3.1.4, 4.13.1).
pub(super) fn answer_version(error: &CodecError, decoder: &Decoder) -> Option<Protocol> {
    match error {
        CodecError::UnsupportedVersion { .. } => Some(Protocol::V311),
        CodecError::UnknownProtocol { level: 5 } => Some(Protocol::V5),
        CodecError::ClientId { .. } => decoder.protocol(),
        _ => decoder.protocol().filter(|protocol| protocol.is_v5()),
    }
}

/// Sends a last packet, if the client takes it, and closes.
pub(super) async fn farewell<S: AsyncRead + AsyncWrite + Unpin>(
    shared: &Shared,
    stream: S,
    packet: &Outgoing,
    protocol: Protocol,
    terms: Terms,
) {
    let mut output = Output::default();
    if !encode_within(packet, protocol, terms, output.encoded()) {
        tracing::debug!("the client takes no packet that could tell it why it is refused");
    }
    hang_up(shared, stream, output, true).await;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn ids_are_made_of_all_the_bits() {
        assert_eq!(base32(0), "a".repeat(26));
        assert_eq!(base32(u128::MAX), format!("h{}", "7".repeat(25)));
        assert_eq!(base32(33), format!("{}bb", "a".repeat(24)));
        let (one, two) = (new_client_id().unwrap(), new_client_id().unwrap());
        assert_eq!((one.len(), two.len()), (31, 31));
        assert_ne!(one, two);
    }
}
