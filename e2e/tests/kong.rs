//! The configuration for Kong: it parses, has every gRPC service, and lets no call past the checks.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};
use prost::Message;
use serde_json::Value;
use weir_e2e::checked;
use weir_e2e::services::find;

/// Services of the port that the descriptors of Weir do not have.
const REFLECTION: [&str; 2] = ["/grpc.reflection.v1.ServerReflection/", "/grpc.reflection.v1alpha.ServerReflection/"];
const HEALTH: &str = "/grpc.health.v1.Health/";

fn file() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kong/kong.yml")
}

fn configuration() -> anyhow::Result<Value> {
    let text = std::fs::read_to_string(file())?;
    serde_saphyr::from_str(&text).context("deploy/kong/kong.yml")
}

/// Routes, each with its service.
fn routes(configuration: &Value) -> Vec<(&Value, &Value)> {
    let services = configuration["services"].as_array().into_iter().flatten();
    services
        .flat_map(|service| service["routes"].as_array().into_iter().flatten().map(move |route| (service, route)))
        .collect()
}

fn texts(value: &Value) -> BTreeSet<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn plugin<'a>(route: &'a Value, name: &str) -> Option<&'a Value> {
    route["plugins"].as_array()?.iter().find(|plugin| plugin["name"] == name).map(|plugin| &plugin["config"])
}

/// Path prefixes of the services in the descriptors.
fn services() -> anyhow::Result<BTreeSet<String>> {
    let files = prost_types::FileDescriptorSet::decode(proto::FILE_DESCRIPTOR_SET)?.file;
    let of = |file: prost_types::FileDescriptorProto| {
        let package = file.package().to_owned();
        file.service.into_iter().map(move |service| format!("/{package}.{}/", service.name()))
    };
    Ok(files.into_iter().flat_map(of).collect())
}

#[test]
fn every_service_has_its_path_on_each_route_of_calls() -> anyhow::Result<()> {
    let (configuration, services) = (configuration()?, services()?);
    ensure!(configuration["_format_version"] == "3.0" && services.len() >= 8, "{services:?}");
    let wanted: BTreeSet<&str> = services.iter().map(String::as_str).chain(REFLECTION).collect();
    let mut found = 0;
    for (_, route) in routes(&configuration) {
        let paths = texts(&route["paths"]);
        if paths.iter().any(|path| path.starts_with("/weir.")) {
            found += 1;
            let lacking: Vec<_> = wanted.symmetric_difference(&paths).collect();
            ensure!(lacking.is_empty(), "{}: {lacking:?} is missing, or no service", route["name"]);
        }
    }
    ensure!(found == 4, "tokens and API keys over gRPC, tokens and preflights over gRPC-Web, not {found} routes");
    Ok(())
}

#[test]
fn no_route_leads_past_a_credential_or_without_limit_or_tls() -> anyhow::Result<()> {
    let configuration = configuration()?;
    for (service, route) in routes(&configuration) {
        let name = &route["name"];
        let protocols = texts(&route["protocols"]);
        let grpc = service["protocol"] == "grpc";
        ensure!(protocols == BTreeSet::from([if grpc { "grpcs" } else { "https" }]), "{name}: {protocols:?}");
        ensure!(route["strip_path"] == false, "{name}: calls keep their path");
        let limit = plugin(route, "rate-limiting").with_context(|| format!("{name} has no limit"))?;
        ensure!(limit["second"].as_u64() <= limit["minute"].as_u64() && limit["policy"] == "local", "{name}: {limit}");

        let methods = texts(&route["methods"]);
        let header = texts(&route["headers"]["authorization"]);
        let checked_by_weir = header.iter().all(|value| value.contains("weir_")) && !header.is_empty();
        let open = match service["name"].as_str() {
            Some("weir-http") => texts(&route["paths"]) == BTreeSet::from(["~/health/live$"]),
            _ => texts(&route["paths"]) == BTreeSet::from([HEALTH]) || methods == BTreeSet::from(["OPTIONS"]),
        };
        let jwt = plugin(route, "jwt");
        ensure!(open || checked_by_weir || jwt.is_some(), "{name} needs a credential");
        if let Some(jwt) = jwt {
            ensure!(texts(&jwt["header_names"]) == BTreeSet::from(["authorization"]), "{name}: {jwt}");
            // Without these keys Kong takes tokens from addresses.
            let elsewhere = [&jwt["uri_param_names"], &jwt["cookie_names"]];
            ensure!(elsewhere.iter().all(|names| names.as_array().is_some_and(Vec::is_empty)), "{name}: {jwt}");
            ensure!(texts(&jwt["claims_to_verify"]).contains("exp"), "{name}: {jwt}");
            ensure!(jwt["maximum_expiration"].as_u64().is_some_and(|secs| secs <= 86_400), "{name}: {jwt}");
        }
    }
    let secrets = configuration["consumers"].as_array().into_iter().flatten();
    let keys: Vec<_> = secrets.flat_map(|consumer| consumer["jwt_secrets"].as_array().into_iter().flatten()).collect();
    ensure!(!keys.is_empty(), "an example of an issuer");
    for key in keys {
        // A key of HS256 would be a secret that Kong shares with the issuer.
        ensure!(["ES256", "EdDSA", "RS256", "PS256"].iter().any(|a| key["algorithm"] == *a), "{key}");
        ensure!(key["rsa_public_key"].as_str().is_some_and(|pem| pem.starts_with("-----BEGIN PUBLIC KEY-----")));
    }
    Ok(())
}

#[test]
fn kong_itself_takes_the_configuration() -> anyhow::Result<()> {
    let Ok(kong) = find("kong") else {
        println!("NOT RUN: kong is not in PATH; .github/workflows/ci.yml runs it");
        return Ok(());
    };
    let mut parse = Command::new(kong);
    let output = parse.args(["config", "parse"]).arg(file()).env("KONG_DATABASE", "off").output()?;
    checked("kong config parse", output).map(drop)
}
