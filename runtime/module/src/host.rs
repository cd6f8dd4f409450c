//! The host: engine, linker, cache and services, and the way from a file to a module.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate_event::offline::Offline;
use tidegate_event::{Control, Hook, IdSource, KeyValue, Node, Storage, Tenant, TopicFilter};
use tokio::sync::Semaphore;
use wasmtime::component::{Component, Linker};

use crate::artefact::Key;
use crate::cache::Cache;
use crate::compile::{Compiler, CompilerLimits};
use crate::content;
use crate::engine::{Engines, PoolSize};
use crate::error::{HostError, LoadError};
use crate::exports::Exports;
use crate::grants;
use crate::imports;
use crate::imports::http::{HttpClient, HttpConfig};
use crate::instance::Blueprint;
use crate::manifest::{HookEntry, Manifest, ManifestError};
use crate::meters::Meters;
use crate::module::{Counts, Loading, Module};
use crate::pool::Pool;
use crate::state::{Services, Shared, State};

/// How the host works.
#[derive(Clone, Debug)]
pub struct HostConfig {
    /// Directory of compiled artefacts; made with mode 0700. Never the modules' directory.
    pub cache_dir: PathBuf,
    /// Makes the ids of messages that modules create: the broker's own source, or one of another node name.
    /// Two sources of one name could give the same id twice.
    pub ids: Arc<IdSource>,
    /// Where modules' key-value pairs are kept. The default, which is nowhere, refuses every call.
    pub state: Arc<dyn KeyValue>,
    /// How modules reach HTTP servers.
    pub http: HttpConfig,
    /// Where components are compiled.
    pub compiler: Compiler,
    /// What a compiler process may use.
    pub compiler_limits: CompilerLimits,
    /// The largest module file in bytes (default 128 MiB).
    pub max_module_bytes: u64,
    /// Instances of all modules alive at once (default 1,000); further events wait.
    pub max_instances: u32,
    /// The most memory a manifest may grant an instance, in bytes (default 256 MiB).
    pub max_memory_bytes: usize,
    /// How long a directory's changes are gathered before files are loaded (default 50 ms); no save serves sooner.
    pub debounce: Duration,
    /// How often a directory is read again in case the system reported no change (default 30 s).
    pub rescan: Duration,
}

impl HostConfig {
    /// The defaults, for a cache in `cache_dir` and modules' messages with ids of `ids`.
    pub fn new(cache_dir: impl Into<PathBuf>, ids: Arc<IdSource>) -> Self {
        Self {
            cache_dir: cache_dir.into(),
            ids,
            state: Arc::new(Offline),
            http: HttpConfig::default(),
            compiler: Compiler::default(),
            compiler_limits: CompilerLimits::default(),
            max_module_bytes: 128 << 20,
            max_instances: 1_000,
            max_memory_bytes: 256 << 20,
            debounce: Duration::from_millis(50),
            rescan: Duration::from_secs(30),
        }
    }
}

/// Loads and runs modules.
pub struct Host {
    config: HostConfig,
    engines: Engines,
    linker: Linker<State>,
    cache: Cache,
    services: Services,
    /// One compilation at a time: the others' processors are for messages.
    compiling: Semaphore,
    slots: Arc<Semaphore>,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("config", &self.config).finish_non_exhaustive()
    }
}

/// A module's files as they were read.
struct Files {
    name: Arc<str>,
    wasm: Vec<u8>,
    content: blake3::Hash,
    manifest_name: String,
    manifest: Option<String>,
}

impl Files {
    fn version(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.content.as_bytes());
        if let Some(manifest) = &self.manifest {
            hasher.update(manifest.as_bytes());
        }
        hasher.finalize()
    }
}

/// What looking at a file led to.
pub(crate) enum Found {
    /// The very version that is known already.
    Unchanged,
    /// Another version, loaded.
    Loaded(Arc<Module>),
}

impl Host {
    /// Starts the engine and opens the cache.
    ///
    /// # Errors
    /// [`HostError`].
    pub fn new(
        config: HostConfig,
        node: Arc<Node>,
        storage: Arc<dyn Storage>,
        control: Arc<dyn Control>,
    ) -> Result<Arc<Self>, HostError> {
        let cache = Cache::open(&config.cache_dir)?;
        let engines = Engines::start(PoolSize {
            instances: config.max_instances,
            memory_bytes: config.max_memory_bytes,
        })?;
        let linker = imports::linker(&engines.plain)
            .map_err(|error| HostError::Engine(format!("linking its imports: {error:#}")))?;
        let slots = usize::try_from(config.max_instances).unwrap_or(usize::MAX);
        Ok(Arc::new(Self {
            services: Services {
                node,
                ids: config.ids.clone(),
                storage,
                control,
                state: config.state.clone(),
                http: Arc::new(HttpClient::new(config.http.clone())),
            },
            engines,
            linker,
            cache,
            compiling: Semaphore::new(1),
            slots: Arc::new(Semaphore::new(slots)),
            config,
        }))
    }

