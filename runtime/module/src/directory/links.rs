//! Where a path really leads: every symbolic link on the way can be switched, and then it leads elsewhere.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs;
use std::path::{Component, Path, PathBuf};

/// Links followed before a path counts as leading nowhere: the system's own bound.
const MAX_LINKS: usize = 40;

/// The names that decide what is found at the absolute `path`: each symbolic link on the way, and the end. Each in a
/// directory that is given without links. Empty when there is no link on the way.
pub(super) fn hops(path: &Path) -> Vec<PathBuf> {
    let mut left: VecDeque<OsString> = parts(path).collect();
    let (mut at, mut hops, mut links) = (PathBuf::from("/"), Vec::new(), 0);
    while let Some(part) = left.pop_front() {
        if part == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&part);
        match fs::symlink_metadata(&next) {
            Ok(found) if found.is_symlink() => {
                links += 1;
                hops.push(next.clone());
                let Ok(target) = fs::read_link(&next) else { return hops };
                if links > MAX_LINKS {
                    return hops;
                }
                if target.is_absolute() {
                    at = PathBuf::from("/");
                }
                for part in parts(&target).collect::<Vec<_>>().into_iter().rev() {
                    left.push_front(part);
                }
            }
            Ok(_) => at = next,
            // It may come: then the path leads there.
            Err(_) => {
                if links > 0 {
                    hops.push(next);
                }
                return hops;
            }
        }
    }
    if links > 0 {
        hops.push(at);
    }
    hops
}

fn parts(path: &Path) -> impl Iterator<Item = OsString> + '_ {
    path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn every_link_and_the_end_decide() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        fs::create_dir(root.join("..2026_11")).unwrap();
        fs::write(root.join("..2026_11/x.wasm"), "x").unwrap();
        symlink("..2026_11", root.join("..data")).unwrap();
        symlink("..data/x.wasm", root.join("x.wasm")).unwrap();
        assert_eq!(
            hops(&root.join("x.wasm")),
            [root.join("x.wasm"), root.join("..data"), root.join("..2026_11/x.wasm")]
        );
        assert_eq!(hops(&root.join("..2026_11/x.wasm")), [] as [PathBuf; 0]);
        // Up and down again, and a target that is not there yet.
        symlink("../sub/../later", root.join("..2026_11/up")).unwrap();
        fs::create_dir(root.join("sub")).unwrap();
        assert_eq!(hops(&root.join("..2026_11/up")), [root.join("..2026_11/up"), root.join("later")]);
    }

    #[test]
    fn a_circle_ends() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        symlink(root.join("b"), root.join("a")).unwrap();
        symlink(root.join("a"), root.join("b")).unwrap();
        assert!(hops(&root.join("a")).len() <= MAX_LINKS + 1);
    }
}
