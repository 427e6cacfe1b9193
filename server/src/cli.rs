//! The command line.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};

use crate::client::cli::ClientCommand;
use crate::config::{self, Config, Role, Sources};

/// Takes telemetry over MQTT, acknowledges it once it is safe on disk, serves it over gRPC.
///
/// Without a command: `weir run`.
#[derive(Debug, Parser)]
#[command(name = "weir", version, args_conflicts_with_subcommands = true, max_term_width = 110)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) run: RunOptions,
}

/// Commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start Weir
    Run(RunOptions),
    /// Write a configuration with authentication, and print the key of its operator once
    ///
    /// With a configuration that is there already, only a new key is made. Weir must not run.
    Init(InitOptions),
    /// Exchange the peppers that secrets are kept under, also while Weir runs
    #[command(subcommand)]
    Peppers(PeppersCommand),
    /// The keys of encryption at rest, also while Weir runs
    #[command(subcommand)]
    Encryption(EncryptionCommand),
    /// Print the commented default configuration, or check a file
    Config(ConfigOptions),
    #[command(flatten)]
    Client(ClientCommand),
    /// Check over HTTP whether the Weir of this machine is ready; fails when it is not
    Health(HealthOptions),
    /// Close the connections of devices at a bounded rate, so that they move to other processes
    ///
    /// The process of this machine is no longer ready, refuses new connections, and closes the
    /// others in slices, each after its client has its acknowledgements. The command follows it to
    /// the end; when it is interrupted, the drain goes on.
    Drain(DrainOptions),
    /// Look for problems and print what to do about them
    Doctor(DoctorOptions),
    /// Show what a payload becomes under the routes of the configuration
    Map(MapOptions),
    /// Fill an export again, from the log and the history, after its system lost what it was given
    Refill(RefillOptions),
    /// Make a private authority, and certificates from it
    Tls(TlsOptions),
    /// Cut a damaged log at its first damage, so that Weir starts again
    Repair(RepairOptions),
    /// Copy what the data folder holds to a new folder, also while Weir runs
    ///
    /// The copy holds every reading that was acknowledged before the command began, and is
    /// verified. A running process writes it itself: the folder must be reachable for it. With
    /// Redis, MongoDB or InfluxDB, the command prints how to copy them, and in which order.
    Backup(BackupOptions),
    /// Write a backup to a data folder without data, after verifying every file
    Restore(RestoreOptions),
}

/// Options of `weir run`. Each is stronger than its key in the environment and in the file.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct RunOptions {
    /// Configuration file; ./weir.toml is read when it is there
    #[arg(long, value_name = "FILE", env = "WEIR_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Folder that holds everything [default: ./weir-data]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Address for devices [default: 127.0.0.1:1883]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) mqtt: Option<String>,
    /// Address for gRPC [default: 127.0.0.1:50051]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) grpc: Option<String>,
    /// Address for health, metrics and the status page [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) http: Option<String>,
    /// Roles of this process [default: all]
    #[arg(long, value_name = "ROLES", value_delimiter = ',')]
    pub(crate) roles: Vec<Role>,
    /// Listen on addresses that others can reach without encryption or authentication
    #[arg(long)]
    pub(crate) insecure: bool,
}

impl RunOptions {
    /// Sources of the configuration.
    pub(crate) fn sources(&self) -> anyhow::Result<Sources> {
        let mut sources = Sources::of_process(self.config.clone());
        let mut flag = |key, value: Option<String>| {
            if let Some(value) = value {
                sources.flags.push((key, value));
            }
        };
        let data_dir = self.data_dir.as_ref().map(|dir| {
            dir.to_str().map(str::to_owned).ok_or_else(|| anyhow::anyhow!("--data-dir is not UTF-8: {}", dir.display()))
        });
        flag("data_dir", data_dir.transpose()?);
        flag("mqtt.address", self.mqtt.clone());
        flag("grpc.address", self.grpc.clone());
        flag("http.address", self.http.clone());
        let roles: Vec<&str> = self.roles.iter().map(|role| role.name()).collect();
        flag("roles", (!roles.is_empty()).then(|| roles.join(",")));
        flag("insecure", self.insecure.then(|| "true".to_owned()));
        Ok(sources)
    }
}

/// Loads the configuration for a command about a data folder.
///
/// # Errors
/// Names the file or the key.
pub(crate) fn configuration(file: Option<&Path>, data_dir: Option<&Path>) -> anyhow::Result<Config> {
    let (config, data_dir) = (file.map(Path::to_owned), data_dir.map(Path::to_owned));
    let options = RunOptions { config, data_dir, ..RunOptions::default() };
    Ok(config::load(&options.sources()?)?.config)
}

