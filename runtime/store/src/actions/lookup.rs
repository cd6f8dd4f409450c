//! Reads that an event waits for: the client's subscriptions, retained messages.

use std::sync::{Arc, LazyLock};

use bytestring::ByteString;
use tidegate_event::{Backlog, BoxFuture, Message, QoS, Seldom, StorageError, TopicFilter};

use crate::connector::{About, Connector};

/// Retained messages that one read gives. The broker gets the first page at once and asks for the rest.
const RETAINED_PAGE: u32 = 1_000;

/// The subscriptions stored for `client`. Rows that cannot be subscribed are skipped, logged and counted.
pub(super) async fn subscriptions(
    connector: &Arc<Connector>,
    client: &ByteString,
) -> Result<Vec<(TopicFilter, QoS)>, StorageError> {
    let connector = connector.drained_in_time(About::Client(client)).await?;
    let rows = connector.read(|backend| backend.subscriptions(client)).await?;
    let mut found = Vec::with_capacity(rows.len());
    for (text, qos) in rows {
        let level = u8::try_from(qos).ok().and_then(|qos| QoS::try_from(qos).ok());
        match (TopicFilter::new(text.as_str()), level) {
            (Ok(filter), Some(qos)) => found.push((filter, qos)),
            (filter, level) => {
                connector.metrics.skipped_rows.increment(1);
                let reason = match (filter, level) {
                    (Err(error), _) => error.to_string(),
                    _ => "qos must be 0, 1 or 2".to_owned(),
                };
                static LINES: LazyLock<[Seldom; 16]> = LazyLock::new(Default::default);
                if let Some(left_out) = super::turn(&*LINES, &connector) {
                    tracing::warn!(
                        connector = %connector.name, %client, topic = %text, qos, %reason, left_out,
                        "a stored subscription cannot be used, skipped"
                    );
                }
            }
        }
    }
    Ok(found)
}

/// The first retained messages that `filter` matches, and a backlog of the rest if there are more.
pub(super) async fn retained(
    connector: &Arc<Connector>,
    filter: &TopicFilter,
) -> Result<(Vec<Arc<Message>>, Option<Box<dyn Backlog>>), StorageError> {
    let connector = connector.drained_in_time(About::Topics(filter)).await?;
    let page = connector.read(|backend| backend.retained(filter, None, RETAINED_PAGE)).await?;
    let rest = page.next.map(|after| {
        let filter = filter.clone();
        Box::new(MoreRetained { connector, filter, after: Some(after) }) as Box<dyn Backlog>
    });
    Ok((page.messages, rest))
}

/// Retained messages after the first page.
struct MoreRetained {
    connector: Arc<Connector>,
    filter: TopicFilter,
    after: Option<String>,
}

impl Backlog for MoreRetained {
    fn next_page(&mut self) -> BoxFuture<'_, Result<Vec<Arc<Message>>, StorageError>> {
        Box::pin(async move {
            // A page may be empty although more follows: its topics lay in the range but did not match.
            while let Some(after) = &self.after {
                let filter = &self.filter;
                let read =
                    self.connector.read(|backend| backend.retained(filter, Some(after), RETAINED_PAGE));
                let page = read.await?;
                self.after = page.next;
                if !page.messages.is_empty() {
                    return Ok(page.messages);
                }
            }
            Ok(Vec::new())
        })
    }
}
