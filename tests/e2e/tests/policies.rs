//! A message that its module cannot handle, sent again and again: it ends as a dead letter, and everything else goes
//! on meanwhile.
//!
//! The guest is `guests/probe`, which obeys commands in topics and writes a row for every event it is given.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use serde_json::Value;
use tidegate_e2e::Server;
use tidegate_e2e::mosquitto::{self, Subscriber};
use tidegate_e2e::paho::{Options, Paho};
use tidegate_e2e::sqlite::count;

const MANIFEST: &str = "[config]\nconnector = \"sqlite:default\"\n\
     [on_error]\npoison_after = 3\ndead_letter_topic = \"dead/probe\"\n";
const REFUSED: u64 = 0x83;
const FLOW: usize = 20;

/// The letters in the file.
fn letters(server: &Server) -> Vec<Value> {
    let text = std::fs::read_to_string(server.file("data/module-dead-letters.jsonl")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// One letter comes on the topic of dead letters, the very one in the file, and tells all about the poison.
fn expect_letter(server: &Server, dead: &mut Subscriber, client: &str) {
    let message = dead.receive();
    assert_eq!(message.topic, "dead/probe");
    let letter: Value = serde_json::from_str(&message.payload).unwrap();
    assert_eq!(letters(server), std::slice::from_ref(&letter));
    for (pointer, expected) in [
        ("/module", "probe"),
        ("/hook", "message.publish"),
        ("/reason", "poison"),
        ("/error/kind", "trap"),
        ("/client/id", client),
        ("/message/topic", "cmd/trap/x"),
        ("/message/payload", "cG9pc29u"),
    ] {
        assert_eq!(letter.pointer(pointer).and_then(Value::as_str), Some(expected), "{letter:#}");
    }
    assert_eq!((&letter["attempts"], &letter["message"]["qos"]), (&3.into(), &1.into()), "{letter:#}");
    let said = letter["error"]["stderr"].as_str().unwrap_or_default();
    assert!(said.contains("the probe was told to panic by cmd/trap/x"), "{letter:#}");
    let stack = letter["error"]["backtrace"].as_str().unwrap_or_default();
    for name in ["panicking::panic_fmt", "#on-message-publish"] {
        assert!(stack.contains(name), "{name} is in the guest's stack: {letter:#}");
    }
}

fn given(server: &Server, topic: &str) -> usize {
    let rows =
        format!("select count(*) from probe_event where hook = 'message.publish' and topic = '{topic}'");
    count(&server.file("data/tidegate.db"), &rows)
}

/// On 3.1.1 a refusal is the end of the connection, and the client sends the message again after every connect.
#[test]
fn a_3_1_1_client_does_not_send_a_poisonous_message_for_ever() {
    let server = Server::builder().module("probe", MANIFEST).start();
    let port = server.port;
    let mut dead = Subscriber::start(port, &["-V", "5", "-i", "dead", "-t", "dead/#", "-q", "1"]);
    let mut flow = Subscriber::start(port, &["-V", "5", "-i", "flow", "-t", "flow/#", "-q", "1"]);
    let others = std::thread::spawn(move || {
        let mut other = Paho::connect(port, &Options::new(5, "other"));
        for n in 0..FLOW {
            assert_eq!(other.publish("flow/x", &n.to_string(), 1), 0);
        }
    });
    let mut client = Paho::connect(port, &Options::new(4, "unlucky").with("clean", false));
    // Ends with the acknowledgement, after paho has connected and sent it again as often as it takes.
    assert_eq!(client.publish("cmd/trap/x", "poison", 1), 0);
    expect_letter(&server, &mut dead, "unlucky");
    assert_eq!(given(&server, "cmd/trap/x"), 3);
    // The same connection goes on.
    assert_eq!(client.publish("flow/end", "end", 1), 0);
    others.join().unwrap();
    client.publish("flow/end", "end of all", 1);
    let got = flow.take_until("end of all");
    let numbers: Vec<_> = got.iter().filter(|line| line.starts_with("flow/x")).cloned().collect();
    assert_eq!(numbers, (0..FLOW).map(|n| format!("flow/x {n}")).collect::<Vec<_>>());
    assert!(got.contains(&"flow/end end".to_owned()), "{got:?}");
    assert!((server.metric("tidegate_module_poison_total", "module=\"probe\"") - 1.0).abs() < 0.1);
    server.assert_no_panic();
}

/// On 5 a refusal is a reason code: the application decides whether to send it again.
#[test]
fn a_5_client_gets_a_reason_code_until_the_message_is_a_dead_letter() {
    let server = Server::builder().module("probe", MANIFEST).start();
    let mut dead = Subscriber::start(server.port, &["-V", "5", "-i", "dead", "-t", "dead/#", "-q", "1"]);
    let mut client = Paho::connect(server.port, &Options::new(5, "unlucky"));
    let codes: Vec<_> = (0..3)
        .map(|n| {
            assert_eq!(client.publish("cmd/pass/x", &n.to_string(), 1), 0);
            client.publish("cmd/trap/x", "poison", 1)
        })
        .collect();
    assert_eq!(codes, [REFUSED, REFUSED, 0]);
    expect_letter(&server, &mut dead, "unlucky");
    assert_eq!((given(&server, "cmd/trap/x"), given(&server, "cmd/pass/x")), (3, 3));
    // Another payload on the same topic is another message.
    assert_eq!(client.publish("cmd/trap/x", "other", 1), REFUSED);
    assert_eq!(letters(&server).len(), 1);
}

#[test]
fn the_policy_dead_letter_acknowledges_and_keeps() {
    let manifest = format!("{MANIFEST}policy = \"dead-letter\"\n");
    let server = Server::builder().module("probe", &manifest).start();
    let mut dead = Subscriber::start(server.port, &["-V", "311", "-i", "dead", "-t", "#", "-q", "1"]);
    for version in ["311", "5"] {
        mosquitto::publish(server.port, &["-V", version, "-t", "cmd/error/x", "-m", version, "-q", "1"]);
        let message = dead.receive();
        assert_eq!(message.topic, "dead/probe", "the message itself is not routed");
        let letter: Value = serde_json::from_str(&message.payload).unwrap();
        assert_eq!(letter["reason"], "policy");
        assert_eq!(letter["error"]["text"], "it answered: the probe was told to fail");
    }
    assert_eq!(letters(&server).len(), 2);
}
