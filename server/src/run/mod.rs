//! `weir run`: from the configuration to a supervised process.

mod activation;
mod bridges;
mod brokers;
mod census;
pub(crate) mod checkpoints;
mod exports;
pub(crate) mod fellows;
mod known;
pub(crate) mod lane;
mod letters;
pub(crate) mod limits;
mod listeners;
mod log;
mod node;
mod parts;
mod placement;
mod pooled;
mod ports;
mod purge;
mod release;
pub(crate) mod replay;
mod retained;
mod retention;
mod server_watch;
mod sessions;
pub(crate) mod settings;
pub(crate) mod shares;
mod signals;
pub(crate) mod startup;
pub(crate) mod state;
mod storage;
mod stores;
mod tenants;
mod welcome;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use broker::{Earlier, Ports};
use cluster::members::{Members, Peers, Secret};
use door::{Gatekeeper, OneTenant};
use flusher::fleet::Readers;
use futures::future::{join_all, try_join_all};
use identity::Gate;
use tls::Port;
use tokio_util::sync::CancellationToken;

use crate::access::Access;
use crate::backup::Offer;
use crate::cli::RunOptions;
use crate::config::{self, Config, Lowered, Role};
use crate::data_dir::DataDir;
use crate::logs::Lines;
use crate::supervise::{EndError, Supervisor};
use crate::{drain, encryption, http, logs};
use activation::Passed;
use lane::Lane;
use listeners::Listeners;
use node::Node;
pub(crate) use placement::PooledInbox;
use retained::StoredMessages;
use server_watch::Servers;
use startup::Startup;

/// Time for the last responses of the status page.
const HTTP_DEADLINE: Duration = Duration::from_secs(5);
/// Time for the last packets of bridges.
const BRIDGES_DEADLINE: Duration = Duration::from_secs(5);
/// Time for the last responses to other processes.
const FLEET_DEADLINE: Duration = Duration::from_secs(5);

/// Runs until a signal or until a part ends.
///
/// # Errors
/// When the configuration is invalid or a part cannot start. Later failures are logged and set the
/// exit code.
pub(crate) fn run(options: &RunOptions) -> anyhow::Result<ExitCode> {
    let sources = options.sources()?;
    let loaded = match config::load(&sources) {
        Ok(loaded) => loaded,
        Err(error) => return fatal(logs::start_for_errors(&sources), error),
    };
    let lines = logs::start(&loaded.config.logging)?;
    run_logged(loaded, lines).or_else(|error| fatal(lines, error))
}

/// Reports an error that ends the start: for people as other commands do, else as a line of the
/// log.
fn fatal(lines: Lines, error: anyhow::Error) -> anyhow::Result<ExitCode> {
    match lines {
        Lines::Text => Err(error),
        Lines::Json => {
            tracing::error!("{error:#}");
            Ok(ExitCode::FAILURE)
        }
    }
}

fn run_logged(loaded: config::Loaded, lines: Lines) -> anyhow::Result<ExitCode> {
    loaded.config.check_exposure()?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    if let Some(file) = &loaded.file {
        tracing::info!(file = %file.display(), "configuration");
    }
    // Before there are threads.
    let passed = Passed::take();
    let files = limits::raise_open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    let (config, lowered) = loaded.config.within_memory();
    let (config, fewer) = limits::within_open_files(config, files);
    lowered.iter().chain(&fewer).for_each(Lowered::log);
    let ended = runtime.block_on(serve(config, passed, lines));
    // Blocking work that an answer no longer waits for must not hold the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    match ended? {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            // The last line.
            tracing::error!("{error}");
            Ok(ExitCode::FAILURE)
        }
    }
}

