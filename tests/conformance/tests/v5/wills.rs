//! Wills (MQTT 5 clauses 3.1.2.5 to 3.1.2.7, 3.1.3.2 to 3.1.3.4, 3.14.4).

use std::thread::sleep;
use std::time::{Duration, Instant};

use tidegate_conformance::packet::{DISCONNECT, disconnect_with};
use tidegate_conformance::property::{Value, id};
use tidegate_conformance::{Client, Connect, Packet, Properties, Publish, Version::V5, Will, name};

/// A client that will see the wills on `topic`.
fn watcher(topic: &str) -> Client {
    let mut watcher = Client::new(V5);
    watcher.subscribe(topic, 2);
    watcher
}

/// Nothing but `payload`, which is published now, comes to `watcher`: no will came before, none comes soon.
#[track_caller]
fn only(watcher: &mut Client, topic: &str, payload: &str) {
    Client::new(V5).publish(topic, payload, 0);
    watcher.expect_payload(payload);
    watcher.expect_silence();
}

/// Session expiry in CONNECT.
fn expiry(seconds: u32) -> Properties {
    Properties::new().four(id::SESSION_EXPIRY, seconds)
}

/// Will delay in the will's properties.
fn delay(seconds: u32) -> Properties {
    Properties::new().four(id::WILL_DELAY, seconds)
}

#[test]
fn mqtt_3_1_2_7_a_will_is_kept_as_long_as_the_connection() {
    let topic = name("wills/kept");
    let mut watcher = watcher(&topic);
    let mut client = Client::connect(&Connect::new(V5).will(Will::new(&topic, "gone")));
    client.ping();
    only(&mut watcher, &topic, "not yet");
    client.cut();
    let will = watcher.expect_payload("gone");
    assert_eq!((will.topic(), will.qos, will.retain, will.dup), (&*topic, 0, false, false));
}

#[test]
fn mqtt_3_1_2_8_a_will_follows_the_end_of_the_socket() {
    let topic = name("wills/cut");
    let mut watcher = watcher(&topic);
    Client::connect(&Connect::new(V5).will(Will::new(&topic, "cut"))).cut();
    watcher.expect_payload("cut");
}

#[test]
fn mqtt_3_1_2_8_a_will_follows_a_protocol_error() {
    let topic = name("wills/error");
    let mut watcher = watcher(&topic);
    let mut client = Client::connect(&Connect::new(V5).will(Will::new(&topic, "error")));
    client.send([0x00, 0]);
    client.expect_end();
    watcher.expect_payload("error");
}

#[test]
fn mqtt_3_1_2_8_a_will_follows_silence() {
    let topic = name("wills/silence");
    let mut watcher = watcher(&topic);
    let mut client = Client::connect(&Connect::new(V5).keep_alive(1).will(Will::new(&topic, "silent")));
    watcher.expect_payload("silent");
    client.expect_end();
}

#[test]
fn mqtt_3_1_2_8_a_will_follows_a_take_over() {
    let topic = name("wills/taken");
    let mut watcher = watcher(&topic);
    let connect = Connect::new(V5);
    let _older = Client::connect(&connect.clone().will(Will::new(&topic, "taken over")));
    let _newer = Client::connect(&connect);
    watcher.expect_payload("taken over");
}

#[test]
fn mqtt_3_1_2_8_a_will_follows_disconnect_with_another_code() {
    // 0x04 asks for it; the others leave it in force (clause 3.14.4).
    for reason in [0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99] {
        let topic = name("wills/reason");
        let mut watcher = watcher(&topic);
        let mut client = Client::connect(&Connect::new(V5).will(Will::new(&topic, format!("{reason:#04x}"))));
        client.send(disconnect_with(reason, &Properties::new()));
        client.expect_closed();
        watcher.expect_payload(&format!("{reason:#04x}"));
    }
}

#[test]
fn mqtt_3_1_2_8_a_delayed_will_waits() {
    let topic = name("wills/delayed");
    let mut watcher = watcher(&topic);
    let connect = Connect::new(V5).properties(expiry(60));
    Client::connect(&connect.will(Will::new(&topic, "delayed").properties(delay(1)))).cut();
    let start = Instant::now();
    let will = watcher.expect_payload("delayed");
    assert!(start.elapsed() > Duration::from_millis(900), "{:?}", start.elapsed());
    assert_eq!(will.properties.get(id::WILL_DELAY), None, "the delay is not part of the message");
}

