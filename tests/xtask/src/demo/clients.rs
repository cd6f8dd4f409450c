//! The demo's clients: `tidegate pub` and `tidegate sub` as processes.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::PATIENCE;
use super::site::Site;
use crate::paths;
use crate::process::{Result, Running, output};

/// Lines kept for a reader that is slow; then the child waits.
const BACKLOG: usize = 65_536;

/// Publishes one message at QoS 1 and waits for its acknowledgement.
pub(crate) fn publish_one(site: &Site, client: &str, topic: &str, payload: &str) -> Result<()> {
    let mut command = client_command(site, "pub", client)?;
    output(command.args(["-t", topic, "-q", "1", "-m", payload])).map(|_| ())
}

fn client_command(site: &Site, verb: &str, client: &str) -> Result<Command> {
    let mut command = Command::new(paths::binary()?);
    command.args([verb, "-p", &site.port().to_string(), "-i", client, "-V", "5"]);
    Ok(command)
}

/// A message as `tidegate sub` printed it.
pub(crate) struct Received {
    /// Everything after the topic.
    pub(crate) payload: String,
}

/// A subscriber that keeps what arrives.
pub(crate) struct Subscriber {
    process: Running,
    lines: Receiver<String>,
}

impl Subscriber {
    /// Starts it and waits until it has subscribed.
    pub(crate) fn start(site: &Site, client: &str, filter: &str) -> Result<Self> {
        let mut process = Running::start(
            client_command(site, "sub", client)?.args(["-t", filter, "-q", "1"]).stdout(Stdio::piped()),
        )?;
        let output = process.child().stdout.take().ok_or("the subscriber has no output")?;
        let (sender, lines) = sync_channel(BACKLOG);
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(std::result::Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut subscriber = Self { process, lines };
        subscriber.wait_subscribed(site, filter)?;
        Ok(subscriber)
    }

    /// Publishes a mark at QoS 0, which nothing stores, until the subscriber shows it: only then is its
    /// subscription known to be there.
    fn wait_subscribed(&mut self, site: &Site, filter: &str) -> Result<()> {
        let topic = filter.replace('#', "ready");
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            let mut mark = client_command(site, "pub", "ready")?;
            output(mark.args(["-t", &topic, "-q", "0", "-m", "ready"]))?;
            if self.next(Duration::from_millis(200)).is_some() {
                // More than one mark may be on its way.
                while self.next(Duration::from_millis(200)).is_some() {}
                return Ok(());
            }
        }
        Err(format!("the subscription of {filter} never worked"))
    }

    /// The next message, if one comes in time.
    pub(crate) fn next(&mut self, limit: Duration) -> Option<Received> {
        self.lines.recv_timeout(limit).ok().map(|payload| Received { payload })
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        // With a DISCONNECT; when that fails, the process is killed right after.
        drop(self.process.terminate());
    }
}

/// A publisher of numbered QoS 1 readings, one after the other.
pub(crate) struct Publisher {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<usize>>,
}

impl Publisher {
    /// Starts it on `topic`.
    pub(crate) fn start(site: &Site, topic: &str, pause: Duration) -> Result<Self> {
        let mut process = Running::start(
            client_command(site, "pub", "numbers")?
                .args(["-t", topic, "-q", "1", "--stdin-lines"])
                .stdin(Stdio::piped()),
        )?;
        let mut input = process.child().stdin.take().ok_or("the publisher has no input")?;
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let stop = stop.clone();
            move || {
                let mut sent = 0;
                while !stop.load(Ordering::Relaxed) {
                    let line = format!("{{\"n\":{sent},\"celsius\":20}}\n");
                    input
                        .write_all(line.as_bytes())
                        .map_err(|error| format!("the publisher ended: {error}"))?;
                    sent += 1;
                    std::thread::sleep(pause);
                }
                // The end of its input: it waits for the last acknowledgements and ends with success only when
                // every message was acknowledged.
                drop(input);
                process.wait()?;
                Ok(sent)
            }
        });
        Ok(Self { stop, thread })
    }

    /// Ends it; gives how many messages were sent, all of them acknowledged.
    pub(crate) fn stop(self) -> Result<usize> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| "the publisher's thread panicked".to_owned())?
    }
}
