//! Password hashes: argon2id, within bounds that a small machine can bear.
//!
//! One check takes about 20 MiB and 20 ms. So only a few run at once, on threads where they may block: a storm of logins
//! waits in a line, and who hangs up leaves it. The line is as long as connections have patience for, and one address
//! cannot fill it.

use std::net::IpAddr;
use std::sync::Arc;

use argon2::password_hash::rand_core::OsRng;
use argon2::password_hash::{PasswordHash, PasswordHasher as _, PasswordVerifier as _, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};
use tidegate_event::Password;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::network::network;
use super::places::{Place, Places};

/// What new hashes take: OWASP's first choice for argon2id with little memory (Password Storage Cheat Sheet). Written
/// out, because the crate's defaults may change.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// The most that a hash of the file may take.
const MOST_MEMORY_KIB: u32 = 64 * 1024;
const MOST_PASSES: u32 = 16;
const MOST_LANES: u32 = 16;

/// Memory of all checks at once, KiB.
const BUDGET_KIB: u32 = 64 * 1024;

/// How many may wait for each check that runs: about five seconds on a slow processor, of the ten that CONNECT has.
const WAIT: u32 = 256;

/// How many of one address may wait while the line is more than half as long as it may be.
const WAIT_AT_ADDRESS: u32 = 8;

/// Why a text is no hash that is taken.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum HashError {
    /// Not in PHC form.
    #[error("no hash in PHC form ($argon2id$v=19$m=19456,t=2,p=1$SALT$HASH): {0}")]
    Form(String),
    /// Another function.
    #[error("hashed with {0}: only argon2id is taken")]
    Algorithm(String),
    /// Too much memory or time.
    #[error(
        "m={memory},t={passes},p={lanes} is out of bounds: at most m={MOST_MEMORY_KIB},t={MOST_PASSES},p={MOST_LANES}"
    )]
    Cost {
        /// KiB.
        memory: u32,
        /// Passes over it.
        passes: u32,
        /// Lanes.
        lanes: u32,
    },
    /// Salt or hash are missing.
    #[error("the hash has no {0}")]
    Missing(&'static str),
}

/// A password's hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hash {
    text: Arc<str>,
    memory_kib: u32,
}

impl Hash {
    /// Reads a hash in PHC form.
    ///
    /// # Errors
    /// [`HashError`].
    pub(super) fn parse(text: &str) -> Result<Self, HashError> {
        let hash = PasswordHash::new(text).map_err(|error| HashError::Form(error.to_string()))?;
        if hash.algorithm != Algorithm::Argon2id.ident() {
            return Err(HashError::Algorithm(hash.algorithm.to_string()));
        }
        // Before the crate looks: it multiplies before it compares.
        let cost = |name| hash.params.get_decimal(name).unwrap_or(0);
        let (memory, passes, lanes) = (cost("m"), cost("t"), cost("p"));
        if memory > MOST_MEMORY_KIB || passes > MOST_PASSES || lanes > MOST_LANES {
            return Err(HashError::Cost { memory, passes, lanes });
        }
        let params = Params::try_from(&hash).map_err(|error| HashError::Form(error.to_string()))?;
        hash.version
            .map_or(Ok(Version::V0x13), Version::try_from)
            .map_err(|error: argon2::Error| HashError::Form(error.to_string()))?;
        hash.salt.ok_or(HashError::Missing("salt"))?;
        hash.hash.ok_or(HashError::Missing("hash behind its salt"))?;
        Ok(Self { text: text.into(), memory_kib: params.m_cost() })
    }

    /// The hash of `password` with a new salt.
    ///
    /// # Errors
    /// [`HashError::Form`], when the password is longer than any that MQTT can carry.
    pub(super) fn of(password: &[u8]) -> Result<Self, HashError> {
        let params = Params::new(MEMORY_KIB, PASSES, LANES, None);
        let params = params.map_err(|error| HashError::Form(error.to_string()))?;
        let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let salt = SaltString::generate(&mut OsRng);
        let hash = argon.hash_password(password, &salt);
        Self::parse(&hash.map_err(|error| HashError::Form(error.to_string()))?.to_string())
    }

    /// The text in PHC form.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Whether it is the hash of `password`. Takes long.
    fn is_of(&self, password: &[u8]) -> bool {
        let Ok(hash) = PasswordHash::new(&self.text) else { return false };
        Argon2::default().verify_password(password, &hash).is_ok()
    }
}

/// Lets a few checks run at once.
#[derive(Clone, Debug)]
pub(super) struct Checks {
    /// KiB that are free.
    memory: Arc<Semaphore>,
    /// What a check takes of it at least, so that one processor is left for everything else.
    least: u32,
    waiting: Places,
    most_waiting: u32,
}

impl Checks {
    /// For a machine with so many processors.
    pub(super) fn new(processors: usize) -> Self {
        let at_once = u32::try_from(processors.saturating_sub(1)).unwrap_or(u32::MAX).max(1);
        let most_waiting = WAIT * at_once.min(BUDGET_KIB / MEMORY_KIB);
        Self {
            memory: Arc::new(Semaphore::new(BUDGET_KIB as usize)),
            least: BUDGET_KIB / at_once,
            waiting: Places::default(),
            most_waiting,
        }
    }

    /// All there is, so that nothing more is checked while the caller keeps it.
    #[cfg(test)]
    pub(super) async fn keep_busy(&self) -> Option<OwnedSemaphorePermit> {
        self.memory.clone().acquire_many_owned(BUDGET_KIB).await.ok()
    }

