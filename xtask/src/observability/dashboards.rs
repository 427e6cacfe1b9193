//! Reads dashboards and finds faults in their files.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Context;
use serde_json::Value;

pub(super) struct Dashboard {
    pub(super) file: String,
    pub(super) json: Value,
}

/// A query of a dashboard.
#[derive(Debug, Clone)]
pub(super) struct Query {
    /// Origin of the query: the file and the panel's title, or the variable.
    pub(super) from: String,
    /// `prometheus` or `influxdb`.
    pub(super) source: String,
    /// Expression with Grafana's variables.
    pub(super) text: String,
    /// True when a panel is empty without a result.
    pub(super) panel: bool,
}

/// All dashboards of a folder.
pub(super) fn read(dir: &Path) -> anyhow::Result<Vec<Dashboard>> {
    let mut boards = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
        let path = entry?.path();
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let json = serde_json::from_str(&text).with_context(|| format!("{} is not JSON", path.display()))?;
        boards.push(Dashboard { file: path.file_name().unwrap_or_default().to_string_lossy().into_owned(), json });
    }
    anyhow::ensure!(!boards.is_empty(), "{} has no dashboards", dir.display());
    boards.sort_by(|a, b| a.file.cmp(&b.file));
    Ok(boards)
}

impl Dashboard {
    fn list(&self, pointer: &str) -> &[Value] {
        self.json.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    fn panels(&self) -> &[Value] {
        self.list("/panels")
    }

    /// All queries of the dashboard.
    pub(super) fn queries(&self) -> Vec<Query> {
        let mut queries = Vec::new();
        for panel in self.panels() {
            for target in panel["targets"].as_array().into_iter().flatten() {
                let text = text(&target["expr"]).or_else(|| text(&target["query"])).unwrap_or_default();
                queries.push(self.query(&panel["title"], target, text, true));
            }
        }
        for variable in self.list("/templating/list").iter().filter(|v| v["type"] == "query") {
            let text = text(&variable["query"]["query"]).or_else(|| text(&variable["query"])).unwrap_or_default();
            queries.push(self.query(&variable["name"], variable, text, false));
        }
        for annotation in self.list("/annotations/list") {
            let text = text(&annotation["expr"]).unwrap_or_default();
            queries.push(self.query(&annotation["name"], annotation, text, false));
        }
        queries
    }

    fn query(&self, who: &Value, holder: &Value, text: &str, panel: bool) -> Query {
        Query {
            from: format!("{}: {}", self.file, who.as_str().unwrap_or("(no name)")),
            source: holder["datasource"]["type"].as_str().unwrap_or_default().to_owned(),
            text: text.to_owned(),
            panel,
        }
    }
}

fn text(value: &Value) -> Option<&str> {
    value.as_str()
}

/// Data sources of deploy/grafana/provisioning/datasources.
const SOURCES: [(&str, &str); 2] = [("prometheus", "weir-prometheus"), ("influxdb", "weir-influxdb")];

/// Built-in variables of Grafana.
const BUILT_IN: [&str; 4] = ["__rate_interval", "__interval", "__range", "__from"];

/// Columns of a dashboard.
const COLUMNS: u64 = 24;

/// Faults of a dashboard.
pub(super) fn faults(board: &Dashboard) -> Vec<String> {
    let mut faults = Vec::new();
    for key in ["uid", "title", "description"] {
        if text(&board.json[key]).is_none_or(str::is_empty) {
            faults.push(format!("it has no {key}"));
        }
    }
    ids(board, &mut faults);
    for panel in board.panels() {
        let title = text(&panel["title"]).unwrap_or_default();
        faults.extend(panel_faults(panel).into_iter().map(|fault| format!("panel {} {title:?} {fault}", panel["id"])));
    }
    sources(board, &mut faults);
    overlaps(board.panels(), &mut faults);
    variables(board, &mut faults);
    faults.into_iter().map(|fault| format!("{}: {fault}", board.file)).collect()
}

fn ids(board: &Dashboard, faults: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for panel in board.panels() {
        match panel["id"].as_u64() {
            Some(id) if seen.insert(id) => {}
            id => faults.push(format!("the panel id {id:?} is missing or there twice")),
        }
    }
}

fn panel_faults(panel: &Value) -> Vec<&'static str> {
    let mut faults = Vec::new();
    if text(&panel["title"]).is_none_or(str::is_empty) {
        faults.push("has no title");
    }
    if panel["type"] == "row" {
        return faults;
    }
    if text(&panel["description"]).is_none_or(str::is_empty) {
        faults.push("has no description");
    }
    let unit = if panel["type"] == "heatmap" { "/options/yAxis/unit" } else { "/fieldConfig/defaults/unit" };
    if panel.pointer(unit).and_then(Value::as_str).is_none_or(str::is_empty) {
        faults.push("has no unit");
    }
    let targets = panel["targets"].as_array().map_or(&[][..], Vec::as_slice);
    if targets.is_empty() {
        faults.push("asks nothing");
    }
    let references: BTreeSet<_> = targets.iter().filter_map(|target| text(&target["refId"])).collect();
    if references.len() != targets.len() {
        faults.push("has a query without a refId, or two with the same");
    }
    if targets.iter().any(|target| target["datasource"] != panel["datasource"]) {
        faults.push("asks another source than it names");
    }
    faults
}

