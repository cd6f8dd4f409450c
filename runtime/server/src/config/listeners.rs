//! `[[broker.listener]]`: listeners with TLS, WebSocket or a name of their own.

mod rows;

use std::net::SocketAddr;
use std::path::PathBuf;

use tidegate_broker::{CertificateFiles, ListenerConfig, TlsConfig, UsernameFrom, Verify, WebSocketConfig};
use tidegate_event::Client;
use tidegate_store::config::Place;
use toml::de::{DeTable, DeValue};

use super::form::Words;
use super::read::{Problems, unknown};
pub(super) use rows::{CERTIFICATE_ROWS, LISTENER_ROWS, Row};

/// The key of the array of tables in `[broker]`.
pub(super) const KEY: &str = "listener";
const PATH: &str = "broker.listener";
/// The key of a listener's certificates.
pub(super) const CERTIFICATES: &str = "certificates";

/// A listener and where the file has it.
#[derive(Clone, Debug)]
pub struct Listener {
    /// What it is.
    pub config: ListenerConfig,
    /// Its table.
    pub place: Place,
}

impl Listener {
    /// Where clients reach it when it is bound to `address`: `wss://192.0.2.1:8084/mqtt`; plain MQTT as its address alone.
    pub(crate) fn url(&self, address: SocketAddr) -> String {
        match (self.config.scheme(), &self.config.websocket) {
            ("mqtt", _) => address.to_string(),
            (scheme, Some(websocket)) => format!("{scheme}://{address}{}", websocket.path),
            (scheme, None) => format!("{scheme}://{address}"),
        }
    }
}

/// What a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Mqtt,
    Mqtts,
    Ws,
    Wss,
}

impl Kind {
    const fn has_tls(self) -> bool {
        matches!(self, Self::Mqtts | Self::Wss)
    }

    const fn has_websocket(self) -> bool {
        matches!(self, Self::Ws | Self::Wss)
    }
}

impl Words for Kind {
    const SYNTAX: &'static str = "\"mqtt\", \"mqtts\", \"ws\" or \"wss\"";
    const WORDS: &'static [(&'static str, Self)] =
        &[("mqtt", Self::Mqtt), ("mqtts", Self::Mqtts), ("ws", Self::Ws), ("wss", Self::Wss)];
}

/// [`Verify`] as a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Verifies(Verify);

impl Words for Verifies {
    const SYNTAX: &'static str = "\"none\", \"optional\" or \"required\"";
    const WORDS: &'static [(&'static str, Self)] = &[
        ("none", Self(Verify::None)),
        ("optional", Self(Verify::Optional)),
        ("required", Self(Verify::Required)),
    ];
}

/// [`UsernameFrom`] as a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Username(UsernameFrom);

impl Words for Username {
    const SYNTAX: &'static str = "\"connect\" or \"common_name\"";
    const WORDS: &'static [(&'static str, Self)] =
        &[("connect", Self(UsernameFrom::Connect)), ("common_name", Self(UsernameFrom::CommonName))];
}

/// A table as far as it is read: what is absent is not there.
#[derive(Default)]
pub(super) struct Draft {
    name: Option<String>,
    address: Option<SocketAddr>,
    kind: Option<Kind>,
    certificates: Vec<CertificateFiles>,
    client_ca: Option<PathBuf>,
    verify: Option<Verifies>,
    username: Option<Username>,
    path: Option<String>,
    origins: Option<Vec<String>>,
}

impl Draft {
    /// The listener, or what is missing or does not fit, by key.
    fn finish(self) -> Result<ListenerConfig, Vec<(&'static str, String)>> {
        let mut wrong = Vec::new();
        let mut missing = |key, there: bool| {
            if !there {
                wrong.push((key, "is missing".to_owned()));
            }
        };
        missing("name", self.name.is_some());
        missing("address", self.address.is_some());
        missing("kind", self.kind.is_some());
        let (Some(name), Some(address), Some(kind)) = (self.name, self.address, self.kind) else {
            return Err(wrong);
        };
        let mut only = |key, of: &str, fits: bool, there: bool| {
            if there && !fits {
                wrong.push((key, format!("only listeners of kind {of} have it")));
            }
        };
        let (tls, websocket) = (kind.has_tls(), kind.has_websocket());
        const OF_TLS: &str = "\"mqtts\" or \"wss\"";
        const OF_WEBSOCKET: &str = "\"ws\" or \"wss\"";
        only(CERTIFICATES, OF_TLS, tls, !self.certificates.is_empty());
        only("client_ca", OF_TLS, tls, self.client_ca.is_some());
        only("verify", OF_TLS, tls, self.verify.is_some());
        only("username_from", OF_TLS, tls, self.username.is_some());
        only("path", OF_WEBSOCKET, websocket, self.path.is_some());
        only("origins", OF_WEBSOCKET, websocket, self.origins.is_some());
        if tls && self.certificates.is_empty() {
            wrong.push((CERTIFICATES, "is missing: TLS needs at least one".into()));
        }
        let verify = self.verify.map_or_else(Verify::default, |verify| verify.0);
        let username = self.username.map_or_else(UsernameFrom::default, |username| username.0);
        if tls && verify != Verify::None && self.client_ca.is_none() {
            wrong.push((
                "client_ca",
                "is missing: it names the authorities of the clients that verify asks for".into(),
            ));
        }
        if tls && verify == Verify::None && self.client_ca.is_some() {
            wrong.push((
                "verify",
                "is missing: client_ca is used only with \"optional\" or \"required\"".into(),
            ));
        }
        if tls && verify == Verify::None && username == UsernameFrom::CommonName {
            wrong
                .push(("verify", "is missing: only who is asked for a certificate has a common name".into()));
        }
        if !wrong.is_empty() {
            return Err(wrong);
        }
        let defaults = WebSocketConfig::default();
        Ok(ListenerConfig {
            name,
            address,
            tls: tls.then_some(TlsConfig {
                certificates: self.certificates,
                client_ca: self.client_ca,
                verify,
                username,
            }),
            websocket: websocket.then(|| WebSocketConfig {
                path: self.path.unwrap_or(defaults.path),
                origins: self.origins.unwrap_or(defaults.origins),
            }),
        })
    }
}

