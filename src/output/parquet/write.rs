// SPDX-License-Identifier: Apache-2.0
//! A log becomes a Parquet file. The end of a connection goes into the row of its beginning, if
//! both are in one row group and say the same of it.

use std::io::BufRead;
use std::io::Write;
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;
use parquet::basic::Compression;
use parquet::basic::Encoding;
use parquet::basic::LogicalType;
use parquet::basic::Repetition;
use parquet::basic::TimeUnit;
use parquet::basic::Type as Physical;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::EnabledStatistics;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::ColumnPath;
use parquet::schema::types::Type;
use serde::Deserialize;

use super::Group;
use super::Mark;
use super::NOTES;
use super::NOTES_SUM;
use super::Notes;
use super::SCHEMA;
use super::checksum;
use super::columns::COLUMNS;
use super::columns::DADDR;
use super::columns::Kind;
use super::columns::Record;
use super::columns::TIME;
use super::is_mark;
use super::known::PartId;
use super::known::split;
use super::piece::Piece;
use super::rows::Rows;
use super::sum_of_columns;
use crate::output::json::fields::Fields;
use crate::output::json::fields::Text;
use crate::output::json::fields::When;
use crate::output::json::lines::Lines;
use crate::output::json::read::is_lost;

/// Rows of a group, and bytes of text that they may hold: who reads it holds as much.
pub(super) const MAX_ROWS: usize = 32_768;
pub(super) const MAX_TEXT: usize = 32 << 20;
/// Bytes of marks in a footer, which is read whole.
const MAX_MARKS: usize = 1 << 20;

/// Writes `log` to `to`, each group at once. The error says why it has to stay a log, or what
/// went wrong; what was written until then is no file.
pub fn write(log: &mut impl BufRead, to: &mut impl Write) -> Result<()> {
    let mut writer = Writer::new(to)?;
    let mut lines = Lines::new(log);
    let mut number = 0;
    while let Some(line) = lines.read()? {
        let Ok(line) = line else { bail!("a line is too long") };
        match std::str::from_utf8(line) {
            Ok(text) if text.trim_ascii().is_empty() => {}
            Ok(text) => writer.add(text, number)?,
            Err(_) => writer.notes.damaged += 1,
        }
        number += 1;
    }
    writer.finish()
}

struct Writer<'a, W> {
    file: SerializedFileWriter<Piece>,
    to: &'a mut W,
    written: u64,
    rows: Rows,
    notes: Notes,
    marks: usize,
    /// Of the group that is being made.
    times: Option<Group>,
    last: Option<u64>,
    boot_id: String,
    /// Of the line that is read, without the part that others have, too.
    object: String,
}

impl<'a, W: Write> Writer<'a, W> {
    fn new(to: &'a mut W) -> Result<Self> {
        let file = SerializedFileWriter::new(Piece::default(), schema()?, Arc::new(properties()))?;
        Ok(Writer {
            file,
            to,
            written: 0,
            rows: Rows::new(),
            notes: Notes { schema: SCHEMA, ..Notes::default() },
            marks: 0,
            times: None,
            last: None,
            boot_id: String::new(),
            object: String::new(),
        })
    }

    fn add(&mut self, text: &str, line: u32) -> Result<()> {
        let mut object = std::mem::take(&mut self.object);
        let added = self.add_line(text, line, &mut object);
        self.object = object;
        added
    }

    fn add_line(&mut self, text: &str, line: u32, object: &mut String) -> Result<()> {
        let is_lost = is_lost(text);
        let read = match is_lost {
            // Its fields have other types.
            Ok(true) => serde_json::from_str(text).ok().map(|lost: Times| (lost.fields(), None)),
            _ => self.read(text, object)?,
        };
        let Some((fields, part)) = read else {
            self.notes.damaged += 1;
            return Ok(());
        };
        // By it rows are looked for: one that has none is found by nobody.
        if fields.daddr.as_deref().is_some_and(|text| text.parse::<IpAddr>().is_err()) {
            self.notes.damaged += 1;
            return Ok(());
        }
        let event = &*fields.event;
        if !is_known(event) {
            bail!("it has lines of a kind that this version does not know");
        }
        let micros = fields.time.0 / 1000;
        if is_mark(event) {
            self.mark(&fields, line, text)?;
        }
        let lost = is_lost.is_ok_and(|lost| lost).then_some(text);
        let boot_id = Some(&*self.boot_id);
        let record = Record { fields, line, boot_id, lost, ..Record::default() };
        if !self.rows.add(&record, part)? {
            self.notes.damaged += 1;
            return Ok(());
        }
        self.note(micros, line);
        if self.rows.count() >= MAX_ROWS || self.rows.text() >= MAX_TEXT {
            self.end_group()?;
        }
        Ok(())
    }

