//! Builds the guests and gives their bytes; builds messages, events and hosts.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use tempfile::TempDir;
use tidegate_event::{
    Client, Event, IdSource, Message, Node, Origin, Protocol, PublishProperties, QoS, Scope, Tenant, now_ms,
};
use tidegate_module::{Answer, CallError, Host, HostConfig, LoadError, Module};

use crate::fakes::{FakeControl, FakeLetters, FakeStorage};

/// The bytes of a guest of `tests/guests`.
pub fn guest(name: &str) -> Vec<u8> {
    std::fs::read(built().join("wasm32-wasip2/release").join(format!("{name}.wasm"))).unwrap()
}

/// The target directory of the guests, which are built once per run.
fn built() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        // target/release/deps/THIS
        let own = std::env::current_exe().unwrap();
        let target = own.ancestors().nth(3).unwrap().join("guests");
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests/Cargo.toml");
        let built = Command::new(env!("CARGO"))
            .args(["build", "--release", "--quiet", "--target", "wasm32-wasip2", "--manifest-path"])
            .arg(&manifest)
            .env("CARGO_TARGET_DIR", &target)
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .status()
            .unwrap();
        assert!(built.success(), "the guests do not build (is the target wasm32-wasip2 installed?)");
        target
    })
}

/// `wasm` with a custom section: the same component by behaviour, another by content.
pub fn variant(mut wasm: Vec<u8>, mark: u8) -> Vec<u8> {
    wasm.extend_from_slice(&[0, 3, 1, b'v', mark]);
    wasm
}

/// A component from text.
pub fn component(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap()
}

/// A component that handles session.created with `body`, in a core module with `fields`; it is well when it leaves
/// zero on the stack.
pub fn observer(fields: &str, body: &str) -> Vec<u8> {
    observer_beside("", fields, body)
}

/// An [`observer`] that does nothing, of which every instance has `count` core instances with `fields` besides its own.
pub fn observer_of_many(count: usize, fields: &str) -> Vec<u8> {
    let instances = "(core instance (instantiate $more))".repeat(count);
    observer_beside(&format!("(core module $more {fields}) {instances}"), "", "i32.const 0")
}

