//! What came of an event, for people and for programs.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytesize::ByteSize;
use serde::Serialize;
use serde_json::{Value, json};
use tidegate_event::{Hook, Message, Verdict};
use tidegate_module::{Answer, CallError, ErrorPolicy, Module};

use crate::logging::module_lines::Line;

/// How the module came up.
#[derive(Debug, Serialize)]
pub(super) struct Start {
    pub(super) module: String,
    pub(super) version: String,
    /// Compiling, milliseconds.
    pub(super) compile_ms: u64,
    /// Reading, linking, the first instance and its init, microseconds.
    pub(super) init_us: u64,
    /// What init asked for.
    pub(super) calls: Vec<Value>,
    pub(super) log: Vec<Line>,
}

impl Start {
    pub(super) fn of(module: &Module, calls: Vec<Value>, log: Vec<Line>) -> Self {
        let loading = module.loading();
        Self {
            module: module.name().to_owned(),
            version: module.hash().to_owned(),
            compile_ms: u64::try_from(loading.compile.as_millis()).unwrap_or(u64::MAX),
            init_us: super::micros(loading.total.saturating_sub(loading.compile)),
            calls,
            log,
        }
    }
}

/// What came of an event.
#[derive(Debug, Serialize)]
pub(super) struct Outcome {
    /// How the module came up; with the first event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) start: Option<Start>,
    /// The file, and which of its events.
    pub(super) event: String,
    pub(super) hook: String,
    /// Whether a server would hand the event to the module: it may handle another hook or other topics.
    pub(super) selected: bool,
    /// Absent when the call gave no answer.
    pub(super) verdict: Option<Value>,
    /// Why there is no answer, with the guest's stack.
    pub(super) error: Option<String>,
    /// What a server would do then.
    pub(super) policy: Option<String>,
    /// What the module asked of stores and of the broker.
    pub(super) calls: Vec<Value>,
    pub(super) log: Vec<Line>,
    /// From the call to its answer, microseconds.
    pub(super) time_us: u64,
    /// Processor time of it, microseconds; the host's part included.
    pub(super) computing_us: u64,
    /// Memory of the instance after it; absent when no instance was kept.
    pub(super) memory_bytes: Option<usize>,
}

impl Outcome {
    pub(super) fn new(
        place: String,
        hook: Hook,
        answer: Result<Answer, CallError>,
        policy: ErrorPolicy,
    ) -> Self {
        let (verdict, error, policy) = match answer {
            Ok(answer) => (Some(answer_json(hook, &answer)), None, None),
            Err(error) => (None, Some(error.to_string()), Some(format!("{policy:?}").to_lowercase())),
        };
        Self {
            start: None,
            event: place,
            hook: hook.name().to_owned(),
            selected: true,
            verdict,
            error,
            policy,
            calls: Vec::new(),
            log: Vec::new(),
            time_us: 0,
            computing_us: 0,
            memory_bytes: None,
        }
    }
}

/// In the words of the hook's contract.
fn answer_json(hook: Hook, answer: &Answer) -> Value {
    let is_leave = hook.row().decides.is_leave();
    let mut verdict = match &answer.verdict {
        Verdict::Pass if is_leave => json!({"verdict": "ignore"}),
        Verdict::Reject(code) if is_leave => json!({"verdict": "refuse", "reason_code": code.0}),
        Verdict::Pass => json!({"verdict": "pass"}),
        Verdict::Allow => json!({"verdict": "allow"}),
        Verdict::Change(request) => json!({
            "verdict": "change",
            "subscription": {"filter": &*request.text, "qos": request.qos.level()},
        }),
        Verdict::Drop => json!({"verdict": "drop"}),
        Verdict::Reject(code) => json!({"verdict": "reject", "reason_code": code.0}),
        Verdict::Fail(code) => json!({"verdict": "fail", "reason_code": code.0}),
        Verdict::Replace(message) => json!({"verdict": "replace", "message": message_json(message)}),
        Verdict::FanOut(messages) => {
            let messages: Value = messages.iter().map(|message| message_json(message)).collect();
            json!({"verdict": "fan-out", "messages": messages})
        }
    };
    if !answer.subscriptions.is_empty() {
        let one = |(filter, qos): &(tidegate_event::TopicFilter, tidegate_event::QoS)| json!({"filter": filter.as_str(), "qos": qos.level()});
        verdict["subscriptions"] = answer.subscriptions.iter().map(one).collect();
    }
    verdict
}

