//! The places of a host's instances: how many may live at once, and whose idle one makes room when all are taken.
//!
//! A host has more modules than it needs instances: most are idle most of the time. An event that finds no place takes
//! that of the instance which has been idle the longest, whatever module it is of, and waits only when none is idle.
//!
//! An instance may be made of several memories, tables and core instances, so that the engine's pool of these can run
//! out before the places do: idle instances make room then, too.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::error::LoadError;
use crate::instance::Instance;
use crate::ticker;

/// How often an event that waits for a place looks for idle instances.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// All places of a host.
pub(crate) struct Slots {
    most: usize,
    free: Arc<Semaphore>,
    /// The shelves whose instances may make room.
    shelves: Mutex<Vec<Weak<Shelf>>>,
    /// Events that wait for a place.
    waiting: AtomicUsize,
}

/// The idle instances of one module version.
#[derive(Default)]
pub(crate) struct Shelf {
    idle: Mutex<Idle>,
    /// Instances alive, those in use included.
    live: AtomicUsize,
    /// The tick in which one was last put back.
    used: AtomicU64,
}

#[derive(Default)]
struct Idle {
    /// The one used last is used next: its memory is in the caches.
    #[expect(
        clippy::vec_box,
        reason = "it moves between here and a lease for every event: a pointer is cheaper"
    )]
    stack: Vec<Box<Instance>>,
    /// The fewest that were idle since the last [`Shelf::take_unneeded`]: so many nobody needs.
    spare: usize,
    /// Whether another version serves: nobody will need an instance again.
    closed: bool,
}

impl Slots {
    /// Places for `most` instances.
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            free: Arc::new(Semaphore::new(most)),
            shelves: Mutex::default(),
            waiting: AtomicUsize::new(0),
        })
    }

    /// From now on the idle instances of `shelf` make room for others.
    pub(crate) fn add(&self, shelf: &Arc<Shelf>) {
        let mut shelves = self.shelves.lock();
        shelves.retain(|known| known.strong_count() > 0);
        shelves.push(Arc::downgrade(shelf));
    }

    /// A place, for which an idle instance may have to go. Waits at most `until` then rather than failing at the limit.
    ///
    /// # Errors
    /// [`LoadError::NoPlace`] when every place was in use all the time.
    pub(crate) async fn take(&self, until: Instant) -> Result<OwnedSemaphorePermit, LoadError> {
        if let Ok(slot) = self.free.clone().try_acquire_owned() {
            return Ok(slot);
        }
        let _waits = Waits::among(&self.waiting);
        loop {
            // Its place is given back when it is dropped, to whoever has waited longest. Others may have become idle
            // since the last look.
            drop(self.longest_idle());
            let look = until.min(Instant::now() + LOOK_EVERY);
            match tokio::time::timeout_at(look, self.free.clone().acquire_owned()).await {
                Ok(Ok(slot)) => return Ok(slot),
                Err(_) if look < until => {}
                _ => return Err(LoadError::NoPlace(self.most)),
            }
        }
    }

    /// For an instance that found a place and nothing in the engine's pool to be made of: one that is idle goes, or
    /// one in use has a moment to end. Gives whether more attempts than one are of use: there is time until `until`,
    /// and something alive that may go.
    pub(crate) async fn make_room(&self, until: Instant) -> bool {
        if self.free.available_permits() == self.most {
            return false;
        }
        let _waits = Waits::among(&self.waiting);
        if let Some(idle) = self.longest_idle() {
            drop(idle);
        } else {
            tokio::time::sleep_until(until.min(Instant::now() + LOOK_EVERY)).await;
        }
        Instant::now() < until
    }

    /// Whether somebody waits for a place: then an instance that becomes idle makes room.
    pub(crate) fn are_wanted(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    fn longest_idle(&self) -> Option<Box<Instance>> {
        let mut shelves: Vec<_> = self.shelves.lock().iter().filter_map(Weak::upgrade).collect();
        shelves.sort_by_key(|shelf| shelf.used.load(Ordering::Relaxed));
        let found = shelves.iter().find_map(|shelf| shelf.take_longest_idle());
        if found.is_some() {
            metrics::counter!("tidegate_module_instances_reclaimed_total").increment(1);
        }
        found
    }
}

/// Counts a waiting event while it waits.
struct Waits<'a>(&'a AtomicUsize);

impl<'a> Waits<'a> {
    fn among(waiting: &'a AtomicUsize) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        Self(waiting)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shelf {
    /// Instances alive, and how many of them are idle.
    pub(crate) fn count(&self) -> (usize, usize) {
        (self.live.load(Ordering::Relaxed), self.idle.lock().stack.len())
    }

    /// Bytes of memory of the largest idle instance.
    pub(crate) fn most_memory(&self) -> Option<usize> {
        self.idle.lock().stack.iter().map(|instance| instance.memory()).max()
    }

    /// A new instance is alive, and in use.
    pub(crate) fn born(&self) {
        self.live.fetch_add(1, Ordering::Relaxed);
    }

    /// Ends an instance that was in use.
    pub(crate) fn retire(&self, instance: Box<Instance>) {
        drop(instance);
        self.live.fetch_sub(1, Ordering::Relaxed);
    }

    /// The idle instance that was used last.
    pub(crate) fn take(&self) -> Option<Box<Instance>> {
        let mut idle = self.idle.lock();
        let instance = idle.stack.pop();
        idle.spare = idle.spare.min(idle.stack.len());
        instance
    }

    /// Keeps `instance` for the next event, unless there are `most` already or nobody will come: then it is given back.
    pub(crate) fn put(&self, instance: Box<Instance>, most: usize) -> Option<Box<Instance>> {
        let mut idle = self.idle.lock();
        if idle.closed || idle.stack.len() >= most {
            return Some(instance);
        }
        self.used.store(ticker::count(), Ordering::Relaxed);
        idle.stack.push(instance);
        None
    }

    fn take_longest_idle(&self) -> Option<Box<Instance>> {
        let mut idle = self.idle.lock();
        if idle.stack.is_empty() {
            return None;
        }
        let instance = idle.stack.remove(0);
        idle.spare = idle.spare.saturating_sub(1);
        drop(idle);
        self.live.fetch_sub(1, Ordering::Relaxed);
        Some(instance)
    }

    /// Takes all idle instances, and keeps none from now on.
    #[expect(clippy::vec_box, reason = "they come out of the stack as they are")]
    pub(crate) fn close(&self) -> Vec<Box<Instance>> {
        let mut idle = self.idle.lock();
        idle.closed = true;
        idle.spare = 0;
        std::mem::take(&mut idle.stack)
    }

    /// Takes the instances that nobody has needed since the last time.
    #[expect(clippy::vec_box, reason = "they come out of the stack as they are")]
    pub(crate) fn take_unneeded(&self) -> Vec<Box<Instance>> {
        let mut idle = self.idle.lock();
        let spare = idle.spare.min(idle.stack.len());
        idle.spare = idle.stack.len() - spare;
        idle.stack.drain(..spare).collect()
    }
}
