//! The command line: what may be written and which part of the crate does it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use tidegate_module::LoadError;

use crate::access::passwd::PasswdArgs;
use crate::client::{ConnectArgs, PublishArgs, SubscribeArgs};
use crate::config::{LogFormat, Overrides, address, address_or_off, log_level};

/// WebAssembly-scriptable MQTT integration runtime.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the runtime: MQTT broker, modules and storage.
    ///
    /// Without arguments it reads ./tidegate.toml if there is one; otherwise it serves MQTT on 127.0.0.1:1883,
    /// modules from ./modules, back ends from ./conf.d and keeps its data in ./data. SIGTERM or Ctrl-C stops it
    /// gracefully: accepted messages are stored and acknowledged first. A second signal stops it at once
    /// (status 130).
    ///
    /// Exit status: 0 after a graceful stop, 1 when it could not start (every reason is printed), 2 for a wrong
    /// command line.
    Run(RunArgs),
    /// Check configuration, back ends and modules without starting anything.
    ///
    /// Takes the same flags as run. Nothing listens and no database is changed. Exit status: 0 when all is well,
    /// 1 when something is not.
    Check(RunArgs),
    /// Look at the modules of a running server and command them.
    #[command(subcommand)]
    Modules(ModulesCommand),
    /// Look at the files of back ends' configuration of a running server, and take them in and out of use.
    #[command(subcommand)]
    Plugins(PluginsCommand),
    /// Look at the connectors of a running server and ask their databases.
    #[command(subcommand)]
    Connectors(ConnectorsCommand),
    /// Print and make the tables that back ends need.
    #[command(subcommand)]
    Schema(SchemaCommand),
    /// Look at what waits on disk for stores of a running server, run it again or remove it.
    #[command(subcommand)]
    Buffers(crate::buffers::BuffersCommand),
    /// Add, change and remove users of a password file.
    ///
    /// Asks for the password twice. The file has mode 0600 and is replaced as a whole; a running server reads it again
    /// within a second. Exit status: 0 when the file has changed, 1 with the reason when it has not.
    Passwd(PasswdArgs),
    /// Run one module without a server: hand it events and print what it does.
    ///
    /// Reads the manifest beside the module, makes an instance, runs its init and calls it for each event in order.
    /// Storage calls are printed and answered with success; nothing is stored, published or sent. An event is JSON:
    /// {"hook": "message.publish", "client": {"id": "c1"}, "message": {"topic": "a/b", "payload_json": {"x": 1}}}.
    ///
    /// Exit status: 0 when every call gave an answer, 1 when one did not or an input is wrong.
    Test(TestArgs),
    /// Publish messages and wait until the server has acknowledged them.
    ///
    /// Exit status: 0 when every message was accepted, 1 with the reason when one was refused. (Only MQTT 5 has
    /// reasons: with -V 4 a refused message is acknowledged like any other, or the connection is closed.)
    Pub(Connected<PublishArgs>),
    /// Subscribe and print messages.
    ///
    /// Exit status: 0 after --count messages or Ctrl-C, 1 with the reason when a subscription was refused or the
    /// server cannot be reached, 27 when --timeout passed.
    Sub(Connected<SubscribeArgs>),
    /// Pages made from the configuration itself.
    #[command(subcommand, hide = true)]
    Config(ConfigCommand),
    /// Print the rows of a statement on an SQLite file. The demo calls it.
    #[command(hide = true)]
    Sql {
        /// Database file.
        file: PathBuf,
        /// Statement.
        statement: String,
    },
    /// Compile a WebAssembly file into an artefact. The runtime calls it in a child process.
    #[command(hide = true)]
    Compile {
        /// WebAssembly file.
        wasm: PathBuf,
        /// Where the artefact goes.
        artefact: PathBuf,
    },
}

