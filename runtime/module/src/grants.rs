//! What a manifest asks for and what it gets: connectors, HTTP hosts and configuration values.
//!
//! In the default tenant the operator owns the directory, and the manifest grants. What another tenant's
//! manifest asks for must be granted by the operator, which no configuration can do yet.

use std::path::Path;
use std::sync::Arc;

use tidegate_event::Tenant;

use crate::error::LoadError;
use crate::imports::http::Destination;
use crate::manifest::{ConfigValue, Located, Manifest, ManifestError, nearest};
use crate::state::{Grants, is_named};

/// Where a manifest is and whose it is.
pub(crate) struct Place<'a> {
    /// Its file name.
    pub(crate) manifest: &'a str,
    /// The directory that relative paths start from.
    pub(crate) dir: Option<&'a Path>,
    pub(crate) tenant: &'a Tenant,
}

impl Place<'_> {
    fn is_operators(&self) -> bool {
        self.tenant.name() == Tenant::DEFAULT_NAME
    }

    fn error<T>(&self, at: &Located<T>, key: &str, message: String) -> ManifestError {
        ManifestError {
            file: self.manifest.to_owned(),
            line: at.line,
            column: at.column,
            key: key.to_owned(),
            message,
        }
    }
}

/// The connectors granted; `existing` are the tenant's.
///
/// # Errors
/// [`LoadError::Manifest`] naming each connector that does not exist or is not granted.
pub(crate) fn connectors(
    at: &Place<'_>,
    manifest: &Manifest,
    existing: &[String],
) -> Result<Grants, LoadError> {
    let Some(wanted) = &manifest.connectors else {
        return Ok(if at.is_operators() { Grants::All } else { Grants::These(Vec::new()) });
    };
    let (mut granted, mut errors) = (Vec::new(), Vec::new());
    for connector in wanted {
        let name = &connector.value;
        let mut meant = existing.iter().filter(|existing| is_named(existing, name));
        let message = match (meant.next(), meant.next()) {
            _ if !at.is_operators() => {
                format!("{name:?} is not granted to tenant {:?} in the operator's configuration", at.tenant)
            }
            (Some(found), None) => {
                granted.push(found.clone());
                continue;
            }
            (Some(_), Some(_)) => format!("{name:?} is the pool of several connectors: write KIND:POOL"),
            (None, _) => match nearest(name, existing.iter().map(String::as_str)) {
                Some(near) => format!("no connector {name:?}; did you mean {near:?}?"),
                None if existing.is_empty() => format!("no connector {name:?}; none is configured"),
                None => format!("no connector {name:?}; configured are {}", existing.join(", ")),
            },
        };
        errors.push(at.error(connector, "connectors", message));
    }
    if errors.is_empty() { Ok(Grants::These(granted)) } else { Err(LoadError::Manifest(errors)) }
}

/// The hosts that HTTP requests may go to: those of `[http] allow`.
///
/// # Errors
/// [`LoadError::Manifest`] naming each host that is not granted.
pub(crate) fn http(at: &Place<'_>, manifest: &Manifest) -> Result<Arc<[Destination]>, LoadError> {
    if at.is_operators() || manifest.http.is_empty() {
        return Ok(manifest.http.iter().map(|wanted| wanted.value.1.clone()).collect());
    }
    let refused = |wanted: &Located<(String, Destination)>| {
        let message = format!(
            "{:?} is not granted to tenant {:?} in the operator's configuration",
            wanted.value.0, at.tenant
        );
        at.error(wanted, "http.allow", message)
    };
    Err(LoadError::Manifest(manifest.http.iter().map(refused).collect()))
}

/// The values of `[config]`, with `env:` and `file:` resolved. No error shows a value.
///
/// # Errors
/// [`LoadError::Manifest`] naming each key that cannot be resolved.
pub(crate) fn config(at: &Place<'_>, manifest: &Manifest) -> Result<Vec<(String, String)>, LoadError> {
    let (mut values, mut errors) = (Vec::new(), Vec::new());
    for (key, value) in &manifest.config {
        match resolve(at, &value.value) {
            Ok(text) => values.push((key.clone(), text)),
            Err(message) => errors.push(at.error(value, &format!("config.{key}"), message)),
        }
    }
    if errors.is_empty() { Ok(values) } else { Err(LoadError::Manifest(errors)) }
}

