//! Readings as Parquet: one column for each name and type.

use std::fs::File;
use std::sync::Arc;

use anyhow::Context;
use parquet::basic::{Compression, LogicalType, Repetition, TimeUnit, Type as Physical};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, DoubleType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::Type as Schema;
use proto::v1::ReadingChunk;
use proto::v1::column::Values;

use super::columns::{Columns, FIXED, Output, Type, is_present, kind, rows};
use super::spool::Spool;
use crate::client::names;

/// Approximate rows of a row group: a group ends with the chunk that reaches this number.
const GROUP_ROWS: usize = 128 << 10;

pub(super) fn write(file: &File, spool: &mut Spool, columns: &Columns) -> anyhow::Result<()> {
    let outputs = columns.typed();
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_created_by(format!("weir {}", env!("CARGO_PKG_VERSION")))
        .build();
    let mut writer = SerializedFileWriter::new(file, Arc::new(schema(&outputs)?), Arc::new(properties))?;
    let mut group = Group::new(&outputs);
    spool.each(|chunk| {
        group.add(&chunk, &outputs);
        if group.rows() >= GROUP_ROWS {
            std::mem::replace(&mut group, Group::new(&outputs)).write(&mut writer)?;
        }
        Ok(())
    })?;
    if group.rows() > 0 {
        group.write(&mut writer)?;
    }
    writer.close()?;
    Ok(())
}

fn schema(outputs: &[Output]) -> anyhow::Result<Schema> {
    let text = Some(LogicalType::String);
    let instant = Some(LogicalType::timestamp(true, TimeUnit::NANOS));
    let counter = Some(LogicalType::integer(64, false));
    let [device, time, received, seq] = FIXED;
    let mut fields = vec![
        field(device, Physical::BYTE_ARRAY, text.clone(), Repetition::REQUIRED)?,
        field(time, Physical::INT64, instant.clone(), Repetition::REQUIRED)?,
        field(received, Physical::INT64, instant, Repetition::REQUIRED)?,
        field(seq, Physical::INT64, counter, Repetition::OPTIONAL)?,
    ];
    for output in outputs {
        let (physical, logical) = match output.kind {
            Type::Double => (Physical::DOUBLE, None),
            Type::Int => (Physical::INT64, None),
            Type::Bool => (Physical::BOOLEAN, None),
            Type::Text => (Physical::BYTE_ARRAY, text.clone()),
        };
        fields.push(field(&output.name, physical, logical, Repetition::OPTIONAL)?);
    }
    Ok(Schema::group_type_builder("readings").with_fields(fields).build()?)
}

fn field(
    name: &str,
    physical: Physical,
    logical: Option<LogicalType>,
    repetition: Repetition,
) -> anyhow::Result<Arc<Schema>> {
    let field = Schema::primitive_type_builder(name, physical).with_logical_type(logical).with_repetition(repetition);
    Ok(Arc::new(field.build().with_context(|| format!("column {name:?}"))?))
}

/// The values of one optional column: one definition level for each row, and the values present.
#[derive(Debug)]
struct Buffer {
    levels: Vec<i16>,
    values: Data,
}

#[derive(Debug)]
enum Data {
    Double(Vec<f64>),
    Int(Vec<i64>),
    Bool(Vec<bool>),
    Text(Vec<ByteArray>),
}

/// The rows of one row group.
#[derive(Debug)]
struct Group {
    devices: Vec<ByteArray>,
    times: Vec<i64>,
    received: Vec<i64>,
    sequences: Buffer,
    columns: Vec<Buffer>,
}

impl Buffer {
    fn new(kind: Type) -> Self {
        let values = match kind {
            Type::Double => Data::Double(Vec::new()),
            Type::Int => Data::Int(Vec::new()),
            Type::Bool => Data::Bool(Vec::new()),
            Type::Text => Data::Text(Vec::new()),
        };
        Self { levels: Vec::new(), values }
    }
}

impl Group {
    fn new(outputs: &[Output]) -> Self {
        Self {
            devices: Vec::new(),
            times: Vec::new(),
            received: Vec::new(),
            sequences: Buffer::new(Type::Int),
            columns: outputs.iter().map(|output| Buffer::new(output.kind)).collect(),
        }
    }

    fn rows(&self) -> usize {
        self.times.len()
    }

    fn add(&mut self, chunk: &ReadingChunk, outputs: &[Output]) {
        let device = ByteArray::from(names::device_id(&chunk.device).into_bytes());
        for (time, received, seq) in rows(chunk) {
            self.devices.push(device.clone());
            self.times.push(time);
            self.received.push(received);
            self.sequences.levels.push(i16::from(seq.is_some()));
            if let (Some(seq), Data::Int(values)) = (seq, &mut self.sequences.values) {
                // The column's logical type is unsigned: the same 64 bits.
                values.push(seq.cast_signed());
            }
        }
        let count = chunk.time_deltas_nanos.len();
        for (output, buffer) in outputs.iter().zip(&mut self.columns) {
            let column = chunk.columns.iter().find(|c| c.metric == output.metric && kind(c) == Some(output.kind));
            let Some(column) = column else {
                buffer.levels.extend(std::iter::repeat_n(0, count));
                continue;
            };
            buffer.levels.extend((0..count).map(|row| i16::from(is_present(column, row))));
            match (&mut buffer.values, column.values.as_ref()) {
                (Data::Double(values), Some(Values::Doubles(c))) => values.extend(&c.values),
                (Data::Int(values), Some(Values::Ints(c))) => values.extend(&c.values),
                (Data::Bool(values), Some(Values::Bools(c))) => values.extend(&c.values),
                (Data::Text(values), Some(Values::Strings(c))) => {
                    values.extend(c.values.iter().map(|text| ByteArray::from(text.as_str())));
                }
                _ => {}
            }
        }
    }

    fn write(self, writer: &mut SerializedFileWriter<&File>) -> anyhow::Result<()> {
        let mut group = writer.next_row_group()?;
        next::<ByteArrayType>(&mut group, &self.devices, None)?;
        next::<Int64Type>(&mut group, &self.times, None)?;
        next::<Int64Type>(&mut group, &self.received, None)?;
        for buffer in std::iter::once(&self.sequences).chain(&self.columns) {
            let levels = Some(buffer.levels.as_slice());
            match &buffer.values {
                Data::Double(values) => next::<DoubleType>(&mut group, values, levels)?,
                Data::Int(values) => next::<Int64Type>(&mut group, values, levels)?,
                Data::Bool(values) => next::<BoolType>(&mut group, values, levels)?,
                Data::Text(values) => next::<ByteArrayType>(&mut group, values, levels)?,
            }
        }
        group.close()?;
        Ok(())
    }
}

fn next<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, &File>,
    values: &[T::T],
    levels: Option<&[i16]>,
) -> anyhow::Result<()> {
    let mut column = group.next_column()?.context("the schema has as many columns as the group")?;
    column.typed::<T>().write_batch(values, levels, None)?;
    column.close()?;
    Ok(())
}