/// Flags of `run` and `check`. Each overrides a key of the configuration file.
#[derive(Clone, Debug, Default, Args)]
pub struct RunArgs {
    /// Configuration file [default: ./tidegate.toml if it exists]
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address for MQTT clients, repeatable; port 0 takes a free one [default: 127.0.0.1:1883]
    #[arg(long, short, value_name = "IP:PORT", value_parser = address)]
    listen: Vec<SocketAddr>,
    /// Directory of WebAssembly modules, watched for changes [default: ./modules]
    #[arg(long, value_name = "DIR")]
    modules: Option<PathBuf>,
    /// Directory of .conf files with backend keys; may be absent [default: ./conf.d]
    #[arg(long, value_name = "DIR")]
    conf_dir: Option<PathBuf>,
    /// Directory of the embedded database and the artefact cache [default: ./data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Address of the management API, or "off" [default: 127.0.0.1:18083]
    #[arg(long, value_name = "IP:PORT|off", value_parser = address_or_off)]
    api: Option<ApiAddress>,
    /// Form of log lines [default: human]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
    /// Level of log lines, or levels by target such as info,tidegate_broker=debug [default: info]
    #[arg(long, value_name = "LEVEL", value_parser = log_level)]
    log_level: Option<String>,
}

/// `--api`: an address, or `None` for "off". The alias keeps clap from reading it as an optional flag.
type ApiAddress = Option<SocketAddr>;

impl From<RunArgs> for Overrides {
    fn from(args: RunArgs) -> Self {
        Self {
            file: args.config,
            listen: args.listen,
            modules_dir: args.modules,
            conf_dir: args.conf_dir,
            data_dir: args.data,
            api: args.api,
            log_format: args.log_format,
            log_level: args.log_level,
        }
    }
}

#[derive(Debug, Subcommand)]
enum ModulesCommand {
    /// List the modules of a running server, with their hooks, calls, errors and times, trials and open circuits.
    List(ListArgs),
    /// Show what a module is and wants, and what it was granted.
    ///
    /// A name is asked from the running server; a file (a name that ends in .wasm) is looked at without one, and
    /// nothing in it is run. Exit status: 0, also for a file that would be refused (it says why); 1 when there is no
    /// such module or file.
    Inspect(InspectArgs),
    /// Copy a file, and the manifest beside it, into the modules directory; or bring an unloaded module back.
    ///
    /// Waits until that very content serves. Exit status: 0 when it does, 1 with the reason when it is refused.
    Load(LoadArgs),
    /// Take a module out of service, over restarts: its file is kept as NAME.wasm.disabled.
    ///
    /// Events in flight finish. Exit status: 0 when it no longer serves, 1 with the reason.
    Unload(NamedArgs),
    /// Load a module again, even when its file has not changed: environment and secrets may have.
    ///
    /// Exit status: 0 when the new instance serves, 1 with the reason when it is refused (the old one serves on).
    Reload(NamedArgs),
    /// Let the new version of a module, which is on trial, serve all clients.
    ///
    /// Exit status: 0 when it does, 1 when no version of the module is on trial.
    Promote(NamedArgs),
    /// Let the version before the one on trial serve all clients again.
    ///
    /// The new one is not loaded again until its file changes, `modules reload` says so or the server starts again: then
    /// the file counts. Exit status: 0 when the version before serves, 1 when no version of the module is on trial.
    Rollback(NamedArgs),
    /// Print the last lines of a module: what it wrote, and what the server said about it.
    Logs(LogsArgs),
}

#[derive(Debug, Subcommand)]
enum PluginsCommand {
    /// List the .conf files: loaded, unloaded, or refused because something is wrong with them.
    ///
    /// Exit status: 0; 1 when no server answers.
    List(ServerListArgs),
    /// Bring an unloaded file back into use, or copy a file (a name that ends in .conf) into the directory.
    ///
    /// Everything is checked first. Exit status: 0 when it is in use, 1 with every reason when it is refused: then
    /// nothing has changed.
    Load(LoadPluginArgs),
    /// Take a file out of use, over restarts: it is kept as NAME.conf.disabled.
    ///
    /// Events in flight finish, and what its connectors have is written. Exit status: 0 when it is out of use, 1 with
    /// the reason (another file may need its connectors): then nothing has changed.
    Unload(NamedArgs),
}

#[derive(Debug, Subcommand)]
enum ConnectorsCommand {
    /// List the connectors with their states, operations and last errors.
    ///
    /// Exit status: 0; 1 when no server answers.
    List(ServerListArgs),
    /// Ask databases now whether they answer, and print why not.
    ///
    /// Exit status: 0 when all that were asked answer, 1 when one does not or there is no such connector.
    Test(WhichArgs),
}

