//! Addresses of servers: `host:port`, lists of them, and URLs.

/// Host and port of each of `text`'s addresses, which commas divide; `port` where none is written. `None` when one is
/// no address.
pub(super) fn servers(text: &str, port: u16) -> Option<Vec<(String, u16)>> {
    text.split(',').map(|address| server(address.trim(), port)).collect()
}

fn server(text: &str, default: u16) -> Option<(String, u16)> {
    // A bare IPv6 address has no port: `::1` or `[::1]:6379`.
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            match rest {
                "" => (host, default),
                rest => (host, read_port(rest.strip_prefix(':')?)?),
            }
        }
        None if text.matches(':').count() > 1 => {
            text.parse::<std::net::Ipv6Addr>().ok()?;
            (text, default)
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, read_port(port)?),
            None => (text, default),
        },
    };
    let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    (!host.is_empty() && host.chars().all(is_host)).then(|| (host.to_owned(), port))
}

fn read_port(text: &str) -> Option<u16> {
    // `parse` takes a plus sign.
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten().filter(|port| *port > 0)
}

/// Whether `text` is the URL of a server: no user, no query.
pub(super) fn is_url(text: &str) -> bool {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let Some(rest) = rest else { return false };
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    server(authority, 1).is_some() && !path.contains(|c: char| c.is_whitespace() || matches!(c, '?' | '#'))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn addresses_have_hosts_and_ports() {
        let one = |host: &str, port| Some(vec![(host.to_owned(), port)]);
        assert_eq!(servers("127.0.0.1:6379", 1), one("127.0.0.1", 6379));
        assert_eq!(servers("db-1.example.org", 5432), one("db-1.example.org", 5432));
        assert_eq!(servers("[::1]:6379", 1), one("::1", 6379));
        assert_eq!(servers("::1", 6379), one("::1", 6379));
        assert_eq!(
            servers("a:1, b:2,c", 3).unwrap(),
            [("a".to_owned(), 1), ("b".to_owned(), 2), ("c".to_owned(), 3)]
        );
        for bad in [
            "",
            ":1",
            "a:",
            "a:0",
            "a:65536",
            "a:+1",
            "a b:1",
            "a:1,",
            "redis://a:1",
            "u@a:1",
            "[a]:1",
            "[::1",
            "::1:x",
        ] {
            assert_eq!(servers(bad, 1), None, "{bad}");
        }
    }

    #[test]
    fn urls_name_a_server() {
        for good in
            ["http://localhost:8000", "https://dynamodb.us-west-2.amazonaws.com", "http://[::1]:8000/x"]
        {
            assert!(is_url(good), "{good}");
        }
        for bad in ["localhost:8000", "http://", "http://u:p@h", "ftp://h", "http://h/?x", "http://a b"] {
            assert!(!is_url(bad), "{bad}");
        }
    }
}
