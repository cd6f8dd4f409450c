//! Publishes messages that have no connection: those of modules, and wills that come late.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Inbound, Pipeline, Reply};
use crate::realm::{Injected, Realm};

/// Publishes what comes out of `injected`, in order, with hooks, until `stopping`; then what is left.
pub(crate) async fn run(
    realm: Arc<Realm>,
    mut injected: mpsc::Receiver<Injected>,
    stopping: CancellationToken,
) {
    let mut pipeline = Pipeline::without_client(realm);
    let mut replies = VecDeque::new();
    let go_on = poll_fn(|cx| turn(&mut pipeline, &mut injected, &mut replies, cx));
    tokio::select! {
        () = go_on => return,
        () = stopping.cancelled() => {}
    }
    injected.close();
    poll_fn(|cx| turn(&mut pipeline, &mut injected, &mut replies, cx)).await;
}

/// Ready when nothing can come any more and all that came is done.
fn turn(
    pipeline: &mut Pipeline,
    injected: &mut mpsc::Receiver<Injected>,
    replies: &mut VecDeque<Reply>,
    cx: &mut Context<'_>,
) -> Poll<()> {
    pipeline.fanout.begin_turn();
    loop {
        let mut moved = pipeline.poll(cx, replies);
        // Nobody awaits an answer.
        replies.clear();
        let mut closed = false;
        if pipeline.waiting.is_empty() {
            match injected.poll_recv(cx) {
                Poll::Ready(Some(Injected { message, will })) => {
                    let inbound = Inbound { will, ..Inbound::unanswered(Arc::new(message)) };
                    pipeline.publish(inbound, replies);
                    moved = true;
                }
                Poll::Ready(None) => closed = true,
                Poll::Pending => {}
            }
        }
        pipeline.flush();
        // The tenant's queue is bounded; a subscriber that is behind does not hold it up.
        pipeline.fanout.crowded = None;
        if closed && pipeline.is_empty() {
            return Poll::Ready(());
        }
        if !moved {
            pipeline.rest();
            return Poll::Pending;
        }
        if pipeline.fanout.is_enough() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::task::Waker;

    use tidegate_event::{Message, QoS, SharedFilter, SubscriptionOptions};

    use super::*;
    use crate::session::{Session, test_message};

    /// Every message had what is allowed in a turn to itself: all that waited were one turn.
    #[tokio::test]
    async fn a_turn_is_bounded_by_the_deliveries_of_all_its_messages() {
        let realm = crate::realm::test_realm(crate::BrokerConfig::default());
        let filter = SharedFilter::parse(&"t".into()).unwrap();
        let subscribers: Vec<_> = (0..3_000)
            .map(|number| {
                let session = Arc::new(Session::new(number, format!("c{number}").into(), 0, 60));
                realm.tree.insert(&filter, &session, SubscriptionOptions::default());
                session.connect(&realm);
                session
            })
            .collect();
        let (sender, mut injected) = mpsc::channel(20);
        for id in 0..7 {
            let message = Message::clone(&test_message("t", QoS::AtMostOnce, id));
            sender.try_send(Injected { message, will: None }).unwrap();
        }
        let mut pipeline = Pipeline::without_client(realm);
        let (mut turns, mut reached, mut replies) = (Vec::new(), 0, VecDeque::new());
        while turns.len() < 3 {
            let mut cx = Context::from_waker(Waker::noop());
            assert!(turn(&mut pipeline, &mut injected, &mut replies, &mut cx).is_pending());
            let before = std::mem::replace(&mut reached, subscribers[2_999].outbox().len());
            turns.push(reached - before);
        }
        assert_eq!(turns, [3, 3, 1]);
    }
}
