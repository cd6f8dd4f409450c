//! The socket itself: private before anyone can connect, and open only to the server's own user and root.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::serve::Listener;
use metrics::{Counter, counter};
use tokio::net::{UnixListener, UnixSocket, UnixStream};
use tokio_util::sync::CancellationToken;

use super::modules::Controls;
use super::{SOCKET, routes};

/// Connections that wait to be accepted.
const BACKLOG: u32 = 64;
/// The longest path of a unix socket, in bytes: 108 with the zero at the end.
const MAX_PATH_BYTES: usize = 107;
/// A pause after an error of accept: without file descriptors the next one fails as well.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Counts connections that were closed because of who made them.
pub(crate) const REFUSED: &str = "tidegate_server_control_peers_refused_total";

/// The bound socket. Its file goes when this is dropped.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    file: File,
}

/// Removes the socket's file at the end.
#[derive(Debug)]
struct File(PathBuf);

impl Drop for File {
    fn drop(&mut self) {
        // Gone already is as good.
        std::fs::remove_file(&self.0).ok();
    }
}

impl ControlSocket {
    /// Binds `control.sock` in the directory `data`, which the caller has locked: a socket that is there is one of a
    /// process that died, and is replaced. Inside a tokio runtime.
    ///
    /// # Errors
    /// The system's, and [`io::ErrorKind::InvalidInput`] for a path that no socket can have.
    pub fn bind(data: &Path) -> io::Result<Self> {
        let path = data.join(SOCKET);
        let bytes = path.as_os_str().len();
        if bytes > MAX_PATH_BYTES {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("its path has {bytes} bytes, a unix socket's has at most {MAX_PATH_BYTES}"),
            ));
        }
        match std::fs::symlink_metadata(&path) {
            Ok(found) if found.file_type().is_socket() => std::fs::remove_file(&path)?,
            Ok(_) => return Err(io::Error::new(io::ErrorKind::AlreadyExists, "something else is there")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let socket = UnixSocket::new_stream()?;
        socket.bind(&path)?;
        // Nobody can connect before it listens, so nobody can while others may.
        let file = File(path.clone());
        std::fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        let listener = socket.listen(BACKLOG)?;
        Ok(Self { listener, file })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.file.0
    }

    /// Serves until `stop`, then answers what was asked and ends.
    pub async fn serve(self, controls: Arc<Controls>, stop: CancellationToken) {
        let Self { listener, file } = self;
        let peers = Peers { listener, own: rustix::process::geteuid().as_raw(), refused: counter!(REFUSED) };
        let router = routes::router(controls, stop.clone());
        let serve = axum::serve(peers, router).with_graceful_shutdown(stop.cancelled_owned());
        if let Err(error) = serve.await {
            tracing::error!("control socket ended: {error}");
        }
        drop(file);
    }
}

/// Accepts from the server's own user and root.
struct Peers {
    listener: UnixListener,
    own: u32,
    refused: Counter,
}

/// Whether a peer of user `uid` may command a server of user `own`.
fn is_trusted(uid: u32, own: u32) -> bool {
    uid == own || uid == 0
}

impl Listener for Peers {
    type Io = UnixStream;
    type Addr = ();

    async fn accept(&mut self) -> (UnixStream, ()) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => match stream.peer_cred() {
                    Ok(peer) if is_trusted(peer.uid(), self.own) => return (stream, ()),
                    Ok(peer) => {
                        self.refused.increment(1);
                        tracing::warn!(uid = peer.uid(), "control socket: another user is not served");
                    }
                    Err(error) => {
                        self.refused.increment(1);
                        tracing::warn!("control socket: the peer's user is not known: {error}");
                    }
                },
                Err(error) => {
                    tracing::warn!("control socket: accept: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn only_the_own_user_and_root_are_trusted() {
        assert!(is_trusted(1_000, 1_000) && is_trusted(0, 1_000) && is_trusted(0, 0));
        assert!(!is_trusted(1_001, 1_000) && !is_trusted(1_000, 0));
    }

    #[tokio::test]
    async fn a_dead_socket_is_replaced_and_a_file_is_not() {
        let dir = tempfile::tempdir().unwrap();
        // A process that dies leaves its socket.
        drop(std::os::unix::net::UnixListener::bind(dir.path().join(SOCKET)).unwrap());
        let first = ControlSocket::bind(dir.path()).unwrap();
        let mode = std::fs::metadata(first.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(first);
        assert!(!dir.path().join(SOCKET).exists());
        std::fs::write(dir.path().join(SOCKET), "x").unwrap();
        assert_eq!(ControlSocket::bind(dir.path()).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        let long = dir.path().join("d".repeat(100));
        let refused = ControlSocket::bind(&long).unwrap_err().to_string();
        assert!(refused.contains("a unix socket's has at most 107"), "{refused}");
    }
}
