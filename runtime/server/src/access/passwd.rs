//! `tidegate passwd`: adds, changes and removes users of a password file.

use std::fs::{self, File};
use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use rustix::fs::{FlockOperation, flock};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use super::hashing::Hash;
use super::password_file::{Passwords, edited, objection};
use crate::config::read_text;

/// Longest password that CONNECT can carry, bytes (MQTT 5 clause 3.1.3.6).
const LONGEST: usize = u16::MAX as usize;

/// Flags of `passwd`.
#[derive(Clone, Debug, Args)]
pub struct PasswdArgs {
    /// Password file: `[access] password_file` of the configuration
    pub file: PathBuf,
    /// User name, as clients give it in CONNECT
    pub user: String,
    /// Read the password from standard input, up to the end of the line, instead of asking for it twice
    #[arg(long)]
    pub stdin: bool,
    /// Remove the user
    #[arg(long, conflicts_with = "stdin")]
    pub delete: bool,
}

/// Does it; the exit status.
pub fn main(args: &PasswdArgs) -> ExitCode {
    match run(args) {
        Ok(done) => {
            println!("{done}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &PasswdArgs) -> anyhow::Result<String> {
    if let Some(objection) = objection(&args.user) {
        bail!("{:?}: {objection}", args.user);
    }
    // What can be wrong with the file is told before anybody types a password.
    read(&resolved(&args.file)?)?;
    let hash = if args.delete {
        None
    } else {
        Some(Hash::of(&password(args)?).context("the password cannot be hashed")?)
    };
    change(&args.file, &args.user, hash.as_ref())
}

/// The file behind links: it is replaced, they stay.
fn resolved(path: &Path) -> anyhow::Result<PathBuf> {
    match fs::canonicalize(path) {
        Ok(path) => Ok(path),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(path.to_owned()),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

/// The text of the file, which is well, and its users; empty when there is none.
fn read(path: &Path) -> anyhow::Result<(String, Passwords)> {
    let text = match read_text(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    };
    match Passwords::parse(&path.display().to_string(), &text) {
        Ok(users) => Ok((text, users)),
        Err(problems) => {
            let lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
            bail!("the file has mistakes, so it stays as it is\n{}", lines.join("\n"));
        }
    }
}

/// Gives `user` this hash, or removes it, while nobody else does; what was done.
fn change(path: &Path, user: &str, hash: Option<&Hash>) -> anyhow::Result<String> {
    let path = resolved(path)?;
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    // The directory is locked, not the file: that is another one after every change.
    let lock = File::open(dir).with_context(|| dir.display().to_string())?;
    flock(&lock, FlockOperation::LockExclusive).with_context(|| dir.display().to_string())?;
    let (text, users) = read(&path)?;
    let Some(text) = edited(&text, user, hash) else {
        bail!("{}: there is no user {user:?}", path.display());
    };
    replace(&path, dir, &text).with_context(|| path.display().to_string())?;
    lock.sync_all().with_context(|| dir.display().to_string())?;
    let what = match (hash, users.knows(user)) {
        (None, _) => "removed",
        (Some(_), true) => "changed",
        (Some(_), false) => "added",
    };
    Ok(format!("{}: user {user:?} {what}", path.display()))
}

/// Writes a file beside `path` and renames it into its place: readers see the old text or the new one. It is readable for
/// its owner alone, or for its group if somebody has meant that to be so.
fn replace(path: &Path, dir: &Path, text: &str) -> std::io::Result<()> {
    let mut part = tempfile::Builder::new().prefix(".passwd-").suffix(".part").tempfile_in(dir)?;
    part.write_all(text.as_bytes())?;
    let mut mode = 0o600;
    if let Ok(old) = fs::metadata(path) {
        if old.mode() & 0o004 == 0 {
            mode |= old.mode() & 0o040;
        }
        let new = part.as_file().metadata()?;
        if (old.uid(), old.gid()) != (new.uid(), new.gid()) {
            // Root may change a file of the server's own user, which goes on reading it.
            std::os::unix::fs::fchown(part.as_file(), Some(old.uid()), Some(old.gid()))?;
        }
    }
    part.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
    part.as_file().sync_all()?;
    part.persist(path)?;
    Ok(())
}

/// The new password: a line of standard input, or what a person has typed twice.
fn password(args: &PasswdArgs) -> anyhow::Result<Vec<u8>> {
    let password = if args.stdin {
        line().context("standard input")?
    } else {
        ensure!(
            std::io::stdin().is_terminal(),
            "standard input is no terminal to ask for a password: use --stdin to read it from there"
        );
        let password = asked(&format!("Password of {:?}: ", args.user))?;
        ensure!(asked("The same again: ")? == password, "the passwords are not the same");
        password
    };
    ensure!(!password.is_empty(), "an empty password is none");
    ensure!(password.len() <= LONGEST, "a password has at most {LONGEST} bytes (MQTT 5 clause 3.1.3.6)");
    Ok(password)
}

/// Asks on the terminal; what is typed does not show.
fn asked(question: &str) -> anyhow::Result<Vec<u8>> {
    eprint!("{question}");
    let answer = {
        let _hidden = Hidden::begin().context("the terminal cannot be told not to show the password")?;
        line()
    };
    eprintln!();
    answer.context("standard input")
}

/// A line of standard input without its end.
fn line() -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut line = Vec::new();
    // Never more than is needed to refuse it.
    std::io::stdin().lock().take(LONGEST as u64 + 2).read_until(b'\n', &mut line)?;
    for end in [b'\n', b'\r'] {
        line.pop_if(|last| *last == end);
    }
    Ok(line)
}

/// The terminal does not show what is typed, as long as this lives.
struct Hidden {
    before: Termios,
}

impl Hidden {
    fn begin() -> std::io::Result<Self> {
        let stdin = std::io::stdin();
        let before = tcgetattr(stdin.as_fd())?;
        let mut hidden = before.clone();
        hidden.local_modes -= LocalModes::ECHO;
        tcsetattr(stdin.as_fd(), OptionalActions::Flush, &hidden)?;
        Ok(Self { before })
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // A terminal that is gone needs no more.
        tcsetattr(std::io::stdin().as_fd(), OptionalActions::Flush, &self.before).ok();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn hash() -> Hash {
        let text = "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
        Hash::parse(text).unwrap()
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn users_come_change_and_go_in_a_private_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users");
        assert!(change(&path, "a", Some(&hash())).unwrap().ends_with("user \"a\" added"));
        assert_eq!(mode(&path), 0o600);
        assert!(change(&path, "a", Some(&hash())).unwrap().ends_with("user \"a\" changed"));
        change(&path, "b", Some(&hash())).unwrap();
        assert!(change(&path, "a", None).unwrap().ends_with("user \"a\" removed"));
        assert!(change(&path, "a", None).unwrap_err().to_string().contains("no user \"a\""));
        let (_, users) = read(&path).unwrap();
        assert!(users.knows("b") && !users.knows("a"));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left behind");
    }

    #[test]
    fn a_mode_for_the_group_is_kept_unless_everybody_could_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users");
        for (before, after) in [(0o640, 0o640), (0o644, 0o600), (0o400, 0o600), (0o777, 0o600)] {
            fs::write(&path, "").ok();
            fs::set_permissions(&path, fs::Permissions::from_mode(before)).unwrap();
            change(&path, "a", Some(&hash())).unwrap();
            assert_eq!(mode(&path), after, "{before:o}");
        }
    }

    #[test]
    fn a_link_stays_and_its_file_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let (link, file) = (dir.path().join("link"), dir.path().join("file"));
        fs::write(&file, "# kept\n").unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        change(&link, "a", Some(&hash())).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(fs::read_to_string(&file).unwrap().starts_with("# kept\na:$argon2id$"));
    }

    #[test]
    fn a_file_with_mistakes_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users");
        fs::write(&path, "oops\n").unwrap();
        let error = format!("{:#}", change(&path, "a", Some(&hash())).unwrap_err());
        assert!(error.contains("users:1:1: expected NAME:HASH"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "oops\n");
    }
}
