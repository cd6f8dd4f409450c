//! The keys of a listener and of its certificates: reading them and their part of the reference page follow from here.

use std::path::PathBuf;

use tidegate_broker::CertificateFiles;
use toml::de::DeValue;

use super::{Draft, Kind, Username, Verifies};
use crate::config::form::{Form, OneAddress, Origins, Path, ServerNames, Text, UrlPath, Word};

/// A key of a table.
pub(in crate::config) struct Row<T> {
    pub(in crate::config) name: &'static str,
    /// What may be written.
    pub(in crate::config) syntax: &'static str,
    /// What holds without it; empty: it must be there, or there is nothing.
    pub(in crate::config) default: &'static str,
    /// What it does.
    pub(in crate::config) text: &'static str,
    /// Reads a value.
    pub(super) set: fn(&mut T, &DeValue<'_>) -> Result<(), String>,
}

/// A row whose field is an option.
macro_rules! row {
    ($type:ty, $field:ident, $name:literal, $form:ty, $value:ty, $default:literal, $text:expr) => {
        Row::<$type> {
            name: $name,
            syntax: <$form as Form<$value>>::SYNTAX,
            default: $default,
            text: $text,
            set: |into, value| {
                into.$field = <$form as Form<$value>>::read(value)?.into();
                Ok(())
            },
        }
    };
}

/// The keys of `[[broker.listener]]`, without `certificates`.
pub(in crate::config) const LISTENER_ROWS: &[Row<Draft>] = &[
    row!(
        Draft,
        name,
        "name",
        Text,
        String,
        "",
        "Its name: for logs, metrics and access rules. No two listeners have the same."
    ),
    row!(
        Draft,
        address,
        "address",
        OneAddress,
        std::net::SocketAddr,
        "",
        "Where it listens. Port 0 takes a free one."
    ),
    row!(
        Draft,
        kind,
        "kind",
        Word,
        Kind,
        "",
        "What it speaks: MQTT over TCP (`mqtt`), in TLS (`mqtts`), in WebSocket (`ws`), or in WebSocket in TLS (`wss`)."
    ),
    row!(
        Draft,
        client_ca,
        "client_ca",
        Path,
        PathBuf,
        "",
        "File of the authorities (PEM) that have signed the certificates of clients. With TLS and `verify`."
    ),
    row!(
        Draft,
        verify,
        "verify",
        Word,
        Verifies,
        "\"none\"",
        "Whether clients are asked for a certificate: `optional` serves who has none, `required` does not. A wrong one \
         is always refused."
    ),
    row!(
        Draft,
        username,
        "username_from",
        Word,
        Username,
        "\"connect\"",
        "Where the user name comes from: from CONNECT, or from the common name of the certificate, whatever CONNECT says. A \
         certificate without a common name is then refused; who shows no certificate has the name in CONNECT."
    ),
    row!(Draft, path, "path", UrlPath, String, "\"/mqtt\"", "The path of the URL. With WebSocket."),
    row!(
        Draft,
        origins,
        "origins",
        Origins,
        Vec<String>,
        "",
        "Pages of these origins may connect (`https://example.com`); without it, pages of all. Only browsers send an origin. \
         With WebSocket."
    ),
];

/// The keys of a certificate.
pub(in crate::config) const CERTIFICATE_ROWS: &[Row<CertificateFiles>] = &[
    row!(
        CertificateFiles,
        cert,
        "cert",
        Path,
        PathBuf,
        "",
        "File of the certificate and of those that lead to its authority, PEM."
    ),
    row!(
        CertificateFiles,
        key,
        "key",
        Path,
        PathBuf,
        "",
        "File of its private key, PEM: PKCS 8, PKCS 1 or SEC 1, without a password."
    ),
    row!(
        CertificateFiles,
        server_names,
        "server_names",
        ServerNames,
        Vec<String>,
        "[]",
        "Clients that ask for one of these names (SNI) get it; `*.example.com` is any name one level below. The first \
         certificate without names, else the first, is for all others."
    ),
];
