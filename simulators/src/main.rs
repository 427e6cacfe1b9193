//! `weir-sim`: simulates devices against an MQTT broker and verifies stored readings.

mod cli;

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use weir_simulators::broker::Broker;
use weir_simulators::credentials::{self, Created, Credentials};
use weir_simulators::fleet::{self, Options};
use weir_simulators::ledger::{Ledger, deliveries};
use weir_simulators::oracle::{self, StoreReport, SubscriberReport, Targets};
use weir_simulators::plan::{self, Messages};
use weir_simulators::replay;
use weir_simulators::report::{Summary, html};
use weir_simulators::scenario::{self, SHIPPED, Scenario};

use cli::{Arguments, Command, CredentialsOptions, Output, PlayOptions, RunOptions, ScenarioOptions, VerifyOptions};

fn main() -> anyhow::Result<ExitCode> {
    match Arguments::parse().command {
        Command::Run(options) => run(&options),
        Command::Verify(options) => verify(&options),
        Command::Replay(options) => {
            let played = replay::replay(&options.file, &options.replay(), &self::options(&options.play)?)?;
            let summary = Summary::of_file(&options.file.display().to_string(), &played);
            output(&summary, &played.samples, &options.output)?;
            Ok(ended(&summary, summary.all_taken()))
        }
        Command::Bench(load) => bench(&load),
        Command::Credentials(options) => credentials(&options),
        Command::Scenarios { name } => {
            match name {
                None => SHIPPED.iter().for_each(|(name, _)| println!("{name}\t{}", about(name))),
                Some(name) => print!(
                    "{}",
                    scenario::shipped(&name)
                        .with_context(|| format!("there is no built-in scenario {name}: see `weir-sim scenarios`"))?
                ),
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Readings { scenario, start_nanos, limit } => readings(&scenario, start_nanos, limit),
    }
}

fn about(name: &str) -> String {
    scenario::load(name).map_or_else(|error| error.to_string(), |(scenario, _)| scenario.about)
}

fn load(options: &ScenarioOptions) -> anyhow::Result<(Scenario, std::path::PathBuf)> {
    let (mut scenario, folder) = scenario::load(&options.scenario)?;
    scenario = scenario.scaled(options.devices, options.time);
    if let Some(seed) = options.seed {
        scenario.seed = seed;
    }
    if let Some(drain) = options.drain {
        scenario.drain = drain;
    }
    scenario.check(&folder)?;
    Ok((scenario, folder))
}

fn options(play: &PlayOptions) -> anyhow::Result<Options> {
    Ok(Options {
        broker: Broker::open(&play.broker, play.authorities.ca.as_deref(), play.per_source)?,
        threads: play.threads,
        quiet: play.quiet,
        patience: play.patience,
        sample_every: Duration::from_secs(1),
        credentials: play.credentials.as_deref().map(Credentials::read).transpose()?.unwrap_or_default(),
    })
}

fn credentials(options: &CredentialsOptions) -> anyhow::Result<ExitCode> {
    if options.output.as_ref().is_some_and(|path| path.exists()) {
        return Ok(ExitCode::SUCCESS);
    }
    let names: Vec<String> = match (&options.scenario, options.bench) {
        (Some(name), _) => {
            let (scenario, folder) = scenario::load(name)?;
            let scenario = scenario.scaled(options.devices, 1.0);
            plan::devices(&scenario, &folder, 0)?.iter().map(|device| device.id.as_ref().to_owned()).collect()
        }
        (None, count) => {
            (options.first_device..).take(count.unwrap_or_default()).map(|number| format!("sim-{number}")).collect()
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(async {
        let ca = options.authorities.ca.as_deref();
        let weir = oracle::Weir::connect(&options.server, options.token.read()?.as_deref(), ca).await?;
        let created = Created { kind: options.kind, tenant: &options.tenant, authority: &options.authority };
        let Some(path) = &options.output else {
            return credentials::create(&weir, &created, names, std::io::stdout().lock()).await;
        };
        // Under its name once it is whole.
        let part = path.with_extension("part");
        let file = File::options().create(true).write(true).truncate(true).mode(0o600).open(&part);
        let file = file.with_context(|| format!("cannot write {}", part.display()))?;
        credentials::create(&weir, &created, names, file).await?;
        std::fs::rename(&part, path).with_context(|| format!("cannot write {}", path.display()))
    })?;
    Ok(ExitCode::SUCCESS)
}

fn run(arguments: &RunOptions) -> anyhow::Result<ExitCode> {
    let (scenario, folder) = load(&arguments.scenario)?;
    let kept;
    let ledger: &Path = match &arguments.ledger {
        Some(path) => path,
        None => {
            kept = std::env::temp_dir().join(format!("weir-sim-{}.ledger", std::process::id()));
            &kept
        }
    };
    let options = Options { sample_every: arguments.sample_every, ..options(&arguments.play)? };
    let outcome = fleet::run(&scenario, &folder, ledger, &options).and_then(|played| {
        let targets = arguments.targets.targets(&arguments.play.authorities)?;
        // An interrupted run ends at once; `weir-sim verify` can follow with --ledger.
        let is_checked = !targets.is_empty() && !played.interrupted;
        let stores = if is_checked { check(ledger, &targets)? } else { Vec::new() };
        let subscribers = if played.interrupted { Vec::new() } else { oracle::verify_deliveries(ledger)? };
        Ok((played, stores, subscribers))
    });
    if arguments.ledger.is_none() {
        for file in [ledger.to_owned(), deliveries::path(ledger)].iter().filter(|file| file.exists()) {
            std::fs::remove_file(file).with_context(|| format!("remove {}", file.display()))?;
        }
    }
    let (played, stores, subscribers) = outcome?;
    let summary = Summary::new(&scenario, &played, stores).with(subscribers);
    if let Some(path) = &arguments.samples {
        let lines: Result<Vec<String>, _> = played.samples.iter().map(serde_json::to_string).collect();
        let text = format!("{}\n", lines?.join("\n"));
        std::fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    }
    output(&summary, &played.samples, &arguments.output)?;
    Ok(ended(&summary, summary.is_clean()))
}

/// The exit code of a run: that of a shell's own after Ctrl-C.
fn ended(summary: &Summary, good: bool) -> ExitCode {
    if summary.interrupted { ExitCode::from(130) } else { code(good) }
}

fn output(summary: &Summary, samples: &[fleet::Sample], output: &Output) -> anyhow::Result<()> {
    if output.json {
        println!("{}", serde_json::to_string(summary)?);
    } else {
        print!("{summary}");
    }
    if let Some(path) = &output.report {
        std::fs::write(path, html(summary, samples)).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

fn check(ledger: &Path, targets: &Targets) -> anyhow::Result<Vec<StoreReport>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(oracle::verify(ledger, targets))
}

fn verify(options: &VerifyOptions) -> anyhow::Result<ExitCode> {
    let targets = options.targets.targets(&options.authorities)?;
    anyhow::ensure!(!targets.is_empty(), "no store to verify: use --server http://127.0.0.1:50051");
    let reports = check(&options.ledger, &targets)?;
    let subscribers = oracle::verify_deliveries(&options.ledger)?;
    if options.json {
        println!("{}", serde_json::to_string(&reports)?);
        if !subscribers.is_empty() {
            println!("{}", serde_json::to_string(&subscribers)?);
        }
    } else {
        let ledger = Ledger::read(&options.ledger)?;
        let ended = if ledger.complete { "" } else { " (the run was interrupted)" };
        println!("{}: {} messages sent{ended}", ledger.header.scenario.name, ledger.messages());
        reports.iter().for_each(|report| print!("{report}"));
        subscribers.iter().for_each(|report| print!("{report}"));
    }
    let is_clean = reports.iter().all(|report| report.findings.is_clean());
    Ok(code(is_clean && subscribers.iter().all(SubscriberReport::is_clean)))
}

fn readings(scenario: &ScenarioOptions, start: i64, limit: usize) -> anyhow::Result<ExitCode> {
    let (scenario, folder) = load(scenario)?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for device in plan::devices(&scenario, &folder, start)? {
        for message in Messages::new(&device).take(limit) {
            let payload = String::from_utf8_lossy(&message.payload[..message.payload.len().min(1024)]);
            let line = std::io::Write::write_fmt(
                &mut out,
                format_args!("{:.3}\t{}\t{payload}\n", message.due.as_secs_f64(), message.topic),
            );
            match line {
                // The reader has closed the pipe.
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(ExitCode::SUCCESS),
                other => other?,
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn bench(load: &weir_simulators::bench::Load) -> anyhow::Result<ExitCode> {
    let report = weir_simulators::bench::run(load)?;
    if load.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{report}");
    }
    if report.failed_connections > 0 {
        anyhow::bail!("{} connections ended early; the first: {}", report.failed_connections, report.first_failure);
    }
    Ok(ExitCode::SUCCESS)
}

fn code(good: bool) -> ExitCode {
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
