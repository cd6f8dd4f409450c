//! A store as the hooks of a broker see it: it keeps what is published at QoS 1 and 2, gives a new subscriber what it
//! has not read, and moves the clients' positions when they acknowledge.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tidegate_event::{
    Backlog, BoxFuture, Event, Hook, Message, MsgId, Origin, QoS, Scope, StorageError, TopicFilter,
};

use super::script::{Gate, Script, pass};

/// A store. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Shelf(Arc<State>);

struct State {
    messages: Mutex<Vec<Arc<Message>>>,
    /// By client and topic.
    positions: Mutex<HashMap<(String, String), MsgId>>,
    /// Messages of a page.
    page: usize,
    /// Every read passes it.
    gate: Option<Gate>,
    reads: Mutex<usize>,
}

/// Waits until the connections of clients that were dropped have ended, so that `left` are left.
pub(crate) async fn until_left(server: &super::Server, left: usize) {
    while server.broker.connections() > left {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}

impl Shelf {
    /// A store that gives `page` messages at a time, each page when `gate` lets it.
    pub(crate) fn new(page: usize, gate: Option<Gate>) -> Self {
        Self(Arc::new(State {
            messages: Mutex::default(),
            positions: Mutex::default(),
            page,
            gate,
            reads: Mutex::default(),
        }))
    }

    /// Handlers that store, fetch and move positions.
    pub(crate) fn hooks(&self) -> Arc<Script> {
        let shelf = self.clone();
        let hooks = [Hook::MessagePublish, Hook::SessionSubscribed, Hook::MessageAcked];
        Script::new(&hooks, move |scope| {
            shelf.handle(scope);
            pass()
        })
    }

    pub(crate) fn handle(&self, scope: &Scope) {
        match &scope.event {
            Event::MessagePublish { message, .. } if message.qos != QoS::AtMostOnce => {
                self.0.messages.lock().push(Arc::clone(message));
            }
            Event::SessionSubscribed { client, filter, .. } => {
                let backlog = self.backlog(&client.id, filter);
                scope.effects.lock().backlogs.push(Box::new(backlog));
            }
            Event::MessageAcked { client, message, through: Some(through), .. } => {
                let key = (client.id.to_string(), message.topic.to_string());
                let mut positions = self.0.positions.lock();
                let position = positions.entry(key).or_insert(*through);
                *position = (*position).max(*through);
            }
            _ => {}
        }
    }

    /// The payload of the message at which the client's position in `topic` is.
    pub(crate) fn position(&self, client: &str, topic: &str) -> Option<String> {
        let position = *self.0.positions.lock().get(&(client.to_owned(), topic.to_owned()))?;
        let messages = self.0.messages.lock();
        let message = messages.iter().find(|message| message.id == position)?;
        Some(String::from_utf8_lossy(&message.payload).into_owned())
    }

    /// How many pages were asked for.
    pub(crate) fn reads(&self) -> usize {
        *self.0.reads.lock()
    }

    /// What `client` has not read of `filter`, by its positions as they are now.
    fn backlog(&self, client: &str, filter: &TopicFilter) -> Unread {
        let positions = self.0.positions.lock();
        let read = positions.iter().filter(|((name, _), _)| name == client);
        let read = read.map(|((_, topic), position)| (topic.clone(), *position)).collect();
        Unread { shelf: self.clone(), filter: filter.clone(), read, next: 0 }
    }
}

struct Unread {
    shelf: Shelf,
    filter: TopicFilter,
    read: HashMap<String, MsgId>,
    next: usize,
}

impl Unread {
    fn wants(&self, message: &Message) -> bool {
        self.filter.matches(&message.topic)
            && self.read.get(message.topic.as_str()).is_none_or(|position| message.id > *position)
    }
}

impl Backlog for Unread {
    fn next_page(&mut self) -> BoxFuture<'_, Result<Vec<Arc<Message>>, StorageError>> {
        Box::pin(async move {
            let state = Arc::clone(&self.shelf.0);
            *state.reads.lock() += 1;
            if let Some(gate) = &state.gate {
                gate.pass().await;
            }
            let messages = state.messages.lock();
            let mut page = Vec::new();
            for message in messages.iter().skip(self.next) {
                if page.len() == state.page {
                    break;
                }
                self.next += 1;
                if self.wants(message) {
                    page.push(Arc::new(Message { origin: Origin::Fetched, ..Message::clone(message) }));
                }
            }
            Ok(page)
        })
    }
}
