//! The connect flags and the fields of the payload agree, and the fields are what they must be (clauses 3.1.2.4 to
//! 3.1.2.9, 3.1.3).

use tidegate_conformance::Version::V311;
use tidegate_conformance::refusal::{Case, case, first_on_a_connection};
use tidegate_conformance::wire::{ILL_FORMED, frame, text};
use tidegate_conformance::{Client, Connect, Will, kind, name};

const CLEAN: u8 = 0b10;
const WILL: u8 = 0b100;
const WILL_QOS_1: u8 = 0b1000;
const WILL_RETAIN: u8 = 0b10_0000;
const PASSWORD: u8 = 0b100_0000;
const USER_NAME: u8 = 0b1000_0000;

/// A CONNECT with these flags whose payload has a client id and these fields.
fn with(flags: u8, fields: &[&str]) -> Case {
    let mut tail = Vec::new();
    for field in fields {
        text(&mut tail, field);
    }
    case(format!("flags {flags:08b} and {fields:?}"), Connect::new(V311).flags(flags).tail(tail).encode())
}

/// That they are not answered, whereas `good` is accepted.
#[track_caller]
fn refused<const N: usize>(wrong: [Case; N], good: Case) {
    first_on_a_connection(V311, wrong).without_a_packet();
    let mut client = Client::open(V311);
    client.send(good.1);
    client.expect_bytes(&[0x20, 2, 0, 0]);
    client.disconnect();
}

#[test]
fn mqtt_3_1_2_9_with_the_will_flag_topic_and_message_are_there() {
    let flags = CLEAN | WILL;
    refused(
        [
            with(flags, &[]),
            with(flags, &["topic"]),
            with(flags | WILL_RETAIN | WILL_QOS_1, &["topic"]),
            with(flags | USER_NAME, &["topic", "user"]),
            with(flags | USER_NAME | PASSWORD, &["user", "secret"]),
        ],
        with(flags, &["topic", "message"]),
    );
}

#[test]
fn mqtt_3_1_2_9_will_qos_and_will_retain_are_heeded() {
    for qos in [0, 1, 2] {
        let topic = name("heeded/");
        let mut watcher = Client::new(V311);
        watcher.subscribe(&topic, 2);
        Client::connect(&Connect::new(V311).will(Will::new(&topic, "w").qos(qos).retain())).cut();
        let will = watcher.expect_payload("w");
        assert_eq!((will.qos, will.retain), (qos, false));
        watcher.acknowledge(&will);
        let mut later = Client::new(V311);
        later.subscribe(&topic, 2);
        let will = later.expect_payload("w");
        assert_eq!((will.qos, will.retain), (qos, true));
    }
}

#[test]
fn mqtt_3_1_2_11_without_the_will_flag_there_is_no_will() {
    refused(
        [
            with(CLEAN, &["topic", "message"]),
            with(CLEAN, &["topic"]),
            with(CLEAN | USER_NAME | PASSWORD, &["topic", "message", "user", "secret"]),
            with(CLEAN | WILL_QOS_1 | WILL_RETAIN, &["topic", "message"]),
        ],
        with(CLEAN, &[]),
    );
}

#[test]
fn mqtt_3_1_2_13_without_the_will_flag_will_qos_is_0() {
    refused([1, 2, 3].map(|qos| with(CLEAN | qos << 3, &[])), with(CLEAN, &[]));
}

#[test]
fn mqtt_3_1_2_14_will_qos_is_not_3() {
    let flags = CLEAN | WILL | 0b1_1000;
    let fields = ["topic", "message"];
    refused(
        [with(flags, &fields), with(flags | WILL_RETAIN, &fields)],
        with(CLEAN | WILL | 0b1_0000, &fields),
    );
}

#[test]
fn mqtt_3_1_2_15_without_the_will_flag_will_retain_is_0() {
    refused([with(CLEAN | WILL_RETAIN, &[]), with(WILL_RETAIN, &[])], with(0, &[]));
}

#[test]
fn mqtt_3_1_2_18_without_the_user_name_flag_there_is_no_user_name() {
    refused([with(CLEAN, &["user"]), with(CLEAN | WILL, &["topic", "message", "user"])], with(CLEAN, &[]));
}

#[test]
fn mqtt_3_1_2_19_with_the_user_name_flag_there_is_a_user_name() {
    refused(
        [
            with(CLEAN | USER_NAME, &[]),
            with(CLEAN | USER_NAME | WILL, &["topic", "message"]),
            with(CLEAN | USER_NAME | PASSWORD, &[]),
        ],
        with(CLEAN | USER_NAME, &["user"]),
    );
}

