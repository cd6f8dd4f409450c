//! A certificate for the servers of one place on 127.0.0.1, and for their clients.

use std::path::Path;
use std::process::Command;

use crate::server::find;
use crate::{Error, Place, Result};

/// The program that makes it, and the Debian package it comes in.
pub(super) const OPENSSL: (&str, &str) = ("openssl", "openssl");
/// The certificate's file in the server's folder.
pub(super) const CERTIFICATE: &str = "certificate.pem";
/// Its key's.
pub(super) const KEY: &str = "key.pem";

/// The lines that make a server speak TLS on `port`, and nothing else anywhere: not with replicas, sentinels or fellows
/// of a cluster either. `clients`: whether those must show a certificate too.
pub(super) fn lines(port: u16, clients: bool) -> Vec<String> {
    vec![
        "port 0".into(),
        format!("tls-port {port}"),
        format!("tls-cert-file {CERTIFICATE}"),
        format!("tls-key-file {KEY}"),
        format!("tls-ca-cert-file {CERTIFICATE}"),
        format!("tls-auth-clients {}", if clients { "yes" } else { "no" }),
        "tls-replication yes".into(),
        "tls-cluster yes".into(),
    ]
}

/// Writes certificate and key into `folder`: for all servers in `place` the same, so that they trust one another.
///
/// # Errors
/// openssl is missing or fails.
pub(super) fn certify(place: &Place, folder: &Path) -> Result<()> {
    let own = place.folder();
    if !own.join(CERTIFICATE).is_file() {
        make(own)?;
    }
    for name in [CERTIFICATE, KEY] {
        let to = folder.join(name);
        std::fs::copy(own.join(name), &to).map_err(Error::io(to.display().to_string()))?;
    }
    Ok(())
}

fn make(folder: &Path) -> Result<()> {
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
