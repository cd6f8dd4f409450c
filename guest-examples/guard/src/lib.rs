//! Keeps out what should not come in: drops messages that are too large and rejects topics under `admin/`
//! from everybody but the administrators.

use std::sync::OnceLock;

use tidegate_sdk::config::Config;
use tidegate_sdk::{Client, Event, Message, Result, Verdict, export, reason, warn};

export! {
    init: start,
    message_publish: check,
}

/// What `init` read from the configuration.
static POLICY: OnceLock<Policy> = OnceLock::new();

fn start(config: Config) -> std::result::Result<(), String> {
    // A value that cannot be read is an error here, so a bad manifest never replaces a good one.
    let policy = Policy::read(&config)?;
    POLICY.set(policy).map_err(|_| "init was called twice".to_owned())
}

fn check(_: Event, client: Option<Client>, message: Message) -> Result<Verdict> {
    let policy = POLICY.get().ok_or("init was not called")?;
    let username = client.as_ref().and_then(|client| client.username.as_deref());
    let verdict = policy.decide(username, &message);
    if verdict != Verdict::Pass {
        let sender = client.as_ref().map_or("a module", |client| client.id.as_str());
        warn!("{verdict:?}: {} bytes on {} from {sender}", message.payload.len(), message.topic);
    }
    Ok(verdict)
}

/// Who may publish what.
#[derive(Debug, PartialEq, Eq)]
struct Policy {
    max_bytes: usize,
    admins: Vec<String>,
}

impl Policy {
    fn read(config: &Config) -> std::result::Result<Self, String> {
        let max_bytes = config.parse("max_bytes")?.unwrap_or(1024);
        let admins = config.get("admins").unwrap_or_default();
        let admins = admins.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned);
        Ok(Self { max_bytes, admins: admins.collect() })
    }

    /// Authority comes before size: somebody who may not publish at all is told so.
    fn decide(&self, username: Option<&str>, message: &Message) -> Verdict {
        let is_admin = username.is_some_and(|name| self.admins.iter().any(|admin| admin == name));
        if under_admin(&message.topic) && !is_admin {
            Verdict::Reject(reason::NOT_AUTHORIZED)
        } else if message.payload.len() > self.max_bytes {
            Verdict::Drop
        } else {
            Verdict::Pass
        }
    }
}

/// Whether `admin/#` matches `topic`: that filter includes the topic `admin` itself (MQTT 5 clause 4.7.1.2).
fn under_admin(topic: &str) -> bool {
    topic.split('/').next() == Some("admin")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(pairs: &[(&str, &str)]) -> std::result::Result<Policy, String> {
        let pairs = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Policy::read(&Config::from_pairs(pairs.collect()))
    }

    #[test]
    fn the_defaults_are_a_kilobyte_and_no_administrator() {
        assert_eq!(policy(&[]), Ok(Policy { max_bytes: 1024, admins: vec![] }));
    }

    #[test]
    fn a_limit_that_is_no_number_is_refused_by_name() {
        let error = policy(&[("max_bytes", "1 KiB")]).map_err(|error| error.contains("config.max_bytes"));
        assert_eq!(error, Err(true));
    }

    #[test]
    fn one_byte_too_many_is_dropped() -> std::result::Result<(), String> {
        let policy = policy(&[("max_bytes", "4")])?;
        assert_eq!(policy.decide(None, &Message::new("t", "1234")), Verdict::Pass);
        assert_eq!(policy.decide(None, &Message::new("t", "12345")), Verdict::Drop);
        Ok(())
    }

    #[test]
    fn only_administrators_reach_the_admin_topics() -> std::result::Result<(), String> {
        let policy = policy(&[("admins", "root, ops,")])?;
        let refused = Verdict::Reject(reason::NOT_AUTHORIZED);
        for (username, topic, verdict) in [
            (Some("ops"), "admin/restart", Verdict::Pass),
            (Some("root"), "admin", Verdict::Pass),
            (Some("eve"), "admin/restart", refused.clone()),
            (Some(""), "admin/restart", refused.clone()),
            (None, "admin", refused),
            (Some("eve"), "administrators/list", Verdict::Pass),
            (None, "a/admin/b", Verdict::Pass),
        ] {
            assert_eq!(policy.decide(username, &Message::new(topic, "")), verdict, "{username:?} {topic}");
        }
        Ok(())
    }

    #[test]
    fn a_large_message_to_an_admin_topic_is_rejected_not_dropped() -> std::result::Result<(), String> {
        let policy = policy(&[("max_bytes", "0"), ("admins", "root")])?;
        let message = Message::new("admin/x", "1");
        assert_eq!(policy.decide(None, &message), Verdict::Reject(reason::NOT_AUTHORIZED));
        assert_eq!(policy.decide(Some("root"), &message), Verdict::Drop);
        Ok(())
    }
}
