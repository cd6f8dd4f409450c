//! Option values that may be secret: given literally, or as `env:NAME` or `file:PATH`.

use std::env::VarError;
use std::fmt;

/// A text that must not be printed. Only [`expose`](Self::expose) gives it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    value: String,
    /// `env:NAME` or `file:PATH`, which may be printed.
    reference: Option<String>,
}

impl Secret {
    /// A secret written literally.
    pub fn literal(value: impl Into<String>) -> Self {
        Self { value: value.into(), reference: None }
    }

    /// The text itself, for the driver and nobody else.
    pub fn expose(&self) -> &str {
        &self.value
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reference.as_deref().unwrap_or("[redacted]"))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Follows `env:NAME` and `file:PATH`. `None`: the text is literal. A file's last line break is not part of the
/// value.
///
/// # Errors
/// What is missing, without the value.
pub(crate) fn resolve(text: &str) -> Result<Option<Secret>, String> {
    let value = if let Some(name) = text.strip_prefix("env:") {
        std::env::var(name).map_err(|error| unreadable(name, &error))?
    } else if let Some(path) = text.strip_prefix("file:") {
        let mut value = std::fs::read_to_string(path).map_err(|error| format!("file {path:?}: {error}"))?;
        let kept = value.trim_end_matches(['\n', '\r']).len();
        value.truncate(kept);
        value
    } else {
        return Ok(None);
    };
    Ok(Some(Secret { value, reference: Some(text.to_owned()) }))
}

/// Why a variable gives no text. The error's own words would show the value.
fn unreadable(name: &str, error: &VarError) -> String {
    let why = match error {
        VarError::NotPresent => "not set",
        VarError::NotUnicode(_) => "not UTF-8",
    };
    format!("environment variable {name:?}: {why}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_secret_is_never_printed() {
        let secret = Secret::literal("hunter2");
        assert_eq!(format!("{secret} {secret:?}"), "[redacted] [redacted]");
        assert_eq!(secret.expose(), "hunter2");
    }

    #[test]
    #[cfg(unix)]
    fn a_variable_that_is_not_utf_8_is_never_printed() {
        use std::os::unix::ffi::OsStringExt as _;
        let value = std::ffi::OsString::from_vec(b"hunter2\xff".to_vec());
        let text = unreadable("NAME", &VarError::NotUnicode(value));
        assert_eq!(text, "environment variable \"NAME\": not UTF-8");
    }

    #[test]
    fn references_are_followed_and_may_be_printed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "hunter2\n").unwrap();
        let text = format!("file:{}", file.path().display());
        let secret = resolve(&text).unwrap().unwrap();
        assert_eq!((secret.expose(), secret.to_string()), ("hunter2", text));
        assert_eq!(resolve("env:PATH").unwrap().unwrap().expose(), std::env::var("PATH").unwrap());
        assert!(resolve("env:TIDEGATE_NO_SUCH_VARIABLE").unwrap_err().contains("TIDEGATE_NO_SUCH_VARIABLE"));
        assert_eq!(resolve("plain").unwrap(), None);
    }
}
