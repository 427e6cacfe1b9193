//! The bill of materials: every crate in a program, as CycloneDX 1.5 JSON.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::cargo;

/// Metadata of the workspace for one target.
pub(super) fn metadata(target: &str) -> anyhow::Result<Value> {
    let arguments = ["metadata", "--format-version=1", "--locked", "--filter-platform", target];
    let output = cargo().args(arguments).output().context("cargo metadata")?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).context("output of cargo metadata")
}

/// The bill of a package: linked crates without those for the build and for tests.
pub(super) fn of(package: &str, metadata: &Value, time: &str) -> anyhow::Result<Value> {
    let packages = by_id(&metadata["packages"]);
    let root = packages.iter().find(|(_, p)| p["name"] == package).context("the package is in the workspace")?.0;
    let linked = linked(root, &by_id(&metadata["resolve"]["nodes"]));
    let hashes = hashes(&std::fs::read_to_string("Cargo.lock").context("read Cargo.lock")?);
    let reference = |id: &str| packages.get(id).map(|p| purl(p)).with_context(|| format!("{id} is not a package"));
    let mut components = BTreeMap::new();
    let mut dependencies = BTreeMap::new();
    for (id, uses) in &linked {
        let uses: BTreeSet<String> = uses.iter().map(|used| reference(used)).collect::<anyhow::Result<_>>()?;
        dependencies.insert(reference(id)?, uses);
        if id != root {
            components.insert(reference(id)?, component("library", packages[id], &hashes));
        }
    }
    let dependencies = dependencies.iter().map(|(name, uses)| json!({ "ref": name, "dependsOn": uses }));
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": { "timestamp": time, "component": component("application", packages[root], &hashes) },
        "components": components.values().collect::<Vec<_>>(),
        "dependencies": dependencies.collect::<Vec<_>>(),
    }))
}

fn by_id(list: &Value) -> BTreeMap<&str, &Value> {
    let items = list.as_array().into_iter().flatten();
    items.filter_map(|item| Some((item["id"].as_str()?, item))).collect()
}

/// All dependencies of a package, each with its own dependencies.
fn linked<'a>(root: &'a str, nodes: &BTreeMap<&'a str, &'a Value>) -> BTreeMap<&'a str, Vec<&'a str>> {
    let normal = |dependency: &&Value| {
        let kinds = dependency["dep_kinds"].as_array();
        kinds.is_some_and(|kinds| kinds.iter().any(|kind| kind["kind"].is_null()))
    };
    let mut found = BTreeMap::new();
    let mut open = vec![root];
    while let Some(id) = open.pop() {
        if found.contains_key(id) {
            continue;
        }
        let dependencies = nodes.get(id).and_then(|node| node["deps"].as_array()).into_iter().flatten();
        let uses: Vec<&str> = dependencies.filter(normal).filter_map(|d| d["pkg"].as_str()).collect();
        open.extend(&uses);
        found.insert(id, uses);
    }
    found
}

fn purl(package: &Value) -> String {
    let text = |key: &str| package[key].as_str().unwrap_or_default().replace('+', "%2B");
    format!("pkg:cargo/{}@{}", text("name"), text("version"))
}

fn component(kind: &str, package: &Value, hashes: &BTreeMap<String, String>) -> Value {
    let purl = purl(package);
    let mut component = json!({
        "type": kind, "bom-ref": purl, "name": package["name"], "version": package["version"], "purl": purl,
    });
    if let Some(license) = package["license"].as_str() {
        // An older syntax of alternatives.
        component["licenses"] = json!([{ "expression": license.replace('/', " OR ") }]);
    }
    if let Some(repository) = package["repository"].as_str() {
        component["externalReferences"] = json!([{ "type": "vcs", "url": repository }]);
    }
    if let Some(hash) = hashes.get(&purl) {
        component["hashes"] = json!([{ "alg": "SHA-256", "content": hash }]);
    }
    component
}

/// The checksums of Cargo.lock.
fn hashes(lock: &str) -> BTreeMap<String, String> {
    let mut hashes = BTreeMap::new();
    for block in lock.split("[[package]]").skip(1) {
        let field = |name: &str| {
            let line = block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = \""));
            line.and_then(|value| value.strip_suffix('"'))
        };
        if let (Some(name), Some(version), Some(hash)) = (field("name"), field("version"), field("checksum")) {
            hashes.insert(purl(&json!({ "name": name, "version": version })), hash.to_owned());
        }
    }
    hashes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: &str, uses: &[(&str, Value)]) -> Value {
        let uses = uses.iter().map(|(pkg, kind)| json!({ "pkg": pkg, "dep_kinds": [{ "kind": kind }] }));
        json!({ "id": id, "deps": uses.collect::<Vec<_>>() })
    }

    #[test]
    fn tools_of_the_build_and_of_tests_are_no_part_of_the_program() {
        let nodes = json!([
            node("root", &[("a", Value::Null), ("tests", json!("dev")), ("build", json!("build"))]),
            node("a", &[("b", Value::Null)]),
            node("b", &[("a", Value::Null)]),
        ]);
        let linked = linked("root", &by_id(&nodes));
        assert_eq!(linked.keys().copied().collect::<Vec<_>>(), ["a", "b", "root"]);
        assert_eq!(linked["root"], ["a"]);
    }

    #[test]
    fn checksums_come_from_the_lock_file() {
        let lock = "[[package]]\nname = \"a\"\nversion = \"1.0.0+x\"\nsource = \"s\"\nchecksum = \"ff\"\n\n[[package]]\nname = \"own\"\n";
        assert_eq!(hashes(lock), BTreeMap::from([("pkg:cargo/a@1.0.0%2Bx".to_owned(), "ff".to_owned())]));
    }
}
