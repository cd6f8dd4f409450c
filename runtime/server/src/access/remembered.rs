//! Passwords that were right: a fleet that connects again need not wait for as many slow hashes.
//!
//! Nothing is kept but a keyed hash of user, line of the password file and password; its key is new in every process and
//! never leaves it. A user whose line changes or goes is another one.

use argon2::password_hash::rand_core::{OsRng, RngCore as _};
use tidegate_event::{Password, Recent};

use super::hashing::Hash;

/// Users that are remembered: 3 MiB when all are.
const REMEMBERED: usize = 65_536;

/// Logins that were right.
pub(super) struct Remembered {
    /// `None`: the system gave no random bits, so nothing is remembered.
    key: Option<[u8; 32]>,
    users: Recent<[u8; 32]>,
}

impl Remembered {
    /// Nobody is remembered.
    pub(super) fn new() -> Self {
        let mut key = [0; 32];
        let random = OsRng.try_fill_bytes(&mut key).is_ok();
        Self { key: random.then_some(key), users: Recent::new(REMEMBERED) }
    }

    /// Whether `password` was right for the user `name`, whose hash is still `hash`. Takes microseconds; `false` means
    /// nothing.
    pub(super) fn was_right(&self, name: &str, hash: &Hash, password: &Password) -> bool {
        let Some(known) = self.users.get(name).map(blake3::Hash::from_bytes) else { return false };
        // The comparison takes the same time wherever they differ.
        self.digest(name, hash, password).is_some_and(|digest| digest == known)
    }

    /// It is right.
    pub(super) fn is_right(&self, name: &str, hash: &Hash, password: &Password) {
        if let Some(digest) = self.digest(name, hash, password) {
            self.users.update(name, |known| *known = *digest.as_bytes());
        }
    }

    fn digest(&self, name: &str, hash: &Hash, password: &Password) -> Option<blake3::Hash> {
        let mut hasher = blake3::Hasher::new_keyed(self.key.as_ref()?);
        for part in [name.as_bytes(), hash.text().as_bytes(), password.bytes()] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        Some(hasher.finalize())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_login_is_remembered_until_anything_of_it_changes() {
        let remembered = Remembered::new();
        let password = |text: &'static str| Password::new(text.into());
        let (hash, other) = (Hash::of(b"right").unwrap(), Hash::of(b"right").unwrap());
        assert!(!remembered.was_right("u", &hash, &password("right")));
        remembered.is_right("u", &hash, &password("right"));
        assert!(remembered.was_right("u", &hash, &password("right")));
        assert!(!remembered.was_right("u", &hash, &password("wrong")));
        assert!(!remembered.was_right("v", &hash, &password("right")));
        assert!(!remembered.was_right("u", &other, &password("right")), "the user has another line");
    }
}
