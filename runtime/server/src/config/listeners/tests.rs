//! Tables of listeners: what they become, and where each mistake is found.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::super::Config;
use super::super::read::read as read_file;
use super::*;

fn problems(text: &str) -> Vec<String> {
    let problems = read_file("t.toml", text, &mut Config::default()).err().unwrap_or_default();
    problems.iter().map(ToString::to_string).collect()
}

fn listeners(text: &str) -> Vec<Listener> {
    let mut config = Config::default();
    read_file("t.toml", text, &mut config).unwrap();
    config.listeners
}

#[test]
fn every_key_has_its_place_in_the_listener() {
    let read = listeners(
        r#"
        [broker]
        max_inflight = 5
        [[broker.listener]]
        name = "public"
        address = "0.0.0.0:8084"
        kind = "wss"
        client_ca = "ca.pem"
        verify = "optional"
        username_from = "common_name"
        path = "/ws"
        origins = ["https://example.com"]
        certificates = [{ cert = "a.pem", key = "a.key" }]
        "#,
    );
    let [Listener { config, place }] = &*read else { panic!("{read:?}") };
    assert_eq!((place.line, &*place.key), (4, "broker.listener"));
    assert_eq!(
        *config,
        ListenerConfig {
            name: "public".into(),
            address: "0.0.0.0:8084".parse().unwrap(),
            tls: Some(TlsConfig {
                certificates: vec![CertificateFiles {
                    cert: "a.pem".into(),
                    key: "a.key".into(),
                    server_names: Vec::new(),
                }],
                client_ca: Some("ca.pem".into()),
                verify: Verify::Optional,
                username: UsernameFrom::CommonName,
            }),
            websocket: Some(WebSocketConfig {
                path: "/ws".into(),
                origins: vec!["https://example.com".into()]
            }),
        }
    );
    let address = "192.0.2.1:8084".parse().unwrap();
    assert_eq!(read[0].url(address), "wss://192.0.2.1:8084/ws");
}

#[test]
fn what_is_absent_has_its_default_and_tables_follow_one_another() {
    let read = listeners(
        "[[broker.listener]]\nname = \"a\"\naddress = \"127.0.0.1:0\"\nkind = \"ws\"\n\
         [[broker.listener]]\nname = \"b\"\naddress = \"127.0.0.1:0\"\nkind = \"mqtts\"\n\
         [[broker.listener.certificates]]\ncert = \"1\"\nkey = \"2\"\nserver_names = [\"*.example.com\"]\n\
         [[broker.listener.certificates]]\ncert = \"3\"\nkey = \"4\"\n",
    );
    assert_eq!(read[0].config.websocket, Some(WebSocketConfig::default()));
    assert_eq!(read[0].config.tls, None);
    let tls = read[1].config.tls.as_ref().unwrap();
    assert_eq!(tls.certificates.len(), 2);
    assert_eq!(tls.certificates[0].server_names, ["*.example.com"]);
    assert_eq!((tls.verify, tls.username), (Verify::None, UsernameFrom::Connect));
    let address = "[::1]:1".parse().unwrap();
    assert_eq!(read[1].url(address), "mqtts://[::1]:1");
}

/// A table that is well but for what `lines` say.
fn with(kind: &str, lines: &str) -> String {
    format!("[[broker.listener]]\nname = \"a\"\naddress = \"127.0.0.1:0\"\nkind = \"{kind}\"\n{lines}")
}

const CERTIFICATE: &str = "certificates = [{ cert = \"c\", key = \"k\" }]\n";

#[test]
fn what_is_missing_or_does_not_fit_is_found_at_its_place() {
    for (text, expected) in [
        (
            "[[broker.listener]]\nkind = \"mqtt\"\n".to_owned(),
            &[
                "t.toml:1:1: broker.listener.name: is missing",
                "t.toml:1:1: broker.listener.address: is missing",
            ][..],
        ),
        (
            with("mqtts", ""),
            &["t.toml:1:1: broker.listener.certificates: is missing: TLS needs at least one"],
        ),
        (
            with("mqtt", CERTIFICATE),
            &[
                "t.toml:5:16: broker.listener.certificates: only listeners of kind \"mqtts\" or \"wss\" have it",
            ],
        ),
        (
            with("mqtts", &format!("path = \"/x\"\n{CERTIFICATE}")),
            &["t.toml:5:8: broker.listener.path: only listeners of kind \"ws\" or \"wss\" have it"],
        ),
        (
            with("mqtts", &format!("verify = \"required\"\n{CERTIFICATE}")),
            &[
                "t.toml:1:1: broker.listener.client_ca: is missing: it names the authorities of the clients that verify asks for",
            ],
        ),
        (
            with("mqtts", &format!("client_ca = \"x\"\n{CERTIFICATE}")),
            &[
                "t.toml:1:1: broker.listener.verify: is missing: client_ca is used only with \"optional\" or \"required\"",
            ],
        ),
        (
            with("mqtts", &format!("username_from = \"common_name\"\n{CERTIFICATE}")),
            &[
                "t.toml:1:1: broker.listener.verify: is missing: only who is asked for a certificate has a common name",
            ],
        ),
        (
            with("mqtts", "certificates = [{ cert = \"c\" }]\n"),
            &["t.toml:5:17: broker.listener.certificates.key: is missing"],
        ),
        (
            with("mqtts", "certificates = \"c\"\n"),
            &["t.toml:5:16: broker.listener.certificates: expected a list of tables"],
        ),
        (
            with("mqtt", &with("mqtt", "")),
            &["t.toml:6:8: broker.listener.name: two listeners have the name \"a\""],
        ),
        (
            with("mqtt", "").replace("\"a\"", "\"default\""),
            &["t.toml:2:8: broker.listener.name: \"default\" is the name of the addresses in broker.listen"],
        ),
        (
            with("mqtts", "certificates = [{ crt = \"c\", cert = \"c\", key = \"k\" }]\n"),
            &["t.toml:5:19: broker.listener.certificates.crt: no such key; did you mean cert?"],
        ),
        (
            with("mqtt", "adress = 1\n"),
            &["t.toml:5:1: broker.listener.adress: no such key; did you mean address?"],
        ),
        (
            "[broker]\nlistener = 1\n".to_owned(),
            &["t.toml:2:1: broker.listener: expected [[broker.listener]]"],
        ),
        (
            "[broker]\nlistner = 1\n".to_owned(),
            &["t.toml:2:1: broker.listner: no such key; did you mean listener?"],
        ),
    ] {
        assert_eq!(problems(&text), expected, "{text}");
    }
}

#[test]
fn values_say_what_was_expected() {
    for (kind, line, expected) in [
        ("tls", "", "broker.listener.kind: expected \"mqtt\", \"mqtts\", \"ws\" or \"wss\", found \"tls\""),
        (
            "ws",
            "path = \"mqtt\"",
            "broker.listener.path: expected the path of a URL, such as \"/mqtt\", found \"mqtt\"",
        ),
        ("ws", "origins = [\"example.com\"]", "broker.listener.origins: expected an origin such as"),
        (
            "mqtts",
            "verify = true",
            "broker.listener.verify: expected \"none\", \"optional\" or \"required\", found true",
        ),
        (
            "mqtts",
            "certificates = [{ cert = \"c\", key = \"k\", server_names = [\"a b\"] }]",
            "broker.listener.certificates.server_names: expected a name such as",
        ),
    ] {
        let found = problems(&with(kind, line));
        assert!(found.len() == 1 && found[0].contains(expected), "{expected}: {found:?}");
    }
}
