//! The two files of the gate: read at the start, and again when they change. One that is wrong changes nothing.

use std::path::Path;

use metrics::{counter, gauge};
use tidegate_store::config::{Diagnostic, Place};

use super::acl::Acl;
use super::password_file::Passwords;
use super::{Access, AccessConfig, Anonymous};
use crate::config::{read_text, unreadable};

/// Counts files that were read again.
pub(crate) const RELOADS: &str = "tidegate_access_reloads_total";
/// 1 while a file is refused.
pub(crate) const REFUSED: &str = "tidegate_access_file_refused";

/// What the files say.
#[derive(Clone, Debug, Default)]
pub(crate) struct Files {
    /// `None`: there is no such file in the configuration.
    pub(super) passwords: Option<Passwords>,
    pub(super) acl: Acl,
    /// Counts changes.
    pub(super) generation: u64,
}

/// What was found in a file: lines or users, and warnings.
pub(crate) struct Findings {
    /// Its name.
    pub(crate) file: String,
    /// How much is in it, for people.
    pub(crate) content: String,
    /// What may be a mistake.
    pub(crate) warnings: Vec<Diagnostic>,
}

/// Reads the files that `config` names.
///
/// # Errors
/// What is wrong with them, file by file.
pub(crate) fn files(config: &AccessConfig) -> (Files, Vec<Result<Findings, Vec<Diagnostic>>>) {
    let (mut files, mut found) = (Files::default(), Vec::new());
    if let Some(path) = &config.password_file {
        found.push(read(path, Passwords::parse).map(|(file, passwords)| {
            let findings = Findings {
                content: format!("users: {}", passwords.len()),
                warnings: too_open(path, &file).into_iter().collect(),
                file,
            };
            files.passwords = Some(passwords);
            findings
        }));
    }
    if let Some(path) = &config.acl_file {
        found.push(read(path, Acl::parse).map(|(file, acl)| {
            let findings = Findings {
                content: format!("lines: {}", acl.len()),
                warnings: unchecked_names(config, &file, &acl).into_iter().collect(),
                file,
            };
            files.acl = acl;
            findings
        }));
    }
    (files, found)
}

/// Reads one file.
fn read<T>(
    path: &Path,
    parse: impl Fn(&str, &str) -> Result<T, Vec<Diagnostic>>,
) -> Result<(String, T), Vec<Diagnostic>> {
    let file = path.display().to_string();
    let text = read_text(path).map_err(|error| vec![unreadable(path, &error)])?;
    let content = parse(&file, &text)?;
    Ok((file, content))
}

/// A file of hashes that others may read.
fn too_open(path: &Path, file: &str) -> Option<Diagnostic> {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(path).ok()?.permissions().mode();
    let message = format!("everybody may read it (mode {:04o}): chmod 600", mode & 0o7777);
    (mode & 0o004 != 0).then(|| Place { file: file.to_owned(), ..Place::default() }.warning(message))
}

/// Lines about users, when nobody checks who they are.
fn unchecked_names(config: &AccessConfig, file: &str, acl: &Acl) -> Option<Diagnostic> {
    let message = "lines about users, and no access.password_file: a client has whatever user name it gives, \
                   unless a module checks it";
    let unchecked =
        acl.names_users() && config.password_file.is_none() && config.anonymous != Anonymous::Never;
    unchecked.then(|| Place { file: file.to_owned(), ..Place::default() }.warning(message))
}

/// The files that `config` names, as the metrics call them and in the order in which they are read.
fn names(config: &AccessConfig) -> impl Iterator<Item = &'static str> {
    let names = [config.password_file.as_ref().map(|_| PASSWORD), config.acl_file.as_ref().map(|_| ACL)];
    names.into_iter().flatten()
}

const PASSWORD: &str = "password";
const ACL: &str = "acl";

/// Says that nothing is refused.
pub(super) fn count_from_nothing(config: &AccessConfig) {
    names(config).for_each(|name| gauge!(REFUSED, "file" => name).set(0.0));
}

impl Access {
    /// Reads the files again and puts in place what is right; of one that is wrong, what it said before stays.
    pub(crate) fn reload(&self) {
        let old = self.files.load_full();
        let (new, found) = files(&self.config);
        let mut next = Files { generation: old.generation + 1, ..Files::clone(&old) };
        for (name, found) in names(&self.config).zip(found) {
            let refused = gauge!(REFUSED, "file" => name);
            match found {
                Ok(Findings { file, content, warnings }) => {
                    match name {
                        PASSWORD => next.passwords.clone_from(&new.passwords),
                        _ => next.acl.clone_from(&new.acl),
                    }
                    for warning in warnings {
                        tracing::warn!("{warning}");
                    }
                    tracing::info!(file, content, "access rules read again");
                    counter!(RELOADS, "file" => name, "result" => "ok").increment(1);
                    refused.set(0.0);
                }
                Err(problems) => {
                    for problem in problems {
                        tracing::error!("access rules refused, those before stay in use: {problem}");
                    }
                    counter!(RELOADS, "file" => name, "result" => "refused").increment(1);
                    refused.set(1.0);
                }
            }
        }
        self.files.store(std::sync::Arc::new(next));
    }
}
