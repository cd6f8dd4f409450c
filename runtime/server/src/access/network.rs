//! Addresses of peers, by network: `10.0.0.0/8`, `fd00::/8`, `192.168.1.7`.

use std::net::IpAddr;

/// A network, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Network {
    address: IpAddr,
    /// How many bits count.
    bits: u8,
}

/// Bits before the IPv4 address in one that is mapped into IPv6 (RFC 4291 section 2.5.5.2).
const MAPPED: u8 = 96;

impl Network {
    /// Reads an address, with `/BITS` or without. `None`: it is neither.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let most: u8 = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            // No sign and no zero before the number, which parse would take.
            Some(bits) if bits.len() > 1 && !bits.starts_with(|c: char| ('1'..='9').contains(&c)) => {
                return None;
            }
            Some(bits) => bits.parse().ok().filter(|bits| *bits <= most)?,
            None => most,
        };
        // Addresses come in canonical form, so one that is mapped into IPv6 would match none.
        Some(match (address.to_canonical(), bits.checked_sub(MAPPED)) {
            (mapped @ IpAddr::V4(_), Some(bits)) if address.is_ipv6() => Self { address: mapped, bits },
            _ => Self { address, bits },
        })
    }

    /// Whether `address`, in canonical form, lies in it.
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        let differs = match (self.address, address) {
            (IpAddr::V4(one), IpAddr::V4(other)) => {
                u128::from(one.to_bits() ^ other.to_bits()).checked_shr(32 - u32::from(self.bits))
            }
            (IpAddr::V6(one), IpAddr::V6(other)) => {
                (one.to_bits() ^ other.to_bits()).checked_shr(128 - u32::from(self.bits))
            }
            _ => return false,
        };
        // Nothing is left of the difference, or no bit counts.
        differs.unwrap_or(0) == 0
    }
}

/// The network of so many bits that an IPv6 address is in: whoever has one address has 64 bits of them.
pub(super) fn network(address: IpAddr, bits: u32) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let rest = 128 - bits;
            IpAddr::V6((address.to_bits() >> rest << rest).into())
        }
        address => address,
    }
}

/// Whether who has this address is on this machine.
pub(super) fn is_local(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn so_many_bits_count() {
        for (network, address, expected) in [
            ("10.0.0.0/8", "10.255.1.2", true),
            ("10.0.0.0/8", "11.0.0.0", false),
            ("10.1.2.3/8", "10.9.9.9", true),
            ("0.0.0.0/0", "255.1.2.3", true),
            ("0.0.0.0/0", "::1", false),
            ("192.168.1.7", "192.168.1.7", true),
            ("192.168.1.7", "192.168.1.6", false),
            ("192.168.1.6/31", "192.168.1.7", true),
            ("fd00::/8", "fdff::1", true),
            ("fd00::/8", "fe00::1", false),
            ("::/0", "fe80::1", true),
            ("::1", "::1", true),
            ("::1/127", "::", true),
            // As they stand in the logs of others; they matched nothing.
            ("::ffff:10.0.0.0/104", "10.9.9.9", true),
            ("::ffff:10.0.0.0/104", "11.0.0.0", false),
            ("::ffff:192.168.1.7", "192.168.1.7", true),
            ("::ffff:0:0/96", "1.2.3.4", true),
            ("::ffff:0:0/96", "::1", false),
            ("::ffff:0:0/95", "1.2.3.4", false),
            ("::ffff:0:0/95", "::fffe:102:304", true),
        ] {
            let found = Network::parse(network).unwrap().contains(address.parse().unwrap());
            assert_eq!(found, expected, "{address} in {network}");
        }
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in
            ["", "10.0.0", "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0.0/+8", "10.0.0.0/08", "host/8", "/8"]
        {
            assert_eq!(Network::parse(text), None, "{text}");
        }
    }
}