#[derive(Debug, Subcommand)]
enum SchemaCommand {
    /// Print the file that makes the tables of a back end; without a name, which files there are.
    ///
    /// Needs no server. Exit status: 0; 1 when there is no such back end.
    Print(SchemaPrintArgs),
    /// Have the drivers of a running server make the tables of their databases.
    ///
    /// Exit status: 0 when all are there, 1 when a driver does not make tables or its database refuses.
    Apply(WhichArgs),
}

/// Flags of lists that only a server has.
#[derive(Clone, Debug, Args)]
pub struct ServerListArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Flags of `plugins load`.
#[derive(Clone, Debug, Args)]
pub struct LoadPluginArgs {
    /// A file, or the name of a plugin that was unloaded
    #[arg(value_name = "FILE.conf|NAME")]
    pub what: String,
    /// Put the file in the place of one of its name
    #[arg(long)]
    pub replace: bool,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Flags of commands about connectors.
#[derive(Clone, Debug, Args)]
pub struct WhichArgs {
    /// A connector (kind:pool, or a pool) or a back end [default: all connectors]
    pub name: Option<String>,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Flags of `schema print`.
#[derive(Clone, Debug, Args)]
pub struct SchemaPrintArgs {
    /// A back end, or a connector of it
    #[arg(value_name = "BACKEND|CONNECTOR")]
    pub name: Option<String>,
}

/// Flags of `modules list`.
#[derive(Clone, Debug, Args)]
pub struct ListArgs {
    /// Management API to ask [default: the control socket in --data, else 127.0.0.1:18083]
    #[arg(long, value_name = "IP:PORT", value_parser = address)]
    pub api: Option<SocketAddr>,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
    /// Inspect the files of --modules instead of asking a server
    #[arg(long)]
    pub offline: bool,
    /// Directory of modules for --offline
    #[arg(long, value_name = "DIR", default_value = "./modules", requires = "offline")]
    pub modules: PathBuf,
}

/// Which server is asked.
#[derive(Clone, Debug, Args)]
pub struct ServerArgs {
    /// Data directory of the running server: its control socket is there
    #[arg(long, value_name = "DIR", default_value = "./data")]
    pub data: PathBuf,
}

/// Flags of commands about one module.
#[derive(Clone, Debug, Args)]
pub struct NamedArgs {
    /// Name of the module
    pub name: String,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Flags of `modules inspect`.
#[derive(Clone, Debug, Args)]
pub struct InspectArgs {
    /// Name of a module of the running server, or a file
    #[arg(value_name = "NAME|FILE.wasm")]
    pub what: String,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Flags of `modules load`.
#[derive(Clone, Debug, Args)]
pub struct LoadArgs {
    /// A file, or the name of a module that was unloaded
    #[arg(value_name = "FILE.wasm|NAME")]
    pub what: String,
    /// Put the file in the place of a module of its name
    #[arg(long)]
    pub replace: bool,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Flags of `modules logs`.
#[derive(Clone, Debug, Args)]
pub struct LogsArgs {
    /// Name of the module
    pub name: String,
    /// How many lines
    #[arg(short = 'n', long, value_name = "LINES", default_value_t = 100)]
    pub lines: usize,
    /// Go on with what comes
    #[arg(long, short)]
    pub follow: bool,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// Print JSON, an object a line
    #[arg(long)]
    pub json: bool,
}

/// Flags of `test`.
#[derive(Clone, Debug, Args)]
pub struct TestArgs {
    /// WebAssembly file; the manifest lies beside it
    #[arg(value_name = "MODULE.wasm")]
    pub module: PathBuf,
    /// Files with an event or an array of events; - is standard input
    #[arg(value_name = "EVENT.json", required = true)]
    pub events: Vec<PathBuf>,
    /// Rows that every query gives: `{"columns": ["a"], "rows": [[1]]}`
    #[arg(long, value_name = "FILE.json")]
    pub rows: Option<PathBuf>,
    /// Replies to Redis commands, in their order: `["text", 1, null, {"status": "OK"}]`; afterwards null
    #[arg(long, value_name = "FILE.json")]
    pub replies: Option<PathBuf>,
    /// Print JSON, an object an event
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print the reference page of tidegate.toml.
    Reference,
}

/// A client command with the flags that say where to connect.
#[derive(Debug, Args)]
// -h is the host, as with other MQTT clients; --help stays.
#[command(disable_help_flag = true)]
struct Connected<A: Args> {
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(flatten)]
    args: A,
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
}

/// Reads the command line and does what it says.
pub fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run(args) => crate::run::main(args.into()),
        Command::Check(args) => crate::check::main(args.into()),
        Command::Modules(command) => modules(&command),
        Command::Plugins(PluginsCommand::List(args)) => crate::plugins::list(&args),
        Command::Plugins(PluginsCommand::Load(args)) => crate::plugins::load(&args),
        Command::Plugins(PluginsCommand::Unload(args)) => crate::plugins::unload(&args),
        Command::Connectors(ConnectorsCommand::List(args)) => crate::connectors::list(&args),
        Command::Connectors(ConnectorsCommand::Test(args)) => crate::connectors::test(&args),
        Command::Schema(SchemaCommand::Print(args)) => crate::schema::print(&args),
        Command::Schema(SchemaCommand::Apply(args)) => crate::schema::apply(&args),
        Command::Buffers(command) => crate::buffers::main(&command),
        Command::Passwd(args) => crate::access::passwd::main(&args),
        Command::Test(args) => crate::try_module::main(&args),
        Command::Pub(command) => crate::client::publish(command.connect, command.args),
        Command::Sub(command) => crate::client::subscribe(command.connect, command.args),
        Command::Config(ConfigCommand::Reference) => {
            print!("{}", crate::config::reference::page());
            ExitCode::SUCCESS
        }
        Command::Sql { file, statement } => crate::sql::main(&file, &statement),
        Command::Compile { wasm, artefact } => match tidegate_module::compile_file(&wasm, &artefact) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                let status = tidegate_module::exit_status(&error);
                // The parent process puts the words in their place: only the reason, without a frame.
                match error {
                    LoadError::Compile(reason) => eprintln!("{reason}"),
                    other => eprintln!("{}", with_causes(&other)),
                }
                ExitCode::from(status)
            }
        },
    }
}

