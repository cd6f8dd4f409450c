//! Slows down who guesses passwords, and nobody else.
//!
//! Failures are counted three times: those of a user at an address, the users that failed at an address, and the addresses
//! where a user failed. Where there were more of late than cost nothing, passwords are looked at one at a time, with a
//! pause between two that doubles with every failure. Whoever comes meanwhile waits, and who of them is next is left to
//! chance (`waiting`): nobody is locked out, though a right password has to come about as often as the
//! guesses to be next. A device that tries the same wrong one again and again slows down itself alone. A user who has logged
//! in from an address before waits there only for failures of its own name at that address.
//!
//! Who gives the password that was right last need not wait for its turn, a few times: so it gets in, whoever guesses, but for
//! those who guess its own password from its own address. They guess no faster by it than twice.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tidegate_event::Recent;

use super::network::network;
use super::waiting::{Waiting, chance};

/// Addresses, users, and pairs of both that are remembered: about 400 KiB each when all are.
const REMEMBERED: usize = 8_192;

/// How many times the failures that cost nothing are free in an IPv6 network of 48 bits: a provider may have many
/// customers in it, and one who has it all has 65,536 networks of 64 bits.
const SITE: u32 = 8;

/// How often it is looked before its turn, without a pause, whether a password is the one that was right last.
const LOOKS: u32 = 4;

/// How far those who wait for the same moment are spread, so that chance decides.
const SPREAD: Duration = Duration::from_millis(50);

/// What is remembered of an address, a user or a pair of them.
#[derive(Clone, Copy, Debug, Default)]
struct Failures {
    count: u32,
    last: Duration,
    /// Until when nobody's password is looked at.
    until: Duration,
}

impl Failures {
    /// What is left of them after `window` without another one. Time that is spent waiting is not such time.
    fn of_late(self, now: Duration, window: Duration) -> Self {
        if now > self.last.max(self.until) + window { Self::default() } else { self }
    }

    /// Begins the next pause, if they are more than the `free` ones.
    fn pause(&mut self, now: Duration, free: u32, longest: Duration) {
        if let Some(over) = self.count.checked_sub(free.saturating_add(1)) {
            self.until = now + FIRST.saturating_mul(2u32.saturating_pow(over)).min(longest);
        }
    }
}

/// What is remembered of a user at an address.
#[derive(Clone, Copy, Debug, Default)]
struct Pair {
    /// Since it logged in last.
    failures: Failures,
    /// Whether it has logged in.
    known: bool,
}

/// The limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Patience {
    /// Failures that cost nothing; 0: none costs anything.
    pub(crate) failures: u32,
    /// Time without a failure after which all are forgotten.
    pub(crate) window: Duration,
    /// The longest pause between two passwords that are looked at.
    pub(crate) longest: Duration,
}

/// The pause after the first failure that costs something.
const FIRST: Duration = Duration::from_secs(1);

/// Failed logins of late.
#[derive(Debug)]
pub(super) struct Attempts {
    patience: Patience,
    began: Instant,
    addresses: Recent<Failures>,
    users: Recent<Failures>,
    pairs: Recent<Pair>,
    /// Held while it is decided whose turn it is.
    deciding: Mutex<()>,
    waiting: Waiting,
    /// When looks that were had before their turn will be made up for: of users at addresses that they have logged in from,
    /// and at all others.
    looks: Recent<Duration>,
}

/// Leave to look at a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing speaks against it.
    Free,
    /// It is the only one at its time.
    Alone,
}

impl Attempts {
    pub(super) fn new(patience: Patience) -> Self {
        Self {
            patience,
            began: Instant::now(),
            addresses: Recent::new(REMEMBERED),
            users: Recent::new(REMEMBERED),
            pairs: Recent::new(REMEMBERED),
            deciding: Mutex::default(),
            waiting: Waiting::default(),
            looks: Recent::new(REMEMBERED),
        }
    }

    /// Whether the password of `user` may be looked at from `address` now, as one of many.
    pub(super) fn is_free(&self, address: IpAddr, user: &str) -> bool {
        self.is_slow_at(self.began.elapsed(), address, user).is_none()
    }

    /// Whether it may be looked before its turn if a password of `user` that comes from `address` is the one that was right
    /// last. Whoever guesses can do so, too, so it is not often.
    pub(super) fn may_look(&self, address: IpAddr, user: &str) -> bool {
        self.may_look_at(self.began.elapsed(), address, user)
    }

    fn may_look_at(&self, now: Duration, address: IpAddr, user: &str) -> bool {
        let pause = self.patience.longest;
        // Who has many addresses has no more looks at them than at one.
        let at = self.knows(address, user).then(|| network(address, 64));
        self.looks.update((at, user), |made_up| {
            let begins = now.max(*made_up);
            let may = begins - now <= pause.saturating_mul(LOOKS - 1);
            if may {
                *made_up = begins.saturating_add(pause);
            }
            may
        })
    }

    /// The password that `user` gave at `address` was found to be right before its turn. What failed there goes on counting:
    /// it was not this one's.
    pub(super) fn recognised(&self, address: IpAddr, user: &str) {
        let _deciding = self.deciding.lock();
        self.pairs.update((network(address, 64), user), |pair| pair.known = true);
    }