#[test]
fn mqtt_3_1_2_20_without_the_password_flag_there_is_no_password() {
    refused([with(CLEAN | USER_NAME, &["user", "secret"])], with(CLEAN | USER_NAME, &["user"]));
}

#[test]
fn mqtt_3_1_2_21_with_the_password_flag_there_is_a_password() {
    let flags = CLEAN | USER_NAME | PASSWORD;
    refused([with(flags, &["user"]), with(flags, &["user", "a", "b"])], with(flags, &["user", ""]));
}

#[test]
fn mqtt_3_1_2_22_there_is_no_password_without_a_user_name() {
    refused(
        [
            with(CLEAN | PASSWORD, &["secret"]),
            with(CLEAN | PASSWORD, &["user", "secret"]),
            with(CLEAN | PASSWORD | WILL, &["topic", "message", "secret"]),
        ],
        with(CLEAN | PASSWORD | USER_NAME, &["user", "secret"]),
    );
}

#[test]
fn mqtt_3_1_3_1_the_fields_of_the_payload_have_their_order() {
    let (id, topic, message) = (name("order"), name("order/"), name("message"));
    let connect = Connect::new(V311)
        .client_id(&id)
        .will(Will::new(&topic, &message))
        .login(name("user"), name("secret"));
    let mut watcher = Client::new(V311);
    watcher.subscribe(&topic, 0);
    let mut client = Client::connect(&connect);
    // The first field was the client id ..
    let mut other = Client::connect(&Connect::new(V311).client_id(&id));
    client.expect_closed();
    // .. the second the topic and the third the message of the will.
    let will = watcher.expect_publish();
    assert_eq!((will.topic(), will.text()), (topic.as_str(), message));
    other.ping();
}

#[test]
fn mqtt_3_1_3_2_state_is_kept_under_the_client_id() {
    let topic = name("state/");
    let id = name("State");
    let ids = [id.clone(), format!("{id}x"), id.to_lowercase(), format!("{id}/a"), format!("{id} ")];
    for (at, id) in ids.iter().enumerate() {
        let (mut client, answer) = Client::connect_with(&Connect::new(V311).client_id(id).persistent());
        assert!(!answer.session_present, "{id:?}");
        client.subscribe(format!("{topic}/{at}"), 1);
        client.disconnect();
    }
    let mut publisher = Client::new(V311);
    for at in 0..ids.len() {
        publisher.publish(format!("{topic}/{at}"), at.to_string(), 1);
    }
    for (at, id) in ids.iter().enumerate() {
        let (mut client, answer) = Client::connect_with(&Connect::new(V311).client_id(id).persistent());
        assert!(answer.session_present, "{id:?}");
        let own = client.expect_payload(&at.to_string());
        client.acknowledge(&own);
        client.ping();
    }
}

#[test]
fn mqtt_3_1_3_3_the_client_id_is_there_and_first() {
    let header = &Connect::new(V311).client_id("").body()[..10];
    let missing = case("no payload", frame(0x10, header));
    // Only a will: its topic would be taken for the client id, and then the message is missing.
    let mut only_a_will = Connect::new(V311).flags(CLEAN | WILL).client_id("topic").tail("").body();
    text(&mut only_a_will, "message");
    let cut =
        |bytes: &[u8]| case(format!("the client id as {bytes:?}"), frame(0x10, &[header, bytes].concat()));
    refused(
        [
            missing,
            case("only a will", frame(0x10, &only_a_will)),
            cut(&[0]),
            cut(&[0, 1]),
            cut(&[0, 3, b'a', b'b']),
        ],
        cut(&[0, 0]),
    );
}

#[test]
fn mqtt_3_1_3_4_the_client_id_is_utf_8() {
    let cases = ILL_FORMED.map(|(what, bytes)| case(what, Connect::new(V311).client_id(bytes).encode()));
    first_on_a_connection(V311, cases).without_a_packet();
    let nul = case("U+0000", Connect::new(V311).client_id(format!("{}\0", name("nul"))).encode());
    first_on_a_connection(V311, [nul]).without_a_packet();
    Client::connect(&Connect::new(V311).client_id(name("é漢😀"))).disconnect();
}

#[test]
fn mqtt_3_1_3_5_letters_and_digits_up_to_23_are_a_client_id() {
    let characters = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    let all: Vec<char> = characters.chars().collect();
    let turning =
        |start: usize, length: usize| all.iter().cycle().skip(start).take(length).collect::<String>();
    for length in 1..=23 {
        // Every character is in one of them; the names of other tests are never such.
        for start in [length, 23 + length, 46 + length] {
            let connect = Connect::new(V311).client_id(turning(start, length));
            Client::connect(&connect).disconnect();
        }
    }
}

