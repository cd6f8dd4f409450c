//! A certificate for a server on 127.0.0.1.

use std::path::Path;
use std::process::Command;

use crate::server::find;
use crate::{Error, Result};

/// The program that makes it, and the Debian package it comes in.
pub(super) const OPENSSL: (&str, &str) = ("openssl", "openssl");
/// The certificate's file in the server's folder.
pub(super) const CERTIFICATE: &str = "certificate.pem";
const KEY: &str = "key.pem";

/// The lines that make a server speak TLS on `port`, and nothing else anywhere.
pub(super) fn lines(port: u16) -> Vec<String> {
    vec![
        "port 0".into(),
        format!("tls-port {port}"),
        format!("tls-cert-file {CERTIFICATE}"),
        format!("tls-key-file {KEY}"),
        format!("tls-ca-cert-file {CERTIFICATE}"),
        "tls-auth-clients no".into(),
    ]
}

/// Writes certificate and key into `folder`.
///
/// # Errors
/// openssl is missing or fails.
pub(super) fn certify(folder: &Path) -> Result<()> {
    let program =
        find(OPENSSL.0).ok_or(Error::Missing { program: OPENSSL.0.to_owned(), package: OPENSSL.1 })?;
    let output = Command::new(program)
        .current_dir(folder)
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
        .args(["-days", "2", "-subj", "/CN=tests", "-addext", "subjectAltName=IP:127.0.0.1"])
        // An authority must not be a server, says rustls: this one is no authority, and is trusted as itself.
        .args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout", KEY, "-out", CERTIFICATE])
        .output()
        .map_err(Error::io("openssl req"))?;
    if output.status.success() {
        Ok(())
    } else {
        let answer = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(Error::Refused { command: "openssl req".into(), answer })
    }
}
