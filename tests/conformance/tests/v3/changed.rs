//! Right packets with a byte changed, cut off or added, some two thousand, each judged by the standard (clause 4.8).

use tidegate_conformance::Version::V311;
use tidegate_conformance::client::{CLOSES_WITHIN, Came};
use tidegate_conformance::judge::{self, Deserves};
use tidegate_conformance::packet::{DISCONNECT, PINGREQ, ack};
use tidegate_conformance::received::{ConnAck, Packet};
use tidegate_conformance::wire::frame;
use tidegate_conformance::{Client, Connect, Publish, Subscribe, Unsubscribe, Will, kind, name, server};

/// Every change of one byte to a few values, every cut, and a byte more.
fn changed(body: &[u8]) -> Vec<Vec<u8>> {
    let mut all = vec![body.to_vec()];
    for at in 0..body.len() {
        let byte = body[at];
        let mut values = vec![
            0,
            1,
            byte ^ 1,
            byte ^ 2,
            byte ^ 4,
            byte ^ 0x80,
            byte.wrapping_add(1),
            b'+',
            b'#',
            b'/',
            0xFF,
        ];
        values.sort_unstable();
        values.dedup();
        for value in values.into_iter().filter(|value| *value != byte) {
            let mut other = body.to_vec();
            other[at] = value;
            all.push(other);
        }
        all.push(body[..at].to_vec());
    }
    for more in [0, 1, b'a', 0xFF] {
        all.push([body, &[more]].concat());
    }
    all
}

/// Whether the server did what the packet deserves; else what it did.
fn judged(verdict: Deserves, came: &[Packet], open: bool) -> Result<(), String> {
    let right = match verdict {
        Deserves::Either => true,
        Deserves::Open => open,
        Deserves::Close => !open && came.is_empty(),
        Deserves::Code(code) => {
            !open
                && matches!(came, [Packet::ConnAck(ConnAck { session_present: false, code: said, .. })] if *said == code)
        }
    };
    if right { Ok(()) } else { Err(format!("must be {verdict:?}, but open: {open}, came: {came:?}")) }
}

/// What comes until the answer to a ping, or the end.
fn answer(client: &mut Client) -> Result<(Vec<Packet>, bool), String> {
    let mut packets = Vec::new();
    loop {
        match client.read_within(CLOSES_WITHIN) {
            Came::Packet(Packet::PingResp) => return Ok((packets, true)),
            Came::Packet(packet) => packets.push(packet),
            Came::End => return Ok((packets, false)),
            Came::Nothing => {
                return Err(format!("neither an answer to a ping nor the end; came: {packets:?}"));
            }
        }
    }
}

#[track_caller]
fn none(wrong: &[String], tried: usize) {
    assert!(tried > 100, "{tried} packets only");
    assert!(wrong.is_empty(), "{} of {tried} packets:\n  {}", wrong.len(), wrong.join("\n  "));
    server::assert_no_panic();
}

#[test]
fn mqtt_4_8_0_1_changed_connects() {
    let connects = [
        Connect::new(V311).client_id(""),
        Connect::new(V311).client_id("").clean(false),
        Connect::new(V311).client_id(name("changed")).keep_alive(60),
        Connect::new(V311).client_id(name("ch")).will(Will::new("wi/ll", "m").qos(1)).login("us", "pw"),
        Connect::new(V311).client_id(name("ch")).will(Will::new("é", "").qos(2).retain()),
        Connect::new(V311).client_id(name("ch")).login("é", "").clean(false),
    ];
    let (mut wrong, mut tried) = (Vec::new(), 0);
    for body in connects.iter().flat_map(|connect| changed(&connect.body())) {
        let mut client = Client::open(V311);
        // A CONNECT that is cut off is a whole packet with a shorter length; the ping shows that it was read.
        drop(client.try_send([&frame(0x10, &body)[..], PINGREQ].concat()));
        tried += 1;
        let verdict = judge::connect(&body);
        // An answer by the rules of another version cannot be read by those of this one.
        if verdict == Deserves::Either && body.get(6) != Some(&4) {
            continue;
        }
        // Every answer is waited for: the next CONNECT may have the same client id.
        let result = answer(&mut client).and_then(|(came, open)| judged(verdict, &came, open));
        wrong.extend(result.err().map(|error| format!("CONNECT {body:02X?}: {error}")));
    }
    none(&wrong, tried);
}

#[test]
fn mqtt_4_8_0_1_changed_packets() {
    let topic = name("ch/");
    let packets = [
        Publish::new(&topic, "x").encode(V311),
        Publish::new("é", "").qos(1, 0x0101).encode(V311),
        Publish::new(&topic, "payload").qos(2, 0x0102).encode(V311),
        Subscribe::new(0x0101).filter(&topic, 1).encode(V311),
        Subscribe::new(0x0101).filter("a/+/b/#", 2).filter("é", 0).encode(V311),
        Unsubscribe::new(0x0101).filter(&topic).encode(V311),
        Unsubscribe::new(0x0101).filter("+/x").filter("é").encode(V311),
        ack(kind::PUBACK, 0x0101),
        ack(kind::PUBREC, 0x0101),
        ack(kind::PUBREL, 0x0101),
        ack(kind::PUBCOMP, 0x0101),
        PINGREQ.to_vec(),
        DISCONNECT.to_vec(),
    ];
    let mut cases: Vec<(u8, Vec<u8>)> = packets
        .iter()
        .flat_map(|packet| changed(&packet[2..]).into_iter().map(|body| (packet[0], body)))
        .collect();
    // Every first byte but CONNECT's, with the body of a PUBLISH, of an acknowledgement and with none.
    for first in (0..=0xFF_u8).filter(|first| first >> 4 != 1) {
        for body in [&packets[1][2..], &[1, 1], &[]] {
            cases.push((first, body.to_vec()));
        }
    }
    let (mut wrong, tried) = (Vec::new(), cases.len());
    for (first, body) in cases {
        let mut client = Client::new(V311);
        drop(client.try_send([&frame(first, &body)[..], PINGREQ].concat()));
        let result =
            answer(&mut client).and_then(|(came, open)| judged(judge::packet(first, &body), &came, open));
        wrong.extend(result.err().map(|error| format!("{first:02X} {body:02X?}: {error}")));
    }
    none(&wrong, tried);
    Client::new(V311).ping();
}