#[test]
fn mqtt_3_1_3_6_an_empty_client_id_is_made_a_unique_one() {
    let nameless = Connect::new(V311).client_id("");
    let topic = name("nameless/");
    let mut clients: Vec<Client> = (0..5).map(|_| Client::connect(&nameless)).collect();
    for client in &mut clients {
        client.subscribe(&topic, 1);
    }
    Client::new(V311).publish(&topic, "to each", 1);
    for client in &mut clients {
        let message = client.expect_payload("to each");
        client.acknowledge(&message);
        client.ping();
    }
    // No session is left to the next one.
    clients.pop().unwrap().cut();
    let (mut client, answer) = Client::connect_with(&nameless);
    assert!(!answer.session_present);
    Client::new(V311).publish(&topic, "not to it", 1);
    client.ping();
}

#[test]
fn mqtt_3_1_3_7_an_empty_client_id_needs_clean_session() {
    let nameless = Connect::new(V311).client_id("").clean(false);
    let cases = [
        case("alone", nameless.clone().encode()),
        case("with a will", nameless.clone().will(Will::new(name("t/"), "m")).encode()),
        case("with a login", nameless.clone().login("u", "p").encode()),
        case("with a keep-alive", nameless.keep_alive(10).encode()),
    ];
    first_on_a_connection(V311, cases).with_return_code(2);
}

#[test]
fn mqtt_3_1_3_8_without_clean_session_it_is_answered_with_code_2() {
    let topic = name("nobody/");
    let mut watcher = Client::new(V311);
    watcher.subscribe(&topic, 0);
    let mut client = Client::open(V311);
    let connect = Connect::new(V311).client_id("").clean(false).will(Will::new(&topic, "of nobody"));
    client.send(connect.encode());
    client.expect_bytes(&[0x20, 2, 0, 2]);
    client.expect_closed();
    // Its will was not kept.
    Client::new(V311).publish(&topic, "end", 0);
    watcher.expect_payload("end");
}

#[test]
fn mqtt_3_1_3_9_a_client_id_is_taken_or_answered_with_code_2() {
    // This server takes 1,024 bytes, unless it is told otherwise (broker.max_client_id_bytes).
    for (length, code) in [(24, 0), (256, 0), (1_024, 0), (1_025, 2), (16_384, 2), (65_535, 2)] {
        let id = name("long").into_bytes().into_iter().chain(std::iter::repeat(b'x')).take(length);
        let mut client = Client::open(V311);
        client.send(Connect::new(V311).client_id(id.collect::<Vec<u8>>()).encode());
        assert_eq!(client.expect_connack().code, code, "a client id of {length} bytes");
        match code {
            0 => client.ping(),
            _ => client.expect_closed(),
        }
    }
}

#[test]
fn mqtt_3_1_3_10_the_will_topic_is_utf_8() {
    let cases =
        ILL_FORMED.map(|(what, bytes)| case(what, Connect::new(V311).will(Will::new(bytes, "m")).encode()));
    first_on_a_connection(V311, cases).without_a_packet();
    let nul = case("U+0000", Connect::new(V311).will(Will::new("a\0b", "m")).encode());
    first_on_a_connection(V311, [nul]).without_a_packet();
    // The message may be any bytes.
    let topic = name("bytes/");
    let mut watcher = Client::new(V311);
    watcher.subscribe(&topic, 1);
    Client::connect(&Connect::new(V311).will(Will::new(&topic, [0xFF, 0, 0xC0]).qos(1))).cut();
    let will = watcher.expect_publish();
    assert_eq!(will.payload, [0xFF, 0, 0xC0]);
    watcher.send_ack(kind::PUBACK, will.id.unwrap());
}

#[test]
fn mqtt_3_1_3_11_the_user_name_is_utf_8() {
    let cases = ILL_FORMED.map(|(what, bytes)| case(what, Connect::new(V311).login(bytes, "p").encode()));
    first_on_a_connection(V311, cases).without_a_packet();
    let nul = case("U+0000", Connect::new(V311).login("a\0b", "p").encode());
    first_on_a_connection(V311, [nul]).without_a_packet();
    // The password may be any bytes.
    Client::connect(&Connect::new(V311).login("é漢😀", [0xFF, 0, 0xC0])).disconnect();
}
