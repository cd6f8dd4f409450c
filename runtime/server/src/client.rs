//! `tidegate pub` and `tidegate sub`: small MQTT clients, for a first look and for scripts.

mod link;
mod publish;
mod subscribe;

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use tidegate_event::{SharedFilter, TopicName};

pub use publish::PublishArgs;
pub use subscribe::SubscribeArgs;

/// Where to connect and as whom.
#[derive(Clone, Debug, Args)]
pub struct ConnectArgs {
    /// Host name or address of the server
    #[arg(short = 'h', long, default_value = "127.0.0.1")]
    pub host: String,
    /// Port of the server
    #[arg(short, long, default_value_t = 1883)]
    pub port: u16,
    /// Client identifier [default: a new one]
    #[arg(short, long, value_name = "ID", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub id: Option<String>,
    /// User name
    #[arg(short, long)]
    pub user: Option<String>,
    /// Password
    #[arg(short = 'P', long, requires = "user")]
    pub password: Option<String>,
    /// MQTT version: 4 (or 311) is 3.1.1, 5 is 5
    #[arg(short = 'V', long = "mqtt-version", default_value = "4", value_parser = version)]
    pub version: Version,
}

/// The protocol a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// MQTT 3.1.1.
    V4,
    /// MQTT 5.
    V5,
}

fn version(text: &str) -> Result<Version, String> {
    match text {
        "4" | "311" | "3.1.1" | "mqttv311" => Ok(Version::V4),
        "5" | "mqttv5" => Ok(Version::V5),
        _ => Err("expected 4 (MQTT 3.1.1) or 5".into()),
    }
}

fn qos(text: &str) -> Result<rumqttc::QoS, String> {
    match text {
        "0" => Ok(rumqttc::QoS::AtMostOnce),
        "1" => Ok(rumqttc::QoS::AtLeastOnce),
        "2" => Ok(rumqttc::QoS::ExactlyOnce),
        _ => Err("expected 0, 1 or 2".into()),
    }
}

fn topic(text: &str) -> Result<String, String> {
    TopicName::new(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

fn filter(text: &str) -> Result<String, String> {
    SharedFilter::parse(&text.into()).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

impl ConnectArgs {
    /// The client id: the given one, or one that no other process has.
    fn client_id(&self, role: &str) -> String {
        self.id.clone().unwrap_or_else(|| {
            let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.subsec_nanos());
            format!("tidegate-{role}-{}-{nanos:x}", std::process::id())
        })
    }

    /// `host:port`, for messages.
    fn address(&self) -> String {
        format!("{}:{}", self.host_part(), self.port)
    }

    /// The host as it stands before `:port`: an IPv6 address needs brackets.
    fn host_part(&self) -> String {
        if self.host.parse::<std::net::Ipv6Addr>().is_ok() {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        }
    }
}

/// Runs `tidegate pub`.
pub fn publish(connect: ConnectArgs, args: PublishArgs) -> ExitCode {
    run(publish::run(connect, args))
}

/// Runs `tidegate sub`.
pub fn subscribe(connect: ConnectArgs, args: SubscribeArgs) -> ExitCode {
    run(subscribe::run(connect, args))
}

fn run(work: impl Future<Output = anyhow::Result<ExitCode>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(work)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
