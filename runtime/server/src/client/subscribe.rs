//! `tidegate sub`: subscribe and print what arrives.

use std::io::{ErrorKind, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use rumqttc::QoS;

use super::link::{Link, Message, Notice, Session, close};
use super::{ConnectArgs, filter, qos};

/// Exit status when `--timeout` passed, the same as mosquitto_sub's.
const TIMED_OUT: u8 = 27;

/// What to subscribe to.
#[derive(Clone, Debug, Args)]
pub struct SubscribeArgs {
    /// Topic filter, repeatable
    #[arg(short, long = "topic", value_name = "FILTER", required = true, value_parser = filter)]
    topics: Vec<String>,
    /// Greatest quality of service: 0, 1 or 2
    #[arg(short, long, default_value = "0", value_parser = qos)]
    qos: QoS,
    /// Print the topic before the payload
    #[arg(short, long)]
    verbose: bool,
    /// Keep the session, and what arrives for it, when the connection ends
    #[arg(short = 'c', long, requires = "id")]
    persistent: bool,
    /// Exit after this many messages
    #[arg(short = 'C', long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Exit with status 27 after this many seconds
    #[arg(short = 'W', long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    timeout: Option<u32>,
}

/// Subscribes and prints until the count, the time or Ctrl-C.
pub(super) async fn run(connect: ConnectArgs, args: SubscribeArgs) -> anyhow::Result<ExitCode> {
    let session = if args.persistent { Session::Persistent } else { Session::Clean };
    let mut link = Link::open(&connect, "sub", session);
    let time_is_up = async {
        match args.timeout {
            Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds.into())).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(time_is_up);
    let mut connected = false;
    let mut printed = 0;
    let code = loop {
        tokio::select! {
            notice = link.notices.recv() => match notice {
                Some(Notice::Connected) => {
                    connected = true;
                    // Also when the session is still there: it may be of other filters.
                    link.sender.subscribe(&args.topics, args.qos)?;
                }
                Some(Notice::Subscribed(answers)) => {
                    for (filter, answer) in args.topics.iter().zip(answers) {
                        if let Err(reason) = answer {
                            bail!("{} refused the subscription {filter}: {reason}", connect.address());
                        }
                    }
                }
                Some(Notice::Message(message)) => {
                    match print(&message, args.verbose) {
                        // Nobody reads any more: `tidegate sub ... | head -1`.
                        Err(error) if error.kind() == ErrorKind::BrokenPipe => break ExitCode::SUCCESS,
                        result => result?,
                    }
                    // Only what was printed is acknowledged, so that a persistent session keeps the rest.
                    link.sender.ack(&message)?;
                    printed += 1;
                    if Some(printed) == args.count {
                        break ExitCode::SUCCESS;
                    }
                }
                Some(Notice::Lost(reason)) if connected => {
                    eprintln!("{}: {reason}; connecting again", connect.address());
                }
                Some(Notice::Lost(reason)) => bail!("{}: {reason}", connect.address()),
                Some(_) => {}
                None => bail!("the connection task ended"),
            },
            () = &mut time_is_up => break ExitCode::from(TIMED_OUT),
            _ = tokio::signal::ctrl_c() => break ExitCode::SUCCESS,
        }
    };
    if connected {
        close(link).await?;
    }
    Ok(code)
}

fn print(message: &Message, with_topic: bool) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    if with_topic {
        out.write_all(&message.topic)?;
        out.write_all(b" ")?;
    }
    out.write_all(&message.payload)?;
    out.write_all(b"\n")?;
    out.flush()
}