async fn serve(config: Config, mut passed: Passed, lines: Lines) -> anyhow::Result<Result<(), EndError>> {
    // First: a signal during the start must not end the process without a word.
    let mut signals = std::pin::pin!(signals::handle_signals()?);
    let data = DataDir::open(&config.data_dir)?;
    let mut config = config;
    let keys = encryption::open(&mut config, data.path())?;
    if let Some(keys) = keys.as_ref().filter(|keys| keys.seals()) {
        tracing::info!(kek = keys.status().kek, "what is written to the data folder is sealed");
        for export in encryption::plain_exports(&config) {
            tracing::warn!(export, "this export writes files in plain: encryption at rest does not cover it");
        }
    }
    let config = Arc::new(config);
    let (startup, metrics) = (Startup::default(), state::Metrics::of(&config));
    let tls = ports::open(&config, metrics.tls.clone())?;
    let own_tls = ports::open_own(&config, &metrics.tls)?;
    let fleet_tls = ports::open_fleet(&config, metrics.tls.clone())?;
    let listeners = Listeners::bind(&config, &mut passed).await?;
    let addresses = listeners.addresses(tls.is_some())?;
    data.note_http(addresses.http);
    let of = |port| tls.as_ref().map(|tls| tls.acceptor(port));
    let deadline = Duration::from_secs(config.shutdown_timeout_secs);
    let advertised = addresses.fleet.map(|address| config.fleet.advertised(address)).transpose()?.unwrap_or_default();
    let own = fellows::member(&config, &advertised);
    let secret = Secret::new(&config.fleet.secret).map_err(anyhow::Error::msg)?;
    let (http, http_stop) = {
        let (startup, metrics) = (startup.clone(), metrics.clone());
        let hosts = config.http.hosts.clone();
        let in_books = settings::in_books(&config)?;
        let site = http::Site {
            startup,
            metrics,
            in_books,
            addresses: addresses.clone(),
            data_dir: data.path().to_owned(),
            hosts: hosts.into(),
            keys: keys.clone(),
            hides_tenants: config.auth.required,
        };
        let stop = CancellationToken::new();
        // Before the rest: an operator can see what the process waits for.
        (
            tokio::spawn(http::serve(
                (listeners.http, of(Port::Http)),
                config.http.max_connections,
                site,
                stop.clone(),
            )),
            stop,
        )
    };
    let opening = async {
        let access = match config.auth.required {
            true => Some(Access::open(&config, data.path(), &startup).await?),
            false => None,
        };
        let gate = access.as_ref().map(|access| access.gate(&config)).transpose()?;
        if let Some(access) = &access {
            access.check_keys().await?;
        }
        let client = fleet_tls.as_ref().map(|tls| tls.client.clone());
        let peers = Peers::new(&secret, client, config.insecure, Arc::clone(&metrics.members));
        let parts = ((own.clone(), peers), access.as_ref(), gate.clone());
        let node = Node::open(&config, &data, metrics, &startup, parts).await?;
        if let Some(gate) = &gate {
            purge::load(gate, &node.lanes).await;
        }
        let sessions = sessions::open(&node.lanes, node.placement.clone(), &startup).await?;
        // Side by side: a server that is away delays the start no longer than one alone does.
        let servers = try_join_all(node.lanes.iter().map(|lane| Servers::open(lane, &startup))).await?;
        let lanes = node.lanes.iter().zip(&servers);
        let retained = try_join_all(lanes.map(|(lane, servers)| lane.retained(servers))).await?;
        anyhow::Ok((node, servers, (retained, sessions), access.zip(gate)))
    };
    let (node, servers, (retained, sessions), access) = tokio::select! {
        opened = opening => opened?,
        name = &mut signals => {
            tracing::info!(signal = name, "stopped before it was ready");
            return Ok(Ok(()));
        }
    };
    let inbox = node.inbox();
    let Node { state, lanes, placement, api, exporter, open, broker: own_broker } = node;
    startup.works(state.clone());
    startup.offer_encryption(encryption::Offer::new(Arc::clone(&config), keys, &data.secret()?));
    startup.offer_backups(Offer::new(Arc::clone(&config), data.path().to_owned(), data.secret()?, open));
    let waits_for = servers.iter().find_map(Servers::store_waits_for).map(str::to_owned);

    let mut supervisor = Supervisor::default();
    // In the order in which they stop.
    let bridges_stop = supervisor.part("bridges", BRIDGES_DEADLINE);
    let broker = if let Some(inbox) = inbox {
        let ports = Listeners::into_ports(listeners.devices, of(Port::Mqtt).as_ref(), &own_tls);
        let gate = access.as_ref().map(|(_, gate)| gate.clone());
        if let Some(placement) = &placement {
            for (number, messages) in retained.iter().enumerate() {
                messages.iter().flat_map(Earlier::tenants).for_each(|tenant| placement.found(tenant, number));
            }
        }
        let of_bridges = placement.clone();
        let of_archive = placement.clone();
        let found = move |tenant: &Arc<str>, lane: usize| {
            placement.iter().for_each(|placement| placement.found(tenant, lane));
        };
        let stores = lanes.iter().map(|lane| Arc::clone(&lane.stores.standard.retained)).collect();
        let archive = Arc::new(StoredMessages::new(stores, of_archive));
        let taken = (inbox, retained, archive, Box::new(found) as Found);
        let broker = take_in(&mut supervisor, &config, &state, (&lanes, sessions), taken, (ports, gate)).await;
        let of_tenants = access.as_ref().map(|(_, gate)| gate);
        bridges::spawn(&mut supervisor, &config, &state, (&broker, of_bridges.as_ref(), of_tenants), &bridges_stop)?;
        own_broker.iter().for_each(|own| own.open(Arc::clone(&broker)));
        Some(broker)
    } else {
        None
    };
    let limits = Arc::clone(&state.metrics.limits);
    tenants::spawn(&mut supervisor, &config, &lanes, access.as_ref(), (&own, limits), broker.clone());
    let drained = CancellationToken::new();
    if let Some(broker) = &broker {
        let offer = drain::Offer::new(Arc::clone(broker), &data.secret()?);
        startup.offer_drain(offer.clone());
        let (drained, stop) = (drained.clone(), supervisor.part("drain", HTTP_DEADLINE));
        supervisor.spawn("drain", "drain of the connections", async move {
            offer.stop_when_drained(drained, stop).await;
            Ok(())
        });
    }
    if let Some(keys) = config.log.keys.clone() {
        let stop = supervisor.part("destroyed keys", deadline);
        let forgetting = encryption::forget_destroyed(keys, purge::of_lanes(&lanes), stop);
        supervisor.spawn("destroyed keys", "states of tenants without keys", forgetting);
    }
    let stop = supervisor.part("store", deadline);
    supervisor.spawn("store", "connections to servers", async move {
        join_all(servers.into_iter().map(|servers| servers.run(stop.clone()))).await;
        Ok(())
    });
    let readers: Vec<Readers> = lanes.iter().map(|lane| lane.readers.clone()).collect();
    // A process of a fleet announces itself where all others do: with the logs of the shared pool.
    let members = lanes[0].logs.redis.as_ref().filter(|_| config.is_fleet()).map(Members::of);
    let fleets = lanes.into_iter().filter_map(|lane| Some((lane.pool, lane.fleet?)));
    let (local, fleets): (Vec<_>, Vec<_>) = fleets.map(|(pool, fleet)| ((pool, fleet.handle()), fleet)).unzip();
    if !fleets.is_empty() {
        let stop = supervisor.part("sinks", deadline);
        for fleet in fleets {
            let stop = stop.clone();
            supervisor.spawn("sinks", "flusher", async move { Ok(fleet.run(stop).await?) });
        }
    }
    if let Some(listener) = listeners.fleet {
        // Others ask until the last flush is over.
        let stop = supervisor.part("fleet", FLEET_DEADLINE);
        let acceptor = fleet_tls.as_ref().map(|tls| tls.server.acceptor(Port::Fleet));
        supervisor.spawn("fleet", "answers to the fleet", async move {
            let services = brokers::services(local, own_broker);
            cluster::members::serve((listener, acceptor), services, secret, stop).await.context("answer the fleet")
        });
    }
    if let Some(members) = members {
        let stop = supervisor.part("pools", FLEET_DEADLINE);
        let (lease, waiting) = (Duration::from_millis(config.fleet.lease_ms), state.waiting().clone());
        supervisor.spawn("pools", "pools of the fleet", async move {
            fellows::watch(members, own, lease, waiting, stop).await;
            Ok(())
        });
    }
    // A process that only takes devices has no use for the list.
    if config.has(Role::Flusher) || config.has(Role::Api) {
        let stop = supervisor.part("logs", deadline);
        supervisor.spawn("logs", "list of the logs", async move {
            join_all(readers.into_iter().map(|readers| readers.watch(stop.clone()))).await;
            Ok(())
        });
    }
    if let (Some(listener), Some((backend, settings))) = (listeners.grpc, api) {
        let stop = supervisor.part("grpc", deadline + config.grpc.limits.drain_timeout);
        let (metrics, listener) = (state.metrics.api.clone(), (listener, of(Port::Grpc)));
        supervisor.spawn("grpc", "grpc services", async move {
            Ok(api::serve(listener, backend, settings, metrics, stop).await?)
        });
    }

    ports::watch(&mut supervisor, HTTP_DEADLINE, tls.iter().cloned().chain(own_tls.into_values()), fleet_tls);

    if let Some((access, gate)) = access {
        let (waiting, metrics) = (state.waiting().clone(), Arc::clone(&state.metrics.checkpoints));
        let (checkpoints, stop) = (access.checkpoints(), supervisor.part("audit", HTTP_DEADLINE));
        supervisor.spawn("audit", "checkpoints of the audit", async move {
            checkpoints::run(checkpoints, metrics, waiting, stop).await;
            Ok(())
        });
        let stop = supervisor.part("access", HTTP_DEADLINE);
        supervisor.spawn("access", "changes of credentials", async move {
            tokio::join!(gate.follow(stop.clone()), access.follow(stop));
            Ok(())
        });
    }

    supervisor.part_that_ends_with("http", HTTP_DEADLINE, http_stop);
    supervisor.spawn("http", "http", async move { http.await.context("serve http")? });

    let stop = supervisor.part("log lines", HTTP_DEADLINE);
    supervisor.spawn("log lines", "count of log lines left out", logs::report_left_out(stop));

    // Last: the spans of the other parts' last work are exported too.
    if let Some(exporter) = exporter {
        let stop = supervisor.part("traces", exporter.deadline());
        supervisor.spawn("traces", "export of spans", exporter.run(stop));
    }

    data.publish(&addresses)?;
    welcome::print(&addresses, &data, waits_for.as_deref(), lines, (config.auth.required, &config.tls));
    let delay = Duration::from_millis(config.shutdown_delay_ms);
    let ended = supervisor
        .run(async move {
            let (name, delay) = tokio::select! {
                name = signals => (name, delay),
                // Load balancers have noticed it long ago.
                () = drained.cancelled() => ("weir drain", Duration::ZERO),
            };
            state.stop();
            tokio::spawn(signals::end_at_next_signal(move || broker.as_ref().is_some_and(|broker| broker.hasten())));
            if !delay.is_zero() {
                tracing::info!(signal = name, milliseconds = delay.as_millis(), "no longer ready; stopping soon");
                tokio::time::sleep(delay).await;
            }
            name
        })
        .await;
    data.withdraw();
    if ended.is_ok() {
        tracing::info!("stopped");
    }
    Ok(ended)
}

