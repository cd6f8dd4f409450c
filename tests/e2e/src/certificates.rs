//! Certificates for TLS on 127.0.0.1, made with `openssl`.

use std::path::{Path, PathBuf};
use std::process::Command;

/// An authority whose files lie in a folder, with the certificates that it has signed.
pub struct Authority {
    folder: PathBuf,
    name: String,
}

impl Authority {
    /// Makes `NAME.pem` and `NAME.key` in `folder`.
    pub fn new(folder: &Path, name: &str) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let authority = Self { folder: folder.into(), name: name.into() };
        let (subject, key, certificate) =
            (format!("/CN={name}"), format!("{name}.key"), format!("{name}.pem"));
        let request =
            ["req", "-x509", "-days", "2", "-subj", &subject, "-keyout", &key, "-out", &certificate];
        openssl(folder, &[&request[..], &NEW_KEY].concat());
        authority
    }

    /// Makes `NAME.pem` and `NAME.key` beside those of the authority, for the name `common_name` on 127.0.0.1.
    pub fn issue(&self, name: &str, common_name: &str) {
        let (subject, key, request) =
            (format!("/CN={common_name}"), format!("{name}.key"), format!("{name}.csr"));
        let names = "subjectAltName=IP:127.0.0.1,DNS:localhost";
        let asked = ["req", "-subj", &subject, "-addext", names, "-keyout", &key, "-out", &request];
        openssl(&self.folder, &[&asked[..], &NEW_KEY].concat());
        let (ca, ca_key) = (format!("{}.pem", self.name), format!("{}.key", self.name));
        let certificate = format!("{name}.pem");
        openssl(
            &self.folder,
            &[
                "x509",
                "-req",
                "-in",
                &request,
                "-CA",
                &ca,
                "-CAkey",
                &ca_key,
                "-CAcreateserial",
                "-days",
                "2",
            ]
            .iter()
            .copied()
            .chain(["-copy_extensions", "copy", "-out", &certificate])
            .collect::<Vec<_>>(),
        );
    }

    /// A file of the folder.
    pub fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    /// The authority's own certificate.
    pub fn certificate(&self) -> String {
        self.file(&format!("{}.pem", self.name))
    }
}

/// Elliptic curves: made at once.
const NEW_KEY: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];

fn openssl(folder: &Path, args: &[&str]) {
    let output = Command::new("openssl")
        .current_dir(folder)
        .args(args)
        .output()
        .expect("openssl must be installed (`cargo xtask test` does it)");
    assert!(output.status.success(), "openssl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}
