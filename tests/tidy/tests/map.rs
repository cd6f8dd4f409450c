//! What exists is on the map: crates in ARCHITECTURE.md, examples with a README and a manifest.

use tidegate_tidy::{files, folders, none, root, text};

#[test]
fn every_crate_is_in_the_architecture() {
    let map = text("ARCHITECTURE.md");
    let offenders = folders("runtime").into_iter().filter(|name| !map.contains(&format!("runtime/{name}")));
    none("ARCHITECTURE.md names each crate as runtime/NAME; missing", offenders);
}

#[test]
fn every_example_explains_itself() {
    let mut offenders = Vec::new();
    for name in folders("guest-examples") {
        let folder = format!("guest-examples/{name}");
        let readme = text(&format!("{folder}/README.md"));
        if readme.trim().is_empty() {
            offenders.push(format!("{folder}: README.md is missing"));
        } else if !readme.contains("build") {
            offenders.push(format!("{folder}/README.md does not say how to build it"));
        }
        let own = |entry: &std::path::Path| {
            entry.extension().is_some_and(|e| e == "toml")
                && entry.file_name().is_some_and(|n| n != "Cargo.toml")
        };
        let manifests = std::fs::read_dir(root().join(&folder)).into_iter().flatten().flatten();
        if !manifests.map(|entry| entry.path()).any(|path| own(&path)) {
            offenders.push(format!("{folder}: the module's manifest NAME.toml is missing"));
        }
    }
    none("each example has a README with its build line, and a manifest", offenders);
}

#[test]
fn every_fuzz_target_is_a_program_and_explained() {
    let (readme, manifest) = (text("tests/fuzz/README.md"), text("tests/fuzz/Cargo.toml"));
    let mut offenders = Vec::new();
    let folder = "tests/fuzz/fuzz_targets";
    let names: Vec<String> = files()
        .into_iter()
        .filter_map(|file| {
            file.path.strip_prefix(folder)?.strip_prefix('/')?.strip_suffix(".rs").map(String::from)
        })
        .filter(|name| !name.contains('/'))
        .collect();
    assert!(!names.is_empty(), "no fuzz target was found");
    for name in names {
        if !readme.contains(&format!("\n| `{name}` | ")) {
            offenders.push(format!("tests/fuzz/README.md has no row for {name}"));
        }
        if !manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")) {
            offenders.push(format!("tests/fuzz/Cargo.toml has no program for {name}"));
        }
    }
    none("each file of fuzz_targets is a program with a row in the README", offenders);
}

#[test]
fn every_crate_keeps_the_workspace_lints() {
    // The workspace's own crates; guests that tests build are workspaces of their own.
    let own = |path: &str| {
        matches!(path.split('/').collect::<Vec<_>>()[..], ["runtime" | "sdk" | "tests", _, "Cargo.toml"])
            && path != "tests/fuzz/Cargo.toml"
    };
    let lints = "[lints]\nworkspace = true";
    let offenders = files()
        .into_iter()
        .filter(|file| own(&file.path) && !file.text.contains(lints))
        .map(|file| file.path);
    none("`[lints] workspace = true`", offenders);
}
