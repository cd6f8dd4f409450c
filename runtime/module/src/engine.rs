//! The wasmtime engine all guests run on, and its configuration.
//!
//! There is one lane today: components of WASI 0.2, on an engine without the concurrency support of
//! component-model async, which makes every call about three times cheaper. Guests of WASI 0.3 need a second
//! engine with it; [`Engines`] is the place where a component will be given to the lane it needs.

use std::num::NonZeroUsize;

use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig};

use crate::error::HostError;
use crate::ticker;

/// How deep a guest may recurse. wasmtime's default; interpreters compiled to WebAssembly recurse deeply.
pub(crate) const STACK_BYTES: usize = 512 << 10;

/// The engines of a host.
pub(crate) struct Engines {
    /// Components without async functions.
    pub(crate) plain: Engine,
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
        let plain = match Engine::new(configuration().allocation_strategy(pooling(pool))) {
            Ok(engine) => engine,
            Err(refusal) => {
                tracing::warn!(
                    reason = format!("{refusal:#}"),
                    instances = pool.instances,
                    "no address space for a pool of instances: they are allocated on demand"
                );
                on_demand()?
            }
        };
        ticker::add(&plain).map_err(|error| HostError::Engine(error.to_string()))?;
        Ok(Self { plain })
    }
}

/// An engine that only compiles: what it makes runs on the engines of [`Engines::start`].
pub(crate) fn on_demand() -> Result<Engine, HostError> {
    let mut config = configuration();
    config.allocation_strategy(InstanceAllocationStrategy::OnDemand);
    Engine::new(&config).map_err(|error| HostError::Engine(format!("{error:#}")))
}

/// Everything that decides what code is generated. The allocation strategy does not.
fn configuration() -> Config {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .concurrency_support(false)
        .epoch_interruption(true)
        .cranelift_opt_level(OptLevel::Speed)
        .memory_init_cow(true)
        // Initial memory images stay in memory, whatever happens to the file they came from.
        .force_memory_init_memfd(true)
        .max_wasm_stack(STACK_BYTES)
        // Room for the host functions that run on top of the guest's frames.
        .async_stack_size(1 << 20)
        .generate_address_map(true)
        .wasm_backtrace_max_frames(NonZeroUsize::new(32));
    config
}

fn pooling(size: PoolSize) -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    // Ratios and per-component ceilings admit every tool chain measured, Python and StarlingMonkey included.
    pool.total_component_instances(size.instances)
        .total_core_instances(size.instances.saturating_mul(8))
        .total_memories(size.instances.saturating_add(size.instances / 4))
        .total_tables(size.instances.saturating_mul(4))
        .total_stacks(size.instances)
        .max_memory_size(size.memory_bytes)
        .max_core_instances_per_component(100)
        .max_memories_per_component(40)
        .max_tables_per_component(60)
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};

    use super::*;

    fn hash(engine: &Engine) -> u64 {
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        hasher.finish()
    }

    #[test]
    fn what_the_compiler_makes_runs_on_the_pooled_engine() {
        let pooled = Engines::start(PoolSize { instances: 4, memory_bytes: 1 << 20 }).unwrap();
        assert!(pooled.plain.is_pulley() == on_demand().unwrap().is_pulley());
        assert_eq!(hash(&pooled.plain), hash(&on_demand().unwrap()));
    }

    #[test]
    fn a_pool_without_address_space_falls_back() {
        // 64,000 times 4 GiB are twice the address space of x86-64.
        let engines = Engines::start(PoolSize { instances: 64_000, memory_bytes: 1 << 30 });
        assert!(engines.is_ok());
    }
}