fn observer_beside(others: &str, fields: &str, body: &str) -> Vec<u8> {
    const TYPES: &str = r#"
        (type $client' (record
            (field "id" string) (field "username" (option string)) (field "peer" string) (field "protocol" u8)))
        (type $error' (variant (case "retry" string) (case "failed" string)))"#;
    component(&format!(
        r#"(component
            {others}
            (core module $m
                (memory (export "memory") 1)
                {fields}
                (func (export "realloc") (param i32 i32 i32 i32) (result i32) i32.const 1024)
                (func $on_session_created (export "f")
                    (param i64 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)
                    {body}))
            (core instance $i (instantiate $m))
            (alias core export $i "memory" (core memory $memory))
            (alias core export $i "realloc" (core func $realloc))
            {TYPES}
            (func $f (param "event" u64) (param "client" $client') (result (result (error $error')))
                (canon lift (core func $i "f") (memory $memory) (realloc $realloc)))
            (component $shim
                {TYPES}
                (import "client" (type $client (eq $client')))
                (import "error" (type $error (eq $error')))
                (import "f" (func $f
                    (param "event" u64) (param "client" $client) (result (result (error $error)))))
                (export $client2 "client" (type $client))
                (export $error2 "hook-error" (type $error))
                (export "on-session-created" (func $f)
                    (func (param "event" u64) (param "client" $client2) (result (result (error $error2))))))
            (instance $e (instantiate $shim
                (with "client" (type $client')) (with "error" (type $error')) (with "f" (func $f))))
            (export "tidegate:hooks/session-created@0.1.0" (instance $e)))"#
    ))
}

/// The event of [`observer`].
pub fn session_created() -> Scope {
    scope(Event::SessionCreated { client: client("c1") })
}

/// A host with fakes around it, and a directory for modules.
pub struct Bench {
    pub host: Arc<Host>,
    pub storage: Arc<FakeStorage>,
    pub control: Arc<FakeControl>,
    pub letters: Arc<FakeLetters>,
    pub root: TempDir,
}

impl Bench {
    /// With the cache that all tests share: most compile the same guests.
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    /// With a cache of its own.
    pub fn cold() -> Self {
        let root = tempfile::tempdir().unwrap();
        let cache = root.path().join("cache");
        Self::at(root, &cache, |_| {})
    }

    pub fn with(change: impl FnOnce(&mut HostConfig)) -> Self {
        Self::at(tempfile::tempdir().unwrap(), &built().join("artefacts"), change)
    }

    fn at(root: TempDir, cache: &Path, change: impl FnOnce(&mut HostConfig)) -> Self {
        std::fs::create_dir(root.path().join("modules")).unwrap();
        let (storage, control) = (Arc::new(FakeStorage::default()), Arc::new(FakeControl::default()));
        let letters = Arc::new(FakeLetters::default());
        let host = host(cache, &storage, &control, |config| {
            config.dead_letters = Some(letters.clone());
            change(config);
        });
        Self { host, storage, control, letters, root }
    }

    pub fn dir(&self) -> PathBuf {
        self.root.path().join("modules")
    }

    /// Writes `NAME.wasm`, and `NAME.toml` unless the manifest is empty.
    pub fn write(&self, name: &str, wasm: &[u8], manifest: &str) -> PathBuf {
        let path = self.dir().join(format!("{name}.wasm"));
        let manifest_path = path.with_extension("toml");
        if !manifest.is_empty() {
            std::fs::write(manifest_path, manifest).unwrap();
        } else if manifest_path.exists() {
            std::fs::remove_file(manifest_path).unwrap();
        }
        std::fs::write(&path, wasm).unwrap();
        path
    }

    pub async fn load(&self, wasm: &[u8], manifest: &str) -> Result<Arc<Module>, LoadError> {
        let path = self.write("m", wasm, manifest);
        self.host.load(&path, &Tenant::default()).await
    }

    /// The probe with this manifest.
    pub async fn probe(&self, manifest: &str) -> Arc<Module> {
        self.load(&guest("probe"), manifest).await.unwrap()
    }

    /// Why `wasm` with this manifest does not load.
    pub async fn refusal(&self, wasm: &[u8], manifest: &str) -> String {
        self.load(wasm, manifest).await.expect_err("it loads").to_string()
    }
}

pub fn host(
    cache: &Path,
    storage: &Arc<FakeStorage>,
    control: &Arc<FakeControl>,
    change: impl FnOnce(&mut HostConfig),
) -> Arc<Host> {
    let node = Arc::new(Node::new("test@127.0.0.1"));
    let mut config = HostConfig::new(cache, Arc::new(IdSource::new(&node)));
    // Many hosts live at once in a run of the tests, each with its own pool.
    config.max_instances = 64;
    change(&mut config);
    Host::new(config, node, storage.clone(), control.clone()).unwrap()
}

pub fn client(id: &str) -> Arc<Client> {
    Arc::new(Client {
        id: id.into(),
        username: Some("user".into()),
        peer: SocketAddr::from(([127, 0, 0, 1], 4321)),
        protocol: Protocol::V5,
        tenant: Tenant::default(),
        keep_alive: 60,
        clean_start: true,
        connected_at_ms: now_ms(),
        connection: 1,
        ..Client::default()
    })
}

pub fn message(topic: &str, payload: &[u8]) -> Message {
    Message {
        id: "0005F65F239F03FEF44300000BB40002".parse().unwrap(),
        topic: topic.parse().unwrap(),
        payload: Bytes::copy_from_slice(payload),
        qos: QoS::AtLeastOnce,
        retain: true,
        dup: false,
        timestamp_ms: 1_700_000_000_123,
        sender: "c1".into(),
        publisher: Some(client("c1")),
        properties: Some(Box::new(PublishProperties {
            message_expiry: Some(60),
            content_type: Some("text/plain".into()),
            correlation_data: Some(Bytes::from_static(b"\x00\xff")),
            user: vec![("k".into(), "v".into()), ("k".into(), "w".into())],
            ..PublishProperties::default()
        })),
        origin: Origin::Client,
        hops: 2,
    }
}

pub fn publish(topic: &str, payload: &[u8]) -> Scope {
    scope(Event::MessagePublish { message: Arc::new(message(topic, payload)), tenant: Tenant::default() })
}

pub fn scope(event: Event) -> Scope {
    Scope::new(event, Arc::new(Node::new("test@127.0.0.1")))
}

/// What the probe says to a message on `topic`: the payload of its replacement.
pub async fn ask(module: &Module, topic: &str) -> String {
    said(module.call(&publish(topic, b"hello")).await)
}

pub fn said(answer: Result<Answer, CallError>) -> String {
    match answer.unwrap().verdict {
        tidegate_event::Verdict::Replace(message) => String::from_utf8(message.payload.to_vec()).unwrap(),
        other => panic!("expected a replacement, got {other:?}"),
    }
}
