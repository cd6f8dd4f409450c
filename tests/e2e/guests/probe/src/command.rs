//! Commands in topics: `cmd/VERB/REST`.

use tidegate_sdk::Message;

/// What the probe does with a published message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// Let it pass.
    Pass,
    /// Drop it.
    Drop,
    /// Reject it as not authorized.
    Reject,
    /// Put the payload in upper case.
    Replace,
    /// Make two of it.
    FanOut,
    /// Panic.
    Trap,
    /// Never return.
    Loop,
    /// Take memory without end.
    Allocate,
    /// Answer `failed`.
    Error,
    /// Answer `retry`.
    Retry,
    /// Publish to `published/REST`.
    Publish,
    /// Publish to the same topic again: only the hop limit ends it.
    Echo,
    /// Deliver `delivered/REST` to the publisher.
    Deliver,
    /// Subscribe the publisher to `subscribed/REST`.
    Subscribe,
    /// Remove the publisher's subscription to `subscribed/REST`.
    Unsubscribe,
    /// End the publisher's connection.
    Disconnect,
    /// Enqueue a statement with `${...}` variables.
    Execute,
    /// As `Execute`, waiting for the store.
    ExecuteWait,
    /// Enqueue a statement that the store refuses.
    ExecuteRefused,
    /// Enqueue the built-in `on_message_store`.
    Run,
    /// As `Run`, waiting for the store.
    RunWait,
    /// Add one to the module's own pair `REST`, and replace the payload with the sum.
    Count,
    /// Run the payload's lines as Redis commands, and replace it with the replies.
    Redis,
    /// Replace the payload with what the context says.
    Context,
    /// Replace the payload with the version of the build.
    Version,
    /// Write far more lines to the log than the quota of an event admits.
    FloodLog,
    /// Make far more storage calls than the quota of an event admits.
    FloodStorage,
    /// Add one to the Redis key `REST`, far more often than the quota of an event admits.
    FloodRedis,
    /// Publish to the same topic again, many times.
    FloodPublish,
}

impl Command {
    /// Every verb with its command.
    pub(crate) const ALL: [(&'static str, Self); 29] = [
        ("pass", Self::Pass),
        ("drop", Self::Drop),
        ("reject", Self::Reject),
        ("replace", Self::Replace),
        ("fan-out", Self::FanOut),
        ("trap", Self::Trap),
        ("loop", Self::Loop),
        ("allocate", Self::Allocate),
        ("error", Self::Error),
        ("retry", Self::Retry),
        ("publish", Self::Publish),
        ("echo", Self::Echo),
        ("deliver", Self::Deliver),
        ("subscribe", Self::Subscribe),
        ("unsubscribe", Self::Unsubscribe),
        ("disconnect", Self::Disconnect),
        ("execute", Self::Execute),
        ("execute-wait", Self::ExecuteWait),
        ("execute-refused", Self::ExecuteRefused),
        ("run", Self::Run),
        ("run-wait", Self::RunWait),
        ("count", Self::Count),
        ("redis", Self::Redis),
        ("context", Self::Context),
        ("version", Self::Version),
        ("flood-log", Self::FloodLog),
        ("flood-storage", Self::FloodStorage),
        ("flood-redis", Self::FloodRedis),
        ("flood-publish", Self::FloodPublish),
    ];

    /// The command in `topic` and what follows it; topics without one pass.
    pub(crate) fn parse(topic: &str) -> (Self, &str) {
        let Some((verb, rest)) =
            topic.strip_prefix("cmd/").map(|text| text.split_once('/').unwrap_or((text, "")))
        else {
            return (Self::Pass, topic);
        };
        let command = Self::ALL.into_iter().find(|(name, _)| *name == verb);
        (command.map_or(Self::Pass, |(_, command)| command), rest)
    }
}

/// The message with its payload in upper case (ASCII).
pub(crate) fn upper_case(message: Message) -> Message {
    let payload = message.payload.to_ascii_uppercase();
    message.with_payload(payload)
}

/// The message on `TOPIC/1` and on `TOPIC/2`.
pub(crate) fn two_of(message: &Message) -> Vec<Message> {
    ["1", "2"].map(|part| message.clone().with_topic(format!("{}/{part}", message.topic))).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_is_found_with_its_rest() {
        for (verb, command) in Command::ALL {
            assert_eq!(Command::parse(&format!("cmd/{verb}/a/b")), (command, "a/b"));
            assert_eq!(Command::parse(&format!("cmd/{verb}")), (command, ""));
        }
    }

    #[test]
    fn other_topics_pass() {
        for topic in ["a/b", "cmd", "cmd/", "cmd/unknown/x", "x/cmd/drop", "/cmd/drop"] {
            assert_eq!(Command::parse(topic).0, Command::Pass, "{topic}");
        }
    }

    #[test]
    fn two_messages_differ_in_their_topic_only() {
        let message = Message::new("cmd/fan-out/x", "v").with_retain(true);
        let two = two_of(&message);
        assert_eq!(
            two.iter().map(|m| m.topic.as_str()).collect::<Vec<_>>(),
            ["cmd/fan-out/x/1", "cmd/fan-out/x/2"]
        );
        assert!(two.iter().all(|m| m.payload == message.payload && m.retain));
        assert_eq!(upper_case(message).text(), Some("V"));
    }
}
