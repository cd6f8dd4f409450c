//! A TCP proxy for faults of the network: it can swallow everything, cut what is open, delay.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::{Error, Result};

/// How often a connection looks whether something has changed.
const LOOK: Duration = Duration::from_millis(20);
/// Bytes forwarded at once.
const CHUNK: usize = 16 * 1024;

/// Forwards connections from a port of 127.0.0.1; ends with all of them when dropped.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    state: Arc<State>,
    listener: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct State {
    swallows: AtomicBool,
    ended: AtomicBool,
    /// Connections of an older age are cut.
    age: AtomicU64,
    delay_ms: AtomicU64,
    opened: AtomicU64,
}

impl Proxy {
    /// Starts one in front of `target`, e.g. `127.0.0.1:6379`.
    ///
    /// # Errors
    /// It cannot listen.
    pub fn start(target: &str) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(Error::io("a port for the proxy"))?;
        let port = listener.local_addr().map_err(Error::io("the port of the proxy"))?.port();
        listener.set_nonblocking(true).map_err(Error::io("the proxy's listener"))?;
        let state = Arc::new(State::default());
        let target = target.to_owned();
        let shared = state.clone();
        let listener = std::thread::spawn(move || listen(&listener, &target, &shared));
        Ok(Self { port, state, listener: Some(listener) })
    }

    /// Where to connect.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// From now on connections stay open (new ones are taken too) and no byte passes, in either direction.
    pub fn swallow(&self) {
        self.state.swallows.store(true, Ordering::SeqCst);
    }

    /// Forwards again, what came meanwhile first.
    pub fn forward(&self) {
        self.state.swallows.store(false, Ordering::SeqCst);
    }

    /// Closes every open connection; new ones are taken.
    pub fn cut(&self) {
        self.state.age.fetch_add(1, Ordering::SeqCst);
    }

    /// Lets every piece, in each direction, wait so long before it is passed on.
    pub fn delay(&self, by: Duration) {
        self.state.delay_ms.store(u64::try_from(by.as_millis()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }

    /// How many connections were ever taken.
    pub fn opened(&self) -> u64 {
        self.state.opened.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::SeqCst);
        if let Some(listener) = self.listener.take() {
            // Its panic is not ours to pass on while dropping.
            drop(listener.join());
        }
    }
}

fn listen(listener: &TcpListener, target: &str, state: &Arc<State>) {
    while !state.ended.load(Ordering::SeqCst) {
        let Ok((client, _)) = listener.accept() else {
            std::thread::sleep(LOOK);
            continue;
        };
        state.opened.fetch_add(1, Ordering::SeqCst);
        let (target, state) = (target.to_owned(), state.clone());
        // A connection that fails is closed: what its client sees is the fault.
        std::thread::spawn(move || drop(serve(client, &target, &state)));
    }
}

fn serve(client: TcpStream, target: &str, state: &Arc<State>) -> std::io::Result<()> {
    let age = state.age.load(Ordering::SeqCst);
    client.set_nonblocking(false)?;
    if !state.passes(age) {
        return Ok(());
    }
    let server = TcpStream::connect(target)?;
    for stream in [&client, &server] {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LOOK))?;
    }
    let back = (server.try_clone()?, client.try_clone()?);
    let shared = state.clone();
    let answers = std::thread::spawn(move || pass(back.0, back.1, age, &shared));
    pass(client, server, age, state);
    drop(answers.join());
    Ok(())
}

/// Copies until an end closes or is cut; then closes both.
fn pass(mut from: TcpStream, mut to: TcpStream, age: u64, state: &State) {
    let mut bytes = vec![0; CHUNK];
    while state.passes(age) {
        let read = match from.read(&mut bytes) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
            Err(_) => break,
        };
        std::thread::sleep(Duration::from_millis(state.delay_ms.load(Ordering::SeqCst)));
        // What was read before it began to swallow waits with the rest.
        if !state.passes(age) || to.write_all(bytes.get(..read).unwrap_or_default()).is_err() {
            break;
        }
    }
    for stream in [&from, &to] {
        // The other direction may have closed it already.
        drop(stream.shutdown(Shutdown::Both));
    }
}

impl State {
    /// Waits while it swallows; gives whether a connection of this age goes on.
    fn passes(&self, age: u64) -> bool {
        loop {
            if self.ended.load(Ordering::SeqCst) || self.age.load(Ordering::SeqCst) != age {
                return false;
            }
            if !self.swallows.load(Ordering::SeqCst) {
                return true;
            }
            std::thread::sleep(LOOK);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    /// Sends back what it gets, for one connection after the other.
    fn echo() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                std::thread::spawn(move || {
                    let mut copy = stream.try_clone().unwrap();
                    drop(std::io::copy(&mut stream, &mut copy));
                });
            }
        });
        address
    }

    fn answer(stream: &mut TcpStream, limit: Duration) -> std::io::Result<[u8; 4]> {
        stream.set_read_timeout(Some(limit))?;
        let mut bytes = [0; 4];
        stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    #[test]
    fn it_forwards_swallows_and_goes_on() {
        let proxy = Proxy::start(&echo()).unwrap();
        let mut stream = TcpStream::connect(proxy.address()).unwrap();
        stream.write_all(b"ping").unwrap();
        assert_eq!(&answer(&mut stream, Duration::from_secs(10)).unwrap(), b"ping");
        proxy.swallow();
        // What is already inside may still pass: give every part of it time to look.
        std::thread::sleep(LOOK * 3);
        stream.write_all(b"lost").unwrap();
        assert!(answer(&mut stream, Duration::from_millis(300)).is_err());
        proxy.forward();
        assert_eq!(&answer(&mut stream, Duration::from_secs(10)).unwrap(), b"lost");
        assert_eq!(proxy.opened(), 1);
    }

    #[test]
    fn a_cut_closes_what_is_open_and_takes_new_connections() {
        let proxy = Proxy::start(&echo()).unwrap();
        let mut old = TcpStream::connect(proxy.address()).unwrap();
        old.write_all(b"ping").unwrap();
        answer(&mut old, Duration::from_secs(10)).unwrap();
        proxy.cut();
        let error = answer(&mut old, Duration::from_secs(10)).unwrap_err();
        assert!(!matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
        let mut new = TcpStream::connect(proxy.address()).unwrap();
        new.write_all(b"pong").unwrap();
        assert_eq!(&answer(&mut new, Duration::from_secs(10)).unwrap(), b"pong");
    }

    #[test]
    fn a_delay_holds_each_direction() {
        let proxy = Proxy::start(&echo()).unwrap();
        proxy.delay(Duration::from_millis(150));
        let mut stream = TcpStream::connect(proxy.address()).unwrap();
        let start = std::time::Instant::now();
        stream.write_all(b"ping").unwrap();
        answer(&mut stream, Duration::from_secs(10)).unwrap();
        assert!(start.elapsed() >= Duration::from_millis(300), "{:?}", start.elapsed());
    }
}
