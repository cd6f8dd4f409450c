//! Requests for subscriptions from the channel: `{"type": "subscribe", "topic": "t", "clientid": "c", "qos": 1}`.

use std::sync::Arc;

use futures_util::StreamExt as _;
use metrics::counter;
use serde::Deserialize;
use tidegate_event::{Control, QoS, Seldom, Tenant, TopicFilter};

use super::error::unanswered;
use super::link::Links;
use crate::backend::BackendError;
use crate::writer::Backoff;

/// How often a quiet connection is asked whether it lives.
const PING_EVERY: std::time::Duration = std::time::Duration::from_secs(10);

/// A request as it is published. Unknown fields are ignored.
#[derive(Debug, Deserialize)]
struct Request {
    #[serde(rename = "type")]
    kind: String,
    topic: String,
    clientid: String,
    #[serde(default)]
    qos: Level,
}

/// A QoS as a number or as text.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Level {
    Number(u8),
    Text(String),
}

impl Default for Level {
    fn default() -> Self {
        Self::Number(0)
    }
}

/// What a request asks for.
#[derive(Debug, PartialEq)]
enum Wish {
    Subscribe(String, TopicFilter, QoS),
    Unsubscribe(String, TopicFilter),
}

/// Takes requests until the future is dropped; connects again whenever the connection ends.
pub(super) async fn listen(links: Arc<Links>, control: Arc<dyn Control>) {
    let connector = &*links.settings.connector;
    let (mut backoff, mut said) = (Backoff::default(), None);
    loop {
        match follow(&links, &*control, &mut backoff).await {
            Ok(()) => {
                said = None;
                tracing::info!(connector, "the channel's connection ended, subscribing anew");
            }
            // Once, and again when it is another: a server may be away for hours.
            Err(error) if said.as_ref() != Some(&error) => {
                tracing::warn!(connector, %error, "the channel cannot be followed now, trying again");
                said = Some(error);
            }
            Err(_) => {}
        }
        backoff.wait().await;
    }
}

/// Follows the channel on one connection, until it ends.
async fn follow(links: &Links, control: &dyn Control, backoff: &mut Backoff) -> Result<(), BackendError> {
    let settings = &links.settings;
    let Some(channel) = &settings.channel else { return Ok(()) };
    let client = links.master().await?.client;
    let open = async {
        let mut pubsub = client.get_async_pubsub().await?;
        pubsub.subscribe(channel).await?;
        Ok(pubsub)
    };
    let pubsub = match tokio::time::timeout(settings.connect_timeout, open).await {
        Ok(opened) => opened.map_err(|error| unanswered(&error))?,
        Err(_) => return Err(BackendError::Unavailable("no answer in time".into())),
    };
    tracing::info!(connector = %settings.connector, channel, "taking requests for subscriptions");
    *backoff = Backoff::default();
    let (mut sink, mut stream) = pubsub.split();
    let line = Seldom::default();
    let mut beat = tokio::time::interval(PING_EVERY);
    loop {
        tokio::select! {
            message = stream.next() => match message {
                Some(message) => take(&settings.connector, message.get_payload_bytes(), control, &line),
                None => return Ok(()),
            },
            _ = beat.tick() => {
                // A connection into nowhere never ends by itself.
                match tokio::time::timeout(settings.query_timeout, sink.ping::<redis::Value>()).await {
                    Ok(answered) => drop(answered.map_err(|error| unanswered(&error))?),
                    Err(_) => return Err(BackendError::Unavailable("no answer in time".into())),
                }
            }
        }
    }
}

/// Makes one request; what cannot be done is counted, and logged: whoever may publish there may do so very often.
fn take(connector: &str, payload: &[u8], control: &dyn Control, line: &Seldom) {
    let tenant = Tenant::default();
    let result = read(payload).and_then(|wish| {
        let done = match wish {
            Wish::Subscribe(client, filter, qos) => control.subscribe(&tenant, &client, filter, qos),
            Wish::Unsubscribe(client, filter) => control.unsubscribe(&tenant, &client, filter),
        };
        done.map_err(|error| error.to_string())
    });
    let word = if result.is_ok() { "done" } else { "refused" };
    counter!("tidegate_store_channel_requests_total", "connector" => connector.to_owned(), "result" => word)
        .increment(1);
    if let Err(reason) = result
        && let Some(left_out) = line.turn()
    {
        let text: String = String::from_utf8_lossy(payload).chars().take(200).collect();
        tracing::warn!(connector, request = text, %reason, left_out, "a request from the channel was not done");
    }
}

fn read(payload: &[u8]) -> Result<Wish, String> {
    let request: Request = serde_json::from_slice(payload).map_err(|error| error.to_string())?;
    let filter = TopicFilter::new(request.topic.as_str()).map_err(|error| error.to_string())?;
    let level = match &request.qos {
        Level::Number(level) => Some(*level),
        Level::Text(text) => text.trim().parse().ok(),
    };
    match &*request.kind {
        "unsubscribe" => Ok(Wish::Unsubscribe(request.clientid, filter)),
        "subscribe" => match level.and_then(|level| QoS::try_from(level).ok()) {
            Some(qos) => Ok(Wish::Subscribe(request.clientid, filter, qos)),
            None => Err("qos must be 0, 1 or 2".into()),
        },
        other => Err(format!("type {other:?}: expected subscribe or unsubscribe")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn the_documents_requests_are_read() {
        let subscribe = br#"{"type": "subscribe", "topic": "topic0", "clientid": "test", "qos": "0"}"#;
        let topic = || "topic0".parse().unwrap();
        assert_eq!(read(subscribe), Ok(Wish::Subscribe("test".into(), topic(), QoS::AtMostOnce)));
        let number = br#"{"type": "subscribe", "topic": "topic0", "clientid": "test", "qos": 2, "more": []}"#;
        assert_eq!(read(number), Ok(Wish::Subscribe("test".into(), topic(), QoS::ExactlyOnce)));
        let unsubscribe = br#"{"type": "unsubscribe", "topic": "topic0", "clientid": "test"}"#;
        assert_eq!(read(unsubscribe), Ok(Wish::Unsubscribe("test".into(), topic())));
    }

    #[test]
    fn what_cannot_be_done_is_refused_with_the_reason() {
        for (text, reason) in [
            ("no json", "expected"),
            (r#"{"type": "subscribe", "topic": "a/#/b", "clientid": "c"}"#, "#"),
            (r#"{"type": "subscribe", "topic": "a", "clientid": "c", "qos": 3}"#, "0, 1 or 2"),
            (r#"{"type": "subscribe", "topic": "a", "clientid": "c", "qos": "x"}"#, "0, 1 or 2"),
            (r#"{"type": "publish", "topic": "a", "clientid": "c"}"#, "expected subscribe"),
            (r#"{"type": "subscribe", "topic": "a"}"#, "clientid"),
        ] {
            let error = read(text.as_bytes()).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
