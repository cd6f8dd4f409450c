//! The Python client paho-mqtt, driven line by line through `paho/client.py`.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use serde_json::{Value, json};

use crate::wait::PATIENCE;

/// Lines kept for a reader that is slow; then the child waits.
const BACKLOG: usize = 65_536;

/// A message as paho delivered it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// Topic name.
    pub topic: String,
    /// Payload, as text.
    pub payload: String,
    /// Quality of service of the delivery.
    pub qos: u64,
    /// RETAIN flag.
    pub retain: bool,
    /// MQTT 5 user properties.
    pub user_properties: Vec<(String, String)>,
    /// The packet id, for [`Paho::ack`].
    pub mid: u64,
}

/// One paho client in a Python process of its own.
pub struct Paho {
    child: Child,
    input: ChildStdin,
    events: Receiver<Value>,
    /// Messages that arrived while another answer was awaited.
    pending: Vec<Value>,
    /// Everything it reported, for failure reports.
    history: Vec<String>,
}

/// What [`Paho::connect`] sends.
#[derive(Clone, Debug)]
pub struct Options {
    connect: Value,
}

impl Options {
    /// Protocol level 4 or 5, a clean session, 60 s keep-alive.
    pub fn new(version: u8, client_id: &str) -> Self {
        Self {
            connect: json!({"do": "connect", "version": version, "clientid": client_id, "clean": true, "keepalive": 60}),
        }
    }

    /// Sets a word of the `connect` command.
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.connect[key] = value.into();
        self
    }
}

impl Paho {
    /// Connects and expects success.
    pub fn connect(port: u16, options: &Options) -> Self {
        let (client, answer) = Self::try_connect(port, options);
        assert_eq!(answer["code"], 0, "CONNACK: {answer}");
        client
    }

    /// Connects; gives the client and what CONNACK said (`code`, `session`).
    pub fn try_connect(port: u16, options: &Options) -> (Self, Value) {
        let mut child = python("client.py")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python must be installed (`cargo xtask test` does it)");
        let input = child.stdin.take().expect("stdin is piped");
        let output = child.stdout.take().expect("stdout is piped");
        let (sender, events) = sync_channel(BACKLOG);
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let event = serde_json::from_str(&line).unwrap_or(Value::String(line));
                if sender.send(event).is_err() {
                    break;
                }
            }
        });
        let mut client = Self { child, input, events, pending: Vec::new(), history: Vec::new() };
        let mut command = options.connect.clone();
        command["port"] = port.into();
        client.tell(&command);
        let answer = client.wait("connected");
        (client, answer)
    }

    /// Subscribes; gives the granted QoS or the reason code.
    pub fn subscribe(&mut self, filter: &str, qos: u8) -> u64 {
        self.tell(&json!({"do": "subscribe", "filter": filter, "qos": qos}));
        self.wait("subscribed")["codes"][0].as_u64().expect("SUBACK has a code")
    }

    /// Unsubscribes.
    pub fn unsubscribe(&mut self, filter: &str) {
        self.tell(&json!({"do": "unsubscribe", "filter": filter}));
        self.wait("unsubscribed");
    }

    /// Publishes and waits for the whole handshake; gives the reason code (0 on 3.1.1).
    pub fn publish(&mut self, topic: &str, payload: &str, qos: u8) -> u64 {
        self.publish_with(topic, payload, qos, false, &[])
    }

    /// As [`publish`](Self::publish) with RETAIN and user properties.
    pub fn publish_with(
        &mut self,
        topic: &str,
        payload: &str,
        qos: u8,
        retain: bool,
        properties: &[(&str, &str)],
    ) -> u64 {
        self.tell(&json!({
            "do": "publish", "topic": topic, "payload": payload, "qos": qos, "retain": retain,
            "user_properties": properties,
        }));
        self.wait("published")["code"].as_u64().expect("a reason code")
    }

    /// The next message.
    pub fn receive(&mut self) -> Delivered {
        let event = self.wait("message");
        delivered(&event)
    }

    /// The next message, if one comes within `limit`.
    pub fn try_receive(&mut self, limit: Duration) -> Option<Delivered> {
        if !self.pending.is_empty() {
            return Some(delivered(&self.pending.remove(0)));
        }
        self.wait_within(limit, "message").map(|event| delivered(&event))
    }

    /// Everything received before the message with payload `end`.
    pub fn take_until(&mut self, end: &str) -> Vec<Delivered> {
        let mut all = Vec::new();
        loop {
            let message = self.receive();
            if message.payload == end {
                return all;
            }
            all.push(message);
        }
    }

    /// Acknowledges a message of a client connected with `manual_ack`.
    pub fn ack(&mut self, message: &Delivered) {
        self.tell(&json!({"do": "ack", "mid": message.mid, "qos": message.qos}));
        self.wait("acknowledged");
    }

    /// Waits until the connection has ended from the other side; gives the reason code.
    pub fn wait_disconnected(&mut self) -> u64 {
        self.wait("disconnected")["code"].as_u64().expect("a reason code")
    }

    /// Sends DISCONNECT and ends the process.
    pub fn disconnect(mut self) {
        self.tell(&json!({"do": "disconnect"}));
        self.wait("disconnected");
        drop(self.child.wait());
    }

    /// Ends the process without DISCONNECT.
    pub fn kill(mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }

    fn tell(&mut self, command: &Value) {
        self.history.push(format!("> {command}"));
        writeln!(self.input, "{command}")
            .and_then(|()| self.input.flush())
            .expect("the Python client is alive");
    }

    fn wait(&mut self, kind: &str) -> Value {
        if kind == "message" && !self.pending.is_empty() {
            return self.pending.remove(0);
        }
        self.wait_within(PATIENCE, kind)
            .unwrap_or_else(|| panic!("paho never reported {kind:?}:\n{}", self.history.join("\n")))
    }

    fn wait_within(&mut self, limit: Duration, kind: &str) -> Option<Value> {
        loop {
            let event = self.events.recv_timeout(limit).ok()?;
            self.history.push(format!("< {event}"));
            if event["event"] == kind {
                return Some(event);
            }
            if event["event"] == "message" {
                self.pending.push(event);
            }
        }
    }
}

impl Drop for Paho {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn delivered(event: &Value) -> Delivered {
    let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
    let pairs = event["user_properties"].as_array().cloned().unwrap_or_default();
    Delivered {
        topic: text("topic"),
        payload: text("payload"),
        qos: event["qos"].as_u64().unwrap_or(u64::MAX),
        retain: event["retain"] == true,
        user_properties: pairs
            .iter()
            .map(|pair| {
                (pair[0].as_str().unwrap_or_default().into(), pair[1].as_str().unwrap_or_default().into())
            })
            .collect(),
        mid: event["mid"].as_u64().unwrap_or_default(),
    }
}

/// A Python process for a script of the folder `paho`.
pub fn python(script: &str) -> Command {
    let mut command = Command::new(interpreter());
    command.arg("-u").arg(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("paho").join(script));
    command
}

/// The Python with paho-mqtt: what `cargo xtask test` made and names in `TIDEGATE_PYTHON`.
fn interpreter() -> PathBuf {
    if let Some(path) = std::env::var_os("TIDEGATE_PYTHON") {
        return path.into();
    }
    let made = crate::guests::cache().join("python/bin/python3");
    if made.exists() { made } else { "python3".into() }
}