    /// How the host works.
    pub fn config(&self) -> &HostConfig {
        &self.config
    }

    /// Loads the module at `path` and the manifest beside it, makes its first instance and runs its init.
    ///
    /// # Errors
    /// [`LoadError`].
    pub async fn load(&self, path: &Path, tenant: &Tenant) -> Result<Arc<Module>, LoadError> {
        match self.look(path, tenant, None).await? {
            Found::Loaded(module) => Ok(module),
            // Without a known version everything is new.
            Found::Unchanged => Err(LoadError::Name),
        }
    }

    /// As [`Self::load`], unless file and manifest are those of version `known`.
    ///
    /// # Errors
    /// [`LoadError`].
    pub(crate) async fn look(
        &self,
        path: &Path,
        tenant: &Tenant,
        known: Option<blake3::Hash>,
    ) -> Result<Found, LoadError> {
        let started = Instant::now();
        let files = self.read(path, tenant).await?;
        let version = files.version();
        if known == Some(version) {
            return Ok(Found::Unchanged);
        }
        content::expect_component(&files.wasm)?;
        let manifest = match &files.manifest {
            Some(text) => Manifest::parse(&files.manifest_name, text).map_err(LoadError::Manifest)?,
            None => Manifest::default(),
        };
        self.check_ceilings(&files, &manifest)?;
        let at = grants::Place { manifest: &files.manifest_name, dir: path.parent(), tenant };
        let granted = grants::connectors(&at, &manifest, &self.services.storage.connectors(tenant))?;
        let config = grants::config(&at, &manifest)?;
        let http = grants::http(&at, &manifest)?;

        let (component, compile) = self.component(&files).await?;
        let pre = self
            .linker
            .instantiate_pre(&component)
            .map_err(|error| imports::explain(&component, &self.engines.plain, &error))?;
        let (exports, exported) = Exports::find(&pre)?;
        let hooks = select(&files.manifest_name, manifest.hooks.as_deref(), &exported)?;
        let shared = Arc::new(Shared {
            meters: Meters::new(&files.name),
            name: files.name,
            tenant: tenant.clone(),
            services: self.services.clone(),
            grants: granted,
            http,
            config,
            ack: manifest.ack,
            limits: manifest.limits,
            asks_about_events: imports::asks_about_events(&component, &self.engines.plain),
        });
        let pool =
            Pool::open(Blueprint { pre, exports, shared }, manifest.instances, self.slots.clone()).await?;
        let loading = Loading {
            total: started.elapsed(),
            compile: compile.unwrap_or_default(),
            from_cache: compile.is_none(),
        };
        Ok(Found::Loaded(Arc::new(Module {
            path: path.to_owned(),
            hash: files.content.to_hex().to_string(),
            version,
            priority: manifest.priority.0,
            mandatory: manifest.mandatory,
            hooks,
            on_error: manifest.on_error,
            wasm_bytes: u64::try_from(files.wasm.len()).unwrap_or(u64::MAX),
            loading,
            pool,
            counts: Counts::default(),
        })))
    }

    /// Whether the manifest beside `path` says `mandatory = true`, whatever else it says. One that is there
    /// and cannot be read might.
    pub(crate) async fn is_mandatory(path: &Path) -> bool {
        let manifest = path.with_extension("toml");
        let is_missing = |error: &std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
        match tokio::fs::metadata(&manifest).await {
            Ok(found) if found.is_file() => {}
            Ok(_) => return true,
            Err(error) => return !is_missing(&error),
        }
        match tokio::fs::read(&manifest).await {
            Ok(bytes) => Manifest::asks_mandatory(&String::from_utf8_lossy(&bytes)),
            Err(error) => !is_missing(&error),
        }
    }

    async fn read(&self, path: &Path, tenant: &Tenant) -> Result<Files, LoadError> {
        let (path, limit) = (path.to_owned(), self.config.max_module_bytes);
        let links = tenant.name() == Tenant::DEFAULT_NAME;
        let read = tokio::task::spawn_blocking(move || {
            if !links {
                refuse_links(&path)?;
            }
            read(&path, limit)
        });
        read.await.map_err(|_| LoadError::Panicked)?
    }