fn modules(command: &ModulesCommand) -> ExitCode {
    match command {
        ModulesCommand::List(args) => crate::modules::list(args),
        ModulesCommand::Inspect(args) => crate::modules::inspect(args),
        ModulesCommand::Load(args) => crate::modules::load(args),
        ModulesCommand::Unload(args) => crate::modules::unload(args),
        ModulesCommand::Reload(args) => crate::modules::reload(args),
        ModulesCommand::Promote(args) => crate::modules::promote(args),
        ModulesCommand::Rollback(args) => crate::modules::roll_back(args),
        ModulesCommand::Logs(args) => crate::modules::logs(args),
    }
}

/// Prints `error` with its causes and gives exit status 1.
pub(crate) fn fail(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("error: {}", with_causes(error));
    ExitCode::FAILURE
}

/// An error and its causes on one line; a cause whose words are already there is not repeated.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !line.contains(&words) {
            line = format!("{line}: {words}");
        }
        cause = error.source();
    }
    line
}

/// What guests wrote, harmless for a terminal: control characters but ends of lines and tabs are shown as escapes.
pub(crate) fn printable(text: &str) -> std::borrow::Cow<'_, str> {
    let harmful = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if !text.contains(harmful) {
        return text.into();
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if harmful(c) { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown.into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use clap::CommandFactory as _;

    fn parse(line: &str) -> Result<Command, clap::error::ErrorKind> {
        Cli::try_parse_from(line.split(' ')).map(|cli| cli.command).map_err(|error| error.kind())
    }

    #[test]
    fn the_command_line_is_well_defined() {
        Cli::command().debug_assert();
    }

    #[test]
    fn run_takes_its_flags() {
        let Ok(Command::Run(args)) = parse(
            "tidegate run --listen 127.0.0.1:0 --listen [::1]:0 --api off --data d --log-format json --log-level debug",
        ) else {
            panic!("run")
        };
        let overrides = Overrides::from(args);
        assert_eq!(overrides.listen.len(), 2);
        assert_eq!(overrides.api, Some(None));
        assert_eq!(overrides.log_format, Some(LogFormat::Json));
        assert_eq!(overrides.data_dir, Some("d".into()));
        let Ok(Command::Check(args)) = parse("tidegate check --api 127.0.0.1:1") else { panic!("check") };
        assert!(matches!(Overrides::from(args).api, Some(Some(_))));
    }

    #[test]
    fn wrong_values_are_refused() {
        use clap::error::ErrorKind;
        for line in [
            "tidegate run --listen nowhere",
            "tidegate run --api 1883",
            "tidegate run --log-level loud",
            "tidegate pub -t a/+ -m x",
            "tidegate pub -t  -m x",
            "tidegate sub -t a/#/b",
            "tidegate pub -t a -m x -q 3",
            "tidegate sub -t a -V 6",
        ] {
            let kind = parse(line).err();
            assert!(
                matches!(kind, Some(ErrorKind::ValueValidation | ErrorKind::InvalidValue)),
                "{line}: {kind:?}"
            );
        }
        assert_eq!(parse("tidegate pub -m x").err(), Some(ErrorKind::MissingRequiredArgument));
        assert_eq!(parse("tidegate pub -t a").err(), Some(ErrorKind::MissingRequiredArgument));
        assert_eq!(parse("tidegate pub -t a -m x -f y").err(), Some(ErrorKind::ArgumentConflict));
        assert_eq!(parse("tidegate sub -t a -c").err(), Some(ErrorKind::MissingRequiredArgument));
    }

    #[test]
    fn guests_do_not_command_terminals() {
        assert_eq!(printable("a\tb\n"), "a\tb\n");
        assert_eq!(printable("\u{1b}]0;x\u{7}\r\u{9b}"), "\\u{1b}]0;x\\u{7}\\r\\u{9b}");
    }

    #[test]
    fn commands_about_modules_take_their_flags() {
        use clap::error::ErrorKind;
        let Ok(Command::Modules(ModulesCommand::Logs(args))) =
            parse("tidegate modules logs m -n 5 --follow --data d")
        else {
            panic!("logs")
        };
        assert_eq!((&*args.name, args.lines, args.follow), ("m", 5, true));
        assert_eq!(args.server.data, PathBuf::from("d"));
        let Ok(Command::Test(args)) = parse("tidegate test m.wasm a.json - --json") else { panic!("test") };
        assert_eq!((args.events.len(), args.json), (2, true));
        assert_eq!(parse("tidegate test m.wasm").err(), Some(ErrorKind::MissingRequiredArgument));
        for command in ["reload", "promote", "rollback"] {
            let line = format!("tidegate modules {command}");
            assert_eq!(parse(&line).err(), Some(ErrorKind::MissingRequiredArgument));
        }
    }

    #[test]
    fn passwd_takes_a_file_and_a_user() {
        use clap::error::ErrorKind;
        let Ok(Command::Passwd(args)) = parse("tidegate passwd users u --stdin") else { panic!("passwd") };
        assert_eq!((args.file, &*args.user, args.stdin, args.delete), ("users".into(), "u", true, false));
        assert_eq!(parse("tidegate passwd users").err(), Some(ErrorKind::MissingRequiredArgument));
        let both = parse("tidegate passwd users u --stdin --delete").err();
        assert_eq!(both, Some(ErrorKind::ArgumentConflict));
    }

    #[test]
    fn h_is_the_host_of_clients() {
        let Ok(Command::Pub(command)) = parse("tidegate pub -h ::1 -p 1884 -t a -m x -r -q 2 -V 5") else {
            panic!("pub")
        };
        assert_eq!((&*command.connect.host, command.connect.port), ("::1", 1884));
        assert_eq!(parse("tidegate pub --help").err(), Some(clap::error::ErrorKind::DisplayHelp));
        assert_eq!(parse("tidegate run -h").err(), Some(clap::error::ErrorKind::DisplayHelp));
    }

    #[test]
    fn causes_are_told_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer: inner")]
        struct Outer(#[source] std::fmt::Error);
        #[derive(Debug, thiserror::Error)]
        #[error("told: {0}")]
        struct Told(#[source] std::num::ParseIntError);
        let inner = "x".parse::<u8>().unwrap_err();
        assert_eq!(with_causes(&Told(inner)), "told: invalid digit found in string");
        assert!(with_causes(&Outer(std::fmt::Error)).starts_with("outer: inner: "));
    }
}
