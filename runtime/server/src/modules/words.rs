//! Words that list and sheet have in common.

use crate::api::report::{CircuitReport, ModuleReport};

/// The first digits of a hash, as logs show it.
pub(super) fn short(hash: &str) -> String {
    hash.chars().take(12).collect()
}

/// Which version of two serves whom; `None`: there is no trial.
pub(super) fn trial(module: &ModuleReport) -> Option<String> {
    let trial = module.trial.as_ref()?;
    // As in the numbers of the version before: what an open circuit kept from it failed.
    let skipped = module.circuit.skipped;
    let (new, before) = (short(&module.version), short(&trial.before));
    let new_did = did(module.calls + skipped, module.errors + skipped);
    let before_did = did(trial.before_calls, trial.before_errors);
    Some(match trial.share {
        100 => {
            format!("version {new} serves all clients {new_did}, version {before} would again {before_did}")
        }
        share => {
            format!(
                "version {new} serves {share} % of clients {new_did}, version {before} the others {before_did}"
            )
        }
    })
}

fn did(calls: u64, errors: u64) -> String {
    format!("({calls} calls, {errors} errors)")
}

/// How a circuit stands, and what it did.
pub(super) fn circuit(circuit: &CircuitReport) -> String {
    let CircuitReport { state, opened, skipped } = circuit;
    format!("{state}, opened {opened} times, {skipped} events skipped")
}
