//! Readings as comma-separated values: one column for each name, whichever types it has.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufWriter;

use proto::v1::column::Values;
use proto::v1::{Column, ReadingChunk};

use super::columns::{Columns, FIXED, is_present, rows};
use super::spool::Spool;
use crate::client::output::csv_text;
use crate::client::{names, time};

pub(super) fn write(file: &File, spool: &mut Spool, columns: &Columns) -> anyhow::Result<()> {
    let mut writer = csv::Writer::from_writer(BufWriter::new(file));
    let metrics = columns.metrics().map(|name| csv_text(name.to_owned()));
    writer.write_record(FIXED.into_iter().map(str::to_owned).chain(metrics))?;
    let places: BTreeMap<&str, usize> = columns.metrics().enumerate().map(|(place, name)| (name, place)).collect();
    spool.each(|chunk| write_chunk(&mut writer, &chunk, &places))?;
    writer.flush()?;
    Ok(())
}

fn write_chunk<W: std::io::Write>(
    writer: &mut csv::Writer<W>,
    chunk: &ReadingChunk,
    places: &BTreeMap<&str, usize>,
) -> anyhow::Result<()> {
    let device = csv_text(names::device_id(&chunk.device));
    let mut next = vec![0; chunk.columns.len()];
    for (row, (measured, received, seq)) in rows(chunk).enumerate() {
        let mut fields = vec![String::new(); places.len()];
        for (column, next) in chunk.columns.iter().zip(&mut next) {
            if is_present(column, row) {
                if let (Some(place), Some(text)) = (places.get(column.metric.as_str()), text(column, *next)) {
                    fields[*place] = text;
                }
                *next += 1;
            }
        }
        let fixed = [
            device.clone(),
            time::show(measured),
            time::show(received),
            seq.map(|s| s.to_string()).unwrap_or_default(),
        ];
        writer.write_record(fixed.into_iter().chain(fields))?;
    }
    Ok(())
}

fn text(column: &Column, index: usize) -> Option<String> {
    match column.values.as_ref()? {
        // With a decimal point, so that a floating point number stays one.
        Values::Doubles(c) => c.values.get(index).map(|v| format!("{v:?}")),
        Values::Ints(c) => c.values.get(index).map(ToString::to_string),
        Values::Bools(c) => c.values.get(index).map(ToString::to_string),
        Values::Strings(c) => c.values.get(index).cloned().map(csv_text),
    }
}
