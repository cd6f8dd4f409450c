//! Where a request goes, and where a manifest lets it go: the same reading of `host:port` for both.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::uri::Scheme;

/// A host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Host {
    /// In lower case, without the final dot.
    Name(String),
    /// An address; one of IPv4 inside IPv6 is one of IPv4.
    Ip(IpAddr),
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) tls: bool,
    pub(crate) host: Host,
    pub(crate) port: u16,
}

/// An entry of `[http] allow`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Destination {
    target: Target,
    /// Every name below the host, and not the host itself.
    below: bool,
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Ip(IpAddr::V4(ip)) => ip.fmt(f),
            Self::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// `host` and the port behind it, if there is one.
fn parts(authority: &str) -> Result<(Host, Option<u16>), String> {
    if authority.contains('@') {
        return Err("a user or password has no place in it".into());
    }
    let (host, rest) = match authority.strip_prefix('[') {
        Some(inside) => {
            let (ip, rest) = inside.split_once(']').ok_or("a [ without its ]")?;
            let ip: Ipv6Addr = ip.parse().map_err(|_| format!("{ip:?} is no IPv6 address"))?;
            (Host::Ip(IpAddr::V6(ip).to_canonical()), rest)
        }
        None => {
            let end = authority.find(':').unwrap_or(authority.len());
            let (name, rest) = authority.split_at(end);
            if rest.matches(':').count() > 1 {
                return Err("an IPv6 address is written in brackets: [::1]:443".into());
            }
            (host(name)?, rest)
        }
    };
    let port = match rest.strip_prefix(':') {
        None if rest.is_empty() => None,
        None => return Err(format!("{rest:?} after the host")),
        Some(digits) => {
            let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            let port = digits.parse::<u16>().ok().filter(|port| is_number && *port > 0);
            Some(port.ok_or_else(|| format!("{digits:?} is no port"))?)
        }
    };
    Ok((host, port))
}

