//! Slows down who guesses passwords: by the address it comes from and by the user whose password is tried.
//!
//! After some failures within a window, further attempts are refused without a look at the password, for a time that
//! doubles with every failure after that. Attempts that are refused so do not prolong it. A user who has logged in from an
//! address before may fail as often there before it has to wait: neither a stranger who guesses its password elsewhere nor
//! a broken device behind the same address can lock it out.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use tidegate_event::Recent;

/// Addresses, users, and pairs of both that are remembered: about 400 KiB each when all are.
const REMEMBERED: usize = 8_192;

/// What is remembered of an address or a user.
#[derive(Clone, Copy, Debug, Default)]
struct Failures {
    count: u32,
    last: Duration,
    /// Until when attempts are refused.
    until: Duration,
}

/// The limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Patience {
    /// Failures that cost nothing; 0: none costs anything.
    pub(crate) failures: u32,
    /// Time without a failure after which all are forgotten.
    pub(crate) window: Duration,
    /// The longest that attempts are refused for.
    pub(crate) longest: Duration,
}

/// How long attempts are refused for after the first failure that costs something.
const FIRST: Duration = Duration::from_secs(1);

/// Failed logins of late.
#[derive(Debug)]
pub(super) struct Attempts {
    patience: Patience,
    began: Instant,
    addresses: Recent<Failures>,
    users: Recent<Failures>,
    /// Who has logged in from where: failures since then and one; 0: never.
    known: Recent<u32>,
}

impl Attempts {
    pub(super) fn new(patience: Patience) -> Self {
        Self {
            patience,
            began: Instant::now(),
            addresses: Recent::new(REMEMBERED),
            users: Recent::new(REMEMBERED),
            known: Recent::new(REMEMBERED),
        }
    }

    /// Whether the password of `user` may be tried from `address` now.
    pub(super) fn may_try(&self, address: IpAddr, user: &str) -> bool {
        self.may_try_at(self.began.elapsed(), address, user)
    }

    fn may_try_at(&self, now: Duration, address: IpAddr, user: &str) -> bool {
        let is_over = |failures: Option<Failures>| failures.is_none_or(|failures| failures.until <= now);
        let address = network(address);
        self.patience.failures == 0
            || (is_over(self.addresses.get(address)) && is_over(self.users.get(user)))
            || self
                .known
                .get((address, user))
                .is_some_and(|failures| (1..=self.patience.failures).contains(&failures))
    }

    /// The password was right.
    pub(super) fn succeeded(&self, address: IpAddr, user: &str) {
        self.known.update((network(address), user), |failures| *failures = 1);
    }

    /// The password was wrong, or there is no such user.
    pub(super) fn failed(&self, address: IpAddr, user: &str) {
        self.failed_at(self.began.elapsed(), address, user);
    }

    fn failed_at(&self, now: Duration, address: IpAddr, user: &str) {
        let Patience { failures: free, window, longest } = self.patience;
        let note = |failures: &mut Failures| {
            // Time that is spent waiting is not time without a failure.
            if now > failures.last.max(failures.until) + window {
                failures.count = 0;
            }
            failures.count = failures.count.saturating_add(1);
            failures.last = now;
            if let Some(over) = failures.count.checked_sub(free.saturating_add(1)) {
                let doubled = 2u32.saturating_pow(over);
                failures.until = now + FIRST.saturating_mul(doubled).min(longest);
            }
        };
        let address = network(address);
        self.addresses.update(address, note);
        self.users.update(user, note);
        if self.known.get((address, user)).is_some() {
            self.known.update((address, user), |failures| *failures = failures.saturating_add(1));
        }
    }
}