#[test]
fn mqtt_3_1_2_8_the_end_of_the_session_ends_the_delay() {
    let topic = name("wills/session");
    let mut watcher = watcher(&topic);
    // No session: at once.
    let will = Will::new(&topic, "no session").properties(delay(60));
    Client::connect(&Connect::new(V5).will(will)).cut();
    watcher.expect_payload("no session");
    // A session that ends before the delay.
    let will = Will::new(&topic, "short session").properties(delay(60));
    Client::connect(&Connect::new(V5).properties(expiry(1)).will(will)).cut();
    let start = Instant::now();
    watcher.expect_payload("short session");
    assert!(start.elapsed() > Duration::from_millis(900), "{:?}", start.elapsed());
    // A session that the client throws away.
    let connect = Connect::new(V5).properties(expiry(60));
    let will = Will::new(&topic, "clean start").properties(delay(60));
    Client::connect(&connect.clone().will(will)).cut();
    let _client = Client::connect(&connect.clean(true));
    watcher.expect_payload("clean start");
}

#[test]
fn mqtt_3_1_2_8_disconnect_may_leave_a_delayed_will() {
    let topic = name("wills/asked");
    let mut watcher = watcher(&topic);
    let connect = Connect::new(V5).properties(expiry(60));
    let mut client = Client::connect(&connect.will(Will::new(&topic, "asked for").properties(delay(1))));
    client.send(disconnect_with(0x04, &Properties::new()));
    client.expect_closed();
    let start = Instant::now();
    watcher.expect_payload("asked for");
    assert!(start.elapsed() > Duration::from_millis(900), "{:?}", start.elapsed());
}

#[test]
fn mqtt_3_1_2_10_a_will_is_published_once() {
    let topic = name("wills/once");
    let mut watcher = watcher(&topic);
    let connect = Connect::new(V5).properties(expiry(60)).clean(false);
    Client::connect(&connect.clone().will(Will::new(&topic, "once"))).cut();
    watcher.expect_payload("once");
    // The session goes on without it.
    Client::connect(&connect).cut();
    only(&mut watcher, &topic, "nothing more");
}

#[test]
fn mqtt_3_1_2_10_a_withdrawn_will_is_gone() {
    let topic = name("wills/withdrawn");
    let mut watcher = watcher(&topic);
    let connect = Connect::new(V5).properties(expiry(60)).clean(false);
    Client::connect(&connect.clone().will(Will::new(&topic, "withdrawn"))).disconnect();
    Client::connect(&connect).cut();
    only(&mut watcher, &topic, "nothing");
}

#[test]
fn mqtt_3_1_2_12_the_will_has_its_qos() {
    for qos in 0..=2 {
        let topic = name("wills/qos");
        let mut watcher = watcher(&topic);
        Client::connect(&Connect::new(V5).will(Will::new(&topic, "w").qos(qos))).cut();
        let will = watcher.expect_payload("w");
        assert_eq!(will.qos, qos);
        watcher.acknowledge(&will);
    }
}

#[test]
fn mqtt_3_1_2_14_a_will_without_retain_is_not_retained() {
    let topic = name("wills/passing");
    let mut watcher = watcher(&topic);
    Client::new(V5).publish_retained(&topic, "kept", 1);
    watcher.expect_payload("kept");
    Client::connect(&Connect::new(V5).will(Will::new(&topic, "passing"))).cut();
    watcher.expect_payload("passing");
    let mut late = Client::new(V5);
    late.subscribe(&topic, 0);
    assert!(late.expect_payload("kept").retain);
    late.expect_silence();
}

#[test]
fn mqtt_3_1_2_15_a_will_with_retain_is_retained() {
    let topic = name("wills/retained");
    let mut watcher = watcher(&topic);
    Client::connect(&Connect::new(V5).will(Will::new(&topic, "stays").retain())).cut();
    assert!(!watcher.expect_payload("stays").retain, "to a subscription that was there");
    let mut late = Client::new(V5);
    late.subscribe(&topic, 0);
    assert!(late.expect_payload("stays").retain);
}

#[test]
fn mqtt_3_1_2_15_an_empty_retained_will_removes_what_is_retained() {
    let topic = name("wills/empty");
    let mut watcher = watcher(&topic);
    Client::new(V5).publish_retained(&topic, "to be removed", 1);
    watcher.expect_payload("to be removed");
    Client::connect(&Connect::new(V5).will(Will::new(&topic, "").retain())).cut();
    watcher.expect_payload("");
    let mut late = Client::new(V5);
    late.subscribe(&topic, 0);
    late.ping();
    late.expect_silence();
}

