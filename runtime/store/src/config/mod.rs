//! Configuration: the documents' `.conf` files and the table `backend` of `tidegate.toml`, one model.
//!
//! [`load`] is all or nothing: it reports every error of every file, or gives a configuration in which every pool,
//! hook, function, filter and variable exists.

mod address;
pub mod conf;
mod diagnostic;
pub(crate) mod documented;
mod duration;
mod hook_line;
mod lines;
mod model;
mod node;
mod resolve;
mod secret;
mod source;
mod value;

pub(crate) use diagnostic::suggestion;
pub use diagnostic::{Diagnostic, Place, Severity};
pub use lines::{Lines, Position};
pub use model::{HookLine, LineAction, Loaded, OptionValue, PoolConfig, StoreConfig};
pub use secret::Secret;

/// Reads `.conf` sources, as (file name, text), and the `backend` table of `tidegate.toml`, as (file name, whole
/// text of the file) so that lines count from its beginning.
///
/// # Errors
/// Every error of every source, in the order of the sources; then back ends that are used and have no driver in this
/// binary.
pub fn load(conf: &[(String, String)], toml: Option<(&str, &str)>) -> Result<Loaded, Vec<Diagnostic>> {
    let (loaded, mut errors) = match read(conf, toml) {
        Ok(loaded) => {
            let missing = resolve::without_driver(&loaded.config);
            (Some(loaded), missing)
        }
        Err(Unusable { errors, config }) => {
            let missing = resolve::without_driver(&config);
            (None, errors.into_iter().chain(missing).collect())
        }
    };
    match loaded {
        Some(loaded) if errors.is_empty() => Ok(loaded),
        _ => {
            errors.dedup();
            Err(errors)
        }
    }
}

/// What [`read`] gives when something is wrong.
#[derive(Clone, Debug)]
pub struct Unusable {
    /// Every error.
    pub errors: Vec<Diagnostic>,
    /// What there is without the lines that are wrong.
    pub config: StoreConfig,
}

/// As [`load`], but a back end without a driver is well: what its files say is checked, and it cannot be opened.
///
/// # Errors
/// Every error of every source, in the order of the sources.
pub fn read(conf: &[(String, String)], toml: Option<(&str, &str)>) -> Result<Loaded, Unusable> {
    let mut sources = source::Sources::default();
    for (file, text) in conf {
        sources.add_conf(file, text);
    }
    if let Some((file, text)) = toml {
        sources.add_toml(file, text);
    }
    sources.drop_repeated();
    resolve::resolve(sources)
}

#[cfg(test)]
mod samples;
#[cfg(test)]
mod tests;
