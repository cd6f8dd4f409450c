//! The manifest's `[config]` table.
//!
//! `init` is handed all of it as a [`Config`]; [`get`] asks for one key at any time.

use std::fmt::Display;
use std::str::FromStr;

use crate::bindings::imports::wasi::config::store;

pub use store::Error as ConfigError;

/// The value of `key`, if the manifest has it.
///
/// # Errors
/// The host could not read its configuration.
pub fn get(key: &str) -> Result<Option<String>, ConfigError> {
    store::get(key)
}

/// Everything in the table.
///
/// # Errors
/// The host could not read its configuration.
pub fn all() -> Result<Config, ConfigError> {
    store::get_all().map(Config)
}

/// The whole `[config]` table. Values of other TOML types come as text.
///
/// ```
/// use tidegate_sdk::config::Config;
///
/// let config = Config::from_pairs(vec![("max_bytes".to_owned(), "64".to_owned())]);
/// assert_eq!(config.parse("max_bytes"), Ok(Some(64_usize)));
/// assert_eq!(config.parse::<u8>("missing"), Ok(None));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config(Vec<(String, String)>);

impl Config {
    /// A table of these keys and values, as the host gives them.
    pub fn from_pairs(pairs: Vec<(String, String)>) -> Self {
        Self(pairs)
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// The value of `key`, which must be there.
    ///
    /// # Errors
    /// It is missing; the text names it, fit to be `init`'s answer.
    pub fn require(&self, key: &str) -> Result<&str, String> {
        self.get(key).ok_or_else(|| format!("config.{key} is missing"))
    }

    /// The value of `key` read as a `T`; `None` without that key.
    ///
    /// # Errors
    /// The value is no `T`; the text names key and value, fit to be `init`'s answer.
    pub fn parse<T>(&self, key: &str) -> Result<Option<T>, String>
    where
        T: FromStr,
        T::Err: Display,
    {
        match self.get(key) {
            None => Ok(None),
            Some(text) => match text.parse() {
                Ok(value) => Ok(Some(value)),
                Err(error) => Err(format!("config.{key} = {text:?}: {error}")),
            },
        }
    }

    /// All keys and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_key_and_value() {
        let config = Config::from_pairs(vec![("max_bytes".into(), "many".into())]);
        assert_eq!(
            config.parse::<u32>("max_bytes"),
            Err("config.max_bytes = \"many\": invalid digit found in string".into())
        );
        assert_eq!(config.require("other"), Err("config.other is missing".into()));
    }
}
