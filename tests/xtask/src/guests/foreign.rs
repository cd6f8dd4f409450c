//! Builds the guests of other toolchains, each only when its sources, the contract or the toolchains have
//! changed: all of them take minutes.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};

use super::recipes::{Bench, RECIPES, RUST, Recipe, rust};
use crate::process::Result;
use crate::toolchains::{self, Toolchains};
use crate::{paths, screen};

/// What the world `matrix` needs of `wit/`: by file, so that a new interface does not rebuild every guest.
const WIT: [&str; 7] = [
    "broker/types.wit",
    "hooks/types.wit",
    "hooks/message-publish.wit",
    "storage/types.wit",
    "storage/actions.wit",
    "wasi-config/store.wit",
    "wasi-logging/logging.wit",
];
const WORLD: &str = "tests/matrix/wit/matrix.wit";
/// The commands themselves are part of what a guest is made of.
const COMMANDS: &str = include_str!("recipes.rs");

/// Installs the toolchains and builds what has changed; gives the folder of the `.wasm` files.
///
/// # Errors
/// A toolchain cannot be installed, or a guest does not build.
pub(crate) fn build_all() -> Result<PathBuf> {
    let tools = toolchains::install()?;
    let folder = paths::beside_target("matrix")?;
    create(&folder)?;
    let wit = lay_out_wit(&folder)?;
    for (triple, name) in RUST {
        let built = rust(triple, &folder.join("rust-target"))?;
        let output = folder.join(name).with_extension("wasm");
        std::fs::copy(&built, &output).map_err(|error| failed(&built, &error))?;
        show(name, &output, "by cargo")?;
    }
    for recipe in &RECIPES {
        let output = folder.join(recipe.name).with_extension("wasm");
        let how = if build(recipe, &tools, &folder, &wit, &output)? { "built" } else { "as before" };
        show(recipe.name, &output, how)?;
    }
    Ok(folder)
}

/// Whether it was built.
fn build(recipe: &Recipe, tools: &Toolchains, folder: &Path, wit: &Path, output: &Path) -> Result<bool> {
    let stamp = stamp(recipe, tools)?;
    let mark = output.with_extension("stamp");
    if output.exists() && std::fs::read_to_string(&mark).is_ok_and(|text| text == stamp) {
        return Ok(false);
    }
    let scratch = folder.join("scratch").join(recipe.name);
    if scratch.exists() {
        std::fs::remove_dir_all(&scratch).map_err(|error| failed(&scratch, &error))?;
    }
    create(&scratch)?;
    // Whatever stops the build, the old file is no longer taken for a new one.
    if mark.exists() {
        std::fs::remove_file(&mark).map_err(|error| failed(&mark, &error))?;
    }
    (recipe.build)(&Bench { tools, scratch, wit, output: output.to_owned() })
        .map_err(|error| format!("the guest {}: {error}", recipe.name))?;
    std::fs::write(&mark, stamp).map_err(|error| failed(&mark, &error))?;
    Ok(true)
}

/// Changes when anything changes that the guest is made of. 64 bits: nobody makes them collide on purpose.
fn stamp(recipe: &Recipe, tools: &Toolchains) -> Result<String> {
    let mut hasher = DefaultHasher::new();
    COMMANDS.hash(&mut hasher);
    tools.versions().hash(&mut hasher);
    let wit = WIT.iter().map(|file| format!("wit/{file}"));
    for source in recipe.sources.iter().map(ToString::to_string).chain([WORLD.to_owned()]).chain(wit) {
        hash(&paths::root().join(source), &mut hasher)?;
    }
    Ok(format!("{:016x}", hasher.finish()))
}

/// Names and contents of the file, or of all files below the folder.
fn hash(path: &Path, hasher: &mut DefaultHasher) -> Result<()> {
    let at = |error: std::io::Error| failed(path, &error);
    path.file_name().hash(hasher);
    if !path.is_dir() {
        std::fs::read(path).map_err(at)?.hash(hasher);
        return Ok(());
    }
    let entries: std::io::Result<Vec<PathBuf>> =
        std::fs::read_dir(path).map_err(at)?.map(|entry| entry.map(|entry| entry.path())).collect();
    let mut entries = entries.map_err(at)?;
    entries.sort();
    entries.iter().try_for_each(|entry| hash(entry, hasher))
}

/// Puts the world and its dependencies where all tools look for them.
fn lay_out_wit(folder: &Path) -> Result<PathBuf> {
    let wit = folder.join("wit");
    if wit.exists() {
        std::fs::remove_dir_all(&wit).map_err(|error| failed(&wit, &error))?;
    }
    let copy = |from: PathBuf, to: PathBuf| {
        create(to.parent().unwrap_or(&to))?;
        std::fs::copy(&from, &to).map(drop).map_err(|error| failed(&from, &error))
    };
    copy(paths::root().join(WORLD), wit.join("matrix.wit"))?;
    for file in WIT {
        copy(paths::root().join("wit").join(file), wit.join("deps").join(file))?;
    }
    Ok(wit)
}

fn show(name: &str, output: &Path, how: &str) -> Result<()> {
    let bytes = std::fs::metadata(output).map_err(|error| failed(output, &error))?.len();
    println!("  {name:<26} {:>8} KiB  {}", bytes.div_ceil(1024), screen::faint(how));
    Ok(())
}

fn create(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|error| failed(folder, &error))
}

fn failed(path: &Path, error: &std::io::Error) -> String {
    format!("{}: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashed(path: &Path) -> Result<u64> {
        let mut hasher = DefaultHasher::new();
        hash(path, &mut hasher)?;
        Ok(hasher.finish())
    }

    #[test]
    fn a_changed_renamed_or_added_file_changes_the_hash() -> Result<()> {
        let folder = std::env::temp_dir().join(format!("tidegate-xtask-{}", std::process::id()));
        create(&folder.join("below"))?;
        let write = |name: &str, text: &str| {
            std::fs::write(folder.join(name), text).map_err(|error| failed(&folder, &error))
        };
        write("below/a", "1")?;
        let mut seen = vec![hashed(&folder)?];
        assert_eq!(hashed(&folder)?, seen[0], "nothing has changed");
        write("below/a", "2")?;
        seen.push(hashed(&folder)?);
        std::fs::rename(folder.join("below/a"), folder.join("below/b"))
            .map_err(|error| failed(&folder, &error))?;
        seen.push(hashed(&folder)?);
        write("c", "")?;
        seen.push(hashed(&folder)?);
        std::fs::remove_dir_all(&folder).map_err(|error| failed(&folder, &error))?;
        let distinct: std::collections::BTreeSet<_> = seen.iter().collect();
        assert_eq!(distinct.len(), seen.len());
        Ok(())
    }

    #[test]
    fn every_source_of_a_recipe_is_there() {
        let wit = WIT.iter().map(|file| format!("wit/{file}"));
        let sources = RECIPES.iter().flat_map(|recipe| recipe.sources).map(ToString::to_string);
        for path in sources.chain(wit).chain([WORLD.to_owned()]) {
            assert!(paths::root().join(&path).exists(), "{path}");
        }
    }
}