/// Options of `weir init`.
#[derive(Debug, Args)]
pub(crate) struct InitOptions {
    /// Configuration file to write [default: ./weir.toml]
    #[arg(long, value_name = "FILE", env = "WEIR_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Folder that holds everything [default: ./weir-data]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Write the key to this file, which only its owner can read, in place of the output. Nothing
    /// is done when it exists, so that the command can run before each start
    #[arg(long, value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,
}

/// Commands of `weir peppers`.
#[derive(Debug, Subcommand)]
pub(crate) enum PeppersCommand {
    /// Put a new pepper in place of the current one
    ///
    /// Secrets that are kept under the one before the current one are no longer valid then. The
    /// processes read the file within seconds. Where several share a registry, prepare first, and
    /// copy the file to all of them after each of the two commands.
    Rotate(PeppersRotate),
}

/// Options of `weir peppers rotate`.
#[derive(Debug, Args)]
pub(crate) struct PeppersRotate {
    /// Only add a pepper, which the next rotation puts in place
    #[arg(long)]
    pub(crate) prepare: bool,
    /// Configuration file; ./weir.toml is read when it is there
    #[arg(long, value_name = "FILE", env = "WEIR_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Folder that holds everything [default: ./weir-data]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}

/// Commands of `weir encryption`.
#[derive(Debug, Subcommand)]
pub(crate) enum EncryptionCommand {
    /// Print the state of the keys
    Status(EncryptionOptions),
    /// Wrap all keys anew with the first key-encryption key of the configuration
    ///
    /// Put the new key in front of the current one in `encryption.key_file` first, and remove the
    /// current one afterwards. Nothing waits meanwhile.
    Rotate(EncryptionOptions),
    /// Destroy the keys of a tenant: everything that is sealed for it becomes unreadable for ever
    Destroy {
        /// The tenant
        tenant: String,
        /// Really do it
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        options: EncryptionOptions,
    },
    /// Print the lines of files that an export has sealed
    Decrypt {
        /// Files of the export, open or closed
        #[arg(required = true)]
        files: Vec<PathBuf>,
        #[command(flatten)]
        options: EncryptionOptions,
    },
    /// Make new keys for a tenant whose keys were destroyed, when its name is used again
    Allow {
        /// The tenant
        tenant: String,
        #[command(flatten)]
        options: EncryptionOptions,
    },
}

/// Options of `weir encryption`.
#[derive(Debug, Args)]
pub(crate) struct EncryptionOptions {
    /// Configuration file; ./weir.toml is read when it is there
    #[arg(long, value_name = "FILE", env = "WEIR_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Folder that holds everything [default: ./weir-data]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}

/// Options of `weir config`.
#[derive(Debug, Args)]
pub(crate) struct ConfigOptions {
    /// Check this file instead of printing the default
    #[arg(long, value_name = "FILE")]
    check: Option<PathBuf>,
}

/// Options of `weir health`.
#[derive(Debug, Args)]
pub(crate) struct HealthOptions {
    /// Address of HTTP [default: the HTTP address of the configuration]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) http: Option<String>,
    /// Configuration file; ./weir.toml is read when it is there
    #[arg(long, value_name = "FILE", env = "WEIR_CONFIG")]
    pub(crate) config: Option<PathBuf>,
}

/// Options of `weir drain`.
#[derive(Debug, Args)]
pub(crate) struct DrainOptions {
    /// Connections to close in a second [default: mqtt.drain_connections_per_second]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rate: Option<u32>,
    /// Stop the process when all connections are closed
    #[arg(long)]
    pub(crate) stop: bool,
    /// Return at once
    #[arg(long)]
    pub(crate) detach: bool,
    /// Print the progress of a drain
    #[arg(long, conflicts_with_all = ["rate", "stop", "detach"])]
    pub(crate) status: bool,
    /// End a drain, and accept connections again
    #[arg(long, conflicts_with_all = ["rate", "stop", "detach", "status"])]
    pub(crate) cancel: bool,
    /// Configuration file; ./weir.toml is read when it is there
    #[arg(long, value_name = "FILE", env = "WEIR_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Folder that holds everything [default: ./weir-data]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}

/// Options of `weir doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorOptions {
    #[command(flatten)]
    pub(crate) run: RunOptions,
    /// Server to query [default: the gRPC address of the configuration]
    #[arg(long, value_name = "URL", env = "WEIR_SERVER")]
    pub(crate) server: Option<String>,
    /// PEM file of the authority of that server's certificate
    #[arg(long, value_name = "FILE", env = "WEIR_CA")]
    pub(crate) ca: Option<PathBuf>,
}

/// Options of `weir map`.
#[derive(Debug, Args)]
pub(crate) struct MapOptions {
    /// Topic that the payload is published to
    #[arg(long)]
    pub(crate) topic: String,
    /// Client id of the sender, for routes with `{client}`
    #[arg(long, value_name = "ID", default_value = "map")]
    pub(crate) client: String,
    /// The message has the retain flag
    #[arg(long)]
    pub(crate) retain: bool,
    /// The payload
    #[arg(long, required_unless_present = "payload_file", conflicts_with = "payload_file")]
    pub(crate) payload: Option<String>,
    /// File that holds the payload; `-` is standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) payload_file: Option<PathBuf>,
    /// Configuration file; ./weir.toml is read when it is there
    #[arg(long, value_name = "FILE", env = "WEIR_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: crate::client::output::Format,
}

/// Options of `weir refill`.
#[derive(Debug, Args)]
pub(crate) struct RefillOptions {
    /// Name of the export
    pub(crate) export: String,
    /// Fill in readings since then: a duration ago (15m, 1h, 7d) or a time (2026-01-31)
    #[arg(long, value_name = "TIME")]
    pub(crate) since: String,
    /// Configuration file; ./weir.toml is read when it is there
    #[arg(long, value_name = "FILE", env = "WEIR_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Server that holds the history [default: the gRPC address of the configuration]
    #[arg(long, value_name = "URL", env = "WEIR_SERVER")]
    pub(crate) server: Option<String>,
    /// PEM file of the authority of that server's certificate
    #[arg(long, value_name = "FILE", env = "WEIR_CA")]
    pub(crate) ca: Option<PathBuf>,
    /// Tenant; `-` is your own
    #[arg(long, default_value = "-", env = "WEIR_TENANT", hide_env = true)]
    pub(crate) tenant: String,
}

/// Options of `weir tls`.
#[derive(Debug, Args)]
pub(crate) struct TlsOptions {
    #[command(subcommand)]
    pub(crate) command: TlsCommand,
}

/// Commands of `weir tls`.
#[derive(Debug, Subcommand)]
pub(crate) enum TlsCommand {
    /// Make a certificate for this server, and the authority if the folder has none
    Create {
        /// Folder of the files
        #[arg(long, value_name = "DIR", default_value = "tls")]
        dir: PathBuf,
        /// Host name or address under which clients reach the server; may be repeated. Those of
        /// this machine are always in the certificate.
        #[arg(long, value_name = "HOST")]
        host: Vec<String>,
        /// Replace a certificate that is there
        #[arg(long)]
        renew: bool,
    },
    /// Make a certificate for a device or another client
    Client {
        /// Name of the client, as the id of a device
        name: String,
        /// Folder of the authority
        #[arg(long, value_name = "DIR", default_value = "tls")]
        dir: PathBuf,
        /// Replace a certificate that is there
        #[arg(long)]
        renew: bool,
    },
}

/// Options of `weir repair`.
#[derive(Debug, Args)]
pub(crate) struct RepairOptions {
    /// Configuration file; ./weir.toml is read when it is there
    #[arg(long, value_name = "FILE", env = "WEIR_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Folder that holds everything [default: ./weir-data]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Really do it
    #[arg(long)]
    pub(crate) yes: bool,
}

/// Options of `weir backup`.
#[derive(Debug, Args)]
pub(crate) struct BackupOptions {
    /// New folder for the backup; it must not exist, its parent must
    #[arg(value_name = "DIR")]
    pub(crate) to: PathBuf,
    /// Configuration file; ./weir.toml is read when it is there
    #[arg(long, value_name = "FILE", env = "WEIR_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Folder that holds everything [default: ./weir-data]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}

/// Options of `weir restore`.
#[derive(Debug, Args)]
pub(crate) struct RestoreOptions {
    /// Folder that `weir backup` wrote
    #[arg(value_name = "FROM")]
    pub(crate) from: PathBuf,
    /// Data folder to write, missing or empty [default: the data folder of the configuration]
    #[arg(long, value_name = "DIR")]
    pub(crate) to: Option<PathBuf>,
    /// Only verify the backup
    #[arg(long, conflicts_with = "to")]
    pub(crate) check: bool,
    /// Configuration file; ./weir.toml is read when it is there
    #[arg(long, value_name = "FILE", env = "WEIR_CONFIG")]
    pub(crate) config: Option<PathBuf>,
}

/// `weir config`.
pub(crate) fn config(options: &ConfigOptions) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match &options.check {
        None => out.write_all(config::sample().as_bytes())?,
        Some(path) => {
            let loaded = config::load(&Sources { file: Some(path.clone()), ..Sources::default() })?;
            crate::run::settings::routes(&loaded.config)?;
            writeln!(out, "{} is good", path.display())?;
        }
    }
    Ok(())
}
