//! The host: engine, linker, cache and services, and the way from a file to a module.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tidegate_event::offline::Offline;
use tidegate_event::{
    Control, DeadLetters, Hook, IdSource, KeyValue, Node, Seldom, Storage, Tenant, TopicFilter,
};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use wasmtime::component::Linker;

use crate::artefact::{Compiled, Key};
use crate::cache::Cache;
use crate::compile::{Compiler, CompilerLimits};
use crate::directory::{Stamp, names};
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
use crate::policy::Failing;
use crate::pool::Pool;
use crate::progress::{InProgress, Loads, Progress, Stage};
use crate::quota::Quotas;
use crate::rollout::Trial;
use crate::slots::Slots;
use crate::state::{Services, Shared, State};
use crate::tick;
use tidegate_encode::{FormError, Lane};

/// How often the log tells that a module is still being compiled.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// How often a file that changes while it is read is read again, and after which pause.
const READS: u32 = 5;
const READ_PAUSE: Duration = Duration::from_millis(10);

/// Files that are read at once, and in which pieces: only the one that is compiled is ever in memory as a whole.
const READ_AT_ONCE: usize = 4;
const PIECE: usize = 256 << 10;

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
    /// The most directories that are watched (default 4,096); the system has a limit for all programs. More are read
    /// again every second.
    pub max_watches: usize,
    /// How long a module's event in flight may keep its state from a new version, and how long events may then wait
    /// while the state is handed over (default 5 s each); after that the old version goes on.
    pub handover: Duration,
    /// How long events may go on with a version after another has replaced it (default 30 s); then they are
    /// interrupted.
    pub retire: Duration,
    /// Where events are kept that end as dead letters. Default none: then they are refused instead.
    pub dead_letters: Option<Arc<dyn DeadLetters>>,
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
            max_watches: 4_096,
            handover: Duration::from_secs(5),
            retire: Duration::from_secs(30),
            dead_letters: None,
        }
    }
}

/// Loads and runs modules.
pub struct Host {
    config: HostConfig,
    engines: Engines,
    linkers: Linkers,
    cache: Cache,
    services: Services,
    /// Files that are read at once.
    reading: Semaphore,
    /// One compilation at a time: the others' processors are for messages.
    compiling: Semaphore,
    loads: Loads,
    slots: Arc<Slots>,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("config", &self.config).finish_non_exhaustive()
    }
}

/// What guests may import, a linker a lane.
struct Linkers {
    plain: Linker<State>,
    concurrent: Linker<State>,
}

impl Linkers {
    fn new(engines: &Engines) -> wasmtime::Result<Self> {
        let of = |lane: Lane| imports::linker(engines.get(lane), lane);
        Ok(Self { plain: of(Lane::Plain)?, concurrent: of(Lane::Concurrent)? })
    }

    fn get(&self, lane: Lane) -> &Linker<State> {
        match lane {
            Lane::Plain => &self.plain,
            Lane::Concurrent => &self.concurrent,
        }
    }
}

/// Where a module is.
#[derive(Clone, Copy)]
struct Source<'a> {
    root: &'a Path,
    path: &'a Path,
    tenant: &'a Tenant,
}