    /// Waits until `hash` may be checked, for somebody at `address`; dropping the future gives the turn up. `None`: too
    /// many wait.
    pub(super) async fn turn(&self, hash: Hash, address: IpAddr) -> Option<Check> {
        let _places = self.places(address)?;
        let share = self.least.max(hash.memory_kib).min(BUDGET_KIB);
        // Nobody closes the semaphore.
        let permit = self.memory.clone().acquire_many_owned(share).await.ok();
        Some(Check { hash, permit })
    }

    fn places(&self, address: IpAddr) -> Option<[Place; 2]> {
        let any = self.waiting.take(None::<IpAddr>, self.most_waiting)?;
        let is_long = any.taken() > self.most_waiting / 2;
        let most = if is_long { WAIT_AT_ADDRESS } else { u32::MAX };
        let own = self.waiting.take(Some(network(address, 64)), most)?;
        Some([any, own])
    }
}

/// The right to check a hash now.
#[derive(Debug)]
pub(super) struct Check {
    hash: Hash,
    permit: Option<OwnedSemaphorePermit>,
}

impl Check {
    /// Whether the hash is that of `password`. The turn ends when what comes with the answer is dropped.
    pub(super) async fn of(self, password: Password) -> (bool, Option<OwnedSemaphorePermit>) {
        // The work goes on when nobody waits for it any more, and so does its turn.
        let check = tokio::task::spawn_blocking(move || (self.hash.is_of(password.bytes()), self.permit));
        check.await.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    /// Of `password` and the salt `somesalt`: a vector of the reference implementation.
    const REFERENCE: &str =
        "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";

    #[test]
    fn a_new_hash_is_of_its_password_alone_and_has_the_recommended_cost() {
        let hash = Hash::of(b"p\xffss").unwrap();
        assert!(hash.text().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{}", hash.text());
        assert!(hash.is_of(b"p\xffss"));
        assert!(!hash.is_of(b"p"));
        assert!(!hash.is_of(b""));
        assert_ne!(Hash::of(b"p\xffss").unwrap(), hash, "another salt");
    }

    #[test]
    fn hashes_of_other_programs_are_read() {
        let hash = Hash::parse(REFERENCE).unwrap();
        assert!(hash.is_of(b"password"));
        assert!(!hash.is_of(b"Password"));
    }

    #[test]
    fn what_costs_too_much_or_is_another_function_is_refused() {
        let error = |from: &str, to: &str| Hash::parse(&REFERENCE.replace(from, to)).unwrap_err();
        assert_eq!(error("m=65536", "m=65537"), HashError::Cost { memory: 65_537, passes: 2, lanes: 1 });
        assert!(matches!(error("t=2", "t=99"), HashError::Cost { .. }));
        assert!(matches!(error("p=1", "p=4294967295"), HashError::Cost { .. }));
        assert!(matches!(error("m=65536", "m=7"), HashError::Form(_)), "less than 8 KiB a lane");
        assert_eq!(error("argon2id", "argon2i"), HashError::Algorithm("argon2i".into()));
        assert!(matches!(error("v=19", "v=20"), HashError::Form(_)));
        assert!(matches!(error("$argon2id", "argon2id"), HashError::Form(_)));
        assert_eq!(
            Hash::parse("$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQ").unwrap_err(),
            HashError::Missing("hash behind its salt")
        );
        assert_eq!(Hash::parse("$argon2id$v=19$m=19456,t=2,p=1").unwrap_err(), HashError::Missing("salt"));
    }

    #[tokio::test]
    async fn so_many_checks_run_at_once_and_who_leaves_gives_its_turn_up() {
        for (processors, at_once) in [(1, 1), (2, 1), (3, 2), (4, 3), (100, BUDGET_KIB / MEMORY_KIB)] {
            let checks = Checks::new(processors);
            let share = checks.least.max(MEMORY_KIB);
            assert_eq!(BUDGET_KIB / share, at_once, "{processors} processors");
        }
        let checks = Checks::new(2);
        let cheap = Hash::parse(&REFERENCE.replace("m=65536,t=2", "m=8,t=1")).unwrap();
        let password = Password::new("x".into());
        let all = checks.memory.clone().acquire_many_owned(BUDGET_KIB).await.unwrap();
        let here = IpAddr::from([10, 0, 0, 1]);
        let mut waiting = Box::pin(checks.turn(cheap.clone(), here));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        drop(waiting);
        drop(all);
        assert!(!checks.turn(cheap, here).await.unwrap().of(password).await.0);
        assert_eq!(checks.memory.available_permits(), BUDGET_KIB as usize);
    }

    #[tokio::test]
    async fn the_line_is_bounded_and_one_address_does_not_fill_it() {
        use futures_util::FutureExt as _;

        let checks = Checks::new(2);
        let hash = Hash::parse(REFERENCE).unwrap();
        let _all = checks.memory.clone().acquire_many_owned(BUDGET_KIB).await.unwrap();
        let mut waiting = Vec::new();
        let mut come = |address: [u8; 4], count: usize| {
            let turns = (0..count).map(|_| Box::pin(checks.turn(hash.clone(), address.into())));
            waiting.extend(turns);
            let come = waiting.len() - count;
            waiting
                .iter_mut()
                .skip(come)
                .filter_map(|turn| turn.now_or_never().is_none().then_some(()))
                .count()
        };
        assert_eq!(come([10, 0, 0, 1], 1_000), 128);
        for other in 0..16 {
            assert_eq!(come([10, 0, 1, other], 10), 8);
        }
        assert_eq!(come([10, 0, 2, 1], 1), 0, "all places are taken");
    }
}