    /// Waits until the password of `user` may be looked at from `address`; `waits` is called if that is not at once. `None`:
    /// its place is somebody else's, because too many wait for the same.
    pub(super) async fn turn(&self, address: IpAddr, user: &str, waits: impl FnOnce()) -> Option<Turn> {
        let mut until = match self.turn_at(self.began.elapsed(), address, user) {
            Ok(turn) => return Some(turn),
            Err(until) => until,
        };
        waits();
        let mut waiter = self.waiting.sit(network(address, 64), user);
        loop {
            let spread = SPREAD * u32::try_from(chance(1_000)).unwrap_or(0) / 1_000;
            tokio::select! {
                () = waiter.loses_its_seat() => return None,
                () = tokio::time::sleep_until((self.began + until + spread).into()) => {}
            }
            match self.turn_at(self.began.elapsed(), address, user) {
                Ok(turn) => return Some(turn),
                Err(later) => until = later,
            }
        }
    }

    /// Whether it is the turn of `user` at `address`, and if not, when it may be. A turn that is taken is nobody else's.
    fn turn_at(&self, now: Duration, address: IpAddr, user: &str) -> Result<Turn, Duration> {
        let _deciding = self.deciding.lock();
        let Some(until) = self.is_slow_at(now, address, user) else { return Ok(Turn::Free) };
        if until > now {
            return Err(until);
        }
        // Until it is known what comes of it, the others wait as if it had failed.
        let Patience { window, longest, .. } = self.patience;
        self.each(address, user, self.knows(address, user), |failures, free| {
            *failures = failures.of_late(now, window);
            failures.pause(now, free, longest);
        });
        Ok(Turn::Alone)
    }

    /// Until when `user` has to wait at `address`, if it has failed too often; that may be over.
    fn is_slow_at(&self, now: Duration, address: IpAddr, user: &str) -> Option<Duration> {
        let Patience { failures: free, window, .. } = self.patience;
        let pair = self.pairs.get((network(address, 64), user)).unwrap_or_default();
        let mut all = vec![(pair.failures, free)];
        if !pair.known {
            all.extend(self.users.get(user).map(|failures| (failures, free)));
            all.extend(
                networks(address, free).filter_map(|(at, free)| Some((self.addresses.get(at)?, free))),
            );
        }
        all.retain(|(failures, free)| failures.of_late(now, window).count > *free);
        all.iter().map(|(failures, _)| failures.until).max().filter(|_| free > 0)
    }

    /// Whether `user` has logged in from `address`.
    fn knows(&self, address: IpAddr, user: &str) -> bool {
        self.pairs.get((network(address, 64), user)).is_some_and(|pair| pair.known)
    }

    /// Has `change` change all that holds up `user` at `address`; it is given how many failures of each cost nothing.
    fn each(&self, address: IpAddr, user: &str, known: bool, change: impl Fn(&mut Failures, u32)) {
        let free = self.patience.failures;
        self.pairs.update((network(address, 64), user), |pair| change(&mut pair.failures, free));
        if !known {
            self.users.update(user, |failures| change(failures, free));
            networks(address, free).for_each(|(at, free)| {
                self.addresses.update(at, |failures| change(failures, free));
            });
        }
    }

    /// The password was right; it was looked at in `turn`.
    pub(super) fn succeeded(&self, address: IpAddr, user: &str, turn: Turn) {
        self.succeeded_at(self.began.elapsed(), address, user, turn);
    }

    fn succeeded_at(&self, now: Duration, address: IpAddr, user: &str, turn: Turn) {
        let _deciding = self.deciding.lock();
        let key = (network(address, 64), user);
        let known = self.pairs.update(key, |pair| {
            std::mem::replace(pair, Pair { known: true, failures: Failures::default() }).known
        });
        // The next one need not wait for what did not fail.
        if turn == Turn::Alone {
            self.each(address, user, known, |failures, _| failures.until = failures.until.min(now));
        }
    }

    /// The password was wrong, or there is no such user.
    pub(super) fn failed(&self, address: IpAddr, user: &str) {
        self.failed_at(self.began.elapsed(), address, user);
    }

    fn failed_at(&self, now: Duration, address: IpAddr, user: &str) {
        let Patience { failures: free, window, longest } = self.patience;
        let note = |failures: &mut Failures, free: u32, is_new: bool| {
            *failures = failures.of_late(now, window);
            let is_first = failures.count == 0;
            failures.count = failures.count.saturating_add(u32::from(is_new || is_first));
            failures.last = now;
            if is_new {
                failures.pause(now, free, longest);
            }
            is_first
        };
        let _deciding = self.deciding.lock();
        let key = (network(address, 64), user);
        // An address and a user are charged once for each other, however often that fails.
        let is_new = self.pairs.update(key, |pair| note(&mut pair.failures, free, true));
        self.users.update(user, |failures| note(failures, free, is_new));
        networks(address, free).for_each(|(at, free)| {
            self.addresses.update(at, |failures| note(failures, free, is_new));
        });
    }
}

/// What `address` is counted under, and how many failures cost nothing there.
fn networks(address: IpAddr, free: u32) -> impl Iterator<Item = ((IpAddr, u32), u32)> {
    let site =
        address.to_canonical().is_ipv6().then(|| ((network(address, 48), 48), free.saturating_mul(SITE)));
    std::iter::once(((network(address, 64), 64), free)).chain(site)
}

#[cfg(test)]
mod tests;
