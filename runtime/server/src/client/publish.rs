//! `tidegate pub`: publish messages and wait for their acknowledgements.

use std::io::{BufRead as _, Read as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use clap::Args;
use rumqttc::QoS;
use tokio::sync::mpsc;

use super::link::{Link, Notice, Session, WINDOW, close};
use super::{ConnectArgs, qos, topic};

/// Largest payload the protocol can carry, in bytes.
const MAX_PAYLOAD_BYTES: u64 = 268_435_455;

/// After so many refused messages the rest is not tried. (The client library also never gets back the place
/// of a refused QoS 2 message in its window of 1,000.)
const MAX_REFUSED: u64 = 100;

/// What to publish.
#[derive(Clone, Debug, Args)]
pub struct PublishArgs {
    /// Topic
    #[arg(short, long, value_parser = topic)]
    topic: String,
    #[command(flatten)]
    source: Source,
    /// Quality of service: 0, 1 or 2
    #[arg(short, long, default_value = "0", value_parser = qos)]
    qos: QoS,
    /// Set the retain flag
    #[arg(short, long)]
    retain: bool,
    /// Publish the message this many times
    #[arg(short = 'n', long, default_value_t = 1, conflicts_with = "stdin_lines")]
    count: u64,
}

/// Where the payload comes from.
#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = false)]
struct Source {
    /// Payload
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
    /// File whose content is the payload; - is standard input
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Publish each line of standard input as a message
    #[arg(long)]
    stdin_lines: bool,
}

/// Publishes; exit status 1 when a message was refused.
pub(super) async fn run(connect: ConnectArgs, args: PublishArgs) -> anyhow::Result<ExitCode> {
    let mut payloads = payloads(&args)?;
    let mut link = Link::open(&connect, "pub", Session::Clean);
    let (mut sent, mut done, mut refused) = (0_u64, 0_u64, 0_u64);
    let mut connected = false;
    let mut feeding = true;
    while feeding || done < sent {
        let room = connected && feeding && sent - done < u64::from(WINDOW) && refused < MAX_REFUSED;
        tokio::select! {
            payload = payloads.recv(), if room => match payload {
                Some(payload) => {
                    link.sender.publish(&args.topic, args.qos, args.retain, payload?)?;
                    sent += 1;
                }
                None => feeding = false,
            },
            notice = link.notices.recv() => match notice {
                Some(Notice::Connected) => connected = true,
                Some(Notice::Written | Notice::Acknowledged) => done += 1,
                Some(Notice::Refused(reason)) => {
                    done += 1;
                    refused += 1;
                    eprintln!("error: {} refused message {done}: {reason}", connect.address());
                    if refused == MAX_REFUSED {
                        eprintln!("error: {MAX_REFUSED} messages refused, the rest is not sent");
                        feeding = false;
                    }
                }
                Some(Notice::Lost(reason)) if connected => {
                    bail!("{}: {reason}; {done} of {sent} messages were acknowledged", connect.address());
                }
                Some(Notice::Lost(reason)) => bail!("{}: {reason}", connect.address()),
                Some(_) => {}
                None => bail!("the connection task ended"),
            },
        }
    }
    close(link).await?;
    Ok(if refused == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The payloads to send, in order. Lines come from a thread of their own, as reading them blocks.
fn payloads(args: &PublishArgs) -> anyhow::Result<mpsc::Receiver<std::io::Result<Bytes>>> {
    let (feed, payloads) = mpsc::channel(16);
    if args.source.stdin_lines {
        std::thread::spawn(move || {
            let mut input = std::io::stdin().lock();
            loop {
                let mut line = Vec::new();
                let payload = match input.by_ref().take(MAX_PAYLOAD_BYTES).read_until(b'\n', &mut line) {
                    Ok(0) => return,
                    Ok(_) => {
                        line.truncate(line.strip_suffix(b"\n").unwrap_or(&line).len());
                        Ok(Bytes::from(line))
                    }
                    Err(error) => Err(error),
                };
                if feed.blocking_send(payload).is_err() {
                    return;
                }
            }
        });
        return Ok(payloads);
    }
    let payload = match (&args.source.message, &args.source.file) {
        (Some(text), _) => Bytes::from(text.clone()),
        (None, Some(path)) => {
            let mut content = Vec::new();
            let read = if path.as_os_str() == "-" {
                std::io::stdin().lock().take(MAX_PAYLOAD_BYTES + 1).read_to_end(&mut content)
            } else {
                std::fs::File::open(path)
                    .and_then(|file| file.take(MAX_PAYLOAD_BYTES + 1).read_to_end(&mut content))
            };
            read.with_context(|| format!("{} cannot be read", path.display()))?;
            if content.len() as u64 > MAX_PAYLOAD_BYTES {
                bail!("{} is larger than an MQTT packet can be", path.display());
            }
            Bytes::from(content)
        }
        (None, None) => bail!("nothing to publish"),
    };
    let count = args.count;
    tokio::spawn(async move {
        for _ in 0..count {
            if feed.send(Ok(payload.clone())).await.is_err() {
                return;
            }
        }
    });
    Ok(payloads)
}
