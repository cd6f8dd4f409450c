//! What every back end must do.

pub(crate) mod clients;
pub(crate) mod commands;
pub(crate) mod expiry;
pub(crate) mod messages;
pub(crate) mod names;
pub(crate) mod nodes;
pub(crate) mod pairs;
pub(crate) mod retained;
pub(crate) mod statements;
