//! One guest a toolchain, each made to do the same ten things by the real host: whatever language a module is
//! written in, its binary runs.
//!
//! | what | file |
//! | --- | --- |
//! | the guests, and where their files are | [`guests`]; sources in `guests/`, built by `cargo xtask guests` |
//! | the host, with storage and broker played | [`host`] |
//! | what a guest must do | [`behaviour`] |
//! | what it costs | [`figures`] |
//! | the table of both | [`page`], which is `docs/guest-matrix.md` |

pub mod behaviour;
pub mod figures;
pub mod guests;
pub mod host;
pub mod page;
