//! A change of a file of configuration, tried before it is made.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::backends::Sources;
use crate::config::read_text;
use crate::control::rename;

/// A change of one file in the directory of `.conf` files.
#[derive(Clone, Debug)]
pub(crate) enum FileChange {
    /// A file comes or is replaced; what was kept of it out of service goes.
    Put {
        /// The file.
        path: PathBuf,
        /// Its content.
        text: String,
        /// Where it is kept while it is out of service.
        aside: PathBuf,
    },
    /// A file is taken out of service.
    Disable {
        /// The file.
        path: PathBuf,
        /// Where it is kept.
        aside: PathBuf,
    },
    /// A file comes back into service.
    Enable {
        /// Where it was kept.
        aside: PathBuf,
        /// The file.
        path: PathBuf,
    },
}

impl FileChange {
    /// The sources as they will be.
    pub(super) fn pretend(&self, sources: &mut Sources) -> Result<(), Vec<String>> {
        match self {
            Self::Put { path, text, .. } => sources.replace(path, Some(text.clone())),
            Self::Disable { path, .. } => sources.replace(path, None),
            Self::Enable { aside, path } => {
                let text = read_text(aside).map_err(|error| vec![format!("{}: {error}", aside.display())])?;
                sources.replace(path, Some(text));
            }
        }
        Ok(())
    }

    /// Makes it, whole or not at all.
    pub(super) fn make(self) -> Result<(), String> {
        match self {
            Self::Put { path, text, aside } => {
                put(&path, &text).map_err(|error| format!("{}: {error}", path.display()))?;
                match fs::remove_file(&aside) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        tracing::warn!(path = %aside.display(), "cannot be removed: {error}");
                    }
                    _ => {}
                }
                Ok(())
            }
            Self::Disable { path: from, aside: to } | Self::Enable { aside: from, path: to } => {
                rename(&from, &to).map_err(|refusal| refusal.to_string())
            }
        }
    }
}

/// Writes a file beside its place and renames it into it.
fn put(path: &Path, text: &str) -> std::io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(dir)?;
    let mut part = tempfile::Builder::new().prefix(".load-").suffix(".part").tempfile_in(dir)?;
    part.write_all(text.as_bytes())?;
    part.as_file().sync_all()?;
    part.persist(path)?;
    fs::File::open(dir)?.sync_all()
}