/// Reads the value of `listener`, which stands at `start`.
pub(super) fn read(value: &DeValue<'_>, start: usize, problems: &mut Problems<'_>) -> Vec<Listener> {
    let mut listeners: Vec<Listener> = Vec::new();
    for (table, start) in tables(value, start, PATH, "[[broker.listener]]", problems) {
        let Some(listener) = read_listener(table, start, problems) else { continue };
        let name = &listener.config.name;
        let name_start = table.get("name").map_or(start, |name| name.span().start);
        if name == Client::DEFAULT_LISTENER {
            problems.add(
                Some(name_start),
                &key("name"),
                format!("{name:?} is the name of the addresses in broker.listen"),
            );
        } else if listeners.iter().any(|other| other.config.name == *name) {
            problems.add(Some(name_start), &key("name"), format!("two listeners have the name {name:?}"));
        }
        listeners.push(listener);
    }
    listeners
}

fn key(name: &str) -> String {
    format!("{PATH}.{name}")
}

fn read_listener(table: &DeTable<'_>, start: usize, problems: &mut Problems<'_>) -> Option<Listener> {
    let mut draft = Draft::default();
    let before = problems.count();
    if let Some(value) = table.get(CERTIFICATES) {
        let path = key(CERTIFICATES);
        for (certificate, start) in
            tables(value.get_ref(), value.span().start, &path, "a list of tables", problems)
        {
            let mut files = CertificateFiles::default();
            read_rows(certificate, CERTIFICATE_ROWS, &mut files, &path, &[], problems);
            for name in ["cert", "key"] {
                if certificate.get(name).is_none() {
                    problems.add(Some(start), &format!("{path}.{name}"), "is missing".into());
                }
            }
            draft.certificates.push(files);
        }
    }
    read_rows(table, LISTENER_ROWS, &mut draft, PATH, &[CERTIFICATES], problems);
    if problems.count() > before {
        return None;
    }
    match draft.finish() {
        Ok(config) => Some(Listener { config, place: problems.place(Some(start), PATH) }),
        Err(wrong) => {
            for (name, problem) in wrong {
                let start = table.get(name).map_or(start, |value| value.span().start);
                problems.add(Some(start), &key(name), problem);
            }
            None
        }
    }
}

/// The tables of an array with where each begins; everything else in it is a problem.
fn tables<'a>(
    value: &'a DeValue<'a>,
    start: usize,
    path: &str,
    expected: &str,
    problems: &mut Problems<'_>,
) -> Vec<(&'a DeTable<'a>, usize)> {
    let DeValue::Array(list) = value else {
        problems.add(Some(start), path, format!("expected {expected}"));
        return Vec::new();
    };
    let mut tables = Vec::new();
    for item in list.iter() {
        match item.get_ref() {
            DeValue::Table(table) => tables.push((table, item.span().start)),
            _ => problems.add(Some(item.span().start), path, format!("expected {expected}")),
        }
    }
    tables
}

/// Reads the keys of a table by their rows. `others` are read by somebody else.
fn read_rows<T>(
    table: &DeTable<'_>,
    rows: &'static [Row<T>],
    into: &mut T,
    path: &str,
    others: &[&'static str],
    problems: &mut Problems<'_>,
) {
    for (name, value) in table {
        let (start, name) = (name.span().start, &**name.get_ref());
        if others.contains(&name) {
            continue;
        }
        let path = format!("{path}.{name}");
        match rows.iter().find(|row| row.name == name) {
            Some(row) => {
                if let Err(problem) = (row.set)(into, value.get_ref()) {
                    problems.add(Some(value.span().start), &path, problem);
                }
            }
            None => {
                let known = rows.iter().map(|row| row.name).chain(others.iter().copied());
                problems.add(Some(start), &path, unknown("no such key", name, known, &[]));
            }
        }
    }
}

#[cfg(test)]
mod tests;