    /// Limits beyond what the engine can give are mistakes of the manifest, not of the first large message.
    fn check_ceilings(&self, files: &Files, manifest: &Manifest) -> Result<(), LoadError> {
        let (asked, most) = (manifest.limits.memory, self.config.max_memory_bytes);
        if asked <= most {
            return Ok(());
        }
        Err(LoadError::Manifest(vec![ManifestError {
            file: files.manifest_name.clone(),
            // The default may be too much as well, and stands nowhere.
            line: manifest.memory_at.as_ref().map_or(1, |at| at.line),
            column: manifest.memory_at.as_ref().map_or(1, |at| at.column),
            key: "limits.memory".into(),
            message: format!("this host gives an instance at most {}", bytesize::ByteSize::b(most as u64)),
        }]))
    }

    /// The compiled component, and how long compiling took unless it was cached.
    async fn component(&self, files: &Files) -> Result<(Component, Option<Duration>), LoadError> {
        let engine = &self.engines.plain;
        let key = Key::new(files.content, engine);
        if let Some(component) = self.cached(key).await {
            return Ok((component, None));
        }
        let turn = self.compiling.acquire().await;
        // Another load of the same bytes may have compiled them while this one waited.
        if let Some(component) = self.cached(key).await {
            return Ok((component, None));
        }
        let started = Instant::now();
        let output = self.cache.temporary();
        let compiler = &self.config.compiler;
        let made = compiler
            .compile(engine, &self.config.compiler_limits, &files.wasm, &self.cache, &output)
            .await
            .and_then(|()| self.cache.put(&key, &output));
        if made.is_err() {
            // A compiler that was stopped may have left a part of its work.
            drop(std::fs::remove_file(&output));
        }
        made?;
        let took = started.elapsed();
        drop(turn);
        match self.cached(key).await {
            Some(component) => Ok((component, Some(took))),
            None => Err(LoadError::Unfinished("made an artefact that this engine does not load".into())),
        }
    }

    async fn cached(&self, key: Key) -> Option<Component> {
        let (cache, engine) = (self.cache.clone(), self.engines.plain.clone());
        tokio::task::spawn_blocking(move || cache.get(&engine, &key)).await.ok().flatten()
    }
}

/// A tenant's link could lead out of its directory.
fn refuse_links(path: &Path) -> Result<(), LoadError> {
    for path in [path.to_owned(), path.with_extension("toml")] {
        if std::fs::symlink_metadata(&path).is_ok_and(|found| found.is_symlink()) {
            return Err(LoadError::Link(path));
        }
    }
    Ok(())
}

fn read(path: &Path, limit: u64) -> Result<Files, LoadError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| LoadError::Read { path, source }
    };
    let name = match (path.file_stem().and_then(|stem| stem.to_str()), path.extension()) {
        (Some(name), Some(extension)) if extension == "wasm" => Arc::from(name),
        _ => return Err(LoadError::Name),
    };
    let bytes = std::fs::metadata(path).map_err(failed(path))?.len();
    if bytes > limit {
        return Err(LoadError::TooLarge { bytes, limit });
    }
    let wasm = std::fs::read(path).map_err(failed(path))?;
    let manifest_path = path.with_extension("toml");
    let manifest = match std::fs::read_to_string(&manifest_path) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed(&manifest_path)(error)),
    };
    Ok(Files { content: blake3::hash(&wasm), manifest_name: format!("{name}.toml"), name, wasm, manifest })
}

/// The hooks to call: what the manifest names, or everything exported.
fn select(
    manifest: &str,
    wanted: Option<&[HookEntry]>,
    exported: &[Hook],
) -> Result<Vec<(Hook, Vec<TopicFilter>)>, LoadError> {
    let Some(wanted) = wanted else {
        return Ok(exported.iter().map(|hook| (*hook, Vec::new())).collect());
    };
    let missing: Vec<_> = wanted
        .iter()
        .filter(|entry| !exported.contains(&entry.hook.value))
        .map(|entry| ManifestError {
            file: manifest.to_owned(),
            line: entry.hook.line,
            column: entry.hook.column,
            key: format!("hooks.{}", entry.hook.value.name()),
            message: format!(
                "the module does not export {}; it exports {}",
                entry.hook.value.row().interface,
                exported.iter().map(|hook| hook.name()).collect::<Vec<_>>().join(", ")
            ),
        })
        .collect();
    if !missing.is_empty() {
        return Err(LoadError::Manifest(missing));
    }
    Ok(wanted.iter().map(|entry| (entry.hook.value, entry.filters.clone())).collect())
}
