//! Stored messages on their way to one subscriber, a page at a time.

use std::sync::Arc;

use bytestring::ByteString;
use tidegate_event::{ActionOptions, Backlog, BoxFuture, Message, StorageError, TopicFilter, now_ms};

use crate::backend::Unread;
use crate::connector::{About, Connector};

/// Size of a page when the line does not say.
const DEFAULT_PAGE: u32 = 1_000;

/// What a fetch has still to deliver.
pub(super) struct Unfetched {
    connector: Arc<Connector>,
    wanted: Unread,
    /// The last page was the last one there was: say so, then look again when asked again.
    finished: bool,
}

impl Unfetched {
    /// Everything stored that `filter` matches, after the positions of `client` (all when `None`).
    pub(super) fn new(
        connector: &Arc<Connector>,
        filter: &TopicFilter,
        client: Option<&ByteString>,
        options: &ActionOptions,
    ) -> Self {
        let wanted = Unread {
            filter: filter.clone(),
            client: client.map(ToString::to_string),
            after: None,
            since_ms: options.time_range_ms.map(|range| now_ms().saturating_sub(range)),
            limit: options.max_returned_count.unwrap_or(DEFAULT_PAGE).max(1),
        };
        Self { connector: Arc::clone(connector), wanted, finished: false }
    }
}

impl Backlog for Unfetched {
    fn next_page(&mut self) -> BoxFuture<'_, Result<Vec<Arc<Message>>, StorageError>> {
        Box::pin(async move {
            // What was published before the subscription must be in the database before it is read.
            self.connector = self.connector.drained(About::Topics(&self.wanted.filter)).await;
            while !std::mem::take(&mut self.finished) {
                let page = self.connector.read(|backend| backend.unread(&self.wanted)).await?;
                self.wanted.after = self.wanted.after.take().max(page.last);
                // An empty page is the end by itself.
                self.finished = !page.more && !page.messages.is_empty();
                if !page.messages.is_empty() || !page.more {
                    return Ok(page.messages);
                }
            }
            Ok(Vec::new())
        })
    }
}