fn host(name: &str) -> Result<Host, String> {
    if !name.is_ascii() {
        return Err("write an international name in its ASCII form (xn--...)".into());
    }
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    if name.len() > 253 || !name.split('.').all(is_label) {
        return Err(format!("{name:?} is no host name"));
    }
    // No top-level domain is a number. Resolvers take 127.1, 0x7f.1 and 2130706433 for addresses: one form is enough.
    let last = name.rsplit('.').next().unwrap_or_default();
    let is_number = last.bytes().all(|byte| byte.is_ascii_digit())
        || last.strip_prefix("0x").is_some_and(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
    if !is_number {
        return Ok(Host::Name(name));
    }
    let ip: Ipv4Addr = name.parse().map_err(|_| format!("{name:?} is no IPv4 address"))?;
    Ok(Host::Ip(IpAddr::V4(ip)))
}

impl Target {
    /// Where the request of this URI goes.
    ///
    /// # Errors
    /// What is wrong with the URI.
    pub(crate) fn of(uri: &http::Uri) -> Result<Self, String> {
        let tls = uri.scheme() == Some(&Scheme::HTTPS);
        let authority = uri.authority().ok_or("it names no host")?;
        let (host, port) = parts(authority.as_str())?;
        Ok(Self { tls, host, port: port.unwrap_or(if tls { 443 } else { 80 }) })
    }

    /// The `Host` header.
    pub(crate) fn header(&self) -> String {
        let default = if self.tls { 443 } else { 80 };
        if self.port == default { self.host.to_string() } else { self.to_string() }
    }
}

impl Destination {
    /// Reads `[http://]HOST:PORT` or `[http://]*.DOMAIN:PORT`; without `http://` requests must use TLS.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (tls, authority) = match text.split_once("://") {
            None => (true, text),
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            Some((scheme, _)) => return Err(format!("{scheme:?} is not possible, only http and https are")),
        };
        let (below, authority) = match authority.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, authority),
        };
        if authority.contains(['/', '?', '#']) {
            return Err("a path has no place in it: every path of the host is allowed".into());
        }
        let (host, port) = parts(authority)?;
        if below && !matches!(host, Host::Name(_)) {
            return Err("addresses have no domains below them".into());
        }
        let port = port.ok_or("the port is missing: write HOST:443")?;
        Ok(Self { target: Target { tls, host, port }, below })
    }

    /// Whether requests may go to `target`, as far as its name says.
    pub(crate) fn allows(&self, target: &Target) -> bool {
        if (self.target.tls, self.target.port) != (target.tls, target.port) {
            return false;
        }
        match (&self.target.host, &target.host) {
            (Host::Name(domain), Host::Name(name)) if self.below => name
                .strip_suffix(domain.as_str())
                .is_some_and(|front| front.len() > 1 && front.ends_with('.')),
            (own, other) => own == other,
        }
    }

    /// The host as it is written out; `None` when any below a domain is meant.
    pub(crate) fn exact(&self) -> Option<&Host> {
        (!self.below).then_some(&self.target.host)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn allows(entry: &str, uri: &str) -> bool {
        let target = Target::of(&uri.parse().unwrap());
        target.is_ok_and(|target| Destination::parse(entry).unwrap().allows(&target))
    }

    #[test]
    fn entries_allow_what_they_name() {
        for (entry, uri) in [
            ("api.example.com:443", "https://api.example.com/a?b"),
            ("api.example.com:443", "https://API.Example.COM.:443/"),
            ("Api.Example.com.:443", "https://api.example.com"),
            ("http://api.example.com:80", "http://api.example.com/"),
            ("https://api.example.com:8443", "https://api.example.com:8443/"),
            ("*.example.com:443", "https://a.b.example.com/"),
            ("10.0.0.5:8080", "https://10.0.0.5:8080/"),
            ("[2001:db8::1]:443", "https://[2001:DB8:0::1]/"),
            ("10.0.0.5:443", "https://[::ffff:10.0.0.5]/"),
            ("xn--bcher-kva.example:443", "https://xn--bcher-kva.example/"),
        ] {
            assert!(allows(entry, uri), "{entry} {uri}");
        }
    }

    #[test]
    fn and_nothing_else() {
        for (entry, uri) in [
            ("api.example.com:443", "http://api.example.com:443/"),
            ("http://api.example.com:443", "https://api.example.com/"),
            ("api.example.com:443", "https://api.example.com:444/"),
            ("api.example.com:443", "https://api.example.com.evil.org/"),
            ("api.example.com:443", "https://api.example.com@evil.org/"),
            ("api.example.com:443", "https://evil.org@api.example.com/"),
            ("api.example.com:443", "https://x.api.example.com/"),
            ("*.example.com:443", "https://example.com/"),
            ("*.example.com:443", "https://.example.com/"),
            ("*.example.com:443", "https://evilexample.com/"),
            ("10.0.0.5:443", "https://10.0.5/"),
            ("127.0.0.1:443", "https://2130706433/"),
            ("127.0.0.1:443", "https://0x7f.1/"),
            ("127.0.0.1:443", "https://0177.0.0.1/"),
            ("a.example:443", "https://a.example:/"),
            ("a.example:443", "https://a.example:0443000/"),
        ] {
            assert!(!allows(entry, uri), "{entry} {uri}");
        }
    }

    #[test]
    fn entries_say_what_is_wrong_with_them() {
        for (entry, part) in [
            ("api.example.com", "the port is missing"),
            ("api.example.com:0", "\"0\" is no port"),
            ("api.example.com:https", "is no port"),
            ("ftp://a.example:21", "only http and https"),
            ("https://a.example:443/path", "a path has no place"),
            ("user@a.example:443", "a user or password"),
            ("bücher.example:443", "xn--"),
            ("*:443", "is no host name"),
            ("a.*.example:443", "is no host name"),
            ("*.10.0.0.1:443", "no domains below"),
            ("::1:443", "in brackets"),
            ("[::1:443", "a [ without its ]"),
            (":443", "is no host name"),
            ("10.0.0.256:443", "is no IPv4 address"),
        ] {
            let error = Destination::parse(entry).unwrap_err();
            assert!(error.contains(part), "{entry}: {error}");
        }
    }

    #[test]
    fn the_host_header_has_the_port_where_it_is_unusual() {
        let header = |uri: &str| Target::of(&uri.parse().unwrap()).unwrap().header();
        assert_eq!(header("https://A.example:443/"), "a.example");
        assert_eq!(header("http://a.example:443/"), "a.example:443");
        assert_eq!(header("http://[::1]:8080/"), "[::1]:8080");
    }
}
