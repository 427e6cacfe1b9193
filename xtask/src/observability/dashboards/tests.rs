use serde_json::json;

use super::{Dashboard, faults};

fn board(change: impl FnOnce(&mut serde_json::Value)) -> Vec<String> {
    let source = json!({ "type": "prometheus", "uid": "weir-prometheus" });
    let panel = |id: u64, x: u64| {
        json!({
            "id": id, "type": "timeseries", "title": "Connections", "description": "Connected now.", "datasource": source,
            "gridPos": { "x": x, "y": 1, "w": 12, "h": 8 },
            "fieldConfig": { "defaults": { "unit": "none" } },
            "targets": [{ "refId": "A", "datasource": source, "expr": "sum(up{instance=~\"$node\"})" }],
        })
    };
    let mut json = json!({
        "uid": "test", "title": "Test", "description": "A test.",
        "templating": { "list": [
            { "name": "node", "type": "query", "datasource": source, "query": "label_values(up, instance)" },
        ] },
        "panels": [
            { "id": 1, "type": "row", "title": "Now", "gridPos": { "x": 0, "y": 0, "w": 24, "h": 1 } },
            panel(2, 0),
            panel(3, 12),
        ],
    });
    change(&mut json);
    faults(&Dashboard { file: "test.json".into(), json })
}

fn one(expected: &str, change: impl FnOnce(&mut serde_json::Value)) {
    let faults = board(change);
    assert!(faults.len() == 1 && faults[0].contains(expected), "{expected}: {faults:?}");
}

#[test]
fn a_sound_dashboard_has_no_faults() {
    assert_eq!(board(|_| {}), Vec::<String>::new());
}

#[test]
fn every_kind_of_fault_is_found() {
    one("no description", |b| b["description"] = json!(""));
    one("there twice", |b| b["panels"][2]["id"] = json!(2));
    one("has no unit", |b| drop(b["panels"][1]["fieldConfig"].take()));
    one("has no description", |b| drop(b["panels"][1]["description"].take()));
    one("lies over another", |b| b["panels"][2]["gridPos"]["x"] = json!(11));
    one("outside of the 24 columns", |b| b["panels"][2]["gridPos"]["w"] = json!(13));
    one("asks nothing", |b| b["panels"][1]["targets"] = json!([]));
    one("asks another source", |b| b["panels"][1]["targets"][0]["datasource"]["uid"] = json!("other"));
    one("has an empty query", |b| b["panels"][1]["targets"][0]["expr"] = json!(" "));
    one("the variable site is not defined", |b| b["panels"][1]["title"] = json!("Connections of $site"));
    one("two with the same", |b| {
        let targets = b["panels"][1]["targets"].as_array_mut().unwrap();
        targets.push(targets[0].clone());
    });
    one("the variable node is not used", |b| {
        for panel in [1, 2] {
            b["panels"][panel]["targets"][0]["expr"] = json!("up");
        }
    });
    one("is not provisioned", |b| b["templating"]["list"][0]["datasource"]["uid"] = json!("elsewhere"));
}