/// A module's files as they were read, but for the WebAssembly itself: many may wait for the compiler.
struct Files {
    name: Arc<str>,
    /// Size of the WebAssembly file.
    bytes: usize,
    /// Whether it looks like one.
    form: Result<(), FormError>,
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
    /// This version, which is known already.
    Unchanged(blake3::Hash),
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
        let linkers = Linkers::new(&engines)
            .map_err(|error| HostError::Engine(format!("linking its imports: {error:#}")))?;
        let slots = usize::try_from(config.max_instances).unwrap_or(usize::MAX);
        Ok(Arc::new(Self {
            services: Services {
                node,
                ids: config.ids.clone(),
                storage,
                control,
                dead_letters: config.dead_letters.clone(),
                state: config.state.clone(),
                http: Arc::new(HttpClient::new(config.http.clone())),
            },
            engines,
            linkers,
            cache,
            reading: Semaphore::new(READ_AT_ONCE),
            compiling: Semaphore::new(1),
            loads: Loads::default(),
            slots: Slots::new(slots),
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
        self.load_below(path.parent().unwrap_or(Path::new("")), path, tenant).await
    }

    /// As [`Self::load`], for a module whose name is its path below `root`.
    ///
    /// # Errors
    /// [`LoadError`].
    pub async fn load_below(
        &self,
        root: &Path,
        path: &Path,
        tenant: &Tenant,
    ) -> Result<Arc<Module>, LoadError> {
        match self.look(root, path, tenant, &[]).await? {
            Found::Loaded(module) => Ok(module),
            // Without a known version everything is new.
            Found::Unchanged(_) => Err(LoadError::Name),
        }
    }

    /// As [`Self::load_below`], unless file and manifest are those of a version in `known`.
    ///
    /// # Errors
    /// [`LoadError`].
    pub(crate) async fn look(
        &self,
        root: &Path,
        path: &Path,
        tenant: &Tenant,
        known: &[blake3::Hash],
    ) -> Result<Found, LoadError> {
        let source = Source { root, path, tenant };
        let mut reads = READS;
        loop {
            reads -= 1;
            match self.attempt(source, known).await {
                // It was saved again while it waited for the compiler.
                Err(LoadError::Changing(_)) if reads > 0 => {}
                done => return done,
            }
        }
    }

    async fn attempt(&self, source: Source<'_>, known: &[blake3::Hash]) -> Result<Found, LoadError> {
        let Source { path, tenant, .. } = source;
        let started = Instant::now();
        let files = self.read(source).await?;
        let version = files.version();
        if known.contains(&version) {
            return Ok(Found::Unchanged(version));
        }
        files.form.clone()?;
        let manifest = match &files.manifest {
            Some(text) => Manifest::parse(&files.manifest_name, text).map_err(LoadError::Manifest)?,
            None => Manifest::default(),
        };
        self.check_ceilings(&files, &manifest)?;
        let config = granted_config(&files.manifest_name, path, tenant, &manifest).await?;
        let at = grants::Place { manifest: &files.manifest_name, dir: path.parent(), tenant };
        let granted = grants::connectors(&at, &manifest, &self.services.storage.connectors(tenant))?;
        let http = grants::http(&at, &manifest)?;

        let progress = self.loads.begin(&files.name, files.bytes);
        let (Compiled { component, lane }, compile) =
            self.component(source, files.content, &progress).await?;
        progress.enter(Stage::Starting);
        let engine = self.engines.get(lane);
        let pre = self
            .linkers
            .get(lane)
            .instantiate_pre(&component)
            .map_err(|error| imports::explain(&component, engine, &error))?;
        let (exports, mut exported) = Exports::find(&pre)?;
        let asks = exports.is_raw() && manifest.hooks.is_none();
        if exports.is_raw() && !asks {
            exported = Hook::all().collect();
        }
        let mut hooks = select(&files.manifest_name, manifest.hooks.as_deref(), &exported)?;
        let tick = ticks(&files.manifest_name, &manifest, &exports)?;
        let shared = Arc::new(Shared {
            meters: Meters::new(&files.name),
            quotas: Arc::new(Quotas::new(&files.name)),
            name: files.name,
            tenant: tenant.clone(),
            services: self.services.clone(),
            grants: granted,
            http,
            config,
            ack: manifest.ack,
            limits: manifest.limits,
            asks_about_events: imports::asks_about_events(&component, engine),
            interrupt: CancellationToken::new(),
        });
        let has_state = exports.has_state();
        let pool =
            Pool::open(Blueprint { pre, exports, shared }, manifest.instances, self.slots.clone()).await?;
        if has_state && !pool.keeps_state() {
            tracing::warn!(
                module = &*pool.shared().name,
                "the module exports tidegate:module/state, which is called only with mode = \"single\": its state is not \
                 handed to new versions"
            );
        }
        if asks {
            hooks = pool.wanted_hooks().await?;
            if hooks.is_empty() {
                return Err(LoadError::NoRawHook);
            }
        }
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
            failing: Failing::new(manifest.on_error),
            wasm_bytes: u64::try_from(files.bytes).unwrap_or(u64::MAX),
            loading,
            pool,
            counts: Counts::default(),
            rollout: manifest.rollout,
            trial: Trial::default(),
            successor: OnceLock::new(),
            tick,
            ticks: AtomicBool::new(false),
            idles: AtomicBool::new(false),
            tick_line: Seldom::default(),
            retired: CancellationToken::new(),
        })))
    }

    /// Whether the manifest beside `path` says `mandatory = true`, whatever else it says. One that is there
    /// and cannot be read might.
    pub(crate) async fn is_mandatory(path: &Path) -> bool {
        let manifest = path.with_extension("toml");
        let is_missing = |error: &std::io::Error| error.kind() == ErrorKind::NotFound;
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

    async fn read(&self, source: Source<'_>) -> Result<Files, LoadError> {
        let _turn = self.reading.acquire().await;
        let limit = self.config.max_module_bytes;
        let (root, path, links) = (source.root.to_owned(), source.path.to_owned(), may_link(source.tenant));
        let read = tokio::task::spawn_blocking(move || {
            if !links {
                refuse_links(&root, &path)?;
            }
            read_whole(&root, &path, limit)
        });
        read.await.map_err(|_| LoadError::Panicked)?
    }

    /// The WebAssembly at `source`, if it still has this `content`.
    async fn wasm(&self, source: Source<'_>, content: blake3::Hash) -> Result<Vec<u8>, LoadError> {
        let limit = self.config.max_module_bytes;
        let (root, path, links) = (source.root.to_owned(), source.path.to_owned(), may_link(source.tenant));
        let read = tokio::task::spawn_blocking(move || {
            if !links {
                refuse_links(&root, &path)?;
            }
            let mut wasm = Vec::new();
            File::open(&path)
                .and_then(|file| file.take(limit).read_to_end(&mut wasm))
                .map_err(|source| LoadError::Read { path: path.clone(), source })?;
            if blake3::hash(&wasm) == content { Ok(wasm) } else { Err(LoadError::Changing(path)) }
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

    /// The loads that go on.
    pub fn loading(&self) -> Vec<InProgress> {
        self.loads.list()
    }

    /// The component compiled from the file at `source` with this `content`, and how long compiling took unless it was
    /// cached.
    async fn component(
        &self,
        source: Source<'_>,
        content: blake3::Hash,
        progress: &Progress,
    ) -> Result<(Compiled, Option<Duration>), LoadError> {
        let key = Key::new(content, &self.engines);
        if let Some(compiled) = self.cached(key).await {
            return Ok((compiled?, None));
        }
        let turn = self.compiling.acquire().await;
        // Another load of the same bytes may have compiled them while this one waited.
        if let Some(compiled) = self.cached(key).await {
            return Ok((compiled?, None));
        }
        // Not before: a thousand large modules may have waited here.
        let wasm = self.wasm(source, content).await?;
        let started = Instant::now();
        let output = self.cache.temporary();
        let made = match self.compile(wasm, &output, progress).await {
            Ok(()) => {
                let (cache, made) = (self.cache.clone(), output.clone());
                let put = tokio::task::spawn_blocking(move || cache.put(&key, &made));
                put.await.map_err(|_| LoadError::Panicked)?
            }
            Err(error) => Err(error),
        };
        if made.is_err() {
            // A compiler that was stopped may have left a part of its work.
            drop(tokio::fs::remove_file(&output).await);
        }
        made?;
        let took = started.elapsed();
        drop(turn);
        match self.cached(key).await {
            Some(compiled) => Ok((compiled?, Some(took))),
            None => Err(LoadError::Unfinished("made an artefact that this engine does not load".into())),
        }
    }

    /// Compiles, and tells from time to time that it does.
    async fn compile(&self, wasm: Vec<u8>, output: &Path, progress: &Progress) -> Result<(), LoadError> {
        let HostConfig { compiler, compiler_limits: limits, .. } = &self.config;
        let compile = pin!(compiler.compile(&self.engines, limits, wasm, &self.cache, output, progress));
        let mut compile = compile;
        loop {
            match tokio::time::timeout(TELL_EVERY, &mut compile).await {
                Ok(made) => return made,
                Err(_) => progress.tell(),
            }
        }
    }

    async fn cached(&self, key: Key) -> Option<Result<Compiled, LoadError>> {
        // An artefact is read whole: not those of a thousand modules at once.
        let _turn = self.reading.acquire().await;
        let (cache, engines) = (self.cache.clone(), self.engines.clone());
        tokio::task::spawn_blocking(move || cache.get(&engines, &key)).await.ok().flatten()
    }
}

/// Whether symbolic links in the modules' directory of `tenant` are followed: the operator's are.
pub(crate) fn may_link(tenant: &Tenant) -> bool {
    tenant.name() == Tenant::DEFAULT_NAME
}

/// A tenant's link could lead out of its directory.
fn refuse_links(root: &Path, path: &Path) -> Result<(), LoadError> {
    let manifest = path.with_extension("toml");
    let below = path.ancestors().take_while(|at| *at != root && at.starts_with(root));
    for path in below.chain([manifest.as_path()]) {
        if std::fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink()) {
            return Err(LoadError::Link(path.to_owned()));
        }
    }
    Ok(())
}

/// Reads file and manifest as they were at one time: what a writer has half written may look whole.
fn read_whole(root: &Path, path: &Path, limit: u64) -> Result<Files, LoadError> {
    for _ in 0..READS {
        let before = Stamp::of(path);
        let read = read(root, path, limit)?;
        if Stamp::of(path) == before {
            return Ok(read);
        }
        std::thread::sleep(READ_PAUSE);
    }
    Err(LoadError::Changing(path.to_owned()))
}

fn read(root: &Path, path: &Path, limit: u64) -> Result<Files, LoadError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| LoadError::Read { path, source }
    };
    let name: Arc<str> = names::name_of(root, path).ok_or(LoadError::Name)?.into();
    let bytes = std::fs::metadata(path).map_err(failed(path))?.len();
    if bytes > limit {
        return Err(LoadError::TooLarge { bytes, limit });
    }
    let mut file = File::open(path).map_err(failed(path))?.take(limit.saturating_add(1));
    let (mut hasher, mut bytes, mut form) = (blake3::Hasher::new(), 0, tidegate_encode::kind(&[]));
    let mut piece = vec![0; PIECE];
    loop {
        let read = match file.read(&mut piece) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            read => read.map_err(failed(path))?,
        };
        let Some(piece) = piece.get(..read).filter(|piece| !piece.is_empty()) else { break };
        if bytes == 0 {
            form = tidegate_encode::kind(piece);
        }
        hasher.update(piece);
        bytes += read;
    }
    if u64::try_from(bytes).unwrap_or(u64::MAX) > limit {
        // It grew meanwhile.
        return Err(LoadError::Changing(path.to_owned()));
    }
    let manifest_path = path.with_extension("toml");
    let manifest = match std::fs::read_to_string(&manifest_path) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(failed(&manifest_path)(error)),
    };
    Ok(Files {
        bytes,
        form: form.map(drop),
        content: hasher.finalize(),
        manifest_name: format!("{name}.toml"),
        name,
        manifest,
    })
}

/// The values of `[config]`, some of which are in files.
async fn granted_config(
    manifest_name: &str,
    path: &Path,
    tenant: &Tenant,
    manifest: &Manifest,
) -> Result<Vec<(String, String)>, LoadError> {
    let (name, path) = (manifest_name.to_owned(), path.to_owned());
    let (tenant, manifest) = (tenant.clone(), manifest.clone());
    let read = tokio::task::spawn_blocking(move || {
        grants::config(&grants::Place { manifest: &name, dir: path.parent(), tenant: &tenant }, &manifest)
    });
    read.await.map_err(|_| LoadError::Panicked)?
}

/// How often to tick: what the manifest says, or the default for a component that exports it.
fn ticks(file: &str, manifest: &Manifest, exports: &Exports) -> Result<Option<Duration>, LoadError> {
    match &manifest.tick {
        None => Ok(exports.has_tick().then_some(tick::EVERY)),
        Some(every) if exports.has_tick() || exports.is_raw() => Ok(Some(every.value)),
        Some(every) => Err(LoadError::Manifest(vec![ManifestError {
            file: file.to_owned(),
            line: every.line,
            column: every.column,
            key: "tick".into(),
            message: "the module does not export tidegate:module/tick".into(),
        }])),
    }
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
