//! Every toolchain's guest does everything, and the page of the documentation says so.

use tidegate_matrix::behaviour::{ALL, CPU, Loaded, SHORT_CPU, lasts, manifest};
use tidegate_matrix::figures::{Figures, measure};
use tidegate_matrix::guests::{GUESTS, Guest, file, folder};
use tidegate_matrix::host::{Bench, Log};
use tidegate_matrix::page;

/// One after the other: compiling the large ones takes memory, and measuring needs quiet.
#[tokio::test]
async fn every_guest_does_everything() -> anyhow::Result<()> {
    let log = Log::install()?;
    let mut failures = Vec::new();
    for guest in &GUESTS {
        match does_everything(guest, &log).await {
            Ok(wrong) => failures.extend(wrong),
            Err(error) => failures.push(format!("{}: {error:#}", guest.name)),
        }
    }
    assert!(failures.is_empty(), "\n  {}", failures.join("\n  "));
    if std::env::var_os("TIDEGATE_WRITE_DOCS").is_some() {
        let mut rows: Vec<(Guest, Figures)> = Vec::new();
        for guest in &GUESTS {
            let cache = tempfile::tempdir()?;
            rows.push((*guest, measure(guest, &cache.path().join("artefacts")).await?));
        }
        std::fs::write(page::path(), page::render(&rows))?;
    }
    let missing = page::missing(&std::fs::read_to_string(page::path()).unwrap_or_default(), &GUESTS);
    assert!(
        missing.is_empty(),
        "docs/guest-matrix.md lacks {missing:?}: TIDEGATE_WRITE_DOCS=1 cargo xtask test --filter every_guest"
    );
    Ok(())
}

/// What the guest did wrong.
async fn does_everything(guest: &Guest, log: &Log) -> anyhow::Result<Vec<String>> {
    let bench = Bench::new(&folder().join("artefacts"))?;
    let wasm = file(guest.name);
    let patient = bench.load(guest.name, &wasm, &manifest("warm", CPU)).await?;
    let hasty = bench.load(guest.name, &wasm, &manifest("warm", SHORT_CPU)).await?;
    let loaded = Loaded { patient: &patient, hasty: &hasty, bench: &bench, log };
    let mut wrong = Vec::new();
    for behaviour in ALL {
        if let Err(error) = behaviour.check(&loaded).await {
            wrong.push(format!("{}: {}: {error}", guest.name, behaviour.word()));
        }
    }
    let one = bench.load(guest.name, &wasm, &manifest("single", CPU)).await?;
    if let Err(error) = lasts(&one).await {
        wrong.push(format!("{}: in the long run: {error}", guest.name));
    }
    let loading = patient.loading();
    println!(
        "{:<26} {} of {} as expected, {} KiB, loaded in {:?}{}",
        guest.name,
        ALL.len() - wrong.len(),
        ALL.len(),
        patient.stats().wasm_bytes.div_ceil(1024),
        loading.total,
        if loading.from_cache { " from the cache" } else { "" }
    );
    Ok(wrong)
}
