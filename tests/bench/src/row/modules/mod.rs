//! Row `modules`: what modules cost that have nothing to do.
//!
//! | part | what is measured |
//! | --- | --- |
//! | [`matching`] | a message with 0, 1, 10 and 1,000 modules of which one handles it, in process |
//! | [`weight`] | memory of a module without an instance, with one, and the time to load it from the artefact cache |
//! | [`server`] | all of them in one real server |

mod collection;
mod matching;
mod server;
mod weight;

use super::Bench;
use collection::Collection;

pub use weight::weigh;

const ROW: &str = "modules";

/// Runs every part.
///
/// # Errors
/// When a guest does not build or a module does not load.
pub(super) async fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let many = if bench.quick { 50 } else { 1_000 };
    if bench.wants(matching::CASE) {
        matching::run(bench, many).await?;
    }
    let (weight, server) = (bench.wants(weight::CASE), bench.wants(server::CASE));
    if !weight && !server {
        return Ok(());
    }
    let collection = Collection::make(bench, many).await?;
    if weight {
        weight::run(bench, &collection).await?;
    }
    if server {
        server::run(bench, &collection).await?;
    }
    Ok(())
}
