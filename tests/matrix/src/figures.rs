//! What a guest costs: its file, loading it, calling it.

use std::path::Path;
use std::time::{Duration, Instant};

use tidegate_module::Module;

use crate::behaviour::{CPU, manifest, reading};
use crate::guests::{Guest, file};
use crate::host::{Bench, publish};

/// Loads from the cache that are measured.
const LOADS: usize = 5;
/// Calls that are measured, unless they take longer than [`CALLING`] in all.
const CALLS: usize = 500;
/// The least calls that are measured.
const FEWEST_CALLS: usize = 20;
const CALLING: Duration = Duration::from_secs(2);

/// What one guest costs. Times are medians, but for the compilation, which is done once.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// Bytes of the file.
    pub bytes: u64,
    /// Making a component of it and compiling that.
    pub compile: Duration,
    /// Loading it when it has been compiled before: reading, mapping, an instance, `init`.
    pub from_cache: Duration,
    /// A call of a new instance, which is made for it.
    pub fresh: Duration,
    /// A call of an instance that has been called before.
    pub warm: Duration,
}

/// Measures `guest` with a cache of its own in the folder `cache`, which is made.
///
/// # Errors
/// It does not load, or a call fails.
pub async fn measure(guest: &Guest, cache: &Path) -> anyhow::Result<Figures> {
    let bench = Bench::new(cache)?;
    let wasm = file(guest.name);
    let bytes = std::fs::metadata(&wasm)?.len();
    let compiled = bench.load(guest.name, &wasm, &manifest("warm", CPU)).await?;
    let mut loads = Vec::new();
    for _ in 0..LOADS {
        let again = bench.load(guest.name, &wasm, &manifest("warm", CPU)).await?;
        anyhow::ensure!(again.loading().from_cache, "{}: compiled again", guest.name);
        loads.push(again.loading().total);
    }
    let warm = calls(&compiled).await?;
    let fresh = bench.load(guest.name, &wasm, &manifest("fresh", CPU)).await?;
    Ok(Figures {
        bytes,
        compile: compiled.loading().compile,
        from_cache: median(loads),
        fresh: calls(&fresh).await?,
        warm,
    })
}

async fn calls(module: &Module) -> anyhow::Result<Duration> {
    let payload = reading().to_string();
    let started = Instant::now();
    let mut times = Vec::new();
    while times.len() < FEWEST_CALLS || (times.len() < CALLS && started.elapsed() < CALLING) {
        let scope = publish("matrix/transform", payload.as_bytes());
        let before = Instant::now();
        module.call(&scope).await?;
        times.push(before.elapsed());
    }
    Ok(median(times))
}

/// The upper one of the two in the middle; zero of nothing.
fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_not_the_mean() {
        let times = [1, 100, 2].map(Duration::from_millis).to_vec();
        assert_eq!(median(times), Duration::from_millis(2));
        assert_eq!(median(Vec::new()), Duration::ZERO);
    }
}