fn sources(board: &Dashboard, faults: &mut Vec<String>) {
    let holders = board.panels().iter().filter(|panel| panel["type"] != "row");
    let holders = holders.chain(board.list("/templating/list")).chain(board.list("/annotations/list"));
    for holder in holders {
        let source = (text(&holder["datasource"]["type"]), text(&holder["datasource"]["uid"]));
        if !SOURCES.iter().any(|(kind, uid)| source == (Some(*kind), Some(*uid))) {
            let name = text(&holder["title"]).or_else(|| text(&holder["name"])).unwrap_or_default();
            faults.push(format!("{name:?} names a source that is not provisioned: {}", holder["datasource"]));
        }
    }
    for query in board.queries().iter().filter(|query| query.text.trim().is_empty()) {
        faults.push(format!("{:?} has an empty query", query.from));
    }
}

fn overlaps(panels: &[Value], faults: &mut Vec<String>) {
    let place = |panel: &Value| ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64());
    let mut taken: BTreeSet<(u64, u64)> = BTreeSet::new();
    for panel in panels {
        let [Some(x), Some(y), Some(w), Some(h)] = place(panel) else {
            faults.push(format!("panel {} has no place", panel["id"]));
            continue;
        };
        if w == 0 || h == 0 || x + w > COLUMNS {
            faults.push(format!("panel {} lies outside of the {COLUMNS} columns", panel["id"]));
        }
        let fresh = (x..x + w).flat_map(|column| (y..y + h).map(move |line| (column, line)));
        if fresh.filter(|cell| !taken.insert(*cell)).count() > 0 {
            faults.push(format!("panel {} lies over another", panel["id"]));
        }
    }
}

/// Checks that every variable is used, and that every used variable exists.
fn variables(board: &Dashboard, faults: &mut Vec<String>) {
    let mut defined = BTreeSet::new();
    for variable in board.list("/templating/list") {
        let name = text(&variable["name"]).unwrap_or_default().to_owned();
        if !defined.insert(name.clone()) {
            faults.push(format!("the variable {name} is there twice"));
        }
    }
    let mut used = BTreeSet::new();
    for query in board.queries() {
        used.extend(references(&query.text));
    }
    for panel in board.panels() {
        used.extend(references(text(&panel["title"]).unwrap_or_default()));
        used.extend(text(&panel["repeat"]).map(str::to_owned));
    }
    let known = |name: &String| defined.contains(name) || BUILT_IN.contains(&name.as_str());
    faults.extend(used.iter().filter(|name| !known(name)).map(|name| format!("the variable {name} is not defined")));
    faults.extend(defined.difference(&used).map(|name| format!("the variable {name} is not used")));
}

/// Names in `$name`, `${name}` and `${name:format}`. A `$` at the end of a regular expression is
/// not a variable.
fn references(text: &str) -> Vec<String> {
    text.split('$')
        .skip(1)
        .map(|rest| rest.strip_prefix('{').unwrap_or(rest))
        .map(|rest| rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect::<String>())
        .filter(|name| !name.is_empty())
        .collect()
}

#[cfg(test)]
mod tests;
