//! Ports that are free, and stay ours while their server is down.
//!
//! They lie below the range from which the system serves outgoing connections, so that none of these can sit on the
//! port of a server that a test has killed and wants to start again. Two runs on one machine keep out of each other's
//! way by locked files; what else listens is noticed by trying.

use std::fs::{File, OpenOptions};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};

use crate::{Error, Result};

/// Outgoing connections start at 32768: both a port and the one 10,000 above it, on which Redis nodes of a cluster
/// talk to each other, are below.
const FIRST: u16 = 20_000;
const LAST: u16 = 22_700;
/// How far the second port of a pair is from the first.
pub const BUS: u16 = 10_000;

/// A port on 127.0.0.1 that nobody else takes while this value lives.
#[derive(Debug)]
pub struct Port {
    number: u16,
    /// Locked.
    _reservation: File,
}

impl Port {
    /// Finds one; the port [`BUS`] above it is free too.
    ///
    /// # Errors
    /// None is free, or files cannot be made in the temporary folder.
    pub fn free() -> Result<Self> {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let folder = reservations()?;
        let count = LAST - FIRST;
        // Runs start in different places, so that they seldom try the same.
        let offset = u16::try_from(std::process::id() * 37 % u32::from(count)).unwrap_or_default();
        for _ in 0..count {
            let step = NEXT.fetch_add(1, Ordering::Relaxed);
            let number = FIRST + offset.wrapping_add(step) % count;
            let Ok(file) = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .open(folder.join(number.to_string()))
            else {
                continue;
            };
            if file.try_lock().is_ok() && is_free(number) && is_free(number + BUS) {
                return Ok(Self { number, _reservation: file });
            }
        }
        let error = std::io::Error::new(std::io::ErrorKind::AddrInUse, "all are taken");
        Err(Error::Io { what: format!("ports {FIRST} to {LAST} on 127.0.0.1"), error })
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}

/// The folder of the locked files: one a user, as files of another cannot be opened.
fn reservations() -> Result<PathBuf> {
    let user = std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).unwrap_or_default();
    let user: String = user.chars().filter(char::is_ascii_alphanumeric).collect();
    let folder = std::env::temp_dir().join(format!("tidegate-ports-{user}"));
    std::fs::create_dir_all(&folder).map_err(Error::io(folder.display().to_string()))?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn no_port_is_given_twice() {
        let ports: Vec<Port> = (0..20).map(|_| Port::free().unwrap()).collect();
        let mut numbers: Vec<u16> = ports.iter().map(Port::number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 20);
    }

    #[test]
    fn a_reserved_port_is_locked_against_other_runs() {
        let port = Port::free().unwrap();
        let file = File::open(reservations().unwrap().join(port.number().to_string())).unwrap();
        assert!(file.try_lock().is_err());
        drop(port);
        file.try_lock().unwrap();
    }
}
