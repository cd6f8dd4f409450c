//! What the thread that writes is given to do, until a time: a channel alone cannot be waited for so.

use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Instant;

use tokio::sync::mpsc;

use super::writer::Work;

/// What comes next.
pub(super) enum Next {
    Work(Work),
    /// The time has come.
    Due,
    /// Nobody can send any more.
    Closed,
}

/// The thread's end of the queue.
pub(super) struct Inbox {
    queue: mpsc::Receiver<Work>,
    waker: Waker,
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

impl Inbox {
    /// The inbox of the calling thread.
    pub(super) fn new(queue: mpsc::Receiver<Work>) -> Self {
        Self { queue, waker: Arc::new(Unpark(std::thread::current())).into() }
    }

    /// Waits for work, no longer than until `due`.
    pub(super) fn next(&mut self, due: Option<Instant>) -> Next {
        let mut context = Context::from_waker(&self.waker);
        loop {
            match self.queue.poll_recv(&mut context) {
                Poll::Ready(Some(work)) => return Next::Work(work),
                Poll::Ready(None) => return Next::Closed,
                Poll::Pending => {}
            }
            match due.map(|due| due.saturating_duration_since(Instant::now())) {
                None => std::thread::park(),
                Some(left) if left.is_zero() => return Next::Due,
                Some(left) => std::thread::park_timeout(left),
            }
        }
    }

    /// Work that is there already.
    pub(super) fn try_next(&mut self) -> Option<Work> {
        self.queue.try_recv().ok()
    }
}
