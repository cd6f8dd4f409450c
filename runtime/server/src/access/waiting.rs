//! Who waits for a turn to log in: some as one user from one address, and some from one address at all.
//!
//! When all seats are taken, one more takes that of another, and chance says whose. So nobody is kept out by somebody who has
//! all of them and comes again as soon as one is free: who wants to keep others out has to come more often than they do.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Who may wait to log in as one user from one address, and from one address at all.
const AS_USER: usize = 4;
const AT_ADDRESS: usize = 32;

/// All who wait.
#[derive(Debug, Default)]
pub(super) struct Waiting(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    hash: RandomState,
    seats: Mutex<Seats>,
}

#[derive(Debug, Default)]
struct Seats {
    /// By a hash of the address that is keyed anew in every process.
    taken: HashMap<u64, Vec<Seat>>,
    /// The number given last.
    last: u64,
}

#[derive(Debug)]
struct Seat {
    number: u64,
    /// A hash of the user's name.
    user: u64,
    /// Dropped with the seat: who has it sees that.
    _lose: oneshot::Sender<()>,
}

/// A seat, until it is somebody else's; dropping it gives it up.
#[derive(Debug)]
pub(super) struct Waiter {
    all: Arc<Inner>,
    address: u64,
    number: u64,
    lost: oneshot::Receiver<()>,
}

impl Waiting {
    /// A seat for `user` at `address`: a free one, or somebody's.
    pub(super) fn sit(&self, address: IpAddr, user: &str) -> Waiter {
        let all = self.0.clone();
        let (address, user) = (all.hash.hash_one(address), all.hash.hash_one(user));
        let (lose, lost) = oneshot::channel();
        let mut seats = all.seats.lock();
        seats.last += 1;
        let number = seats.last;
        let taken = seats.taken.entry(address).or_default();
        let of_user: Vec<usize> =
            (0..).zip(&*taken).filter(|(_, seat)| seat.user == user).map(|(at, _)| at).collect();
        let going = match of_user.len() {
            AS_USER.. => of_user.get(chance(of_user.len())).copied(),
            _ if taken.len() >= AT_ADDRESS => Some(chance(taken.len())),
            _ => None,
        };
        if let Some(going) = going.filter(|going| *going < taken.len()) {
            taken.swap_remove(going);
        }
        taken.push(Seat { number, user, _lose: lose });
        drop(seats);
        Waiter { all, address, number, lost }
    }
}

impl Waiter {
    /// Ready when the seat is somebody else's.
    pub(super) async fn loses_its_seat(&mut self) {
        (&mut self.lost).await.ok();
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut seats = self.all.seats.lock();
        let Some(taken) = seats.taken.get_mut(&self.address) else { return };
        taken.retain(|seat| seat.number != self.number);
        if taken.is_empty() {
            // Nothing is kept of addresses where nobody waits.
            seats.taken.remove(&self.address);
        }
    }
}

/// A number below `count`, that nobody can know before.
pub(super) fn chance(count: usize) -> usize {
    let any = RandomState::new().hash_one(());
    u64::try_from(count)
        .ok()
        .and_then(|count| any.checked_rem(count))
        .and_then(|n| n.try_into().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    /// How many of them have lost their seats; those are taken out.
    fn lost(waiters: &mut Vec<Waiter>) -> usize {
        let before = waiters.len();
        waiters.retain_mut(|waiter| waiter.loses_its_seat().now_or_never().is_none());
        before - waiters.len()
    }

    /// The newest was refused: who held all places kept everybody else out.
    #[test]
    fn who_has_all_seats_keeps_nobody_out() {
        let (waiting, here) = (Waiting::default(), IpAddr::from([10, 0, 0, 1]));
        let mut guessers: Vec<_> = (0..AS_USER).map(|_| waiting.sit(here, "u")).collect();
        assert_eq!(lost(&mut guessers), 0);
        let mut honest = waiting.sit(here, "u");
        assert!(honest.loses_its_seat().now_or_never().is_none());
        assert_eq!(lost(&mut guessers), 1);
        // The same for the whole address; other addresses do not matter.
        let elsewhere = waiting.sit(IpAddr::from([10, 0, 0, 2]), "u");
        let names = (0..).map(|number| format!("x{}", number / AS_USER));
        guessers.extend(names.take(AT_ADDRESS - AS_USER).map(|name| waiting.sit(here, &name)));
        assert_eq!(lost(&mut guessers), 0);
        let mut others = vec![honest, waiting.sit(here, "v")];
        assert_eq!(lost(&mut guessers) + lost(&mut others), 1);
        drop((guessers, others, elsewhere));
        assert!(waiting.0.seats.lock().taken.is_empty());
    }

    #[test]
    fn each_of_them_may_have_to_go() {
        let here = IpAddr::from([10, 0, 0, 1]);
        let mut went = [0; AS_USER];
        for _ in 0..1_000 {
            let waiting = Waiting::default();
            let mut waiters: Vec<_> = (0..=AS_USER).map(|_| waiting.sit(here, "u")).collect();
            let gone = waiters.iter_mut().position(|waiter| waiter.loses_its_seat().now_or_never().is_some());
            if let Some(count) = gone.and_then(|at| went.get_mut(at)) {
                *count += 1;
            }
        }
        assert_eq!(went.iter().sum::<u32>(), 1_000, "one at a time, and not the newest");
        assert!(went.iter().all(|count| (150..350).contains(count)), "{went:?}");
    }
}
