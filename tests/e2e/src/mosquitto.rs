//! `mosquitto_pub` and `mosquitto_sub`.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use crate::wait::PATIENCE;

/// Lines kept for a reader that is slow; then the child waits.
const BACKLOG: usize = 65_536;

/// Runs `mosquitto_pub` to its end.
pub fn publish_raw(port: u16, args: &[&str]) -> Output {
    Command::new("mosquitto_pub")
        .args(["-h", "127.0.0.1", "-p", &port.to_string()])
        .args(args)
        .output()
        .expect("mosquitto_pub must be installed (`cargo xtask test` does it)")
}

/// Runs `mosquitto_pub` and expects it to succeed, that is: the message was acknowledged.
pub fn publish(port: u16, args: &[&str]) {
    let output = publish_raw(port, args);
    assert!(
        output.status.success(),
        "mosquitto_pub {args:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A message as `mosquitto_sub` printed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// Topic name.
    pub topic: String,
    /// Quality of service of the delivery.
    pub qos: u8,
    /// RETAIN flag of the delivery.
    pub retain: bool,
    /// Payload, as text.
    pub payload: String,
}

impl Received {
    /// `topic payload`, for short comparisons.
    pub fn brief(&self) -> String {
        format!("{} {}", self.topic, self.payload)
    }
}

/// A running `mosquitto_sub`.
pub struct Subscriber {
    child: Child,
    lines: Receiver<String>,
    /// What it wrote besides messages, for failure reports.
    log: Vec<String>,
}

const MARK: &str = "\u{2}MSG\u{1f}";

impl Subscriber {
    /// Starts it without waiting for anything.
    pub fn spawn(port: u16, args: &[&str]) -> Self {
        // stdbuf: mosquitto_sub buffers its debug lines when it writes to a pipe.
        let mut child = Command::new("stdbuf")
            .args(["-oL", "mosquitto_sub", "-d", "-h", "127.0.0.1", "-p", &port.to_string()])
            .args(["-F", &format!("{MARK}%t\u{1f}%q\u{1f}%r\u{1f}%p")])
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("mosquitto_sub must be installed (`cargo xtask test` does it)");
        let output = child.stdout.take().expect("stdout is piped");
        let (sender, lines) = sync_channel(BACKLOG);
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines() {
                let Ok(line) = line else { break };
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self { child, lines, log: Vec::new() }
    }

    /// Starts it and waits until the broker has granted its subscriptions.
    pub fn start(port: u16, args: &[&str]) -> Self {
        let mut subscriber = Self::spawn(port, args);
        subscriber.wait_log("Subscribed (mid");
        subscriber
    }

    /// Waits for a debug line that contains `text`.
    pub fn wait_log(&mut self, text: &str) -> String {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) if line.contains(text) => {
                    self.log.push(line.clone());
                    return line;
                }
                Ok(line) => self.log.push(line),
                Err(_) => panic!("mosquitto_sub never wrote {text:?}; it wrote {:?}", self.log),
            }
        }
    }

    /// The next message.
    pub fn receive(&mut self) -> Received {
        match self.try_receive(PATIENCE) {
            Some(message) => message,
            None => panic!("mosquitto_sub got no message; it wrote {:?}", self.log),
        }
    }

    /// The next message, if one comes within `limit`.
    pub fn try_receive(&mut self, limit: Duration) -> Option<Received> {
        loop {
            match self.lines.recv_timeout(limit) {
                Ok(line) => match line.strip_prefix(MARK) {
                    Some(message) => return Some(parse(message)),
                    None => self.log.push(line),
                },
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return None,
            }
        }
    }

    /// The next `n` messages as `topic payload`.
    pub fn take(&mut self, n: usize) -> Vec<String> {
        (0..n).map(|_| self.receive().brief()).collect()
    }

    /// Everything received before the message with payload `end`, which somebody publishes last: proof
    /// that nothing else came, without waiting for silence.
    pub fn take_until(&mut self, end: &str) -> Vec<String> {
        let mut all = Vec::new();
        loop {
            let message = self.receive();
            if message.payload == end {
                return all;
            }
            all.push(message.brief());
        }
    }

    /// Ends it as a user would: with a DISCONNECT.
    pub fn stop(mut self) {
        self.signal("-TERM");
        drop(self.child.wait());
    }

    /// Ends it without a DISCONNECT, as a dying machine would.
    pub fn kill(mut self) {
        self.signal("-KILL");
        drop(self.child.wait());
    }

    fn signal(&self, signal: &str) {
        drop(Command::new("kill").args([signal, &self.child.id().to_string()]).status());
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn parse(line: &str) -> Received {
    let mut parts = line.splitn(4, '\u{1f}');
    let mut part = || parts.next().unwrap_or_default().to_owned();
    Received { topic: part(), qos: part().parse().unwrap_or(u8::MAX), retain: part() == "1", payload: part() }
}
