//! Reads a run directly from MongoDB: the documents of the collection `blocks`, as
//! docs/guides/mongodb.md describes them.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, bail};
use model::{Nanos, Value};
use mongodb::bson::{Bson, Document, doc};
use mongodb::{Client, Collection};

use super::compare::{Stored, check_device};
use super::findings::StoreReport;
use crate::ledger::Ledger;
use crate::plan::Device;

const TENANT: &str = "default";

/// The history in MongoDB.
#[derive(Debug, Clone)]
pub struct Mongo {
    blocks: Collection<Document>,
}

impl Mongo {
    /// Uses `mongodb://…`; the database is that of the path, or `weir`.
    ///
    /// # Errors
    /// When the address is invalid. The first query connects.
    pub async fn connect(uri: &str) -> anyhow::Result<Self> {
        let client = Client::with_uri_str(uri).await?;
        let database = client.default_database().unwrap_or_else(|| client.database("weir"));
        Ok(Self { blocks: database.collection("blocks") })
    }

    /// Compares the history of all devices.
    ///
    /// # Errors
    /// When the server does not respond, or a document does not have Weir's format.
    pub async fn check(&self, ledger: &Ledger, devices: &[Device]) -> anyhow::Result<StoreReport> {
        let mut report = StoreReport::new("mongodb");
        for device in devices {
            let rows = self.readings(device, ledger.header.start).await;
            check_device(&mut report, ledger, device, &rows.with_context(|| format!("device {}", device.id))?);
        }
        Ok(report)
    }

    async fn readings(&self, device: &Device, start: Nanos) -> anyhow::Result<Vec<Stored>> {
        let mut cursor = self.blocks.find(doc! { "w": TENANT, "d": &*device.id }).await?;
        let mut all = Vec::new();
        while cursor.advance().await? {
            let document: Document = cursor.deserialize_current()?;
            rows(&document, start, &mut all).with_context(|| format!("block {:?}", document.get("_id")))?;
        }
        Ok(all)
    }
}

/// The readings of a block that were received since `start`.
fn rows(block: &Document, start: Nanos, out: &mut Vec<Stored>) -> anyhow::Result<()> {
    let (times, received) = (block.get_array("t")?, block.get_array("r")?);
    let (sequences, claimed) = (block.get_array("s").ok(), block.get_array("c").ok());
    let mut columns = BTreeMap::new();
    for (field, column) in block.get_document("v")? {
        let column = column.as_array().with_context(|| format!("{field} is not a column"))?;
        columns.entry(name(field)).or_insert_with(Vec::new).push(column);
    }
    for (row, time) in times.iter().enumerate() {
        if received.get(row).and_then(Bson::as_i64).context("a receive time")? < start {
            continue;
        }
        let at = |column: Option<&Vec<Bson>>| column.and_then(|c| c.get(row)).and_then(Bson::as_i64);
        let mut values = Vec::new();
        for (name, parts) in &columns {
            for part in parts {
                match part.get(row).with_context(|| format!("{name} is shorter than its block"))? {
                    Bson::Null => {}
                    found => values.push((Arc::from(name.as_str()), value(found)?)),
                }
            }
        }
        out.push(Stored {
            time: time.as_i64().context("a time")?,
            claimed: at(claimed),
            sequence: at(sequences).map(i64::cast_unsigned),
            values,
        });
    }
    Ok(())
}

fn value(found: &Bson) -> anyhow::Result<Value> {
    Ok(match found {
        Bson::Double(v) => Value::Float(*v),
        Bson::Int64(v) => Value::Int(*v),
        Bson::Boolean(v) => Value::Bool(*v),
        Bson::String(v) => Value::Str(v.as_str().into()),
        other => bail!("{other} is not a value"),
    })
}

/// Restores a name: dots and dollar signs are stored in their wide forms; `％` precedes a character
/// that was wide itself, or the type of the column.
fn name(field: &str) -> String {
    let mut name = String::new();
    let mut chars = field.chars();
    while let Some(c) = chars.next() {
        match c {
            '．' => name.push('.'),
            '＄' => name.push('$'),
            '％' => match chars.next() {
                Some('d') => name.push('．'),
                Some('s') => name.push('＄'),
                Some('0') => name.push('\0'),
                Some('％') => name.push('％'),
                _ => {}
            },
            c => name.push(c),
        }
    }
    name
}
