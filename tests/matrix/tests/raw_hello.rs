//! The examples without component tooling, each with its own manifest: three languages, the same greeting.

use std::path::PathBuf;
use std::sync::Arc;

use tidegate_event::{Hook, Verdict};
use tidegate_matrix::guests::{file, folder};
use tidegate_matrix::host::{Bench, Log, publish};
use tidegate_module::Module;

const LANGUAGES: [&str; 3] = ["c", "zig", "assemblyscript"];

async fn payload(module: &Module, payload: &[u8]) -> anyhow::Result<Option<Vec<u8>>> {
    match module.call(&publish("hello/x", payload)).await?.verdict {
        Verdict::Replace(message) => Ok(Some(message.payload.to_vec())),
        Verdict::Pass => Ok(None),
        other => anyhow::bail!("{other:?}"),
    }
}

async fn load(bench: &Bench, name: &str, manifest: &str) -> anyhow::Result<Arc<Module>> {
    bench.load(name, &file(name), manifest).await
}

#[tokio::test]
async fn every_language_greets() -> anyhow::Result<()> {
    let log = Log::install()?;
    let bench = Bench::new(&folder().join("artefacts"))?;
    for language in LANGUAGES {
        let name = format!("raw-hello-{language}");
        let example = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../guest-examples").join(&name);
        let manifest = std::fs::read_to_string(example.join(format!("{name}.toml")))?;
        let module = load(&bench, &name, &manifest).await?;
        assert!(matches!(module.hooks(), [(Hook::MessagePublish, filters)] if filters.len() == 1), "{name}");
        // More calls than one, and of all sizes: what a call leaves behind is there for the next.
        for (said, answered) in [
            ("world", "Hello, world!"),
            ("", "Hello, !"),
            ("\"a\\b\" {[}]\n\t\u{1}", "Hello, \"a\\b\" {[}]\n\t\u{1}!"),
            ("Grüße ☃ 🦀", "Hello, Grüße ☃ 🦀!"),
            ("{\"payload\":\"other\"}", "Hello, {\"payload\":\"other\"}!"),
        ] {
            let given = payload(&module, said.as_bytes()).await?;
            assert_eq!(given.as_deref(), Some(answered.as_bytes()), "{name}: {said:?}");
        }
        let long = "long".repeat(64 << 10);
        let given = payload(&module, long.as_bytes()).await?;
        assert_eq!(given, Some(format!("Hello, {long}!").into_bytes()), "{name}: 256 KiB");

        log.take();
        assert_eq!(payload(&module, b"\xff\x00").await?, None, "{name}: not UTF-8");
        let lines = log.take();
        let warned = |line: &String| line.starts_with("WARN") && line.contains("the payload is not text");
        assert!(lines.iter().any(warned), "{name}: the log has {lines:?}");

        let moin = manifest.replace("\"Hello\"", "\"Moin \\\"Käpt'n\\\"\"");
        let given = payload(&*load(&bench, &name, &moin).await?, b"x").await?;
        assert_eq!(given.as_deref(), Some("Moin \"Käpt'n\", x!".as_bytes()), "{name}: configured");
        let without = manifest.replace("greeting", "other");
        let given = payload(&*load(&bench, &name, &without).await?, b"x").await?;
        assert_eq!(given.as_deref(), Some("Hello, x!".as_bytes()), "{name}: without the key");
    }
    Ok(())
}

/// They run for a long time on one instance: nothing is left of a call when it has been answered.
#[tokio::test]
async fn nothing_is_kept_of_a_call() -> anyhow::Result<()> {
    let bench = Bench::new(&folder().join("artefacts"))?;
    for language in LANGUAGES {
        let name = format!("raw-hello-{language}");
        // One instance, never replaced.
        let manifest = "hooks = { \"message.publish\" = [\"hello/#\"] }\n\
             instances = { mode = \"single\" }\n\
             limits = { memory = \"4MiB\", cpu = \"5s\" }\n";
        let module = load(&bench, &name, manifest).await?;
        let said = "x".repeat(16 << 10);
        for call in 0..2_000 {
            let given = payload(&module, said.as_bytes()).await;
            assert!(given.is_ok_and(|given| given.is_some()), "{name}: call {call}");
        }
        assert_eq!(module.stats().errors, 0, "{name}");
    }
    Ok(())
}
