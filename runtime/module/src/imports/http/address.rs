//! Which addresses a guest's request may reach: what an attacker could make a name resolve to is everybody's network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::destination::{Destination, Host};

/// Whether a request that `entry` allows may be sent to `address`. Addresses that are not of the public internet are
/// for entries that write them out, and loopback for `localhost`.
pub(super) fn is_permitted(entry: &Destination, address: IpAddr) -> bool {
    let address = address.to_canonical();
    match entry.exact() {
        Some(Host::Ip(ip)) => *ip == address,
        Some(Host::Name(name)) if name == "localhost" => address.is_loopback(),
        Some(Host::Name(_)) | None => is_public(address),
    }
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    // IANA's registry of special-purpose addresses. The metadata services of clouds are link-local.
    !(ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_documentation()
        || a == 0
        || a >= 224 // multicast, reserved, broadcast
        || (a == 100 && b & 0xc0 == 64) // shared by carriers
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && b & 0xfe == 18)) // benchmarks
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    let segments = ip.segments();
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match segments {
        // Translated to IPv4 on the way.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => embedded(high, low),
        // Teredo, documentation, and other special blocks.
        [0x2001, second, ..] if second < 0x200 || second == 0xdb8 => false,
        [0x3fff, second, ..] if second < 0x1000 => false,
        // Everything that is given out; unique local, link-local, multicast and mapped addresses are elsewhere.
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn only_the_internet_is_public() {
        for public in
            ["1.1.1.1", "100.128.0.1", "172.32.0.1", "2606:4700::1", "64:ff9b::101:101", "2002:101:101::1"]
        {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
        for private in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.8.8.8",
            "169.254.169.254",
            "172.16.0.1",
            "192.0.0.8",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::1",
            "64:ff9b::a00:1",
            "64:ff9b:1::1",
        ] {
            assert!(!is_public(private.parse().unwrap()), "{private}");
        }
    }

    #[test]
    fn what_is_written_out_is_permitted_and_no_name_for_it() {
        let entry = |text| Destination::parse(text).unwrap();
        let at = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(is_permitted(&entry("10.0.0.5:80"), at("10.0.0.5")));
        assert!(is_permitted(&entry("10.0.0.5:80"), at("::ffff:10.0.0.5")));
        assert!(!is_permitted(&entry("10.0.0.5:80"), at("10.0.0.6")));
        assert!(is_permitted(&entry("localhost:80"), at("::1")));
        assert!(!is_permitted(&entry("localhost:80"), at("10.0.0.5")));
        for name in ["a.example:80", "*.example:80", "*.localhost:80"] {
            assert!(!is_permitted(&entry(name), at("127.0.0.1")), "{name}");
            assert!(!is_permitted(&entry(name), at("::ffff:169.254.169.254")), "{name}");
            assert!(is_permitted(&entry(name), at("1.1.1.1")), "{name}");
        }
    }
}
