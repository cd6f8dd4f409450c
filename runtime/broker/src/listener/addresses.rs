//! How many connections every address has.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv6Addr};

use foldhash::fast::RandomState;
use parking_lot::Mutex;

/// Whose connections are counted together: an IPv4 address, or the 64 bits of an IPv6 network. Everybody who has one address of
/// such a network has all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Neighbour(IpAddr);

impl Neighbour {
    /// Whom `address` belongs to; `None`: it is this machine itself, whose connections are not limited.
    pub(super) fn of(address: IpAddr) -> Option<Self> {
        match address.to_canonical() {
            own if own.is_loopback() => None,
            IpAddr::V6(address) => {
                let network = address.to_bits() & !u128::from(u64::MAX);
                Some(Self(Ipv6Addr::from_bits(network).into()))
            }
            address => Some(Self(address)),
        }
    }
}

/// Connections by address.
pub(super) struct Addresses {
    /// 0: any number.
    most: usize,
    counts: Mutex<HashMap<Neighbour, usize, RandomState>>,
}

impl Addresses {
    pub(super) fn new(most: usize) -> Self {
        Self { most, counts: Mutex::default() }
    }

    /// Counts a connection from `address`; `Err`: it has as many as it may. What is given is to be handed to
    /// [`Self::leave`] at its end.
    pub(super) fn enter(&self, address: IpAddr) -> Result<Option<Neighbour>, TooMany> {
        let Some(neighbour) = Neighbour::of(address).filter(|_| self.most > 0) else { return Ok(None) };
        let mut counts = self.counts.lock();
        let count = counts.entry(neighbour).or_default();
        if *count >= self.most {
            return Err(TooMany);
        }
        *count += 1;
        Ok(Some(neighbour))
    }

    pub(super) fn leave(&self, neighbour: Neighbour) {
        if let Entry::Occupied(mut count) = self.counts.lock().entry(neighbour) {
            if *count.get() <= 1 {
                count.remove();
            } else {
                *count.get_mut() -= 1;
            }
        }
    }
}

/// The address has as many connections as it may.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooMany;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn enter(addresses: &Addresses, address: &str) -> Result<Option<Neighbour>, TooMany> {
        addresses.enter(address.parse().unwrap())
    }

    #[test]
    fn an_address_has_its_number_and_others_theirs() {
        let addresses = Addresses::new(2);
        let one = enter(&addresses, "192.0.2.1").unwrap().unwrap();
        enter(&addresses, "::ffff:192.0.2.1").unwrap();
        assert_eq!(enter(&addresses, "192.0.2.1"), Err(TooMany));
        enter(&addresses, "192.0.2.2").unwrap();
        addresses.leave(one);
        enter(&addresses, "192.0.2.1").unwrap();
        assert_eq!(enter(&addresses, "192.0.2.1"), Err(TooMany));
        addresses.leave(one);
        addresses.leave(one);
        assert_eq!(addresses.counts.lock().len(), 1, "an address without connections is forgotten");
    }

    #[test]
    fn a_network_of_ipv6_is_one_and_this_machine_is_free() {
        let addresses = Addresses::new(1);
        enter(&addresses, "2001:db8::1").unwrap();
        assert_eq!(enter(&addresses, "2001:db8::ffff:2"), Err(TooMany));
        enter(&addresses, "2001:db8:0:1::1").unwrap();
        for _ in 0..3 {
            assert_eq!(enter(&addresses, "127.0.0.1"), Ok(None));
            assert_eq!(enter(&addresses, "::1"), Ok(None));
            assert_eq!(enter(&addresses, "::ffff:127.9.9.9"), Ok(None));
        }
        assert_eq!(enter(&Addresses::new(0), "192.0.2.1"), Ok(None));
    }
}
