//! The attackers: tasks on threads of their own, with a low priority.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::watch;

use super::attack::Attack;
use super::{connecting, publishing, subscribing};

const THREADS: usize = 2;
/// How much nicer than others the attackers' threads are.
const NICE: i32 = 10;

/// What the attackers have done so far.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Connections that were made.
    pub(super) opened: AtomicU64,
    /// Connections and CONNECT that were refused.
    pub(super) refused: AtomicU64,
    /// Connections that the server closed.
    pub(super) closed: AtomicU64,
    /// Bytes that were sent.
    pub(super) bytes: AtomicU64,
    /// What [`Attack::unit`] says, taken by the server or by the attackers.
    pub(super) taken: AtomicU64,
    /// The same, not taken.
    pub(super) denied: AtomicU64,
}

/// Counts one more.
pub(super) fn add(to: &AtomicU64, count: usize) {
    to.fetch_add(count as u64, Ordering::Relaxed);
}

/// What came of an attack.
#[derive(Clone, Copy, Debug)]
pub(super) struct Count {
    opened: u64,
    refused: u64,
    closed: u64,
    bytes: u64,
    taken: u64,
    denied: u64,
    unit: &'static str,
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { opened, refused, closed, bytes, taken, denied, unit } = self;
        write!(f, "{opened} connections, {refused} refused, {closed} closed by the server; ")?;
        write!(f, "{:.1} MiB sent", *bytes as f64 / f64::from(1 << 20))?;
        if taken + denied > 0 {
            write!(f, "; {taken} {unit}, {denied} not")?;
        }
        Ok(())
    }
}

/// What an attacker needs to know.
#[derive(Clone)]
pub(super) struct Orders {
    pub(super) address: SocketAddr,
    pub(super) tally: Arc<Tally>,
    /// Bytes that all attackers together send at least, where the attack is so many.
    pub(super) least_bytes: u64,
    over: watch::Receiver<bool>,
}

impl Orders {
    /// Whether the attack is over.
    pub(super) fn is_over(&self) -> bool {
        *self.over.borrow()
    }

    /// Ends when the attack is over.
    pub(super) async fn over(&self) {
        // An error means that nobody gives orders any more.
        self.over.clone().wait_for(|over| *over).await.ok();
    }

    /// Runs `attack` until the attack is over; what it has open is closed then.
    pub(super) async fn until_over(&self, attack: impl Future<Output = ()>) {
        tokio::select! {
            () = attack => {}
            () = self.over() => {}
        }
    }
}

/// Attackers at work. Their sockets are open until this is dropped, unless they leave by themselves.
pub(super) struct Attackers {
    attack: Attack,
    runtime: Option<Runtime>,
    orders: Orders,
    over: watch::Sender<bool>,
}

impl Attackers {
    /// Starts them.
    pub(super) fn start(attack: Attack, address: SocketAddr, quick: bool) -> anyhow::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("attacker")
            .on_thread_start(|| {
                // Of this thread alone. Where it is not allowed the attackers are just stronger.
                rustix::process::setpriority_process(None, NICE).ok();
            })
            .enable_all()
            .build()
            .context("threads of the attackers")?;
        let (over, receiver) = watch::channel(false);
        let orders = Orders {
            address,
            tally: Arc::default(),
            least_bytes: connecting::garbage_bytes(attack, quick),
            over: receiver,
        };
        send(attack, runtime.handle(), &orders, quick);
        Ok(Self { attack, runtime: Some(runtime), orders, over })
    }

    /// Whether anything was done.
    pub(super) fn has_attacked(&self) -> bool {
        self.count().opened > 0
    }

    /// Whether they have done what they have to do at least.
    pub(super) fn have_finished(&self) -> bool {
        self.orders.tally.bytes.load(Ordering::Relaxed) >= self.orders.least_bytes
    }

    /// Tells them to stop: they leave, or hold what they have and say nothing any more.
    pub(super) fn stop(&self) {
        self.over.send_replace(true);
    }

    /// What they have done.
    pub(super) fn count(&self) -> Count {
        let Tally { opened, refused, closed, bytes, taken, denied } = &*self.orders.tally;
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Count {
            opened: of(opened),
            refused: of(refused),
            closed: of(closed),
            bytes: of(bytes),
            taken: of(taken),
            denied: of(denied),
            unit: self.attack.unit(),
        }
    }
}

impl Drop for Attackers {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Sends the attackers out.
fn send(attack: Attack, runtime: &Handle, orders: &Orders, quick: bool) {
    let each = |count: usize, start: &dyn Fn(usize, Orders)| {
        (0..count).for_each(|number| start(number, orders.clone()));
    };
    match attack {
        Attack::Slowloris => each(if quick { 100 } else { 1_000 }, &|number, orders| {
            runtime.spawn(connecting::drip(number, orders));
        }),
        Attack::NeverReads => {
            each(10, &|number, orders| {
                runtime.spawn(subscribing::never_read(number, orders));
            });
            runtime.spawn(publishing::fill(orders.clone()));
        }
        Attack::TakeOvers => each(16, &|number, orders| {
            runtime.spawn(connecting::reconnect(number, false, orders));
        }),
        Attack::NewIds => each(16, &|number, orders| {
            runtime.spawn(connecting::reconnect(number, true, orders));
        }),
        Attack::Garbage => {
            let noise: Arc<[u8]> = connecting::noise().into();
            each(8, &|number, orders| {
                runtime.spawn(connecting::garble(number, noise.clone(), orders));
            });
        }
        Attack::TooSlow => each(10, &|number, orders| {
            runtime.spawn(subscribing::read_slowly(number, orders));
        }),
        Attack::Subscribes => each(4, &|number, orders| {
            runtime.spawn(subscribing::flood(number, orders));
        }),
        Attack::Retained => each(4, &|number, orders| {
            runtime.spawn(publishing::retain(number, orders));
        }),
    }
}