#[test]
fn mqtt_3_1_3_9_a_client_that_is_back_in_time_has_no_will_sent() {
    let topic = name("wills/back");
    let mut watcher = watcher(&topic);
    let connect = Connect::new(V5).properties(expiry(60)).clean(false);
    Client::connect(&connect.clone().will(Will::new(&topic, "too early").properties(delay(1)))).cut();
    sleep(Duration::from_millis(200));
    let mut client = Client::connect(&connect);
    sleep(Duration::from_millis(1_800));
    only(&mut watcher, &topic, "no will");
    client.ping();
}

#[test]
fn mqtt_3_1_3_9_a_take_over_cancels_a_delayed_will() {
    let topic = name("wills/cancelled");
    let mut watcher = watcher(&topic);
    let connect = Connect::new(V5).properties(expiry(60)).clean(false);
    let older = Client::connect(&connect.clone().will(Will::new(&topic, "old").properties(delay(1))));
    let mut newer = Client::connect(&connect.will(Will::new(&topic, "new").properties(delay(1))));
    drop(older);
    sleep(Duration::from_millis(1_800));
    only(&mut watcher, &topic, "no will");
    newer.ping();
    newer.cut();
    watcher.expect_payload("new");
}

#[test]
fn mqtt_3_1_3_10_the_wills_user_properties_keep_their_order() {
    let topic = name("wills/users");
    let mut watcher = watcher(&topic);
    let pairs = [("b", "1"), ("a", "2"), ("b", "1"), ("", ""), ("z", "é")];
    let properties = pairs.iter().fold(Properties::new(), |list, (name, value)| list.user(name, value));
    Client::connect(&Connect::new(V5).will(Will::new(&topic, "w").properties(properties))).cut();
    assert_eq!(watcher.expect_payload("w").properties.users(), pairs);
}

#[test]
fn clause_3_1_3_2_the_wills_properties_are_those_of_its_message() {
    let topic = name("wills/properties");
    let mut watcher = watcher(&topic);
    let properties = Properties::new()
        .byte(id::PAYLOAD_FORMAT, 1)
        .four(id::MESSAGE_EXPIRY, 100)
        .text(id::CONTENT_TYPE, "text/plain")
        .text(id::RESPONSE_TOPIC, "wills/answer")
        .binary(id::CORRELATION_DATA, [0, 0xFF, 1]);
    Client::connect(&Connect::new(V5).will(Will::new(&topic, "w").properties(properties))).cut();
    let came = watcher.expect_payload("w").properties;
    assert_eq!(came.number(id::PAYLOAD_FORMAT), Some(1));
    assert!(came.number(id::MESSAGE_EXPIRY).is_some_and(|left| (90..=100).contains(&left)), "{came:?}");
    assert_eq!(came.string(id::CONTENT_TYPE), Some("text/plain"));
    assert_eq!(came.string(id::RESPONSE_TOPIC), Some("wills/answer"));
    assert_eq!(came.get(id::CORRELATION_DATA), Some(&Value::Binary(vec![0, 0xFF, 1])));
}

#[test]
fn clause_3_1_3_4_the_wills_payload_is_any_bytes() {
    let topic = name("wills/bytes");
    let mut watcher = watcher(&topic);
    let payload: Vec<u8> = (0..=255).cycle().take(65_535).collect();
    Client::connect(&Connect::new(V5).will(Will::new(&topic, &payload))).cut();
    assert!(watcher.expect_publish().payload == payload, "all 65,535 bytes");
}

#[test]
fn mqtt_3_14_4_3_disconnect_throws_the_will_away() {
    let topic = name("wills/normal");
    let mut watcher = watcher(&topic);
    for bytes in
        [DISCONNECT.to_vec(), vec![0xE0, 1, 0], disconnect_with(0, &Properties::new().user("a", "b"))]
    {
        let mut client = Client::connect(&Connect::new(V5).will(Will::new(&topic, "normal")));
        client.send(&bytes);
        client.expect_closed();
        only(&mut watcher, &topic, "nothing");
    }
}

#[test]
fn mqtt_3_14_4_3_what_follows_disconnect_does_not_bring_the_will_back() {
    let topic = name("wills/after");
    let mut watcher = watcher(&topic);
    let mut client = Client::connect(&Connect::new(V5).will(Will::new(&topic, "after")));
    let mut bytes = DISCONNECT.to_vec();
    bytes.extend(Publish::new(&topic, "after the end").encode(V5));
    bytes.extend([0x00, 0]);
    client.send(bytes);
    let said = client.expect_end();
    assert!(said.iter().all(|packet| matches!(packet, Packet::Disconnect(_))), "{said:?}");
    only(&mut watcher, &topic, "nothing");
}
