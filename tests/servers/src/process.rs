//! Processes that are surely the ones meant: a process id is reused, so it counts only with its start time.

use std::process::{Command, Stdio};

use crate::{Error, Result};

/// A process, by its id and the moment it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Process id.
    pub pid: u32,
    /// Clock ticks from the start of the machine to that of the process.
    pub started: u64,
}

/// What a process can be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Please end.
    Term,
    /// End now.
    Kill,
    /// Run no further, and answer nothing.
    Stop,
    /// Go on.
    Continue,
}

impl Identity {
    /// The process that has this id now; `None` when there is none.
    pub fn of(pid: u32) -> Option<Self> {
        state(pid).map(|(_, started)| Self { pid, started })
    }

    /// Whether it still runs. One that has ended and was not waited for does not.
    pub fn is_alive(self) -> bool {
        state(self.pid).is_some_and(|(state, started)| started == self.started && state != 'Z')
    }

    /// Sends it a signal; a process that is gone is left alone, and whoever has its id now too.
    ///
    /// # Errors
    /// The system refuses.
    pub fn signal(self, signal: Signal) -> Result<()> {
        if !self.is_alive() {
            return Ok(());
        }
        let name = match signal {
            Signal::Term => "-TERM",
            Signal::Kill => "-KILL",
            Signal::Stop => "-STOP",
            Signal::Continue => "-CONT",
        };
        let what = format!("kill {name} {}", self.pid);
        let status = Command::new("kill")
            .args([name, &self.pid.to_string()])
            .stderr(Stdio::null())
            .status()
            .map_err(Error::io(what.clone()))?;
        // It may have ended meanwhile.
        if status.success() || !self.is_alive() {
            Ok(())
        } else {
            Err(Error::Refused { command: what, answer: status.to_string() })
        }
    }

    /// Its resident memory in bytes; `None` when it is gone.
    pub fn resident(self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
    }
}

/// The state letter and the start time of a process.
fn state(pid: u32) -> Option<(char, u64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name stands in parentheses and may hold anything, parentheses too.
    let (_, rest) = text.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_process_is_known_by_its_start() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let identity = Identity::of(child.id()).unwrap();
        assert!(identity.is_alive() && identity.resident().is_some_and(|bytes| bytes > 0));
        let other = Identity { started: identity.started + 1, ..identity };
        assert!(!other.is_alive());
        // Not this one, although the process id is right.
        other.signal(Signal::Kill).unwrap();
        assert!(child.try_wait().unwrap().is_none());
        identity.signal(Signal::Kill).unwrap();
        while identity.is_alive() {
            std::thread::yield_now();
        }
        // Not waited for: it is there, and does not count.
        assert!(state(child.id()).is_some_and(|(state, _)| state == 'Z'));
        child.wait().unwrap();
    }
}
