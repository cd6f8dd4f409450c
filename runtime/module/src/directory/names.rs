//! The name of a module: its path below the modules' directory.

use std::path::{Component, Path};

/// The name of the module at `path` below `root`: without `.wasm`, with `/` between directories. `None`: it is not below,
/// ends in something else, or has a part that is not UTF-8 or holds control characters, which no log or metric can show.
pub(crate) fn name_of(root: &Path, path: &Path) -> Option<String> {
    if path.extension().is_none_or(|extension| extension != "wasm") {
        return None;
    }
    let below = path.strip_prefix(root).ok()?.with_extension("");
    let mut name = String::new();
    for part in below.components() {
        let Component::Normal(part) = part else { return None };
        let part = part.to_str().filter(|part| !part.chars().any(char::is_control))?;
        if !name.is_empty() {
            name.push('/');
        }
        name.push_str(part);
    }
    (!name.is_empty()).then_some(name)
}

/// How a log names what is at `path`, whether or not that is a name.
pub(super) fn shown(root: &Path, path: &Path) -> String {
    name_of(root, path).unwrap_or_else(|| format!("{:?}", path.strip_prefix(root).unwrap_or(path)))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;

    use super::*;

    #[test]
    fn a_name_is_the_path_below_the_root() {
        let name = |path: &str| name_of(Path::new("/m"), Path::new(path));
        assert_eq!(name("/m/a.wasm").as_deref(), Some("a"));
        assert_eq!(name("/m/floor1/fahrenheit.wasm").as_deref(), Some("floor1/fahrenheit"));
        assert_eq!(name("/m/a.b/c.v2.wasm").as_deref(), Some("a.b/c.v2"));
        assert_eq!(name("/m/grün 1/ü.wasm").as_deref(), Some("grün 1/ü"));
        for none in ["/m/a.toml", "/m/a", "/other/a.wasm", "/m/a\nb.wasm", "/m/x\u{7f}/a.wasm"] {
            assert_eq!(name(none), None, "{none:?}");
        }
        let alien = Path::new(OsStr::from_bytes(b"/m/\xff/a.wasm"));
        assert_eq!(name_of(Path::new("/m"), alien), None);
        assert_eq!(shown(Path::new("/m"), alien), r#""\xFF/a.wasm""#);
    }
}