    /// What a line says, but for the part that others have, too. `None`: it is damaged.
    fn read<'t>(
        &mut self,
        text: &'t str,
        object: &'t mut String,
    ) -> Result<Option<(Fields<'t>, Option<PartId>)>> {
        if let Some(part) = split(text, object)
            && let Some(part) = self.rows.part(part)?
            && let Ok(fields) = serde_json::from_str(object)
        {
            return Ok(Some((fields, Some(part))));
        }
        Ok(serde_json::from_str(text).ok().map(|fields| (fields, None)))
    }

    fn mark(&mut self, fields: &Fields, line: u32, text: &str) -> Result<()> {
        self.marks += text.len();
        if self.marks > MAX_MARKS {
            bail!("it tells of too many losses");
        }
        self.notes.marks.push(Mark { line, after: self.last, text: text.to_owned() });
        if &*fields.event == "start" {
            self.start(fields)?;
        }
        Ok(())
    }

    /// Whoever sees the file alone is told whose it is.
    fn start(&mut self, fields: &Fields) -> Result<()> {
        if !self.boot_id.is_empty() {
            bail!("it has two beginnings");
        }
        let own = version(env!("CARGO_PKG_VERSION"));
        if fields.version.as_deref().is_none_or(|text| version(text) > own) {
            bail!("a later version has written it");
        }
        self.boot_id = fields.boot_id.as_deref().context("it does not say its boot")?.to_owned();
        let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
        for (key, value) in [
            ("schema", SCHEMA.to_string()),
            ("version", text(fields.version.as_deref())),
            ("host", text(fields.host.as_deref())),
            ("boot_id", self.boot_id.clone()),
            ("run", text(fields.run.as_deref())),
            ("options", text(fields.options.map(|list| list.0))),
            ("record_args", text(fields.record_args.as_deref())),
        ] {
            self.file.append_key_value_metadata(KeyValue::new(key.to_owned(), value));
        }
        Ok(())
    }

    fn note(&mut self, micros: u64, line: u32) {
        self.last = Some(micros);
        let times = self.times.get_or_insert(Group {
            first: micros,
            last: micros,
            min: micros,
            max: micros,
            offset: 0,
            len: 0,
            filter: 0,
            sum: 0,
            filter_sum: 0,
            columns_sum: 0,
            line,
        });
        times.last = micros;
        times.min = times.min.min(micros);
        times.max = times.max.max(micros);
    }

    fn end_group(&mut self) -> Result<()> {
        let Some(times) = self.times.take() else { return Ok(()) };
        let mut group = self.file.next_row_group()?;
        self.rows.write(&mut group)?;
        group.close()?;
        self.rows = Rows::new();
        let group = self.file.flushed_row_groups().last().context("a group is missing")?;
        let columns_sum = sum_of_columns(group);
        let filter =
            group.column(DADDR).bloom_filter_offset().and_then(|at| u64::try_from(at).ok());
        let offset = self.written;
        let bytes = self.take_written()?;
        let len = bytes.len() as u64;
        let filter = filter.and_then(|at| at.checked_sub(offset)).unwrap_or(len);
        let (data, rest) = bytes.split_at(usize::try_from(filter)?.min(bytes.len()));
        let (sum, filter_sum) = (checksum(data), checksum(rest));
        self.notes.groups.push(Group {
            offset,
            len,
            filter,
            sum,
            filter_sum,
            columns_sum,
            ..times
        });
        self.to.write_all(&bytes)?;
        Ok(())
    }

    fn take_written(&mut self) -> Result<Vec<u8>> {
        self.file.flush()?;
        let bytes = std::mem::take(&mut self.file.inner_mut().0);
        self.written += bytes.len() as u64;
        Ok(bytes)
    }

    fn finish(mut self) -> Result<()> {
        if self.boot_id.is_empty() {
            bail!("it does not say whose it is");
        }
        self.end_group()?;
        let notes = serde_json::to_string(&self.notes)?;
        for (key, value) in [(NOTES_SUM, checksum(notes.as_bytes()).to_string()), (NOTES, notes)] {
            self.file.append_key_value_metadata(KeyValue::new(key.to_owned(), value));
        }
        self.file.finish()?;
        let bytes = self.take_written()?;
        self.to.write_all(&bytes)?;
        Ok(())
    }
}

