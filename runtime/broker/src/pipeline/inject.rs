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
