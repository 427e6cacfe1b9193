//! The lines that a start prints for its operator.

use crate::client::output::remark;
use crate::data_dir::{Addresses, DataDir};

/// Prints the addresses and first commands. `waits_for` is a store that cannot be used yet.
pub(super) fn print(addresses: &Addresses, data: &DataDir, waits_for: Option<&str>) {
    let Addresses { mqtt, grpc, http, fleet } = addresses;
    let mut text = format!("Weir {} ", env!("CARGO_PKG_VERSION"));
    match waits_for {
        Some(server) if mqtt.is_some() && grpc.is_some() => {
            text.push_str(&format!("is accepting readings; queries are unavailable until {server} responds."));
        }
        Some(server) if grpc.is_some() => {
            text.push_str(&format!("has started; queries are unavailable until {server} responds."))
        }
        _ => text.push_str("is ready."),
    }
    let mut line = |name: &str, value: String| text.push_str(&format!("\n  {name:6} {value}"));
    if let Some(mqtt) = mqtt {
        line("MQTT", mqtt.to_string());
    }
    if let Some(grpc) = grpc {
        line("gRPC", grpc.to_string());
    }
    line("HTTP", format!("http://{http}"));
    if let Some(fleet) = fleet {
        line("fleet", fleet.to_string());
    }
    line("data", data.path().display().to_string());
    if let Some(mqtt) = mqtt {
        let port = if mqtt.port() == 1883 { String::new() } else { format!("-p {} ", mqtt.port()) };
        text.push_str(&format!(
            "\nPublish:    mosquitto_pub {port}-t devices/d1/telemetry -m '{{\"temperature\":21.5}}' -q 1"
        ));
    }
    if let Some(grpc) = grpc {
        let server = if grpc.port() == 50051 { String::new() } else { format!(" --server http://{grpc}") };
        text.push_str(&format!("\nRead back:  weir latest d1{server}"));
    }
    remark(&text);
}