fn resolve(at: &Place<'_>, value: &ConfigValue) -> Result<String, String> {
    match value {
        ConfigValue::Text(text) => Ok(text.clone()),
        ConfigValue::Env(_) | ConfigValue::File(_) if !at.is_operators() => {
            Err("env: and file: are for the operator's modules".into())
        }
        ConfigValue::Env(name) => match std::env::var(name) {
            Ok(text) => Ok(text),
            Err(std::env::VarError::NotPresent) => Err(format!("environment variable {name} is not set")),
            Err(std::env::VarError::NotUnicode(_)) => {
                Err(format!("environment variable {name} is not UTF-8"))
            }
        },
        ConfigValue::File(path) => {
            let path = at.dir.map_or_else(|| path.clone(), |dir| dir.join(path));
            match std::fs::read_to_string(&path) {
                // Files of secrets end in a line break that nobody means.
                Ok(text) => Ok(text.trim_end_matches(['\n', '\r']).to_owned()),
                Err(error) => Err(format!("{}: {error}", path.display())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn place<'a>(tenant: &'a Tenant, dir: Option<&'a Path>) -> Place<'a> {
        Place { manifest: "x.toml", dir, tenant }
    }

    fn parse(text: &str) -> Manifest {
        Manifest::parse("x.toml", text).unwrap()
    }

    #[test]
    fn connectors_must_exist() {
        let tenant = Tenant::default();
        let at = place(&tenant, None);
        let existing = ["redis:pool1".to_owned(), "sqlite:local".to_owned(), "mysql:pool1".to_owned()];
        let granted =
            connectors(&at, &parse("connectors = [\"local\", \"redis:pool1\"]"), &existing).unwrap();
        assert_eq!(granted.resolve("local"), Ok("sqlite:local"));
        for (text, part) in [
            (
                "connectors = [\"redis:pol1\"]",
                "x.toml:1:15: connectors: no connector \"redis:pol1\"; did you mean \"redis:pool1\"?",
            ),
            ("connectors = [\"pool1\"]", "write KIND:POOL"),
            ("connectors = [\"x\"]", "configured are"),
        ] {
            let error = connectors(&at, &parse(text), &existing).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn other_tenants_are_granted_nothing_by_their_own_manifest() {
        let tenant = Tenant::new("acme");
        let at = place(&tenant, None);
        let existing = ["redis:pool1".to_owned()];
        assert!(connectors(&at, &parse(""), &existing).unwrap().resolve("redis:pool1").is_err());
        let error = connectors(&at, &parse("connectors = [\"redis:pool1\"]"), &existing).unwrap_err();
        assert!(error.to_string().contains("not granted"), "{error}");
        let error = http(&at, &parse("[http]\nallow = [\"a.example:443\"]")).unwrap_err().to_string();
        assert!(error.contains("x.toml:2:10: http.allow: \"a.example:443\" is not granted"), "{error}");
        assert!(http(&at, &parse("[http]\nallow = []")).unwrap().is_empty());
        let error = config(&at, &parse("[config]\nhome = \"env:HOME\"")).unwrap_err();
        assert!(error.to_string().contains("config.home: env: and file:"), "{error}");
    }

    #[test]
    fn secrets_are_resolved_and_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("key"), "s3cret\n").unwrap();
        let tenant = Tenant::default();
        let at = place(&tenant, Some(dir.path()));
        let manifest = parse("[config]\nkey = \"file:key\"\nplain = \"x\"\npath = \"env:PATH\"");
        let mut values = config(&at, &manifest).unwrap();
        values.sort();
        assert_eq!(values.first(), Some(&("key".to_owned(), "s3cret".to_owned())));
        assert!(!format!("{manifest:?}").contains("s3cret"));

        let error =
            config(&at, &parse("[config]\na = \"file:none\"\nb = \"env:TIDEGATE_NOT_SET\"")).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("x.toml:2:5: config.a: ") && text.contains("TIDEGATE_NOT_SET is not set"),
            "{text}"
        );
    }
}
