//! The cases, by what they are about.

pub(crate) mod clients;
pub(crate) mod messages;
pub(crate) mod pairs;
pub(crate) mod retained;
pub(crate) mod statements;
