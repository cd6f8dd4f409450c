//! Option values: what each kind takes, and the words for what it does not.

use super::address;
use super::model::OptionValue;
use super::node::Kind;
use super::secret::{self, Secret};
use crate::backend::OptionKind;

/// The value of an option; `None` = unset, the default holds.
///
/// # Errors
/// What was expected, in words that show nothing of the value.
pub(super) fn read(wanted: OptionKind, value: &Kind) -> Result<Option<OptionValue>, String> {
    let resolved = match value {
        Kind::Text(text) if text.is_empty() && wanted == OptionKind::Secret => {
            return Ok(Some(OptionValue::Nothing));
        }
        Kind::Text(text) if text.is_empty() => return Ok(None),
        Kind::Text(text) => secret::resolve(text)?,
        _ => None,
    };
    let text = match (&resolved, value) {
        (Some(secret), _) => Some(secret.expose()),
        (None, Kind::Text(text)) => Some(text.as_str()),
        (None, _) => None,
    };
    match wanted {
        OptionKind::Inert(form) => return read(*form, value),
        OptionKind::Integer { min, max } => {
            let number = match (value, text) {
                (Kind::Integer(number), _) => u64::try_from(*number).ok(),
                (_, Some(text)) => text.trim().parse().ok(),
                _ => None,
            };
            let number = number.filter(|n| (min..=max).contains(n));
            return number
                .map(|number| Some(OptionValue::Integer(number)))
                .ok_or_else(|| format!("expected a number from {min} to {max}"));
        }
        OptionKind::Boolean => {
            return match (value, text) {
                (Kind::Boolean(truth), _) => Ok(Some(OptionValue::Boolean(*truth))),
                (_, Some("true" | "on")) => Ok(Some(OptionValue::Boolean(true))),
                (_, Some("false" | "off")) => Ok(Some(OptionValue::Boolean(false))),
                _ => Err("expected true or false".into()),
            };
        }
        _ => {}
    }
    let Some(text) = text else { return Err(format!("expected a string, not {}", value.name())) };
    let text = match wanted {
        OptionKind::Word { words, synonyms } => {
            let meant = synonyms.iter().find(|(other, _)| *other == text).map_or(text, |(_, word)| word);
            if !words.contains(&meant) {
                return Err(format!("expected one of {}", words.join(", ")));
            }
            return Ok(Some(OptionValue::Text(meant.to_owned())));
        }
        OptionKind::Server { port } => {
            address::servers(text, port)
                .filter(|all| all.len() == 1)
                .ok_or_else(|| format!("expected host:port, for instance 127.0.0.1:{port}"))?;
            text
        }
        OptionKind::Servers { port } => {
            address::servers(text, port).ok_or_else(|| {
                format!("expected host:port, or several with commas, for instance 127.0.0.1:{port}")
            })?;
            text
        }
        OptionKind::Url => {
            address::is_url(text).then_some(()).ok_or("expected http://host:port or https://host:port")?;
            text
        }
        _ => text,
    };
    Ok(Some(match resolved {
        Some(secret) => OptionValue::Secret(secret),
        None if wanted == OptionKind::Secret => OptionValue::Secret(Secret::literal(text)),
        None => OptionValue::Text(text.to_owned()),
    }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn text(wanted: OptionKind, text: &str) -> Result<Option<OptionValue>, String> {
        read(wanted, &Kind::Text(text.to_owned()))
    }

    #[test]
    fn an_empty_value_is_unset_and_an_empty_secret_is_none() {
        assert_eq!(text(OptionKind::Text, ""), Ok(None));
        assert_eq!(text(OptionKind::Boolean, ""), Ok(None));
        assert_eq!(text(OptionKind::Secret, ""), Ok(Some(OptionValue::Nothing)));
    }

    #[test]
    fn a_synonym_stands_for_its_word() {
        let kind =
            OptionKind::Word { words: &["master", "slave_ok"], synonyms: &[("slaver_ok", "slave_ok")] };
        let slave_ok = Ok(Some(OptionValue::Text("slave_ok".into())));
        assert_eq!(text(kind, "slave_ok"), slave_ok);
        assert_eq!(text(kind, "slaver_ok"), slave_ok);
        assert_eq!(text(kind, "slave"), Err("expected one of master, slave_ok".into()));
    }

    #[test]
    fn what_has_no_effect_has_a_form_all_the_same() {
        let kind = OptionKind::Inert(&OptionKind::Integer { min: 0, max: 9 });
        assert_eq!(text(kind, "5"), Ok(Some(OptionValue::Integer(5))));
        assert_eq!(text(kind, "x"), Err("expected a number from 0 to 9".into()));
    }

    #[test]
    fn a_wrong_value_is_not_shown() {
        for kind in [
            OptionKind::Integer { min: 0, max: 9 },
            OptionKind::Boolean,
            OptionKind::Word { words: &["a"], synonyms: &[] },
            OptionKind::Server { port: 1 },
            OptionKind::Servers { port: 1 },
            OptionKind::Url,
        ] {
            let words = text(kind, "user:hunter2@host").unwrap_err();
            assert!(!words.contains("hunter2"), "{words}");
        }
    }
}