/// A message in the form in which events are read.
pub(super) fn message_json(message: &Message) -> Value {
    let mut value = json!({
        "topic": message.topic.as_str(), "qos": message.qos.level(), "retain": message.retain,
    });
    match std::str::from_utf8(&message.payload) {
        Ok(text) => value["payload"] = text.into(),
        Err(_) => value["payload_base64"] = BASE64.encode(&message.payload).into(),
    }
    if let Some(properties) = message.properties.as_deref().filter(|properties| !properties.user.is_empty()) {
        value["user_properties"] = properties.user.iter().map(|(k, v)| json!([&**k, &**v])).collect();
    }
    value
}

/// Bytes of a statement's parameter.
pub(super) fn bytes_json(bytes: &[u8]) -> Value {
    json!({"base64": BASE64.encode(bytes)})
}

fn micros(us: u64) -> String {
    humantime::format_duration(std::time::Duration::from_micros(us)).to_string()
}

/// A call in one line: its name, then its parts.
fn call_line(call: &Value) -> String {
    let word = call["call"].as_str().unwrap_or_default();
    let parts =
        call.as_object().into_iter().flatten().filter(|(key, value)| *key != "call" && !value.is_null());
    let parts: Vec<String> = parts
        .map(|(key, value)| match value {
            Value::String(text) => format!("{key}={text:?}"),
            other => format!("{key}={other}"),
        })
        .collect();
    format!("{word} {}", parts.join(" "))
}

fn details(f: &mut fmt::Formatter<'_>, calls: &[Value], log: &[Line]) -> fmt::Result {
    for call in calls {
        writeln!(f, "  call     {}", call_line(call))?;
    }
    for line in log {
        writeln!(
            f,
            "  log      {:<5} {:<6} {}",
            line.level,
            line.source,
            line.text.replace('\n', "\n           ")
        )?;
    }
    Ok(())
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(start) = &self.start {
            let version: String = start.version.chars().take(12).collect();
            let (name, compile, init) = (&start.module, start.compile_ms, micros(start.init_us));
            writeln!(f, "module {name}, version {version}: compiled in {compile} ms, ready after {init}")?;
            details(f, &start.calls, &start.log)?;
        }
        writeln!(f, "{} ({})", self.event, self.hook)?;
        if !self.selected {
            writeln!(
                f,
                "  note     a server would not hand this event to the module: other hooks or topics"
            )?;
        }
        if let Some(verdict) = &self.verdict {
            writeln!(f, "  verdict  {}", verdict_line(verdict))?;
        }
        if let Some(error) = &self.error {
            writeln!(f, "  error    {}", error.replace('\n', "\n           "))?;
        }
        if let Some(policy) = &self.policy {
            writeln!(f, "  policy   {policy}")?;
        }
        details(f, &self.calls, &self.log)?;
        write!(f, "  time     {} ({} computing)", micros(self.time_us), micros(self.computing_us))?;
        if let Some(bytes) = self.memory_bytes {
            write!(f, ", memory {}", ByteSize::b(bytes as u64))?;
        }
        writeln!(f)
    }
}

