//! Stored messages before live ones: what a new subscription is given out of stores.
//!
//! While a join is going on, live messages of its filter are held in the outbox. First come retained messages,
//! then the pages of each [`Backlog`], oldest first; the next page is asked for when the client has acknowledged
//! the last one. After the empty page the held messages follow, without those that a page had already.

use std::collections::{HashSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use foldhash::fast::RandomState;
use tidegate_event::{Backlog, Message, MsgId, Origin, QoS, StorageError, TopicFilter};
use tokio::sync::oneshot;

use super::delivery::{Delivery, Source};

/// A backlog and the page it gave.
type Page = (Box<dyn Backlog>, Result<Vec<Arc<Message>>, StorageError>);

/// What is joined to the live messages of one subscription.
pub(crate) struct Join {
    /// Number of the hold in the outbox.
    pub(crate) number: u32,
    /// Of the subscription.
    pub(crate) filter: TopicFilter,
    qos: QoS,
    subscription_ids: Option<Arc<[u32]>>,
    /// To be sent next.
    list: VecDeque<Delivery>,
    /// Retained messages among the list, before the first page.
    retained: HashSet<MsgId, RandomState>,
    /// Those not yet read to their end.
    backlogs: VecDeque<Box<dyn Backlog>>,
    /// Those read to their end, to be asked again when held messages were lost meanwhile.
    exhausted: Vec<Box<dyn Backlog>>,
    fetch: Option<oneshot::Receiver<Page>>,
    /// Reads that failed since the last one that did not.
    failures: u32,
    /// Messages of the page that are sent and not acknowledged.
    outstanding: usize,
}

/// What a join can do now.
#[derive(Debug)]
pub(crate) enum Advance {
    /// Nothing, until something is acknowledged or a page arrives.
    Wait,
    /// A page arrived: [`Join::accept`] it.
    Page(Vec<Arc<Message>>),
    /// A backlog could not be read now. It is tried again, and live messages go on waiting: an ack of one would
    /// move the client's position beyond what it has not been given.
    Retry(StorageError),
    /// A backlog can never be read; the join goes on without it.
    Failed(Option<StorageError>),
    /// It asked for a page; call again.
    Again,
    /// All backlogs are at their end.
    Exhausted,
}

impl Join {
    /// A join that gives the `retained` messages (as deliveries), then the `backlogs`.
    pub(crate) fn new(
        number: u32,
        filter: TopicFilter,
        qos: QoS,
        subscription_ids: Option<Arc<[u32]>>,
        retained: VecDeque<Delivery>,
        backlogs: Vec<Box<dyn Backlog>>,
    ) -> Self {
        let ids = if backlogs.is_empty() {
            HashSet::default()
        } else {
            retained.iter().map(|delivery| delivery.message.id).collect()
        };
        Self {
            number,
            filter,
            qos,
            subscription_ids,
            list: retained,
            retained: ids,
            backlogs: backlogs.into(),
            exhausted: Vec::new(),
            fetch: None,
            failures: 0,
            outstanding: 0,
        }
    }

    /// Goes on: asks for the next page when the last one is done, looks whether it has come.
    pub(crate) fn advance(&mut self, cx: &mut Context<'_>) -> Advance {
        if let Some(fetch) = &mut self.fetch {
            let Poll::Ready(answer) = Pin::new(fetch).poll(cx) else { return Advance::Wait };
            self.fetch = None;
            return match answer {
                Ok((backlog, Ok(page))) if page.is_empty() => {
                    self.failures = 0;
                    self.exhausted.push(backlog);
                    Advance::Again
                }
                Ok((backlog, Ok(page))) => {
                    self.failures = 0;
                    self.backlogs.push_front(backlog);
                    Advance::Page(page)
                }
                Ok((backlog, Err(error))) if error.is_retryable() => {
                    self.failures = self.failures.saturating_add(1);
                    self.backlogs.push_front(backlog);
                    Advance::Retry(error)
                }
                Ok((_, Err(error))) => Advance::Failed(Some(error)),
                Err(_) => Advance::Failed(None),
            };
        }
        if !self.list.is_empty() || self.outstanding > 0 {
            return Advance::Wait;
        }
        match self.backlogs.pop_front() {
            Some(backlog) => {
                self.fetch = Some(fetch(backlog, pause(self.failures)));
                Advance::Again
            }
            None => Advance::Exhausted,
        }
    }

    /// Takes a page over, except messages in `known`: those the client was or will be given already. Gives the
    /// ids of the page's messages.
    pub(crate) fn accept(
        &mut self,
        page: Vec<Arc<Message>>,
        known: &HashSet<MsgId, RandomState>,
    ) -> Vec<MsgId> {
        let mut ids = Vec::with_capacity(page.len());
        for message in page {
            let id = message.id;
            ids.push(id);
            if known.contains(&id) && !self.retained.contains(&id) {
                continue;
            }
            self.list.push_back(Delivery {
                qos: self.qos.min(message.qos),
                retain: message.origin == Origin::RetainedStore,
                subscription_ids: self.subscription_ids.clone(),
                recorded: false,
                source: Source::Backlog(self.number),
                message,
            });
        }
        ids
    }

    /// Asks all backlogs again, because held messages that stores have were lost to the bound. `false`: there
    /// is none to ask.
    pub(crate) fn again(&mut self) -> bool {
        self.backlogs.extend(self.exhausted.drain(..));
        !self.backlogs.is_empty()
    }

    /// The next message to send.
    pub(crate) fn front(&self) -> Option<&Delivery> {
        self.list.front()
    }

    /// Takes the next message to send. `true`: the client has its retained copy already.
    pub(crate) fn pop(&mut self) -> Option<(Delivery, bool)> {
        let delivery = self.list.pop_front()?;
        if delivery.source == Source::Retained {
            return Some((delivery, false));
        }
        self.outstanding += 1;
        let copied = self.retained.contains(&delivery.message.id);
        Some((delivery, copied))
    }

    /// A message of the page is acknowledged, written at QoS 0 or dropped.
    pub(crate) fn finished_one(&mut self) {
        self.outstanding = self.outstanding.saturating_sub(1);
    }
}

/// Reads in a task of its own: a page that is half read holds a connection of the store, and the client it is
/// for may go away meanwhile.
fn fetch(mut backlog: Box<dyn Backlog>, pause: Option<Duration>) -> oneshot::Receiver<Page> {
    let (answer, page) = oneshot::channel();
    tokio::spawn(async move {
        if let Some(pause) = pause {
            tokio::time::sleep(pause).await;
        }
        let page = backlog.next_page().await;
        // Nobody waits any more when the session has ended.
        answer.send((backlog, page)).ok();
    });
    page
}

/// How long to wait after so many failed reads: 100 ms, doubled each time, 10 s at most.
fn pause(failures: u32) -> Option<Duration> {
    let doublings = failures.checked_sub(1)?.min(7);
    Some(Duration::from_millis(100 << doublings).min(Duration::from_secs(10)))
}
