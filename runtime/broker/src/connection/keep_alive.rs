//! The keep-alive clock of a connection (MQTT 5 clause 3.1.2.10).

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// Ends a connection when nothing has arrived for one and a half keep-alives.
pub(super) struct KeepAlive {
    limit: Duration,
    heard: Instant,
    /// Not moved with every packet: when it fires, it is set to when it should have been.
    timer: Pin<Box<Sleep>>,
}

impl KeepAlive {
    /// For a client that promised a packet every `seconds`; 0: it promised nothing, so there is no clock.
    pub(super) fn new(seconds: u16) -> Option<Self> {
        let limit = Duration::from_millis(u64::from(seconds) * 1_500);
        let heard = Instant::now();
        (seconds > 0).then(|| Self { limit, heard, timer: Box::pin(tokio::time::sleep_until(heard + limit)) })
    }

    /// The client has shown that it is there.
    pub(super) fn heard(&mut self) {
        self.heard = Instant::now();
    }

    /// Ready when the client has been silent for too long.
    pub(super) fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            let due = self.heard + self.limit;
            if due <= Instant::now() {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(due);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn one_and_a_half_keep_alives_after_the_last_packet() {
        let mut clock = KeepAlive::new(10).unwrap();
        assert_eq!(clock.limit, Duration::from_secs(15));
        clock.limit = Duration::from_millis(60);
        clock.timer.as_mut().reset(Instant::now());
        clock.heard();
        let heard = clock.heard;
        poll_fn(|cx| clock.poll_expired(cx)).await;
        assert!(heard.elapsed() >= Duration::from_millis(60), "the timer is set anew, not believed");
    }

    #[test]
    fn zero_means_no_clock() {
        assert!(KeepAlive::new(0).is_none());
    }
}
