//! The lines that a start prints for its operator.

use std::collections::BTreeMap;

use crate::client::output::remark;
use crate::data_dir::{Addresses, DataDir};
use crate::logs::Lines;

/// Prints the addresses and first commands. `waits_for` is a store that cannot be used yet.
pub(super) fn print(
    addresses: &Addresses,
    data: &DataDir,
    waits_for: Option<&str>,
    lines: Lines,
    (authenticates, tls): (bool, &tls::Config),
) {
    let Addresses { mqtt, mqtts, listeners, grpc, http, fleet, tls: is_encrypted } = addresses;
    let commands = commands(addresses, authenticates, tls);
    let mut text = state(addresses, waits_for);
    if lines == Lines::Json {
        let shown = |address: &Option<std::net::SocketAddr>| address.map(|address| address.to_string());
        tracing::info!(
            mqtt = shown(mqtt),
            mqtts = shown(mqtts),
            listeners = (!listeners.is_empty()).then(|| named(listeners)),
            grpc = shown(grpc),
            http = %http,
            fleet = shown(fleet),
            data = %data.path().display(),
            first_commands = commands.join("; "),
            "{text}"
        );
        return;
    }
    let mut line = |name: &str, value: String| text.push_str(&format!("\n  {name:6} {value}"));
    if let Some(mqtt) = mqtt {
        line("MQTT", mqtt.to_string());
    }
    if let Some(mqtts) = mqtts {
        line("MQTTS", mqtts.to_string());
    }
    if !listeners.is_empty() {
        line("also", named(listeners));
    }
    if let Some(grpc) = grpc {
        line("gRPC", grpc.to_string());
    }
    let scheme = if *is_encrypted { "https" } else { "http" };
    line("HTTP", format!("{scheme}://{http}"));
    if let Some(fleet) = fleet {
        line("fleet", fleet.to_string());
    }
    line("data", data.path().display().to_string());
    for command in commands {
        text.push_str(&format!("\n{command}"));
    }
    remark(&text);
}

/// Further listeners, in one line.
fn named(listeners: &BTreeMap<String, String>) -> String {
    listeners.iter().map(|(name, address)| format!("{name} {address}")).collect::<Vec<_>>().join(", ")
}

/// The first line.
fn state(Addresses { mqtt, grpc, .. }: &Addresses, waits_for: Option<&str>) -> String {
    let version = env!("CARGO_PKG_VERSION");
    match waits_for {
        Some(server) if mqtt.is_some() && grpc.is_some() => {
            format!("Weir {version} is accepting readings; queries are unavailable until {server} responds.")
        }
        Some(server) if grpc.is_some() => {
            format!("Weir {version} has started; queries are unavailable until {server} responds.")
        }
        _ => format!("Weir {version} is ready."),
    }
}

/// Commands to begin with.
fn commands(
    Addresses { mqtt, grpc, tls: is_encrypted, .. }: &Addresses,
    authenticates: bool,
    tls: &tls::Config,
) -> Vec<String> {
    let mut commands = Vec::new();
    let server = match grpc {
        Some(grpc) if *is_encrypted => format!(" --server https://localhost:{}{}", grpc.port(), authority(tls)),
        Some(grpc) if grpc.port() != 50051 => format!(" --server http://{grpc}"),
        _ => String::new(),
    };
    if authenticates {
        // It prints how the device publishes.
        commands.push(format!("Add a device:  weir devices add d1{server}"));
    } else if let Some(mqtt) = mqtt {
        let port = if mqtt.port() == 1883 { String::new() } else { format!("-p {} ", mqtt.port()) };
        commands.push(format!(
            "Publish:    mosquitto_pub {port}-t devices/d1/telemetry -m '{{\"temperature\":21.5}}' -q 1"
        ));
    }
    if grpc.is_some() {
        commands.push(format!("Read back:  weir latest d1{server}"));
    }
    commands
}

/// The option that names the authority, when it lies beside the certificate.
fn authority(tls: &tls::Config) -> String {
    let ca = tls.certificate.with_file_name("ca.pem");
    if ca.is_file() { format!(" --ca {}", ca.display()) } else { String::new() }
}
