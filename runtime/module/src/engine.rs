//! The wasmtime engines guests run on, one a [`Lane`], and their configuration.
//!
//! Most components go to the plain engine: without the concurrency support of component-model async every call is
//! about three times cheaper, and its instances come from a pool. Components that need concurrent tasks go to a
//! second engine, which allocates on demand: a second pool would double the address space that is reserved.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::num::NonZeroUsize;

use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, OptLevel, PoolConcurrencyLimitError,
    PoolingAllocationConfig,
};

use crate::artefact::Fingerprint;
use crate::error::HostError;
use crate::limiter::{MAX_CORE_INSTANCES, MAX_MEMORIES, MAX_TABLES};
use crate::ticker;
use tidegate_encode::Lane;

/// How deep a guest may recurse. wasmtime's default; interpreters compiled to WebAssembly recurse deeply.
pub(crate) const STACK_BYTES: usize = 512 << 10;

/// The engines of a host.
#[derive(Clone)]
pub(crate) struct Engines {
    plain: Engine,
    concurrent: Engine,
    fingerprint: Fingerprint,
}

/// How much the pooling allocator reserves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PoolSize {
    /// Instances alive at once, idle ones included.
    pub(crate) instances: u32,
    /// The largest memory a guest may ask for, in bytes.
    pub(crate) memory_bytes: usize,
}

impl Engines {
    /// Starts the engines and their ticks. Without the address space that the pooling allocator reserves
    /// (about 4 GiB an instance, virtual), instances are allocated on demand: slower, but it works.
    pub(crate) fn start(pool: PoolSize) -> Result<Self, HostError> {
        let plain = match Engine::new(configuration(Lane::Plain).allocation_strategy(pooling(pool))) {
            Ok(engine) => engine,
            Err(refusal) => {
                tracing::warn!(
                    reason = format!("{refusal:#}"),
                    instances = pool.instances,
                    "no address space for a pool of instances: they are allocated on demand"
                );
                on_demand(Lane::Plain)?
            }
        };
        let engines = Self::of(plain, on_demand(Lane::Concurrent)?);
        for lane in Lane::ALL {
            ticker::add(engines.get(lane)).map_err(|error| HostError::Engine(error.to_string()))?;
        }
        Ok(engines)
    }

    /// Engines that only compile: what they make runs on those of [`Self::start`].
    pub(crate) fn on_demand() -> Result<Self, HostError> {
        Ok(Self::of(on_demand(Lane::Plain)?, on_demand(Lane::Concurrent)?))
    }

    fn of(plain: Engine, concurrent: Engine) -> Self {
        let mut hasher = DefaultHasher::new();
        tidegate_encode::VERSION.hash(&mut hasher);
        for engine in [&plain, &concurrent] {
            engine.precompile_compatibility_hash().hash(&mut hasher);
        }
        Self { plain, concurrent, fingerprint: Fingerprint(hasher.finish()) }
    }

    /// The engine of `lane`.
    pub(crate) fn get(&self, lane: Lane) -> &Engine {
        match lane {
            Lane::Plain => &self.plain,
            Lane::Concurrent => &self.concurrent,
        }
    }

    /// What artefacts of these engines have in common: their settings, wasmtime's version, and how core modules are
    /// made components.
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }
}

fn on_demand(lane: Lane) -> Result<Engine, HostError> {
    let mut config = configuration(lane);
    config.allocation_strategy(InstanceAllocationStrategy::OnDemand);
    Engine::new(&config).map_err(|error| HostError::Engine(format!("{error:#}")))
}

/// Everything that decides what code is generated. The allocation strategy does not.
fn configuration(lane: Lane) -> Config {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .concurrency_support(lane == Lane::Concurrent)
        .epoch_interruption(true)
        .cranelift_opt_level(OptLevel::Speed)
        .memory_init_cow(true)
        .max_wasm_stack(STACK_BYTES)
        // Room for the host functions that run on top of the guest's frames.
        .async_stack_size(1 << 20)
        .generate_address_map(true)
        .wasm_backtrace_max_frames(NonZeroUsize::new(32));
    config
}

fn pooling(size: PoolSize) -> PoolingAllocationConfig {
    let count = |most: usize| u32::try_from(most).unwrap_or(u32::MAX);
    // The largest component that is admitted fits into the smallest pool when that is empty: what is given up for it is
    // not given up in vain.
    let total = |parts: u32, most: usize| parts.max(count(most));
    let mut pool = PoolingAllocationConfig::new();
    // Ratios and per-component ceilings admit every tool chain measured, Python and StarlingMonkey included.
    pool.total_component_instances(size.instances)
        .total_core_instances(total(size.instances.saturating_mul(8), MAX_CORE_INSTANCES))
        .total_memories(total(size.instances.saturating_add(size.instances / 4), MAX_MEMORIES))
        .total_tables(total(size.instances.saturating_mul(4), MAX_TABLES))
        .total_stacks(size.instances)
        .max_memory_size(size.memory_bytes)
        .max_core_instances_per_component(count(MAX_CORE_INSTANCES))
        .max_memories_per_component(count(MAX_MEMORIES))
        .max_tables_per_component(count(MAX_TABLES))
        .max_component_instance_size(1 << 20)
        .max_core_instance_size(1 << 20)
        .max_tables_per_module(4)
        .table_elements(crate::manifest::MAX_TABLE_ELEMENTS)
        .max_unused_warm_slots(100)
        .linear_memory_keep_resident(128 << 10)
        .table_keep_resident(16 << 10)
        .pagemap_scan(Enabled::Auto);
    pool
}

/// What the pool has none left of, with how many it has: `5 memories`. `None`: the error is another.
pub(crate) fn exhausted(error: &wasmtime::Error) -> Option<String> {
    let said = error.downcast_ref::<PoolConcurrencyLimitError>()?.to_string();
    let parts = said
        .strip_prefix("maximum concurrent limit of ")
        .and_then(|rest| rest.strip_suffix(" reached")?.split_once(" for "));
    Some(match parts {
        // The pool of memories is striped, with one stripe: there is no protection by keys.
        Some((count, kind)) if kind.starts_with("memory") => format!("{count} memories"),
        Some((count, "fibers")) => format!("{count} stacks"),
        Some((count, kind)) => format!("{count} {kind}"),
        None => said,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn what_the_compiler_makes_runs_on_the_pooled_engine() {
        let pooled = Engines::start(PoolSize { instances: 4, memory_bytes: 1 << 20 }).unwrap();
        assert!(!pooled.plain.is_pulley());
        assert_eq!(pooled.fingerprint(), Engines::on_demand().unwrap().fingerprint());
    }

    #[test]
    fn a_pool_without_address_space_falls_back() {
        // 64,000 times 4 GiB are twice the address space of x86-64.
        let engines = Engines::start(PoolSize { instances: 64_000, memory_bytes: 1 << 30 });
        assert!(engines.is_ok());
    }
}
