//! The keep-alive clock of a connection (MQTT 5 clause 3.1.2.10).
//!
//! What counts is a control packet, whole (clause 3.1.2-22): single bytes prove nothing, and a client that sends one now
//! and then would hold its connection for ever. A large packet on a slow line may take longer than the clock allows,
//! though: while one is on its way, time is given for as long as at least a sixteenth of it, and no less than
//! [`STEP_LEAST`], comes within one and a half keep-alives. So a packet gets sixteen times that at most, and a small one
//! no more than anything else.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// Into how many steps a packet may be stretched.
const STEPS: usize = 16;
/// Bytes that a step has at least.
const STEP_LEAST: usize = 1024;

/// Ends a connection when nothing has arrived for one and a half keep-alives.
pub(super) struct KeepAlive {
    limit: Duration,
    heard: Instant,
    /// Bytes of the packet on its way that have already given it time.
    counted: usize,
    /// Not moved with every packet: when it fires, it is set to when it should have been.
    timer: Pin<Box<Sleep>>,
}

impl KeepAlive {
    /// For a client that promised a packet every `seconds`; 0: it promised nothing, so there is no clock.
    pub(super) fn new(seconds: u16) -> Option<Self> {
        let limit = Duration::from_millis(u64::from(seconds) * 1_500);
        let heard = Instant::now();
        let timer = || Box::pin(tokio::time::sleep_until(heard + limit));
        (seconds > 0).then(|| Self { limit, heard, counted: 0, timer: timer() })
    }

    /// A whole packet has arrived.
    pub(super) fn heard(&mut self) {
        self.heard = Instant::now();
        self.counted = 0;
    }

    /// The client could not be heard, or has shown otherwise that it is there: it is not to blame for the time so far.
    pub(super) fn excuse(&mut self) {
        self.heard = Instant::now();
    }

    /// Ready when the client has been silent for too long. `have` bytes are there of a packet that has `whole`, 0 when
    /// none is on its way.
    pub(super) fn poll_expired(&mut self, cx: &mut Context<'_>, have: usize, whole: usize) -> Poll<()> {
        loop {
            if self.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            let now = Instant::now();
            let mut due = self.heard + self.limit;
            if due <= now {
                if have < self.counted + (whole / STEPS).max(STEP_LEAST) {
                    return Poll::Ready(());
                }
                self.counted = have;
                self.heard = now;
                due = now + self.limit;
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

    /// A clock of 10 seconds of keep-alive, to be used with the time paused.
    fn clock() -> KeepAlive {
        KeepAlive::new(10).unwrap()
    }

    /// Waits until the clock has run out, while as many bytes are there as `have` says for a time; gives that time.
    async fn silence(clock: &mut KeepAlive, have: impl Fn(u64) -> usize, whole: usize) -> u64 {
        let start = Instant::now();
        poll_fn(|cx| clock.poll_expired(cx, have(start.elapsed().as_secs()), whole)).await;
        start.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn one_and_a_half_keep_alives_after_the_last_packet() {
        let mut clock = clock();
        tokio::time::advance(Duration::from_secs(9)).await;
        clock.heard();
        assert_eq!(silence(&mut clock, |_| 0, 0).await, 15, "the timer is set anew, not believed");
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_packet_on_its_way_gives_time_while_it_grows() {
        let whole = 1 << 20;
        // 5 KiB a second: it is all there after 205 seconds, and its last part is a small one.
        let arriving = |seconds: u64| (seconds as usize * 5 * 1024).min(whole);
        assert_eq!(silence(&mut clock(), arriving, whole).await, 210);
        // 4 KiB a second are not a sixteenth in the time.
        assert_eq!(silence(&mut clock(), |seconds| seconds as usize * 4 * 1024, whole).await, 15);
        // It stops on the way.
        assert_eq!(silence(&mut clock(), |seconds| seconds.min(40) as usize * 5 * 1024, whole).await, 45);
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_of_a_small_packet_give_none() {
        for whole in [2, 20, 1_000] {
            let arriving = |seconds: u64| (seconds as usize).min(whole - 1);
            assert_eq!(silence(&mut clock(), arriving, whole).await, 15, "{whole} bytes");
        }
    }

    #[test]
    fn zero_means_no_clock() {
        assert!(KeepAlive::new(0).is_none());
    }
}
