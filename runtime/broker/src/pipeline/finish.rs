//! The end of a pipeline: its connection is gone, what was accepted is completed.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use tidegate_event::SharedFilter;
use tokio::sync::oneshot;

use super::job::OVERHEAD;
use super::unfinished::Part;
use super::{Granted, Pipeline, Reply, Unfinished, arrived};
use crate::control::Command;
use crate::session::Session;
use crate::session::subscriptions::WHEN_NEW;

/// What an ended connection that has something to complete takes besides it, in units of [`OVERHEAD`].
const ENDED: usize = 8;

impl Pipeline {
    /// The connection ends: what it holds counts as its client's next connection's from now on.
    pub(crate) fn leave(&mut self) -> Arc<Unfinished> {
        // The next connection answers those that come on it alone.
        self.copies = 0;
        let unfinished = Arc::clone(self.earlier.get_or_insert_default());
        self.part = Some(Part::new(Arc::clone(&unfinished)));
        self.account();
        unfinished
    }

    /// Says how much an ended connection still holds.
    fn account(&mut self) {
        if let Some(part) = &mut self.part {
            part.set(OVERHEAD * ENDED + self.waiting_bytes + self.window_bytes);
        }
    }

    /// Raises every event that was accepted, when there is no connection to answer any more.
    pub(crate) async fn finish_raising(&mut self) {
        self.finishing = true;
        let mut replies = VecDeque::new();
        poll_fn(|cx| {
            self.fanout.begin_turn();
            self.poll(cx, &mut replies);
            self.flush();
            self.unanswered(&mut replies);
            self.account();
            if self.is_raised() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Nobody is there to be answered, nor to be sent stored messages before live ones.
    fn unanswered(&self, replies: &mut VecDeque<Reply>) {
        let Some(session) = &self.session else {
            replies.clear();
            return;
        };
        for reply in replies.drain(..) {
            match reply {
                Reply::Subscribed { granted, .. } => {
                    // What goes on since before a restart is begun by the client's next connection.
                    for granted in granted.into_iter().filter(|granted| !granted.resumed) {
                        self.not_brought(session, granted);
                    }
                }
                // The client's next connection was told nothing when the message came again.
                Reply::PubRec { ack, meanwhile } if meanwhile.is_any() => {
                    self.answer_later(session, Command::Answer(ack, meanwhile));
                }
                Reply::Close { resent: true } => self.answer_later(session, Command::Close),
                Reply::Unsubscribed { removed, .. } if !removed.is_empty() => session.changed(),
                Reply::PubAck(_)
                | Reply::PubRec { .. }
                | Reply::Close { .. }
                | Reply::Unsubscribed { .. } => {}
            }
        }
    }

    /// Nobody is there to be sent what `granted` brings: if stores have any of it, the client's next connection begins with
    /// that, and live messages go on waiting. The acknowledgement of one would move the client's position over it.
    fn not_brought(&self, session: &Session, granted: Granted) {
        let Granted { filter: SharedFilter { group, filter }, options, existed, hold, effects, .. } = granted;
        let reads_stores = effects.retained.is_some() || !effects.backlogs.is_empty();
        if reads_stores && group.is_none() && session.is_durable() {
            let mut outbox = session.outbox();
            let hold = hold.unwrap_or_else(|| outbox.hold(filter));
            outbox.leave(hold, !existed || options.retain_handling != WHEN_NEW);
            drop(outbox);
            session.changed();
        } else if let Some(hold) = hold {
            session.release(&self.realm, hold, |_| true);
        }
    }

    /// Has the client's present connection give an answer; without one the client asks again.
    fn answer_later(&self, session: &Session, command: Command) {
        let queued = session.outbox().command(command, self.realm.broker.config.max_commands);
        if let Ok(Some(waker)) = queued {
            waker.wake();
        }
    }

    /// Completes what was accepted when there is no connection to answer any more. `quiet` is told when the
    /// last event has been raised.
    pub(crate) async fn finish(&mut self, quiet: oneshot::Sender<()>) {
        let mut quiet = Some(quiet);
        let mut replies = VecDeque::new();
        poll_fn(|cx| {
            self.fanout.begin_turn();
            self.poll(cx, &mut replies);
            self.flush();
            self.unanswered(&mut replies);
            self.account();
            if self.is_raised()
                && let Some(quiet) = quiet.take()
            {
                // The client may not have come back.
                quiet.send(()).ok();
            }
            // Not before its client's earlier connections: a later one waits for this one alone.
            if self.is_empty() && arrived(&mut self.done, cx) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        self.part = None;
    }
}