/// What a line of losses has in common with others.
#[derive(Deserialize)]
struct Times<'a> {
    #[serde(borrow)]
    event: Text<'a>,
    time: When,
}

impl<'a> Times<'a> {
    fn fields(self) -> Fields<'a> {
        Fields { event: self.event, time: self.time, ..Fields::default() }
    }
}

/// Three numbers.
fn version(text: &str) -> Vec<u32> {
    text.split(['.', '-', '+']).map_while(|part| part.parse().ok()).collect()
}

/// What a tracer records. Others, as of a later version, would be lost here.
fn is_known(event: &str) -> bool {
    const CONNECTIONS: [&str; 5] = ["connect", "accept", "existing", "result", "close"];
    const PROCESSES: [&str; 9] =
        ["fork", "exec", "comm", "exit", "uid", "gid", "sid", "ptrace", "coredump"];
    is_mark(event) || event == "alive" || CONNECTIONS.contains(&event) || PROCESSES.contains(&event)
}

fn schema() -> Result<Arc<Type>> {
    let columns = COLUMNS.iter().map(|column| {
        let (physical, logical) = types(column.kind);
        let repetition = match column.required {
            true => Repetition::REQUIRED,
            false => Repetition::OPTIONAL,
        };
        let column = Type::primitive_type_builder(column.name, physical)
            .with_logical_type(logical)
            .with_repetition(repetition);
        Ok(Arc::new(column.build()?))
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    Ok(Arc::new(Type::group_type_builder("tcpconnect").with_fields(columns).build()?))
}

fn types(kind: Kind) -> (Physical, Option<LogicalType>) {
    let unsigned = |bits| Some(LogicalType::integer(bits, false));
    match kind {
        Kind::Text | Kind::Key => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
        Kind::U8 => (Physical::INT32, unsigned(8)),
        Kind::U16 => (Physical::INT32, unsigned(16)),
        Kind::U32 => (Physical::INT32, unsigned(32)),
        Kind::I64 => (Physical::INT64, None),
        Kind::F64 => (Physical::DOUBLE, None),
        Kind::Bool => (Physical::BOOLEAN, None),
        Kind::Time => (Physical::INT64, Some(LogicalType::timestamp(true, TimeUnit::MICROS))),
    }
}

/// One page for each column of a group, and no index of pages: all of it is read at once.
fn properties() -> WriterProperties {
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::LZ4_RAW)
        .set_created_by(concat!("tcpconnect ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_data_page_size_limit(MAX_TEXT * 2)
        .set_data_page_row_count_limit(MAX_ROWS)
        .set_dictionary_page_size_limit(MAX_TEXT * 2)
        .set_max_row_group_row_count(None)
        .set_offset_index_disabled(true)
        .set_statistics_enabled(EnabledStatistics::None);
    for column in COLUMNS {
        let path = ColumnPath::from(column.name);
        let encoding = match column.kind {
            Kind::Key => Encoding::DELTA_BYTE_ARRAY,
            Kind::I64 | Kind::Time => Encoding::DELTA_BINARY_PACKED,
            _ if ["line", "close_line"].contains(&column.name) => Encoding::DELTA_BINARY_PACKED,
            _ => continue,
        };
        properties = properties
            .set_column_dictionary_enabled(path.clone(), false)
            .set_column_encoding(path, encoding);
    }
    let [time, daddr] = [TIME, DADDR].map(|at| ColumnPath::from(COLUMNS[at].name));
    properties
        .set_column_statistics_enabled(time, EnabledStatistics::Chunk)
        .set_column_bloom_filter_fpp(daddr.clone(), 0.01)
        .set_column_bloom_filter_max_ndv(daddr, MAX_ROWS as u64)
        .build()
}