/// Notes the lane in which messages of a tenant were found.
type Found = Box<dyn Fn(&Arc<str>, usize) + Send + Sync>;

/// Accepts devices, and opens the logs for them. Retained messages of earlier starts are loaded
/// later when a store does not respond yet. Returns the broker.
async fn take_in(
    supervisor: &mut Supervisor,
    config: &Config,
    state: &state::State,
    (lanes, shared): (&[Lane], Option<Arc<cluster::sessions::Pooled>>),
    (inbox, retained, archive, found): (PooledInbox, Vec<Option<Earlier>>, Arc<StoredMessages>, Found),
    (ports, gate): (Ports, Option<Gate>),
) -> Arc<broker::Broker<PooledInbox>> {
    let deadline = Duration::from_secs(config.shutdown_timeout_secs);
    let slices = Duration::from_secs(settings::drain_secs(config).into());
    let last = Duration::from_millis(config.mqtt.broker.drain_timeout_ms);
    let stop = supervisor.part("mqtt", deadline + slices + last);
    let gatekeeper: Box<dyn Gatekeeper> = match gate {
        Some(gate) => Box::new(gate),
        None => Box::new(OneTenant::default()),
    };
    let (settings, metrics) = (settings::broker(config), state.metrics.broker.clone());
    let waits: Vec<usize> = (0..retained.len()).filter(|number| retained[*number].is_none()).collect();
    let node = settings.node.clone();
    let mut earlier = Earlier::of(&node);
    retained.into_iter().flatten().for_each(|of_lane| earlier.append(of_lane));
    let broker = match &shared {
        Some(fleet) => {
            let fleet = (Arc::clone(fleet) as Arc<_>, Arc::clone(fleet) as Arc<_>);
            broker::Broker::in_fleet(settings, inbox, gatekeeper, metrics, None, fleet)
        }
        None => broker::Broker::with_gatekeeper(settings, inbox, gatekeeper, metrics, None),
    };
    broker.put_away_to(archive);
    if waits.is_empty() {
        broker.begin_with(earlier);
    } else {
        broker.restore_part(earlier).await;
        let (broker, stop, waiting) = (broker.clone(), stop.clone(), state.waiting().clone());
        let waits =
            waits.into_iter().map(|number| (number, lanes[number].readers.clone(), lanes[number].retained_part()));
        let waits: Vec<(usize, Readers, String)> = waits.collect();
        let reason = "those of earlier starts are loaded when the store answers; clients that subscribe before do not \
                      receive them, and clients that continue a session begin one";
        for (_, _, part) in &waits {
            waiting.set(part, Some(reason.to_owned()));
        }
        let node = node.clone();
        supervisor.spawn("mqtt", "retained messages", async move {
            let load = async |(number, readers, part): &(usize, Readers, String)| {
                let earlier = retained::load_when_ready(readers, &node).await;
                tracing::info!(messages = earlier.len(), "{part} of earlier starts");
                earlier.tenants().for_each(|tenant| found(tenant, *number));
                broker.restore_part(earlier).await;
                waiting.set(part, None);
            };
            tokio::select! {
                _ = join_all(waits.iter().map(load)) => {
                    broker.restore(Vec::new()).await;
                    stop.cancelled().await;
                }
                () = stop.cancelled() => {}
            }
            Ok(())
        });
    }
    if shared.is_some() {
        let (broker, stop) = (broker.clone(), stop.clone());
        let readers: Vec<_> = lanes.iter().map(|lane| lane.readers.clone()).collect();
        let renewing = retained::renew(broker, readers, node, stop);
        supervisor.spawn("mqtt", "retained messages of the fleet", renewing);
    }
    let accepting = broker.clone();
    let accept = async move {
        accepting.run(ports, stop).await.context("accept connections")?;
        if let Some(fleet) = shared
            && let Err(error) = fleet.close().await
        {
            // They do so after the lease.
            tracing::info!("the other processes do not know that this one has ended: {error}");
        }
        Ok(())
    };
    supervisor.spawn("mqtt", "mqtt broker", accept);

    let stop = supervisor.part("log", deadline);
    supervisor.spawn("log", "log", state::watch_log(state.clone(), stop));
    let batchers: Vec<_> = lanes.iter().filter_map(|lane| Some(lane.intake.as_ref()?.batcher.clone())).collect();
    supervisor.finish("log", async move {
        let closing = batchers.into_iter().map(|batcher| tokio::task::spawn_blocking(move || batcher.close()));
        try_join_all(closing).await.map(drop).context("close the log")
    });
    broker
}