fn verdict_line(verdict: &Value) -> String {
    let word = verdict["verdict"].as_str().unwrap_or_default();
    let rest = verdict.as_object().into_iter().flatten().filter(|(key, _)| *key != "verdict");
    let rest: Vec<String> = rest.map(|(_, value)| value.to_string()).collect();
    if rest.is_empty() { word.to_owned() } else { format!("{word} {}", rest.join(" ")) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::sync::Arc;

    use super::*;
    use tidegate_event::{IdSource, Node, Origin, QoS, ReasonCode, Requested};

    fn outcome(verdict: Verdict) -> Outcome {
        let answer = Ok(Answer { verdict, subscriptions: Vec::new() });
        Outcome::new("e.json".into(), Hook::MessagePublish, answer, ErrorPolicy::Reject)
    }

    #[test]
    fn a_replacement_shows_its_message() {
        let message = Message {
            id: IdSource::new(&Node::default()).next_id(),
            topic: "a/b".parse().unwrap(),
            payload: (&b"\xff"[..]).into(),
            qos: QoS::AtLeastOnce,
            retain: false,
            dup: false,
            timestamp_ms: 0,
            sender: "c".into(),
            publisher: None,
            properties: None,
            origin: Origin::Client,
            hops: 0,
        };
        let mut outcome = outcome(Verdict::Replace(Arc::new(message)));
        outcome.calls =
            vec![json!({"call": "exec", "connector": "c", "statement": "insert", "params": [[1]]})];
        outcome.time_us = 1_500;
        outcome.memory_bytes = Some(1 << 20);
        let json = serde_json::to_value(&outcome).unwrap();
        let message = json!({"topic": "a/b", "qos": 1, "retain": false, "payload_base64": "/w=="});
        assert_eq!(json["verdict"], json!({"verdict": "replace", "message": message}));
        assert_eq!(
            outcome.to_string(),
            "e.json (message.publish)\n  verdict  replace {\"payload_base64\":\"/w==\",\"qos\":1,\"retain\":false,\"topic\":\"a/b\"}\n  \
             call     exec connector=\"c\" params=[[1]] statement=\"insert\"\n  time     1ms 500us (0s computing), memory 1.0 MiB\n"
        );
    }

    #[test]
    fn a_decision_has_the_words_of_its_contract() {
        let said = |hook: Hook, verdict: Verdict| {
            let answer = Ok(Answer { verdict, subscriptions: Vec::new() });
            let text = Outcome::new("e".into(), hook, answer, ErrorPolicy::Reject).to_string();
            text.lines().nth(1).unwrap().trim().to_owned()
        };
        let request = Requested::parse("$share/g/a".into(), QoS::AtLeastOnce).unwrap();
        for (hook, verdict, expected) in [
            (Hook::ClientAuthenticate, Verdict::Pass, "verdict  ignore"),
            (Hook::ClientAuthenticate, Verdict::Reject(ReasonCode(0x86)), "verdict  refuse 134"),
            (Hook::ClientAuthorize, Verdict::Allow, "verdict  allow"),
            (
                Hook::ClientSubscribe,
                Verdict::Change(Arc::new(request)),
                "verdict  change {\"filter\":\"$share/g/a\",\"qos\":1}",
            ),
            (Hook::MessagePublish, Verdict::Pass, "verdict  pass"),
        ] {
            assert_eq!(said(hook, verdict), expected);
        }
    }

    #[test]
    fn an_error_shows_its_stack_and_the_policy() {
        let error = CallError::Trap { message: "boom\n  at f".into(), stderr: String::new() };
        let mut outcome = Outcome::new("e".into(), Hook::MessagePublish, Err(error), ErrorPolicy::Reject);
        outcome.selected = false;
        let text = outcome.to_string();
        for part in [
            "  error    it trapped: boom\n             at f\n",
            "  policy   reject\n",
            "  note     a server would",
        ] {
            assert!(text.contains(part), "{part:?} in {text}");
        }
        assert!(outcome.verdict.is_none());
        let rejected = super::tests::outcome(Verdict::Reject(ReasonCode(0x87)));
        assert!(rejected.to_string().contains("verdict  reject 135\n"));
    }
}