/// Whoever has one IPv6 address has its network of 64 bits.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn attempts() -> Attempts {
        let patience = Patience { failures: 3, window: 60 * SECOND, longest: 8 * SECOND };
        Attempts::new(patience)
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// How long attempts are refused for after `now`, whole seconds.
    fn refused_for(attempts: &Attempts, now: Duration, from: &str, user: &str) -> u32 {
        (0..100).find(|s| attempts.may_try_at(now + *s * SECOND, address(from), user)).unwrap()
    }

    #[test]
    fn after_some_failures_the_next_attempts_wait_for_longer_and_longer() {
        let attempts = attempts();
        let mut now = SECOND;
        let mut waits = Vec::new();
        for _ in 0..8 {
            attempts.failed_at(now, address("10.0.0.1"), "u");
            let wait = refused_for(&attempts, now, "10.0.0.1", "other");
            waits.push(wait);
            now += wait * SECOND;
        }
        assert_eq!(waits, [0, 0, 0, 1, 2, 4, 8, 8]);
        assert_eq!(refused_for(&attempts, now, "10.0.0.2", "other"), 0);
        now += 60 * SECOND;
        attempts.failed_at(now, address("10.0.0.1"), "u");
        assert_ne!(refused_for(&attempts, now, "10.0.0.1", "u"), 0, "the window begins after the waiting");
        now += 70 * SECOND;
        attempts.failed_at(now, address("10.0.0.1"), "u");
        assert_eq!(refused_for(&attempts, now, "10.0.0.1", "u"), 0, "all is forgotten");
    }

    #[test]
    fn a_user_is_protected_from_many_addresses_and_an_address_from_many_users() {
        let attempts = attempts();
        for number in 0..4 {
            attempts.failed_at(SECOND, address(&format!("10.0.1.{number}")), "admin");
            attempts.failed_at(SECOND, address("10.0.2.1"), &format!("u{number}"));
        }
        assert_ne!(refused_for(&attempts, SECOND, "10.9.9.9", "admin"), 0);
        assert_ne!(refused_for(&attempts, SECOND, "10.0.2.1", "fresh"), 0);
        assert_eq!(refused_for(&attempts, SECOND, "10.9.9.9", "fresh"), 0);
    }

    #[test]
    fn who_has_logged_in_from_an_address_is_not_locked_out_there() {
        let attempts = attempts();
        attempts.succeeded(address("10.0.0.1"), "u");
        for _ in 0..10 {
            attempts.failed_at(SECOND, address("10.0.0.1"), "broken");
            attempts.failed_at(SECOND, address("10.0.0.2"), "u");
        }
        assert_eq!(refused_for(&attempts, SECOND, "10.0.0.1", "u"), 0);
        assert_ne!(refused_for(&attempts, SECOND, "10.0.0.1", "v"), 0);
        assert_ne!(refused_for(&attempts, SECOND, "10.0.0.3", "u"), 0);
        // A neighbour behind its address can guess only so often, and it gets in again.
        for free in [true, true, false] {
            attempts.failed_at(SECOND, address("10.0.0.1"), "u");
            assert_eq!(refused_for(&attempts, SECOND, "10.0.0.1", "u") == 0, free);
        }
        attempts.succeeded(address("10.0.0.1"), "u");
        assert_eq!(refused_for(&attempts, SECOND, "10.0.0.1", "u"), 0);
    }

    #[test]
    fn addresses_of_one_host_count_together() {
        let attempts = attempts();
        for number in 0..4 {
            attempts.failed_at(SECOND, address(&format!("2001:db8::{number}")), &format!("u{number}"));
            attempts.failed_at(SECOND, address("::ffff:10.0.0.7"), &format!("v{number}"));
        }
        assert_ne!(refused_for(&attempts, SECOND, "2001:db8::ffff:1", "x"), 0);
        assert_eq!(refused_for(&attempts, SECOND, "2001:db8:0:1::1", "x"), 0);
        assert_ne!(refused_for(&attempts, SECOND, "10.0.0.7", "x"), 0);
    }

    #[test]
    fn no_limit_refuses_nobody() {
        let attempts = Attempts::new(Patience { failures: 0, window: SECOND, longest: SECOND });
        for _ in 0..100 {
            attempts.failed_at(SECOND, address("10.0.0.1"), "u");
        }
        assert_eq!(refused_for(&attempts, SECOND, "10.0.0.1", "u"), 0);
    }
}
