//! A copy of the example guests that the demo may edit: never the sources of the person who runs it.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::process::Result;
use crate::screen::faint;
use crate::{guests, paths};

/// The line that the demo edits, as the example has it.
pub(crate) const OLD_LINE: &str = r#"const FIELD: &str = "fahrenheit";"#;

/// The edited line.
pub(crate) fn line(field: &str) -> String {
    format!(r#"const FIELD: &str = "{field}";"#)
}

/// The copy, in the cache so that it stays built. Held by one demo at a time.
pub(crate) struct Source {
    folder: PathBuf,
    target: PathBuf,
    _lock: File,
}

impl Source {
    /// Copies the examples into the cache.
    ///
    /// # Errors
    /// A file cannot be read or written, or the examples do not look as expected.
    pub(crate) fn copy() -> Result<Self> {
        let target = paths::beside_target("demo")?;
        let folder = target.join("guest-examples");
        std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let lock = lock(&target.join("lock"))?;
        let original = paths::root().join("guest-examples");
        for member in ["access", "averages", "device-counters", "fahrenheit", "guard", "store-reading"] {
            copy_folder(&original.join(member), &folder.join(member))?;
        }
        write_if_new(&folder.join("Cargo.toml"), manifest(&original)?.as_bytes())?;
        let locked = original.join("Cargo.lock");
        write_if_new(&folder.join("Cargo.lock"), &read(&locked)?)?;
        Ok(Self { folder, target, _lock: lock })
    }

    /// Builds the copy; gives the path of `fahrenheit.wasm`.
    ///
    /// # Errors
    /// It does not build.
    pub(crate) fn build(&self) -> Result<PathBuf> {
        Ok(guests::build(&self.folder, &self.target, &[])?.join("fahrenheit.wasm"))
    }

    /// The file that [`edit`](Self::edit) edits.
    pub(crate) fn file(&self) -> PathBuf {
        self.folder.join("fahrenheit/src/lib.rs")
    }

    /// Makes the module call its field `field`.
    ///
    /// # Errors
    /// The line is not there.
    pub(crate) fn edit(&self, field: &str) -> Result<()> {
        let file = self.file();
        let text = String::from_utf8_lossy(&read(&file)?).into_owned();
        if !text.contains(OLD_LINE) {
            return Err(format!("{} has no line `{OLD_LINE}`", file.display()));
        }
        write_if_new(&file, text.replace(OLD_LINE, &line(field)).as_bytes())
    }
}

/// Waits for the lock on the copy.
fn lock(path: &Path) -> Result<File> {
    let file = File::create(path).map_err(|error| format!("{}: {error}", path.display()))?;
    if file.try_lock().is_err() {
        println!("{}", faint("  waiting for another demo that builds"));
        file.lock().map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(file)
}

/// The examples' workspace manifest for the copy: the SDK by its full path, without the guests of the tests.
fn manifest(original: &Path) -> Result<String> {
    let path = original.join("Cargo.toml");
    let text = String::from_utf8_lossy(&read(&path)?).into_owned();
    let sdk = std::path::absolute(paths::root().join("sdk/rust")).map_err(|error| error.to_string())?;
    let sdk = std::fs::canonicalize(&sdk).map_err(|error| format!("{}: {error}", sdk.display()))?;
    let replaced = text
        .replace(r#"path = "../sdk/rust""#, &format!("path = {:?}", sdk.display().to_string()))
        .replace(r#", "../tests/e2e/guests/probe""#, "");
    if replaced.contains("../") {
        return Err(format!(
            "{} refers to folders that the demo does not know: it must be taught them",
            path.display()
        ));
    }
    Ok(replaced)
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to).map_err(|error| format!("{}: {error}", to.display()))?;
    let listing = std::fs::read_dir(from).map_err(|error| format!("{}: {error}", from.display()))?;
    for entry in listing {
        let entry = entry.map_err(|error| format!("{}: {error}", from.display()))?;
        let (source, name) = (entry.path(), entry.file_name());
        if source.is_dir() {
            if name != "target" {
                copy_folder(&source, &to.join(name))?;
            }
        } else {
            write_if_new(&to.join(name), &read(&source)?)?;
        }
    }
    Ok(())
}

/// Leaves a file alone that is as it should be, so that Cargo does not build it again.
fn write_if_new(path: &Path, bytes: &[u8]) -> Result<()> {
    if std::fs::read(path).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    std::fs::write(path, bytes).map_err(|error| format!("{}: {error}", path.display()))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
}
