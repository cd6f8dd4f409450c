//! Lets devices in by a token, each to the topics below `devices/CLIENTID/`. The filter `me/...` is short for them.

use std::sync::OnceLock;

use tidegate_sdk::config::Config;
use tidegate_sdk::{Access, Client, Decision, Event, Grant, Qos, Result, Subscription, export, reason, warn};

export! {
    init: start,
    client_authenticate: authenticate,
    client_authorize: authorize,
    client_subscribe: subscribe,
}

/// The password that every device has.
static TOKEN: OnceLock<String> = OnceLock::new();

fn start(config: Config) -> std::result::Result<(), String> {
    let token = config.require("token")?;
    if token.is_empty() {
        return Err("config.token is empty".to_owned());
    }
    TOKEN.set(token.to_owned()).map_err(|_| "init was called twice".to_owned())
}

fn authenticate(_: Event, client: Client, password: Option<Vec<u8>>) -> Result<Decision> {
    let token = TOKEN.get().ok_or("init was not called")?;
    let decision = admit(token.as_bytes(), &client.id, password.as_deref());
    if decision != Decision::Allow {
        warn!("{decision:?}: {} from {}", client.id, client.peer);
    }
    Ok(decision)
}

fn authorize(_: Event, client: Client, access: Access, topic: String, _: Qos, _: bool) -> Result<Decision> {
    Ok(permit(&client.id, access, &topic))
}

fn subscribe(_: Event, client: Client, filter: String, qos: Qos) -> Result<Grant> {
    // What is not short for something is as `authorize` has left it.
    Ok(expand(&client.id, &filter)
        .map_or(Grant::Ignore, |filter| Grant::Change(Subscription { filter, qos })))
}

fn admit(token: &[u8], client_id: &str, password: Option<&[u8]>) -> Decision {
    if !same(token, password.unwrap_or_default()) {
        Decision::Refuse(reason::BAD_USER_NAME_OR_PASSWORD)
    } else if client_id.contains(['/', '+', '#']) {
        // It would be more than one level of a topic, or a wildcard.
        Decision::Refuse(reason::CLIENT_IDENTIFIER_NOT_VALID)
    } else {
        Decision::Allow
    }
}

/// Whether two texts are the same, in a time that does not tell how far they are.
fn same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

fn permit(client_id: &str, access: Access, topic: &str) -> Decision {
    let rest = topic.strip_prefix("devices/").and_then(|rest| rest.strip_prefix(client_id));
    let is_own = rest.is_some_and(|rest| rest.starts_with('/'));
    if is_own || access == Access::Subscribe && expand(client_id, topic).is_some() {
        Decision::Allow
    } else {
        Decision::Refuse(reason::NOT_AUTHORIZED)
    }
}

/// What `me/...` is short for.
fn expand(client_id: &str, filter: &str) -> Option<String> {
    filter.strip_prefix("me/").map(|rest| format!("devices/{client_id}/{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_lets_in() {
        for (id, password, decision) in [
            ("d1", Some("secret"), Decision::Allow),
            ("d1", Some("secreT"), Decision::Refuse(reason::BAD_USER_NAME_OR_PASSWORD)),
            ("d1", Some("secret "), Decision::Refuse(reason::BAD_USER_NAME_OR_PASSWORD)),
            ("d1", Some(""), Decision::Refuse(reason::BAD_USER_NAME_OR_PASSWORD)),
            ("d1", None, Decision::Refuse(reason::BAD_USER_NAME_OR_PASSWORD)),
            ("+", Some("secret"), Decision::Refuse(reason::CLIENT_IDENTIFIER_NOT_VALID)),
            ("a/b", Some("secret"), Decision::Refuse(reason::CLIENT_IDENTIFIER_NOT_VALID)),
        ] {
            assert_eq!(admit(b"secret", id, password.map(str::as_bytes)), decision, "{id} {password:?}");
        }
    }

    #[test]
    fn a_device_has_its_own_topics_only() {
        for (topic, publish, subscribe) in [
            ("devices/d1/x", true, true),
            ("devices/d1/#", true, true),
            ("me/#", false, true),
            ("devices/d1", false, false),
            ("devices/d10/x", false, false),
            ("devices/+/x", false, false),
            ("#", false, false),
            ("$share/g/devices/d1/x", false, false),
        ] {
            for (access, allowed) in [(Access::Publish, publish), (Access::Subscribe, subscribe)] {
                let expected =
                    if allowed { Decision::Allow } else { Decision::Refuse(reason::NOT_AUTHORIZED) };
                assert_eq!(permit("d1", access, topic), expected, "{access:?} {topic}");
            }
        }
    }

    #[test]
    fn me_is_short_for_ones_own() {
        assert_eq!(expand("d1", "me/a/+").as_deref(), Some("devices/d1/a/+"));
        assert_eq!(expand("d1", "mean"), None);
    }
}
